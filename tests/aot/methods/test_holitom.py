"""HoliTom's merging: windows by a dynamic programme, static places averaged, the rest cut to the budget."""

import pytest
import torch

from aot import AOTConfig, TokenKind, compress
from aot.methods.holitom import lowest_cosine
from aot.ops.common import unit

# places 0 and 3 keep their direction, place 1 loses it in frame 2, place 2 turns at every step
FEATURES = torch.tensor(
    [
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]],
        [[1.0, 0.0], [0.0, 2.0], [0.0, 1.0], [0.0, 1.0]],
        [[3.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]],
    ]
)
ATTENTION = torch.tensor([[9.0, 2.0, 1.0, 9.0], [9.0, 1.0, 2.0, 9.0], [9.0, 2.0, 1.0, 9.0]])


def run(retention, features=FEATURES, attention=ATTENTION, clips=None, **options):
    config = AOTConfig(method="holitom", retention=retention, options=options)
    more = {"attention_last": attention}
    grid = (1, features.shape[1])
    return compress(features, None, None, config, pool=None, grid=grid, extras=more, clips=clips)


def test_by_hand():
    """One window of three frames scores 2·2, windows of two and one 3·1 and 2·1. Its static places become (5/3, 0) and
    (0, 1). Four tokens for one static and three dynamic sets: one each. The static averages merge at the first,
    dynamic places 1 and 2 go by attention."""
    video = run(0.34)
    assert video.clips == [3]
    assert video.frame.tolist() == [0, 0, 1, 2]
    assert video.position[:, 1].tolist() == [0, 1, 2, 1]
    assert video.kind.tolist() == [TokenKind.LOCAL, TokenKind.DYNAMIC, TokenKind.DYNAMIC, TokenKind.DYNAMIC]
    assert video.mass.tolist() == [6, 1, 1, 1]
    expected = torch.tensor([[0.6 * 5 / 3, 0.4], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(video.tokens, expected)


def test_two_more_tokens_by_hand():
    """Six: one for each set, and of four equal claims to the other two the first are served: both static averages stay
    themselves, and frame 0 keeps both dynamic places."""
    video = run(0.5)
    assert video.frame.tolist() == [0, 0, 0, 0, 1, 2]
    assert video.position[:, 1].tolist() == [0, 1, 2, 3, 2, 1]
    assert video.mass.tolist() == [3, 1, 1, 3, 1, 1]
    torch.testing.assert_close(video.tokens[0], torch.tensor([5 / 3, 0.0]))


@pytest.mark.parametrize(("retention", "windows"), [(0.1, [2]), (0.11, [1, 1])])
def test_the_threshold_is_lower_at_a_tenth(retention, windows):
    """A cosine of 0.7 lies between the two thresholds."""
    angle = torch.tensor(0.7).acos()
    frames = torch.stack([torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])])
    features = frames.unsqueeze(1).expand(-1, 20, -1)
    assert run(retention, features, torch.rand(2, 20)).clips == windows


def test_a_threshold_of_ones_own_replaces_both():
    assert run(0.34, threshold=1.0).clips == [1, 1, 1]


def test_lowest_cosine_stays_inside_windows():
    features = torch.randn(6, 4, 5)
    units = unit(features)
    cosine = torch.linalg.vecdot(units[1:], units[:-1])
    lowest = lowest_cosine(cosine, [3, 1, 2])
    torch.testing.assert_close(lowest[0], cosine[:2].amin(0))
    assert bool(lowest[1].isinf().all())
    torch.testing.assert_close(lowest[2], cosine[4])


def test_no_more_is_averaged_than_the_budget_asks_for():
    """A still video at one half: 6 of 12 places are averaged over ten frames (each saves 9 of 60), the others stay."""
    frame = torch.randn(1, 12, 8)
    video = run(0.5, frame.expand(10, -1, -1), torch.rand(10, 12), clips=[10])
    static = video.kind == TokenKind.LOCAL
    assert len(video.tokens) == 60 and float(video.mass[static].sum()) == 60
