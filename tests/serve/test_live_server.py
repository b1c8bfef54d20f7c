"""Live sessions over HTTP: answers as in one process, ids, limits, expiry, and what is no frame."""

import base64
import gc
import io
import json
import re
import time
import urllib.request
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from aot import AOTConfig
from benchmarks.load_encoder import answering as model_answering
from benchmarks.load_encoder import ask_about, post
from llava.chat.answer import printable
from llava.chat.live import LiveSession
from llava.chat.session import ChatSession
from llava.model.builder import load_pretrained_model
from llava.serve.encoder import PromptEncoder
from llava.video import load_video

pytest.importorskip("starlette", reason="starlette is not installed; pip install -e '.[serve]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed; pip install -e '.[serve]'")

from llava.serve.encoder_app import Limits  # noqa: E402
from tests.serve.conftest import picture  # noqa: E402
from tests.serve.servers import language_model, serving  # noqa: E402

NEW = 4
CONFIG = AOTConfig(retention=0.5, max_tokens=100)
ASKED = {"messages": [{"role": "user", "content": "What moves?"}], "max_tokens": NEW}
PNG, JPEG, MP4 = ({"Content-Type": kind} for kind in ("image/png", "image/jpeg", "video/mp4"))


@pytest.fixture(scope="module")
def encoder(checkpoint):
    """Without layers, so it has a model of its own."""
    tokenizer, model, processor, context = load_pretrained_model(
        checkpoint, None, "tiny", device_map="cpu", torch_dtype="float32"
    )
    return PromptEncoder(ChatSession(model, tokenizer, processor, context, compression=CONFIG))


@pytest.fixture(scope="module")
def answering(loaded):
    with language_model(*loaded[:2], new_tokens=NEW) as url:
        yield url


@pytest.fixture(scope="module")
def url(encoder, answering):
    with serving(encoder, answering, limits=Limits(live_sessions=100)) as address:
        yield address


@pytest.fixture
def offline(loaded):
    """Factory of live sessions in this process, with the same settings."""
    tokenizer, model, processor, context = loaded
    session = ChatSession(model, tokenizer, processor, context, compression=CONFIG, max_new_tokens=NEW)
    return lambda: LiveSession(replace(session))


