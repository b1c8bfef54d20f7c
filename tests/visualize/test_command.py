"""`aot visualize` on a real file."""

from pathlib import Path

import pytest

from aot_cli.main import main
from tests.serve.conftest import write_checkpoint, write_video


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[str, str]:
    """A tiny checkpoint and a clip."""
    folder = tmp_path_factory.mktemp("visualize")
    return write_checkpoint(folder / "tiny"), write_video(folder / "a clip.mp4", frames=20)


def test_writes_three_files_and_says_where(files, tmp_path, capsys):
    checkpoint, clip = files
    output = tmp_path / "new" / "pictures"
    named = tmp_path / "a <b>clip\udce9.mp4"  # bytes that are no UTF-8, and marks of HTML
    named.write_bytes(Path(clip).read_bytes())
    arguments = ["visualize", str(named), "--model-path", checkpoint, "--retention", "0.25", "--output", str(output)]
    assert main([*arguments, "--num-frames", "4", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert [str(output / name) for name in ("kept.png", "kept.mp4", "index.html")] == lines[:3]
    page = (output / "index.html").read_text(encoding="utf-8")
    assert "36 of 144 visual tokens kept (25 %)" in page and "What was kept of a &lt;b&gt;clip\\udce9.mp4" in page


def test_mistakes_are_one_sentence(files, tmp_path, capsys):
    checkpoint, clip = files
    for arguments, words in (
        (["nowhere.mp4"], "There is no video at nowhere.mp4"),
        ([clip, "--retention", "7"], "retention"),
        ([clip, "--set", "method=magic"], "Unknown method 'magic'"),
        ([__file__, "--model-path", checkpoint], "not a video"),
    ):
        assert main(["visualize", *arguments, "--output", str(tmp_path / "none")]) == 1
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "none").exists()
