"""DPC-kNN against a plain loop, budgets of sets, segments against all cuts."""

from itertools import product

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.budget import even_budgets, set_budgets
from aot.methods.common import (
    dpc_knn,
    gather_members,
    mean_squared_distances,
    rounded_share,
)
from aot.methods.holitom import static_windows
from aot.methods.prunevid import contiguous_lengths, density_segments


def plain_dpc_knn(points, count, neighbours):
    """Centres and labels of one set, by the formulas."""
    points = points.double()
    total = len(points)
    squared = (points.unsqueeze(0) - points.unsqueeze(1)).square().mean(-1)
    density = [float((-squared[i].sort().values[:neighbours].mean()).exp()) for i in range(total)]
    score = []
    for i in range(total):
        denser = [float(squared[i, j]) for j in range(total) if (density[j], i) > (density[i], j)]
        score.append(density[i] * (min(denser) if denser else float(squared[i].max())) ** 0.5)
    centers = sorted(sorted(range(total), key=score.__getitem__, reverse=True)[:count])
    labels = [i if i in centers else min(centers, key=lambda j: squared[i, j]) for i in range(total)]
    return centers, labels


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4), seed=st.integers(0, 999), k=st.integers(1, 9))
def test_dpc_knn_of_padded_sets_equals_a_plain_loop(sizes, seed, k):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(len(sizes), 12, 5, generator=generator) + 3
    valid = torch.zeros(len(sizes), 12, dtype=torch.bool)
    members = [torch.randperm(12, generator=generator)[:size].sort().values for size in sizes]
    for row, places in enumerate(members):
        valid[row, places] = True
    counts = torch.tensor([(size + 1) // 2 for size in sizes])
    center, label = dpc_knn(points, valid, counts, neighbours=k)
    for row, places in enumerate(members):
        centers, labels = plain_dpc_knn(points[row, places], int(counts[row]), k)
        assert center[row].nonzero().squeeze(1).tolist() == places[centers].tolist()
        assert label[row, places].tolist() == places[labels].tolist()
    assert bool((label[~valid] == -1).all())


def test_two_groups_by_hand():
    """Points 0, 1, 2 and 10, 11, 12 on a line, three nearest with themselves: 1 and 11 lie densest, and each is far
    from anything denser."""
    points = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 12.0]).view(1, 6, 1)
    center, label = dpc_knn(points, torch.ones(1, 6, dtype=torch.bool), torch.tensor([2]), neighbours=3)
    assert center[0].tolist() == [False, True, False, False, True, False]
    assert label[0].tolist() == [1, 1, 1, 4, 4, 4]


def test_equal_points_and_empty_sets():
    points = torch.ones(2, 5, 3)
    center, label = dpc_knn(points, torch.ones(2, 5, dtype=torch.bool), torch.tensor([2, 0]), neighbours=7)
    assert center.tolist() == [[True, True, False, False, False], [False] * 5]
    assert label[1].tolist() == [-1] * 5 and set(label[0].tolist()) <= {0, 1}


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12), part=st.floats(0, 1))
def test_set_budgets_are_exact_and_in_proportion(sizes, part):
    total = sum(sizes)
    budget = int(part * total)
    found = set_budgets(budget, torch.tensor(sizes)).tolist()
    present = sum(size > 0 for size in sizes)
    assert sum(found) == budget
    assert all(0 <= one <= size for one, size in zip(found, sizes, strict=True))
    if budget >= present:
        assert all(one >= 1 for one, size in zip(found, sizes, strict=True) if size)
        quota = [(budget - present) / max(1, total - present) * (size - 1) + 1 for size in sizes if size]
    else:
        quota = [budget / total * size for size in sizes if size]
    given_ = [one for one, size in zip(found, sizes, strict=True) if size]
    assert all(abs(one - wanted) < 1 for one, wanted in zip(given_, quota, strict=True))


def test_even_budgets_and_parts():
    assert even_budgets(7, 3) == [2, 2, 3] and even_budgets(1, 3) == [0, 0, 1] and even_budgets(6, 3) == [2, 2, 2]
    assert [rounded_share(n, 54 / 64) for n in (0, 1, 2, 3, 4, 64)] == [0, 1, 2, 3, 3, 54]


def test_members_are_summed_at_their_token_and_dropped_ones_nowhere():
    points = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    sums, counts = gather_members(points, torch.tensor([0, 0, 4, 3]), torch.tensor([0, 3]))
    assert sums.squeeze(1).tolist() == [3, 8] and counts.tolist() == [2, 1]


def test_clusters_of_frames_become_contiguous():
    assert contiguous_lengths([5, 5, 2, 2, 2]) == [2, 3]
    assert contiguous_lengths([1, 0, 0, 1, 1, 0]) == [3, 3]  # frame 0 joins the first segment, frame 5 the last
    assert contiguous_lengths([0, 0, 1, 1, 0, 0]) == [2, 2, 2]  # of equal runs both
    assert contiguous_lengths([0, 0, 2, 1, 1, 1]) == [2, 4]  # a run of one frame goes to the longer neighbour
    assert contiguous_lengths([1, 1, 2, 0, 0]) == [3, 2]  # to the earlier of equals
    assert contiguous_lengths([0, 0, 2, 3, 0, 0]) == [6]  # what was cut by it is one
    assert contiguous_lengths([0, 1, 0, 1]) == [4]
    assert contiguous_lengths([4]) == [1]


def test_density_segments_find_scenes():
    scenes = torch.tensor([0.0] * 3 + [10.0] * 4 + [30.0] * 2)
    means = (scenes + 0.01 * torch.arange(9)).unsqueeze(1).expand(-1, 4)
    assert density_segments(means, 3, neighbours=2) == [3, 4, 2]
    assert density_segments(means, 1, neighbours=7) == [9]


def windows_score(alike, lengths):
    score, start = 0, 0
    for length in lengths:
        inside = alike[start : start + length - 1]
        score += int(inside.all(0).sum()) * (length - 1)
        start += length
    return score


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 7), places=st.integers(1, 5), seed=st.integers(0, 9999), chance=st.floats(0.2, 1))
def test_static_windows_are_the_best_of_all(frames, places, seed, chance):
    generator = torch.Generator().manual_seed(seed)
    alike = torch.rand(frames - 1, places, generator=generator) < chance
    found = static_windows(alike)
    assert sum(found) == frames and min(found) >= 1
    scores = []
    for cuts in product([False, True], repeat=frames - 1):
        ends = [t + 1 for t, cut in enumerate(cuts) if cut] + [frames]
        scores.append(windows_score(alike, [b - a for a, b in zip([0, *ends], ends, strict=False)]))
    assert windows_score(alike, found) == max(scores)


def test_distances_are_those_of_a_loop_and_none_to_a_point_itself():
    points = 7 + torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(9) < torch.tensor([[9], [6]])
    distance = mean_squared_distances(points, valid)
    assert not distance.diagonal(dim1=1, dim2=2)[valid].any() and torch.equal(distance, distance.mT)
    expected = (points.double().unsqueeze(1) - points.double().unsqueeze(2)).square().mean(-1)
    both = valid.unsqueeze(1) & valid.unsqueeze(2)
    torch.testing.assert_close(distance[both].double(), expected[both], rtol=1e-5, atol=1e-6)
    assert distance[~both].isinf().all()
