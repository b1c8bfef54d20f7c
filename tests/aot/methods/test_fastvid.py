"""FastVID: salient tokens of each frame, context of each segment by density peaks."""

import pytest
import torch

from aot import AOTConfig, TokenKind, compress
from aot.methods.fastvid import context_quota

FEATURES = torch.tensor(
    [
        [[1.0, 0.0], [1.1, 0.0], [0.0, 1.0], [5.0, 5.0]],
        [[7.0, 7.0], [2.0, 0.0], [0.0, 3.0], [1.0, 2.0]],
    ]
)
ATTENTION = torch.tensor([[0.0, 1.0, 2.0, 3.0], [9.0, 0.0, 0.0, 1.0]])


def run(features, attention, retention, clips=None, **options):
    config = AOTConfig(method="fastvid", retention=retention, options=options)
    grid = (1, features.shape[1])
    more = {"attention_last": attention}
    return compress(features, None, None, config, pool=None, grid=grid, extras=more, clips=clips)


def test_by_hand():
    """Two frames, one segment, two tokens each: one salient (3 and 0), and two context tokens on frame 0. There
    tokens 0 and 1 lie close together, 0 the denser; 1 is denser than 2 but next to 0. So the peaks are 0 and 2.
    (1.1, 0) and (2, 0) go to token 0, (0, 3) and (1, 2) to token 2."""
    video = run(FEATURES, ATTENTION, 0.5, clips=[2])
    assert video.frame.tolist() == [0, 0, 0, 1]
    assert video.position[:, 1].tolist() == [0, 2, 3, 0]
    assert video.kind.tolist() == [TokenKind.LOCAL, TokenKind.LOCAL, TokenKind.GLOBAL, TokenKind.GLOBAL]
    assert video.mass.tolist() == [3, 3, 1, 1]
    context = [[0.6 + 0.4 * 1.55, 0.0], [0.4 * 0.5, 0.6 + 0.4 * 2.5]]
    torch.testing.assert_close(video.tokens, torch.tensor([*context, [5.0, 5.0], [7.0, 7.0]]))


def test_the_weight_of_an_anchor_is_at_least_its_share():
    """With a least weight of 0, a context token with two members counts a third."""
    video = run(FEATURES, ATTENTION, 0.5, clips=[2], anchor_weight=0)
    torch.testing.assert_close(video.tokens[0], torch.tensor([(1 + 1.1 + 2) / 3, 0.0]))
    torch.testing.assert_close(video.tokens[1], torch.tensor([1 / 3, (1 + 3 + 2) / 3]))


@pytest.mark.parametrize(
    ("own", "room", "lengths", "expected"),
    [
        ([2, 1, 2, 1, 2], [9] * 5, [5], [4, 0, 0, 0, 4]),
        ([2, 1, 2], [9] * 3, [1, 2], [2, 3, 0]),
        ([3, 3], [5, 5], [2], [3, 3]),  # six do not fit on one frame of five
        ([0, 0], [5, 5], [2], [0, 0]),
    ],
)
def test_context_stands_on_every_fourth_frame(own, room, lengths, expected):
    assert context_quota(own, room, lengths, 4) == expected


def test_salient_tokens_are_the_most_attended():
    attention = torch.rand(6, 50)
    features = torch.randn(6, 50, 4)
    video = run(features, attention, 0.2)
    salient = video.kind == TokenKind.GLOBAL
    chosen = torch.zeros(6, 50, dtype=torch.bool)
    chosen[video.frame[salient], video.position[salient, 1]] = True
    assert torch.equal(chosen, torch.zeros_like(chosen).scatter_(1, attention.topk(6, dim=-1).indices, True))
    assert torch.equal(video.tokens[salient], features[chosen])


def test_segments_are_apart(make_video):
    """Changing the second segment leaves the tokens of the first as they are."""
    features, attention, _ = make_video(6, (5, 5), 8)
    other = torch.cat([features[:3], torch.randn(3, 25, 8)])
    first, second = (run(x, attention, 0.4, clips=[3, 3]) for x in (features, other))
    early = first.frame < 3
    assert torch.equal(early, second.frame < 3) and torch.equal(first.tokens[early], second.tokens[early])
    assert float(first.mass[early].sum()) == 75
