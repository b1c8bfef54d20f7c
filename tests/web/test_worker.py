"""The worker of the page: visitors stay apart, limits hold, nobody waits forever."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from aot import AOTConfig
from llava.chat.session import ChatSession
from llava.chat.web_worker import Limits, Worker
from llava.model.builder import load_pretrained_model
from llava.video import FrameStream
from tests.serve.conftest import write_checkpoint, write_video

QUESTION = "What moves?"


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> ChatSession:
    """A session on a tiny random model; 8 frames, 36 tokens each."""
    path = write_checkpoint(tmp_path_factory.mktemp("worker") / "tiny")
    tokenizer, model, processor, context = load_pretrained_model(
        path, None, "tiny", device_map="cpu", compression=AOTConfig()
    )
    return ChatSession(model, tokenizer, processor, context, compression=AOTConfig(), max_new_tokens=6)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    """Three clips of different lengths and sizes."""
    folder = tmp_path_factory.mktemp("clips")
    sizes = [(96, 64), (64, 96), (640, 360)]
    return [write_video(folder / f"{i}.mp4", frames=20 + 10 * i, size=size) for i, size in enumerate(sizes)]


@pytest.fixture
def worker(session):
    return Worker(session)


def test_an_answer_with_all_tokens_and_with_some(worker, clips):
    loaded = worker.look("a", clips[0])
    assert loaded.before.visual == 288
    exchange = worker.ask("a", QUESTION, 0.25)
    assert exchange.whole.after.visual == 288 and exchange.whole.settings is None
    assert exchange.reduced.after.visual == 72 and exchange.reduced.settings["retention"] == 0.25
    assert exchange.picture.size[0] > 800
    assert worker.ask("a", QUESTION, 1.0).reduced.after.visual == 288


def test_a_number_of_tokens_holds_at_every_share(session, clips):
    worker = Worker(replace(session, compression=AOTConfig(max_tokens=40)))
    worker.look("a", clips[0])
    for retention, kept in ((0.1, 28), (0.5, 40), (1.0, 40)):
        exchange = worker.ask("a", QUESTION, retention)
        assert exchange.whole.after.visual == 288 and exchange.reduced.after.visual == kept


def test_visitors_at_the_same_time_get_what_each_gets_alone(session, clips):
    alone = {}
    for name, clip in enumerate(clips):
        single = Worker(session)
        single.look("x", clip)
        alone[name] = single.ask("x", QUESTION, 0.1 + 0.2 * name)
    assert len({answer.whole.text for answer in alone.values()}) == 3, "the clips must be told apart by their answers"

    together = Worker(session)
    begin = threading.Barrier(3)

    def visit(name: int) -> list:
        begin.wait()
        together.look(str(name), clips[name])
        return [together.ask(str(name), QUESTION, 0.1 + 0.2 * name) for _ in range(3)]

    with ThreadPoolExecutor(3) as pool:
        for name, exchanges in enumerate(pool.map(visit, range(3))):
            for exchange in exchanges:
                assert exchange.whole.text == alone[name].whole.text
                assert exchange.reduced.text == alone[name].reduced.text
                assert exchange.reduced.after == alone[name].reduced.after
                assert np.array_equal(exchange.picture, alone[name].picture)


def test_a_refused_file_leaves_the_earlier_video_and_other_visitors(session, clips, tmp_path):
    worker = Worker(session, Limits(megabytes=1, video_seconds=0.8))
    bad, big = tmp_path / "bad.mp4", tmp_path / "big.mp4"
    bad.write_bytes(b"no video at all" * 100)
    big.write_bytes(bytes(2_000_000))
    worker.look("a", clips[0])
    worker.look("b", clips[0])
    before = worker.ask("a", QUESTION, 0.5)
    for path, words in (
        (str(bad), "not a video"),
        (str(big), "2 MB and the limit is 1 MB"),
        (clips[1], "limit is 0.8 s"),
    ):
        with pytest.raises(ValueError, match=words):
            worker.look("a", path)
        for key in "ab":
            assert worker.ask(key, QUESTION, 0.5).reduced.text == before.reduced.text


def test_questions_without_a_video_and_too_long_ones(session, clips):
    worker = Worker(session, Limits(question_letters=10))
    for act in (lambda: worker.ask("a", "What?", 0.5), lambda: worker.picture("a", 0.5)):
        with pytest.raises(ValueError, match="no video yet; drop one"):
            act()
    worker.look("a", clips[0])
    with pytest.raises(ValueError, match="empty"):
        worker.ask("a", " ", 0.5)
    with pytest.raises(ValueError, match="11 letters and the limit is 10"):
        worker.ask("a", "What moves?", 0.5)
    with pytest.raises(ValueError, match="retention"):
        worker.ask("a", "What?", 0.0)


def test_nobody_takes_the_place_of_an_active_visitor(session, clips):
    worker = Worker(session, Limits(visitors=2))
    for key in "ab":
        worker.look(key, clips[0])
    with pytest.raises(ValueError, match="All 2 places on this page are taken; try again"):
        worker.look("c", clips[1])
    with pytest.raises(ValueError, match="no video"):
        worker.ask("c", QUESTION, 0.5)
    assert all(worker.ask(key, QUESTION, 0.5) for key in "ab")
    worker.leave("a")
    worker.leave("nobody")
    worker.look("c", clips[1])
    assert worker.visitors == 2 and worker.files() == set(clips[:2])


def test_whoever_was_away_gives_way_and_is_forgotten_in_the_end(session, clips):
    worker = Worker(session, Limits(visitors=2, active_seconds=1e-9))
    for key in "abc":
        worker.look(key, clips[0])
    assert worker.visitors == 2
    with pytest.raises(ValueError, match="no video"):
        worker.ask("a", QUESTION, 0.5)  # was away the longest
    assert worker.ask("c", QUESTION, 0.5)
    idle = Worker(session, Limits(idle_seconds=1e-9))
    idle.look("a", clips[0])
    with pytest.raises(ValueError, match="no video"):
        idle.ask("a", QUESTION, 0.5)


def test_a_visitor_whose_question_is_being_answered_keeps_the_place(session, clips):
    worker = Worker(session, Limits(visitors=1, active_seconds=1e-9, idle_seconds=1e-9))
    worker.look("a", clips[0])
    with worker._visitors["a"].lock, pytest.raises(ValueError, match="places"):
        worker.look("b", clips[0])


@pytest.mark.parametrize("key", [None, ""])
def test_calls_that_belong_to_no_visitor_are_refused(worker, clips, key):
    for act in (lambda: worker.look(key, clips[0]), lambda: worker.ask(key, QUESTION, 0.5)):
        with pytest.raises(ValueError, match="belongs to no visitor"):
            act()


def test_a_video_that_is_refused_takes_no_place(worker, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError):
        worker.look("a", str(tmp_path / "bad.mp4"))
    assert worker.visitors == 0


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"video_seconds": 0.5}, "lasts 1 s and the limit is 0.5"), ({"video_frames": 10}, "20 frames")],
)
def test_a_long_video_is_refused_before_a_frame_is_decoded(session, clips, monkeypatch, limits, words):
    monkeypatch.setattr(FrameStream, "__iter__", None)
    with pytest.raises(ValueError, match=words):
        Worker(session, Limits(**limits)).look("a", clips[0])
    with pytest.raises(TypeError):
        Worker(session).look("a", clips[0])


def test_what_the_last_question_was_answered_at(worker, clips):
    worker.look("a", clips[0])
    assert worker.picture("a", 0.5)[1] is None
    worker.ask("a", QUESTION, 0.25)
    assert worker.picture("a", 0.5)[1] == 0.25
    worker.look("a", clips[1])
    assert worker.picture("a", 0.5)[1] is None


def test_an_answer_and_a_wait_end_in_time(session, clips):
    long = ChatSession(**{**vars_of(session), "max_new_tokens": 500})
    worker = Worker(long, Limits(answer_seconds=0.05, wait_seconds=0.05))
    worker.look("a", clips[0])
    assert worker.ask("a", QUESTION, 0.5).whole.new_tokens < 500
    with worker._turn(worker._model), pytest.raises(ValueError, match="try again"):
        worker.ask("a", QUESTION, 0.5)
    assert worker.ask("a", QUESTION, 0.5)  # the wait that failed left nothing locked


def vars_of(session: ChatSession) -> dict:
    fields = ("model", "tokenizer", "image_processor", "context_length", "compression")
    return {name: getattr(session, name) for name in fields}


def test_large_frames_do_not_stay_in_memory(worker, clips):
    assert worker.look("a", clips[2]).video.frames.shape == (8, 180, 320, 3)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_are_positive(value):
    with pytest.raises(ValueError, match="above 0"):
        Limits(megabytes=value)
