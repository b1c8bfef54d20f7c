"""Where newline tokens are placed."""

import pytest
import torch

from aot import AOTConfig, TokenKind
from aot.compress import insert_newlines
from aot.types import Selection, VideoTokens


@pytest.mark.parametrize(
    ("newlines", "position", "expected"),
    [
        ("frame", "grid", "a|bcd|"),
        ("row", "grid", "a|b|cd|"),
        ("all", "grid", "a||b|cd|"),
        ("none", "grid", "abcd"),
        ("all", "frame", "a|bcd|"),
        ("frame", "one_token", "abcd|"),
        ("frame", "no_token", "abcd"),
    ],
)
def test_newline_layout(newlines, position, expected):
    """Kept: one token of frame 0 row 0; one of frame 1 row 0 and two of its row 1, on a 2x2 grid."""
    video = VideoTokens(
        torch.zeros(2, 4, 1), None, None, (2, 2), None, newline=torch.tensor([9.0]), newline_position=position
    )
    selection = Selection.from_indices(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 5, 6, 7]), (2, 2))
    result = insert_newlines(selection, video, AOTConfig(newlines=newlines))
    assert "".join("abcd"[int(t)] if t < 9 else "|" for t in result.tokens[:, 0]) == expected
    newline = result.kind == TokenKind.NEWLINE
    assert bool((result.position[newline, 1] == 2).all()) and bool((result.mass[newline] == 0).all())
