"""PruneVid's merging: static places averaged over time, sets clustered to the budget."""

import torch

from aot import AOTConfig, TokenKind, compress
from aot.budget import set_budgets
from aot.methods.prunevid import merged_counts, pairwise_cosine
from aot.ops.common import unit


def test_by_hand():
    """Frames 0 and 1 are a segment, frame 2 another; 4 tokens of 9. Places 0 and 1 point the same way in both frames:
    static. Place 2 turns: dynamic. The sets hold 2 static and 1, 1, 3 dynamic tokens, so each keeps one: all sets are
    small, but do not fit."""
    features = torch.tensor(
        [
            [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]],
            [[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]],
            [[4.0, 0.0], [4.1, 0.0], [0.0, 9.0]],
        ]
    )
    config = AOTConfig(method="prunevid", retention=0.45)
    video = compress(features, None, None, config, pool=None, grid=(1, 3), clips=[2, 1])
    assert video.frame.tolist() == [0, 0, 1, 2]
    assert video.position[:, 1].tolist() == [0, 2, 2, 0]
    assert video.kind.tolist() == [TokenKind.LOCAL, TokenKind.DYNAMIC, TokenKind.DYNAMIC, TokenKind.DYNAMIC]
    assert video.mass.tolist() == [4, 1, 1, 3]
    # the mean of four static tokens; two lone ones; the mean of frame 2, whose densest token is its first
    expected = torch.tensor([[0.75, 1.0], [1.0, 0.0], [0.0, 1.0], [2.7, 3.0]])
    torch.testing.assert_close(video.tokens, expected)


def test_pairwise_cosine_is_the_mean_over_pairs():
    features = torch.randn(7, 5, 4)
    lengths = [3, 1, 3]
    found = pairwise_cosine(unit(features), lengths)
    for segment, (start, end) in enumerate([(0, 3), (3, 4), (4, 7)]):
        frames = features[start:end]
        cosine = torch.cosine_similarity(frames.unsqueeze(0), frames.unsqueeze(1), dim=-1)
        pairs = ~torch.eye(end - start, dtype=torch.bool)
        expected = cosine[pairs].mean(0) if end - start > 1 else torch.zeros(5)
        torch.testing.assert_close(found[segment], expected, rtol=1e-4, atol=1e-5)


def test_a_still_video_keeps_each_place_once():
    """Ten equal frames at a tenth: all places are static, and each mean stands for its ten tokens."""
    frame = torch.randn(1, 12, 8)
    config = AOTConfig(method="prunevid", retention=0.1)
    video = compress(frame.expand(10, -1, -1), None, None, config, pool=None, grid=(3, 4), clips=[10])
    assert video.frame.tolist() == [0] * 12
    torch.testing.assert_close(video.tokens, frame[0])
    assert video.mass.tolist() == [10] * 12


def test_no_more_is_averaged_than_the_budget_asks_for():
    """The same video at one half: averaging all places would leave 12 tokens of 60 wanted. Each averaged place saves 9
    of the 60 that may go, so six are averaged, six stay in every frame, and 60 of the 66 that remain are kept."""
    frame = torch.randn(1, 12, 8)
    config = AOTConfig(method="prunevid", retention=0.5)
    video = compress(frame.expand(10, -1, -1), None, None, config, pool=None, grid=(3, 4), clips=[10])
    assert len(video.tokens) == 60
    static = video.kind == TokenKind.LOCAL
    assert float(video.mass[static].sum()) == 6 * 10 and set(video.frame[static].tolist()) == {0}
    assert float(video.mass[~static].sum()) == 60


def test_small_sets_stay_as_they_are_where_the_rest_leaves_room():
    sizes = torch.tensor([14, 0, 30, 6, 60])
    assert merged_counts(50, sizes, 14).tolist() == [14, 0, 10, 6, 20]
    assert merged_counts(21, sizes, 14).tolist() == set_budgets(21, sizes).tolist()  # one is left for two larger sets
    assert merged_counts(22, sizes, 14).tolist() == [14, 0, 1, 6, 1]
    assert merged_counts(50, sizes, 0).tolist() == set_budgets(50, sizes).tolist()
    assert merged_counts(7, torch.tensor([4, 6]), 14).tolist() == set_budgets(7, torch.tensor([4, 6])).tolist()
