"""A live session: bounded tokens, times and memory, and answers that are those of the same tokens offline."""

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aot import AOTConfig, AOTError
from llava.chat import live as live_module
from llava.chat.answer import ChatError
from llava.chat.live import LiveSession
from llava.chat.session import ChatSession
from llava.video import Video

from .conftest import picture


@pytest.fixture
def make_session(loaded):
    tokenizer, model, processor, context = loaded

    def make(config=None) -> ChatSession:
        return ChatSession(model, tokenizer, processor, context, compression=config, max_new_tokens=4)

    return make


def frames(numbers, size=(32, 48)) -> np.ndarray:
    return np.stack([picture(number, *size) for number in numbers])


def test_thousands_of_frames_stay_in_bounds(make_session):
    """2,000 frames: tokens are counted after each push; the second thousand needs no more memory than the first."""
    live = LiveSession(make_session(AOTConfig(max_tokens=64)))
    pixels = frames(range(64))
    resident = []
    for number in range(0, 2000, 8):
        live.push(pixels[number % 64 : number % 64 + 8])
        assert sum(part.num_visual for part in live.stream.parts) <= 64
        if number % 400 == 0:
            seen = live.look()
            assert seen.features.num_visual == 64 and seen.features.num_newlines <= 64 and len(seen.video.times) <= 65
            assert live.ask("What moves?").frames == number + 8
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    assert live.frames == 2000 and not live.session.answers and not live.session.turns
    # at their least, for what the allocator holds comes and goes; pixels alone are 26 MiB in 1,000 frames of 96x96
    assert min(resident[125:]) - min(resident[50:125]) < 2 * 2**20


def test_the_answer_is_that_of_the_same_tokens_offline(make_session):
    live = LiveSession(make_session(AOTConfig(max_tokens=64)))
    live.push(frames(range(30)), np.arange(30) / 2)
    answer = live.ask("What moves?")
    assert answer.until == 14.5 and answer.frames == 30 and answer.bound == "max_tokens"
    assert (answer.before.visual, answer.after.visual) == (30 * 36, 64)
    session, tokens = live.session, live.look().features
    model = session.model
    ids = session._prompt("What moves?")[0].tolist()
    mark = ids.index(-200)
    text = model.get_model().embed_tokens
    prompt = torch.cat([text(torch.tensor(ids[:mark])), tokens.tokens, text(torch.tensor(ids[mark + 1 :]))])
    said = []
    for _ in range(4):  # without a cache and without generate
        logits = model(inputs_embeds=prompt.unsqueeze(0)).logits[0, -1]
        said.append(int(logits.argmax()))
        prompt = torch.cat([prompt, text(torch.tensor(said[-1:]))])
    assert answer.text == session.tokenizer.decode(said, skip_special_tokens=True).strip()


def test_while_all_fits_it_is_the_whole_video(make_session):
    live, whole = LiveSession(make_session(AOTConfig(retention=0.25))), make_session(AOTConfig(retention=0.25))
    assert live.session.compression.max_tokens == 8 * 36  # of the model's own number of frames
    live.push(frames(range(5)), range(5))
    live.push(frames(range(5, 8)), range(5, 8))
    whole.encode("whole", Video(frames(range(8)), np.arange(8.0), 8.0, "none", 8, 1.0))
    answer, expected = live.ask("What moves?"), whole.ask("What moves?")
    assert answer.after == expected.after and answer.text == expected.text and answer.bound == "retention"


def test_between_two_frames_the_same_is_seen(make_session):
    live = LiveSession(make_session())
    live.push(frames(range(3)))
    first = live.look()
    asked, again = live.ask("What moves?"), live.ask("And now?")
    assert live.look() is first and again.until == live.until
    # the language model has read the video
    assert asked.prefilled - again.prefilled >= first.features.num_visual == 3 * 36
    live.push(frames([3]))
    assert live.look() is not first and live.look().features.frames == 4
    # three frames of it are as they were; the fourth is read with its newline, and what stands behind
    assert live.ask("And now?").prefilled == again.prefilled + 36 + 1 + 1


@pytest.mark.parametrize("config", [AOTConfig(max_tokens=64), AOTConfig(max_tokens=200, retention=0.5)])
def test_what_stays_is_not_read_again_and_answers_are_those_without_a_cache(make_session, config):
    """A question after every third frame."""
    live = LiveSession(make_session(config))
    bare = replace(live.session, prompts_kept=0)
    read = whole = 0
    for number in range(0, 210, 3):
        live.push(frames(range(number, number + 3)))
        question = f"What is number {number}?"
        answer = live.ask(question)
        bare.loaded = live.look()
        expected = bare.ask(question, remember=False)
        assert (answer.text, answer.after, answer.bound) == (expected.text, expected.after, expected.bound)
        assert live.session._prompts._read[config].places <= expected.prefilled + 4
        if number >= 60:
            read, whole = read + answer.prefilled, whole + expected.prefilled
    assert read < whole / 2


def test_times_are_forgotten_with_their_frames(make_session, monkeypatch):
    monkeypatch.setattr(live_module, "NOW", 20)
    live = LiveSession(make_session(AOTConfig(max_tokens=64)))
    for number in range(0, 240, 8):
        live.push(frames(range(number, number + 8)), np.arange(number, number + 8) / 4)
        assert len(live._times) <= 2 * 20 + 64 + 8
    times, shown = live.look().video.times, live.look().features.frame.unique()
    assert set(4 * times) == {*shown.tolist(), 239} and live.until == 239 / 4


def test_what_cannot_be_is_said(make_session):
    live = LiveSession(make_session())
    with pytest.raises(ChatError, match="No frame has come"):
        live.ask("What moves?")
    live.push(frames([0, 1]), [1, 2])
    for times in ([1.5, 3], [3]):
        with pytest.raises(ChatError, match="times do not fall"):
            live.push(frames([2, 3]), times)
    with pytest.raises(ValueError, match="uint8"):
        live.push(np.zeros((1, 32, 32, 3)), [2])
    live.push(frames([4], size=(64, 20)), [2])
    assert live.frames == 3 and live.ask("What moves?").frames == 3
    with pytest.raises(AOTError, match="at least 64"):
        LiveSession(make_session(AOTConfig(max_tokens=20)))
    with pytest.raises(AOTError, match="A live video"):
        LiveSession(make_session(AOTConfig(method="evs")))
