"""`aot watch` from the command line to its answers."""

import os
import re
import sys
from types import SimpleNamespace

import pytest

from aot_cli.main import main
from llava.chat.live import LiveSession
from llava.chat.watch import Watch


@pytest.fixture
def typed(monkeypatch):
    """A function that puts lines on standard input and ends it."""

    def put(text: str) -> None:
        reading, writing = os.pipe()
        os.write(writing, text.encode())
        os.close(writing)
        monkeypatch.setattr(sys, "stdin", os.fdopen(reading))

    return put


def watch(checkpoint, *words: str) -> int:
    return main(["watch", *words, "--model-path", checkpoint, "--device", "cpu", "--max-new-tokens", "3"])


def test_what_is_typed_is_answered_with_its_time(clip, checkpoint, typed, capsys):
    typed("What moves?\n\nAnd now?\n")
    assert watch(checkpoint, clip, "--fps", "5", "--max-tokens", "64") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(re.match(r"\[0:00:0\d\] ", line) for line in lines[::2])
    assert "tokens" in lines[1]


def test_a_question_is_repeated_and_asked_at_the_end(clip, checkpoint, capsys):
    assert watch(checkpoint, clip, "--fps", "10", "--question", "What moves?", "--every", "0.5") == 0
    times = re.findall(r"^\[(.*?)\] ", capsys.readouterr().out, re.MULTILINE)
    assert len(times) >= 2 and times == sorted(times) and times[-1] == "0:00:02"


def test_a_lost_source_is_one_sentence(tmp_path, checkpoint, typed, capsys):
    (tmp_path / "words.mp4").write_text("no film" * 100)
    assert watch(checkpoint, str(tmp_path / "words.mp4"), "--question", "What moves?") == 1
    said = capsys.readouterr().err.splitlines()
    assert "not a video" in said[-2] and "No frame has come" in said[-1]
    typed("/exit\n")
    assert watch(checkpoint, str(tmp_path / "words.mp4")) == 0


def test_a_source_without_a_frame_is_a_failure_on_a_screen_too():
    said = []
    terminal = SimpleNamespace(interactive=True, note=said.append, error=said.append)
    source = SimpleNamespace(over=True, dropped=0, take=lambda seconds: [], notes=list)
    live = LiveSession.__new__(LiveSession)
    live.until, live.frames = None, 0
    assert Watch(live, source, terminal).repeat("What moves?", None) == 1
    assert said == ["No frame has come yet; wait for one, or push some."]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-"], "give --question"),
        (["a.mp4"], "There is no video at a.mp4"),
        (["a.mp4", "--every", "3"], "needs --question"),
        (["a.mp4", "--question", "?", "--every", "0"], "above 0"),
        (["-", "--question", "?", "--size", "640"], "WIDTHxHEIGHT"),
        ([__file__, "--size", "640x480"], "WIDTHxHEIGHT"),
    ],
)
def test_options_that_make_no_sense_are_told_before_the_model_is_loaded(words, said, capsys):
    assert main(["watch", *words, "--model-path", "nowhere"]) == 1
    assert said in capsys.readouterr().err
