"""How a command ends that cannot print, or is told to stop: one line, its exit code, and nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from aot_cli.main import main
from aot_tiny.drawing import write_video as write_pictures
from llava.eval.jsonl import write_whole
from llava.eval.runner import run_module

LOST = "aot: standard output cannot be written (No space left on device); make room, or send it elsewhere.\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["chat", "--help"], ["clip", "a.mp4"], ["cache", "."], ["completion", "bash"]]
)
def test_a_full_output_is_one_sentence(words, unbuffered, tmp_path, monkeypatch, capsys):
    if words[0] == "completion":
        pytest.importorskip("shtab")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    with open("/dev/full", "w") as full:
        full.reconfigure(write_through=bool(unbuffered))
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == LOST


def test_a_command_that_fails_says_why_and_no_more(monkeypatch, capsys):
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["nope"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [
        (">/dev/full", 1, LOST),
        (">&-", 1, LOST.replace("No space left on device", "it is closed")),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
    ],
)
def test_streams_of_a_shell(closed, code, said):
    """As a process sees them from its start to the end of Python."""
    command = f"exec {sys.executable} -m aot_cli --version {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (code, said)
    assert done.stdout.startswith("aot ") == (code == 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_clip_that_is_stopped_is_not_there(number, code, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", stop)
    before = signal.getsignal(number)
    assert main(["clip", str(tmp_path / "a.mp4")]) == code
    out, err = capsys.readouterr()
    assert out == "" and err == f"aot clip: {'stopped' if code == 130 else 'ended by SIGTERM'}.\n"
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(number) is before


@pytest.fixture
def ctrl_c():
    """Ctrl-C is an exception, also in a process that was started in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch, ctrl_c):
    """Also when it cannot be finished: nothing is left beside it."""
    path = tmp_path / "a"
    write_whole(path, b"before")
    path.with_suffix(".mp4").write_bytes(b"before")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        patch.setattr(av.VideoFrame, "from_ndarray", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"behind")
        with pytest.raises(KeyboardInterrupt):
            write_pictures(path.with_suffix(".mp4"), np.zeros((2, 32, 32, 3), np.uint8), fps=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.mp4"]
    assert all(file.read_bytes() == b"before" for file in tmp_path.iterdir())


def test_ctrl_c_while_a_process_is_made_ready_is_told_by_one(tmp_path, ctrl_c):
    """The terminal sends it to all of them; the one that imports what others need says nothing."""
    (tmp_path / "slow.py").write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(3)\n")
    (tmp_path / "start.py").write_text(
        "from pathlib import Path\n"
        f"from {run_module.__module__} import run_module\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        run_module(['json.tool'], Path('log'), on_poll=lambda: None, preloaded=['slow'])\n"
        "    except KeyboardInterrupt:\n"
        "        raise SystemExit(130)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    started = subprocess.Popen(
        [sys.executable, "start.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not (tmp_path / "begun").exists():
        assert started.poll() is None
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (130, b"")


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["exam", "--settings", "full", "--questions", "8", "--output", str(tmp_path / "file" / "runs")]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("aot exam: ") and "cannot be used (Not a directory)" in told
