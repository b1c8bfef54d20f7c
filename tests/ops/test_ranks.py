"""Ranks and indices."""

import torch

from aot.ops.common import rank_descending, true_indices


def test_ranks_and_indices():
    assert rank_descending(torch.tensor([0.2, 0.9, 0.2, 0.5])).tolist() == [2, 0, 3, 1]
    assert true_indices(torch.tensor([False, True, False, True]), 2).tolist() == [1, 3]
