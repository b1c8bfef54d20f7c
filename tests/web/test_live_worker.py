"""What the page's visitors watch: a camera's pictures and films, each in a place of its own, within the limits."""

import io
import threading
import time
from dataclasses import replace

import pytest
from PIL import Image

from aot import AOTConfig
from llava.chat.live import LiveSession
from llava.chat.session import ChatSession
from llava.chat.web_worker import Limits, Worker
from llava.decoders.pillow_reader import read_picture
from llava.model.builder import load_pretrained_model
from llava.video import load_video
from tests.serve.conftest import picture, write_checkpoint, write_video

QUESTION = "What moves?"


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> ChatSession:
    """Looks ten times a second; 36 tokens a frame, at most 64 in all."""
    path = write_checkpoint(tmp_path_factory.mktemp("worker") / "tiny")
    tokenizer, model, processor, context = load_pretrained_model(path, None, "tiny", device_map="cpu")
    config = AOTConfig(retention=0.5, max_tokens=64)
    session = ChatSession(model, tokenizer, processor, context, compression=config, max_new_tokens=4)
    return replace(session, sampling=replace(session.sampling, fps=10.0))


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> str:
    """One second, of which ten frames are looked at."""
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames=20, rate=20)


@pytest.fixture(scope="module")
def long_film(tmp_path_factory) -> str:
    return write_video(tmp_path_factory.mktemp("film") / "long.mp4", frames=60, rate=1)


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number, 48, 64)).save(file, "JPEG")
    return file.getvalue()


def wait(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_camera_showed_is_answered_as_in_one_process(session, tmp_path):
    worker, own = Worker(session, folder=tmp_path), LiveSession(replace(session))
    for number in range(4):
        live = worker.push("a", jpeg(number))
        (tmp_path / "one.jpg").write_bytes(jpeg(number))
        own.push([read_picture(tmp_path / "one.jpg")[0]])
        assert live.frames == number + 1 and live is worker.watched("a")[0]
        if number % 2:
            worker.push("b", jpeg(100 + number))  # another visitor, who is seen nowhere in it
    answer, expected = worker.ask_live("a", QUESTION), own.ask(QUESTION)
    assert (answer.text, answer.after, answer.bound) == (expected.text, expected.after, "max_tokens")
    assert live.look().features.tokens.equal(own.look().features.tokens)
    assert answer.after.visual == 64 and answer.until == live.until
    assert [path.name for path in tmp_path.iterdir()] == ["one.jpg"]
    again = worker.ask_live("a", QUESTION)  # the language model has read what was seen
    assert again.text == answer.text and again.prefilled == 1 < 64 < answer.prefilled


def test_a_film_is_played_at_its_own_pace_and_asked_meanwhile(session, film):
    worker, own = Worker(session), LiveSession(replace(session))
    started = time.monotonic()
    worker.play("a", film)
    assert worker.files() == {film}
    wait(lambda: worker.watched("a")[0].frames)
    assert worker.ask_live("a", QUESTION).until < 1
    wait(lambda: not worker.watched("a")[1])
    assert time.monotonic() - started > 0.9 and not worker.files()
    live, _, told = worker.watched("a")
    if told:  # a machine too slow for it dropped frames
        assert "came faster" in told and live.frames < 10
        return
    own.push(load_video(film, fps=10.0).frames, [number / 10 for number in range(10)])
    assert live.until == 0.9 and worker.ask_live("a", QUESTION).text == own.ask(QUESTION).text


def test_a_place_for_a_film_is_free_when_nobody_watches_it(session, film, long_film, monkeypatch):
    worker = Worker(session)
    monkeypatch.setattr(worker, "_films", threading.BoundedSemaphore(1))
    for end in (
        lambda: worker.leave("a"),
        lambda: worker.push("a", jpeg(0)),  # the camera takes its place
        lambda: worker._visitors.clear(),  # forgotten
    ):
        worker.play("a", long_film)
        with pytest.raises(ValueError, match="which is all there is room for"):
            worker.play("b", film)
        assert "b" not in worker._visitors
        end()
        wait(lambda: worker._films._value)
    assert worker.visitors == 0


def test_what_was_idle_is_forgotten_and_said(session):
    worker = Worker(session, Limits(idle_seconds=0.3))
    for act in (worker.watched, lambda key: worker.ask_live(key, QUESTION)):
        worker.push("a", jpeg(0))
        assert worker.ask_live("a", QUESTION)
        time.sleep(0.4)
        with pytest.raises(ValueError, match="forgotten since no frame and no question came for 0.3 s; start the"):
            act("a")
    assert worker.push("a", jpeg(0)).frames == 1, "a new session"


def test_what_is_refused_takes_no_place_and_ends_nothing(session, film, tmp_path):
    worker = Worker(session, Limits(megabytes=1, video_seconds=0.5, question_letters=20, visitors=1))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    for act, words in (
        (lambda: worker.push("a", b"no picture"), r"^The picture cannot be read"),
        (lambda: worker.push("a", bytes(2_000_000)), "2 MB and the limit is 1 MB"),
        (lambda: worker.play("a", film), "lasts 1 s and the limit is 0.5 s"),
        (lambda: worker.play("a", str(tmp_path / "bad.mp4")), "not a video"),
        (lambda: worker.ask_live("a", "What? " * 9), "54 letters and the limit is 20"),
        (lambda: worker.push(None, jpeg(0)), "belongs to no visitor"),
    ):
        with pytest.raises(ValueError, match=words):
            act()
        assert worker.visitors == 0
    worker.push("a", jpeg(0))
    for act in (lambda: worker.push("a", b"no picture"), lambda: worker.play("a", film)):
        with pytest.raises(ValueError):
            act()
        assert worker.watched("a")[0].frames == 1
    with pytest.raises(ValueError, match="All 1 places"):
        worker.push("b", jpeg(0))


def test_a_method_that_cannot_be_live_is_said(session):
    worker = Worker(replace(session, compression=AOTConfig(method="evs")))
    with pytest.raises(ValueError, match="A live video"):
        worker.push("a", jpeg(0))
    assert worker.visitors == 0