def encoded(number: int, kind="PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number, 32, 48)).save(file, kind)
    return file.getvalue()


def begin(url) -> str:
    status, said, _ = post(url, b"", path="/v1/live")
    assert status == 200, said
    return f"/v1/live/{said['id']}"


def push(url, live: str, data: bytes, kind=PNG, seconds=None) -> tuple[int, dict]:
    query = "" if seconds is None else f"?time={seconds}"
    return post(url, data, kind, path=f"{live}/frames{query}")[:2]


def ask(url, live: str, **fields) -> tuple[int, dict]:
    return post(url, ASKED | fields, path=f"{live}/chat/completions")[:2]


def words_of(said: dict) -> str:
    """An answer as a session gives it."""
    return printable(said["choices"][0]["message"]["content"]).strip()


def delete(url, live: str) -> dict:
    return json.load(urllib.request.urlopen(urllib.request.Request(url + live, method="DELETE"), timeout=20))


def test_an_answer_is_that_of_the_same_frames_in_one_process(url, offline, clip):
    """Pictures and a segment: 60 frames at 30 a second are two, a second apart."""
    status, said, _ = post(url, b"{}", path="/v1/live")
    assert status == 200 and said["idle_seconds"] == 300 and said["fps"] == 1
    assert (said["settings"]["max_tokens"], said["settings"]["retention"]) == (100, 0.5)
    live, own = f"/v1/live/{said['id']}", offline()
    for number in range(5):
        assert push(url, live, encoded(number), seconds=number / 2)[1] == {"frames": number + 1, "until": number / 2}
        own.push([picture(number, 32, 48)], [number / 2])
    assert push(url, live, Path(clip).read_bytes(), MP4, seconds=4.5) == (200, {"frames": 7, "until": 5.5})
    own.push(load_video(clip, fps=1.0).frames, [4.5, 5.5])
    expected = own.ask("What moves?")
    status, said = ask(url, live)
    assert status == 200 and words_of(said) == expected.text
    assert said["usage"] == {"prompt_tokens": expected.prefilled, "completion_tokens": expected.new_tokens}
    assert said["live"] == {
        "until": 5.5,
        "frames": 7,
        "visual_tokens": 100,
        "newline_tokens": expected.after.newline,
        "bound": "max_tokens",
    }
    again = ask(url, live, messages=[{"role": "user", "content": "What is there?"}])[1]
    assert words_of(again) == own.ask("What is there?").text and again["live"] == said["live"]


def test_sessions_and_videos_at_the_same_time_do_not_mix(encoder, offline, clip):
    """Each prompt holds the tokens of its own frames."""

    def watch(start: int) -> None:
        live = begin(url)
        for number in range(4):
            assert push(url, live, encoded(start + number), seconds=number)[0] == 200
        assert ask(url, live, user=str(start))[0] == 200

    starts = (0, 20, 40)
    with model_answering() as model, serving(encoder, model.url) as url, ThreadPoolExecutor(4) as pool:
        assert post(url, ask_about(clip) | {"user": "before"})[0] == 200
        other = pool.submit(post, url, ask_about(clip) | {"user": "meanwhile"})
        list(pool.map(watch, starts))
        assert other.result()[0] == 200
        sent = {body["user"]: base64.b64decode(body["prompt_embeds"]) for _, body in model.heard}
    prompts = {user: torch.load(io.BytesIO(data), weights_only=True) for user, data in sent.items()}
    assert torch.equal(prompts["before"], prompts["meanwhile"])
    for start in starts:
        own = offline()
        own.push([picture(start + number, 32, 48) for number in range(4)], range(4))
        tokens = own.look().features.tokens
        held = {user: holds(prompt, tokens) for user, prompt in prompts.items()}
        assert [user for user in held if held[user]] == [str(start)]


def holds(prompt: torch.Tensor, tokens: torch.Tensor) -> bool:
    """Are the tokens (n, D) a part of the prompt (L, D)?"""
    places = range(len(prompt) - len(tokens) + 1)
    return any(torch.allclose(prompt[i : i + len(tokens)], tokens, atol=1e-5) for i in places)


def test_a_video_after_a_live_session_is_read_under_the_servers_own_settings(checkpoint, answering, clip, other_clip):
    """Without compression a live session has a budget and other videos have none."""
    tokenizer, model, processor, context = load_pretrained_model(checkpoint, None, "tiny", device_map="cpu")
    encoder = PromptEncoder(ChatSession(model, tokenizer, processor, context))
    with serving(encoder, answering) as url:
        prompts = [post(url, ask_about(clip))[1]["usage"]["prompt_tokens"]]
        live = begin(url)
        for number in range(9):
            push(url, live, encoded(number))
        assert ask(url, live)[1]["live"]["visual_tokens"] == 8 * 36
        prompts += [post(url, ask_about(path))[1]["usage"]["prompt_tokens"] for path in (clip, other_clip)]
    assert prompts[0] == prompts[1] == prompts[2] > 8 * 36


def test_turns_and_streams(url):
    live = begin(url)
    push(url, live, encoded(0, "JPEG"), JPEG)
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    assert ask(url, live, messages=turns)[0] == 200
    body = json.dumps(ASKED | {"stream": True}).encode()
    said = urllib.request.urlopen(f"{url}{live}/chat/completions", body, timeout=60).read().decode()
    events = [json.loads(line) for line in re.findall(r"data: ({.*})", said)]
    assert events[0]["live"]["frames"] == 1 and not any("live" in event for event in events[1:])
    text = "".join(choice["delta"]["content"] for event in events for choice in event["choices"])
    assert text == ask(url, live)[1]["choices"][0]["message"]["content"]


def test_without_a_time_it_is_now_and_never_before_the_newest_frame(url):
    live = begin(url)
    started = time.monotonic()
    until = [push(url, live, encoded(0))[1]["until"]]
    assert 0 <= until[0] <= time.monotonic() - started + 1
    until += [push(url, live, encoded(1), seconds=500)[1]["until"], push(url, live, encoded(2))[1]["until"]]
    assert until[1:] == [500, 500]
    status, said = push(url, live, encoded(3), seconds=3)
    assert status == 400 and "times do not fall" in said["error"]["message"]
    assert ask(url, live)[1]["live"]["frames"] == 3


def test_an_idle_session_ends_and_its_place_is_free_again(encoder, answering):
    with serving(encoder, answering, limits=Limits(live_sessions=2, live_idle=1.0)) as url:
        kept, left = begin(url), begin(url)
        status, said, headers = post(url, b"", path="/v1/live")
        assert status == 503 and int(headers["Retry-After"]) > 0 and "All 2 live sessions" in said["error"]["message"]
        for number in range(5):
            time.sleep(0.4)
            assert push(url, kept, encoded(number))[0] == 200
        for status, said in (push(url, left, encoded(0)), ask(url, left)):
            assert status == 404 and "ends after 1 seconds" in said["error"]["message"]
        begin(url)
        assert delete(url, kept)["deleted"] is True
        begin(url)
        assert push(url, kept, encoded(0))[0] == 404


def test_sessions_that_ended_leave_nothing(encoder, answering, monkeypatch):
    """Ten are begun, seen, asked and left alone, three deleted; all of them are freed."""
    seen = []
    beside = LiveSession.beside

    def counted(session):
        seen.append(weakref.ref(live := beside(session)))
        return live

    monkeypatch.setattr(LiveSession, "beside", counted)
    with serving(encoder, answering, limits=Limits(live_sessions=13, live_idle=2.0)) as url:
        for number in range(13):
            live = begin(url)
            assert push(url, live, encoded(number))[0] == 200 and ask(url, live)[0] == 200
            if number % 4 == 3:
                delete(url, live)
        deadline = time.monotonic() + 20
        while any(live() for live in seen):
            assert time.monotonic() < deadline
            time.sleep(0.1)
            gc.collect()
    assert len(seen) == 13


def test_a_session_does_not_end_while_it_is_worked_for(encoder, answering, monkeypatch):
    read = encoder.read

    def slow(*arguments, **settings):
        time.sleep(0.6)
        return read(*arguments, **settings)

    monkeypatch.setattr(encoder, "read", slow)
    with serving(encoder, answering, limits=Limits(live_idle=0.3)) as url, ThreadPoolExecutor(2) as pool:
        live = begin(url)
        both = [pool.submit(push, url, live, encoded(number)) for number in range(2)]
        assert sorted(done.result()[1]["frames"] for done in both) == [1, 2]
        assert ask(url, live)[0] == 200


def test_what_is_no_frame(encoder, answering):
    text, whole = {"Content-Type": "text/plain"}, encoded(0)
    with serving(encoder, answering, limits=Limits(megabytes=0.05)) as url:
        live = begin(url)
        for data, kind, seconds, expected, words in (
            (b"no picture", PNG, None, 400, r"^The picture cannot be read; replace or remove it\.$"),
            (b"", JPEG, None, 400, "^The picture cannot be read"),
            (whole[:60], PNG, None, 400, "^The picture cannot be read"),
            (b"no video" * 100, MP4, None, 400, "^The video is not a video"),
            (b"", MP4, None, 400, "^The video is empty"),
            (whole, text, None, 415, "image/jpeg, image/png or video/mp4"),
            (whole, PNG, "soon", 400, "time is no number"),
            (whole, PNG, "nan", 400, "time is no number"),
            (whole, PNG, "1e999", 400, "time is no number"),
            (whole, PNG, -1, 400, "time is no number"),
            (bytes(60_000), PNG, None, 413, "50000 bytes"),
        ):
            status, said = push(url, live, data, kind, seconds)
            assert status == expected and re.search(words, said["error"]["message"]), said
        assert push(url, live, whole, seconds=0) == (200, {"frames": 1, "until": 0})


def test_what_cannot_be_asked(url, clip, encoder, answering):
    live = begin(url)
    for said, words in (
        (ask(url, live), "No frame has come"),
        (ask(url, live, **ask_about(clip)), "a video of its own"),
        (ask(url, live, messages=[]), "last message"),
        (post(url, b"{}", path=f"{live}/chat/completions"), "list of messages"),
        (post(url, {"max_tokens": 5}, path="/v1/live"), "server's own settings"),
    ):
        assert said[0] == 400 and words in said[1]["error"]["message"], said
    push(url, live, encoded(0))
    status, said = ask(url, live, max_tokens=5000)
    assert status == 400 and "context holds 4096" in said["error"]["message"]
    for path in ("/v1/live/none", "/v1/live/none/frames", "/v1/live/none/chat/completions"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            way = {"method": "DELETE"} if path.endswith("none") else {"data": b"x"}
            urllib.request.urlopen(urllib.request.Request(url + path, **way), timeout=20)
        assert (
            refused.value.code == 404 and "no live session of this id" in json.load(refused.value)["error"]["message"]
        )
    with serving(encoder, answering, api_key="right") as locked:
        assert post(locked, b"", path="/v1/live")[0] == push(locked, "/v1/live/none", b"")[0] == 401
        assert post(locked, b"", {"Authorization": "Bearer right"}, path="/v1/live")[0] == 200


def test_a_method_that_cannot_be_live_is_refused(encoder, answering, monkeypatch):
    monkeypatch.setattr(encoder.session, "compression", AOTConfig(max_tokens=20))
    with serving(encoder, answering, limits=Limits(live_sessions=1)) as url:
        for _ in range(2):  # it takes no place
            status, said, _ = post(url, b"", path="/v1/live")
            assert status == 400 and "at least 64" in said["error"]["message"]
