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
    """Two frames, one segment, two tokens each: one salient (3 and 0), and two context tokens on frame 1, the last.
    There token 3 is the densest, and 2 lies closer to it but denser than 1: the peaks are 3 and 2. (0, 1) goes to
    token 2, (1, 0), (1.1, 0) and (2, 0) to token 3, and both to themselves."""
    video = run(FEATURES, ATTENTION, 0.5, clips=[2], salient=0.5)
    assert video.frame.tolist() == [0, 1, 1, 1]
    assert video.position[:, 1].tolist() == [3, 0, 2, 3]
    assert video.kind.tolist() == [TokenKind.GLOBAL, TokenKind.GLOBAL, TokenKind.LOCAL, TokenKind.LOCAL]
    assert video.mass.tolist() == [1, 1, 2, 4]
    context = [[0.0, 0.6 * 3 + 0.4 * 2], [0.6 * 1 + 0.4 * 5.1 / 4, 0.6 * 2 + 0.4 * 0.5]]
    torch.testing.assert_close(video.tokens, torch.tensor([[5.0, 5.0], [7.0, 7.0], *context]))


def test_the_weight_of_a_context_token_is_one_of_what_came_and_itself():
    """With a least weight of 0, a context token to which m tokens came weighs 1/(m + 1) beside their mean."""
    video = run(FEATURES, ATTENTION, 0.5, clips=[2], salient=0.5, anchor_weight=0)
    torch.testing.assert_close(video.tokens[2], torch.tensor([0.0, (3 + 2 * 2) / 3]))
    torch.testing.assert_close(video.tokens[3], torch.tensor([(1 + 5.1) / 5, (2 + 2) / 5]))


def test_each_token_goes_to_one_context_token_of_each_context_frame():
    """The published rule in plain loops: nine frames in one segment hold their context in frames 0, 4 and 8."""
    features = torch.randn(9, 20, 6, generator=torch.Generator().manual_seed(0))
    attention = torch.rand(9, 20, generator=torch.Generator().manual_seed(1))
    video = run(features, attention, 0.25, clips=[9])  # five a frame: three salient, two for context
    place = list(zip(video.frame.tolist(), video.position[:, 1].tolist(), strict=True))
    context = [at for at, kind in zip(place, video.kind.tolist(), strict=True) if kind == TokenKind.LOCAL]
    assert [frame for frame, _ in context] == [0] * 6 + [4] * 6 + [8] * 6
    salient = set(place) - set(context)
    came = {at: [] for at in context}
    for frame in range(9):
        for token in range(20):
            if (frame, token) not in salient:
                for held in (0, 4, 8):
                    options = [at for at in context if at[0] == held]
                    likeness = [torch.cosine_similarity(features[frame, token], features[at], dim=0) for at in options]
                    came[options[int(torch.stack(likeness).argmax())]].append((frame, token))
    for at, token, mass in zip(place, video.tokens, video.mass, strict=True):
        if at in came:
            members = torch.stack([features[member] for member in came[at]])
            weight = max(0.6, 1 / (len(members) + 1))
            torch.testing.assert_close(token, weight * features[at] + (1 - weight) * members.mean(0))
            assert float(mass) == pytest.approx(1 + sum(member not in came for member in came[at]) / 3, rel=1e-5)
    assert float(video.mass.sum()) == pytest.approx(180)


@pytest.mark.parametrize(
    ("own", "room", "lengths", "expected", "spans"),
    [
        ([2, 1, 2, 1, 2], [9] * 5, [5], [4, 0, 0, 0, 4], [5]),
        ([1] * 6, [9] * 6, [6], [0, 3, 0, 0, 0, 3], [6]),
        ([2, 1, 2], [9] * 3, [1, 2], [2, 0, 3], [1, 2]),
        ([3, 3], [5, 5], [2], [3, 3], [1, 1]),  # six do not fit on one frame of five
        ([0, 0], [5, 5], [2], [0, 0], [2]),
    ],
)
def test_context_stands_on_every_fourth_frame_from_the_end(own, room, lengths, expected, spans):
    assert context_quota(own, room, lengths, 4) == (expected, spans)


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
