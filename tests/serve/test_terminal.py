"""The chat as a person meets it, in a real terminal."""

import os
import sys
import time

import pytest
from rich.console import Console
from rich.text import Text

from llava.chat import terminal
from llava.chat.terminal import Waiting

pexpect = pytest.importorskip("pexpect")


def test_a_conversation(checkpoint, clip, tmp_path):
    options = ["--model-path", checkpoint, "--video-file", clip, "--max-new-tokens", "4", "--device", "cpu"]
    command = [sys.executable, "-m", "llava.serve.cli", *options]
    # a bare pseudo-terminal does not say where its cursor is
    environment = {**os.environ, "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", "COLUMNS": "200"}
    child = pexpect.spawn(command[0], command[1:], env=environment, encoding="utf-8", timeout=180, dimensions=(40, 200))
    child.expect("/help lists")
    child.sendline("What moves?")
    child.expect("288 → 28 tokens")
    child.sendline("/retention 50%")
    child.expect("50 % of the visual tokens are kept; nothing is encoded again")
    child.sendline("And now?")
    child.expect("288 → 144 tokens")
    child.sendline("/retention 7")
    child.expect("retention is 7")  # a mistake is told and the chat goes on
    child.sendline(f"/video {tmp_path}/none.mp4")
    child.expect("The chat stays with")
    child.sendline("Still there?")
    child.expect("288 → 144 tokens")
    child.sendline("/clear")
    child.expect("Forgot 3 questions; the video stays")
    child.sendintr()
    child.expect("Ctrl-D or /exit leaves")
    child.sendline("exit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_bar_appears_only_when_it_takes_long(monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 0.3)
    for seconds, shown in ((0.0, False), (0.9, True)):
        console = Console(force_terminal=True, width=80)
        console.begin_capture()
        with Waiting("decode", console) as wait:
            time.sleep(seconds)
            wait("decode", 1, 2)
        assert ("decode" in console.end_capture()) == shown


def test_no_bar_in_a_pipe(monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 0.0)
    console = Console(force_terminal=False)
    console.begin_capture()
    with Waiting("decode", console):
        time.sleep(0.1)
    assert console.end_capture() == ""


def test_facts_wrap_between_two_of_them():
    shown = terminal.Terminal()
    shown.out = Console(force_terminal=True, width=40, soft_wrap=True, highlight=False)
    parts = ["16 frames", "576 → 57 tokens (+16 newline)", "retention 9.9 %", "peak 547 MiB RAM"]
    with shown.out.capture() as capture:
        shown.facts(parts)
    lines = [line.strip() for line in Text.from_ansi(capture.get()).plain.splitlines()]
    assert len(lines) == 3 and max(map(len, lines)) <= 40
    assert " ".join(lines) == " · ".join(parts)
