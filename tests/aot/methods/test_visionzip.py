"""VisionZip: dominant tokens by attention, contextual ones by keys."""

import pytest
import torch

from aot import AOTConfig, TokenKind, compress

VALUES = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0, 60.0]).view(1, 6, 1)
ATTENTION = torch.tensor([[1.0, 5.0, 2.0, 0.0, 0.0, 0.0]])
KEYS = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 1.0], [1.0, 0.5]]])


def run(features, attention, keys, retention, **options):
    config = AOTConfig(method="visionzip", retention=retention, options=options)
    grid = (1, features.shape[1])
    more = {"attention_last": attention, "keys": keys}
    return compress(features, None, None, config, pool=None, grid=grid, extras=more)


@pytest.mark.parametrize(
    ("contextual", "expected"), [("sum", [10 + (30 + 60) / 2, 20, 40 + 50]), ("mean", [100 / 3, 20, 45])]
)
def test_by_hand(contextual, expected):
    """Three of six: token 1 is dominant. Of the rest 0 2 3 4 5 every second (5 // 2) is a target: 0 and 3. By their
    keys 2 and 5 go to 0, and 4 goes to 3."""
    video = run(VALUES, ATTENTION, KEYS, 0.5, dominant=0.4, contextual=contextual)
    assert video.position[:, 1].tolist() == [0, 1, 3]
    assert video.kind.tolist() == [TokenKind.LOCAL, TokenKind.GLOBAL, TokenKind.LOCAL]
    assert video.mass.tolist() == [3, 1, 2]
    torch.testing.assert_close(video.tokens.squeeze(1), torch.tensor(expected, dtype=torch.float32))


def test_the_published_proportion():
    features = torch.randn(2, 640, 4)
    video = run(features, torch.rand(2, 640), torch.randn(2, 640, 3), 0.1)
    assert torch.bincount(video.kind).tolist() == [2 * 10, 2 * 54]


def test_dominant_tokens_are_the_most_attended_and_stay_as_they_are():
    attention = torch.rand(3, 100)
    features = torch.randn(3, 100, 4)
    video = run(features, attention, torch.randn(3, 100, 3), 0.2)
    dominant = video.kind == TokenKind.GLOBAL
    chosen = torch.zeros(3, 100, dtype=torch.bool)
    chosen[video.frame[dominant], video.position[dominant, 1]] = True
    best = torch.zeros_like(chosen).scatter_(1, attention.topk(17, dim=-1).indices, True)
    assert torch.equal(chosen, best)
    assert torch.equal(video.tokens[dominant], features[chosen])


def test_frames_do_not_see_each_other():
    features, attention, keys = torch.randn(4, 30, 6), torch.rand(4, 30), torch.randn(4, 30, 3)
    together = run(features, attention, keys, 0.3)
    apart = [run(features[t : t + 1], attention[t : t + 1], keys[t : t + 1], 0.3) for t in range(4)]
    torch.testing.assert_close(together.tokens, torch.cat([video.tokens for video in apart]))
    assert torch.equal(together.mass, torch.cat([video.mass for video in apart]))


def test_a_frame_without_contextual_tokens_drops_the_rest():
    video = run(torch.randn(2, 10, 4), torch.rand(2, 10), torch.randn(2, 10, 3), 0.2)
    assert video.mass.tolist() == [1, 1, 1, 1]
