"""What the documentation says to type, typed: every Python block, and every `aot` command that runs offline."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from aot_cli.commands import COMMANDS
from aot_cli.main import main, make_parser

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/checkpoints.md",
    "docs/models.md",
    "docs/budget.md",
    "docs/method.md",
    "docs/serving.md",
    "docs/from_llava_next.md",
    "docs/live.md",
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
    for name, *words in commands(page):
        assert name in COMMANDS, (page, name)
        options = make_parser().parse_args([name, *words])
        if name == "chat":
            if options.question and options.model_path is None:
                assert main([name, *words]) == 0
                assert capsys.readouterr().out
        elif name == "clip":
            assert main([name, *words, *([] if options.force else ["--force"])]) == 0
        elif name == "convert" and Path(words[0]).is_dir():
            assert main([name, *words]) == 0


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
