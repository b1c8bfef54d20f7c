"""The tree of commands: help on one screen, mistakes with what was meant, Ctrl-C at any time."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aot import AOTConfig
from aot_cli.commands import COMMANDS
from aot_cli.main import main, make_parser
from aot_cli.parser import share
from llava.chat.options import compression
from llava.eval.evaluate import one_model
from llava.eval.exam.settings import parse_setting

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tree():
    parser = make_parser()
    for subcommand in parser.subcommands:
        subcommand.load()
    return parser


def test_help_fits_a_screen_and_ends_in_examples(tree, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for parser in (tree, *tree.subcommands):
        lines = parser.format_help().splitlines()
        assert len(lines) <= 40 and max(map(len, lines)) <= 80, parser.prog
        assert any(line.startswith("  aot ") for line in lines[lines.index("examples:") :])
    assert len(tree.format_help().splitlines()) >= 24
    assert all(f"  {name} " in tree.format_help() for name in COMMANDS)


def test_examples_in_the_help_are_commands_that_parse(tree):
    for name, command in COMMANDS.items():
        examples = "\n".join(command.examples).replace("\\\n    ", "").splitlines()
        parsed = [
            tree.parse_args(shlex.split(re.split("   +|>", example)[0])[1:])
            for example in examples
            if example.startswith("aot ")
        ]
        assert name in [options.command for options in parsed]


def test_help_needs_no_heavy_import():
    code = "import sys; from aot_cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy", "llava", "aot"} & {*done.stderr.split()}


@pytest.mark.parametrize(
    "words, said",
    [
        (["chta"], "did you mean chat?"),
        (["visualise", "clip.mp4"], "did you mean visualize?"),
        (["chat", "--retension", "0.1"], "did you mean --retention?"),
        (["visualize", "clip.mp4", "--temperature", "1"], "there is no option --temperature"),
        (["clip", "a.mp4", "b.mp4"], "'b.mp4' is one argument too many"),
        (["chat", "--retention", "a tenth"], "use a share such as 0.1 or 10%"),
        (["clip"], "FILE"),
        (["--version"], "aot 0."),
    ],
)
def test_mistakes_are_told_with_what_was_meant(words, said, capsys):
    try:
        code = main(words)
    except SystemExit as left:
        code = left.code
    out, err = capsys.readouterr()
    assert said in out + err and (out + err).count("\n") == 1
    assert code == (0 if out else 2)


@pytest.mark.parametrize("text, value", [("0.1", 0.1), ("10%", 0.1), ("12.5 %", 0.125), ("100%", 1.0), ("1", 1.0)])
def test_shares_are_numbers_or_per_cent(text, value):
    assert share(text) == value


def test_per_cent_wherever_a_retention_is_given(tree):
    for words in (
        ["chat", "--retention", "25%"],
        ["visualize", "a.mp4", "--retention", "25%"],
        ["watch", "a.mp4", "--retention", "25%"],
        ["web", "--retention", "25%"],
        ["demo", "--retention", "25%"],
        ["serve", "m", "--retention", "25%"],
        ["encoder", "--vllm", "u", "--retention", "25%"],
        ["infer", "--input", "q", "--output", "a", "--retention", "25%"],
    ):
        assert tree.parse_args(words).retention == 0.25, words
    assert parse_setting("aot@10%,clips=dynamic") == parse_setting("aot@0.1,clips=dynamic")
    assert compression(tree.parse_args(["chat", "--set", "retention=25%"])).retention == 0.25
    with pytest.raises(ValueError, match="such as 0.1 or 10%"):
        compression(tree.parse_args(["chat", "--set", "retention=few"]))
    benchmark = ["eval", "--name", "n", "--model", "m", "--model-path", "p", "--tasks", "t", "--retention"]
    assert tree.parse_args([*benchmark, "25%", "0.1"]).retention == [0.25, 0.1]
    assert tree.parse_args(["exam", "methods", "--retention", "25%", "--ablations-at", "5%"]).ablations_at == 0.05


def test_a_number_of_tokens_is_taken_wherever_a_retention_is(tree):
    for words in (
        ["chat", "--max-tokens", "300"],
        ["visualize", "a.mp4", "--max-tokens", "300"],
        ["watch", "a.mp4", "--max-tokens", "300"],
        ["web", "--max-tokens", "300"],
        ["demo", "--max-tokens", "300"],
        ["serve", "m", "--max-tokens", "300"],
        ["encoder", "--vllm", "u", "--max-tokens", "300"],
        ["infer", "--input", "q", "--output", "a", "--max-tokens", "300"],
    ):
        options = tree.parse_args(words)
        assert compression(options) == AOTConfig(max_tokens=300), words
    assert parse_setting("aot@1,max_tokens=300").config.budget(32, 196) == 300
    benchmark = ["eval", "--name", "n", "--model", "m_aot", "--model-path", "p", "--tasks", "t", "--retention", "0.1"]
    sweep = one_model(tree.parse_args([*benchmark, "--max-tokens", "300", "64"]))
    assert [(setting.name, setting.aot) for setting in sweep.settings[1:]] == [
        ("aot, 10 %", {"method": "aot", "retention": 0.1}),
        ("aot, 300 tokens", {"method": "aot", "max_tokens": 300}),
        ("aot, 64 tokens", {"method": "aot", "max_tokens": 64}),
    ]


def test_reuse_in_the_tower_is_taken_where_this_project_runs_the_tower(tree):
    for words in (["chat"], ["web"], ["encoder", "--vllm", "u"], ["infer", "--input", "q", "--output", "a"]):
        assert compression(tree.parse_args([*words, "--tower-reuse", "0.02"])).tower_reuse == 0.02, words
    assert compression(tree.parse_args(["serve", "m"])).tower_reuse is None
    assert parse_setting("aot@0.1,tower_reuse=0.02").config.tower_reuse == 0.02


def test_completion_knows_commands_and_options(capsys):
    pytest.importorskip("shtab")
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert "visualize" in script and "stream-above" in script


@pytest.mark.parametrize("library", ["_ctypes", "libtorch_cpu", "libtorch_python", "tokenizers"])
def test_ctrl_c_while_it_starts_is_quiet(library, clip, checkpoint):
    """Sent as soon as a library is mapped: in the middle of the imports, early and late."""
    command = [sys.executable, "-m", "aot_cli", "chat", clip, "--model-path", checkpoint]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while library not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")


def test_an_installation_carries_the_embedded_model(tmp_path):
    """What a wheel holds, built from this folder and used from another."""
    pytest.importorskip("setuptools")
    build = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path / "build"), "--build-lib"]
    subprocess.run([*build, str(tmp_path / "lib"), "egg_info", "--egg-base", str(tmp_path)], cwd=ROOT, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    for words in (["clip", "c.mp4"], ["chat", "c.mp4", "--question", "What moves?", "--json"]):
        command = [sys.executable, "-m", "aot_cli", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["model"]["path"] == str(tmp_path / "lib" / "llava" / "checkpoints" / "aot-tiny")
    assert "aot-tiny" in answer["note"] and "--model-path" in answer["note"]
    assert (tmp_path / "lib" / "llava" / "lmms_eval_tasks" / "aot_clips" / "_defaults").is_file()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_is_no_traceback(tmp_path, unbuffered):
    """As behind `| head`: what is printed at once, and what is left for the end of Python."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "aot_cli", "clip", str(tmp_path / "a.mp4")]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    run = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment, timeout=120)
    os.close(writing)
    assert (run.returncode, run.stderr) == (141, b"") and (tmp_path / "a.mp4").is_file()
