"""What the documentation says to type, typed: every Python block, and every `aot` command that runs offline."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from llava.cli import main
from llava.serve import visualize, web
from llava.serve.options import chat_parser

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/checkpoints.md",
    "docs/budget.md",
    "docs/troubleshooting.md",
    "docs/how_it_works.md",
    "docs/serving.md",
)
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# README: the method alone is shown on features that it does not make
GIVEN = {
    "features": torch.randn(4, 64, 16, generator=torch.Generator().manual_seed(0)),
    "shallow": torch.rand(4, 64, generator=torch.Generator().manual_seed(1)),
    "deep": torch.rand(4, 64, generator=torch.Generator().manual_seed(2)),
}


def blocks(page: str, kind: str) -> list[str]:
    return [body for language, body in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")) if language == kind]


def commands(page: str) -> list[list[str]]:
    """The words of every line that starts with aot, without its comment."""
    lines = [line.strip() for body in blocks(page, "") for line in body.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if re.match(r"aot [a-z]", line)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with the sample clip and the embedded model."""
    path = tmp_path_factory.mktemp("docs")
    (path / "checkpoints").symlink_to(ROOT / "checkpoints")
    assert main(["clip", str(path / "clip.mp4")]) == 0
    return path


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = dict(GIVEN)
    for body in blocks(page, "python"):
        exec(compile(body, page, "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_commands(page, folder, monkeypatch, capsys):
    """One question to the embedded model is asked; other chats must at least have options that exist."""
    monkeypatch.chdir(folder)
    known = ("chat", "clip", "web", "visualize", "eval", "report", "convert")
    for name, *words in commands(page):
        assert name in known, (page, name)
        if name == "chat":
            options = chat_parser("aot chat").parse_args(words)
            if options.question and options.model_path is None:
                assert main([name, *words]) == 0
                assert capsys.readouterr().out
        elif name == "clip" or (name == "convert" and Path(words[0]).is_dir()):
            assert main([name, *words]) == 0
        elif name in ("visualize", "web"):  # tests/visualize and tests/web run them
            {"visualize": visualize, "web": web}[name]._parser(name).parse_args(words)


def test_pages_have_something_to_run():
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 7
    assert sum(len(commands(page)) for page in PAGES) >= 5


@pytest.mark.parametrize(
    "page", [*(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))), "README.md", "CONTRIBUTING.md"]
)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    here = [link for link in links if "://" not in link]
    assert [link for link in here if not ((ROOT / page).parent / link).exists()] == []
