"""Importance maps and the choice of anchors (section 3.1 of the paper)."""

import torch

from .errors import AOTError
from .ranks import rank_descending


def layers(num_layers: int) -> tuple[int, int]:
    """0-based indices (shallow, deep) among the tower layers in use; (5, 24) for 26 layers.

    Shallow is the layer nearest to 0.2·(L - 1), deep the last but one.
    Raises AOTError for a tower of fewer than two layers.
    """
    if num_layers < 2:
        raise AOTError(f"The tower has {num_layers} layers in use; two importance maps need at least 2.")
    return (num_layers + 1) // 5, num_layers - 2


def window_ids(grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """(H·W,) window of each token when both sides are cut in three near-equal parts (9x9 tokens at 27x27).

    Window w = 3·⌊3·row/H⌋ + ⌊3·column/W⌋; a side shorter than three leaves windows empty.
    """
    height, width = grid
    rows = torch.arange(height, device=device) * 3 // height
    columns = torch.arange(width, device=device) * 3 // width
    return (rows[:, None] * 3 + columns).flatten()


def grid_window_sizes(grid: tuple[int, int]) -> list[int]:
    """Tokens in each of the nine windows of `window_ids`, without a device."""
    rows, columns = ([sum(1 for i in range(side) if i * 3 // side == part) for part in range(3)] for side in grid)
    return [a * b for a in rows for b in columns]


def window_sizes(windows: torch.Tensor) -> torch.Tensor:
    """(9,) int64 tokens in each window. windows: (N,) from `window_ids`."""
    return (windows.unsqueeze(-1) == torch.arange(9, device=windows.device)).sum(0)


def window_groups(
    grid: tuple[int, int], frames: int, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of each window over a run of frames: (9, w) int64 t·H·W + place, and (9, w) bool, False for padding.

    w is the size of the largest window.
    """
    sizes = [size * frames for size in grid_window_sizes(grid)]
    order = window_ids(grid, device).repeat(frames).argsort(stable=True)
    slot = torch.arange(max(sizes), device=device)
    size = torch.tensor(sizes, device=device).unsqueeze(1)
    return order[(size.cumsum(0) - size + slot).clamp_max(order.shape[0] - 1)], slot < size


def choose(
    local_count: torch.Tensor,
    global_count: torch.Tensor,
    local_score: torch.Tensor,
    global_score: torch.Tensor,
    windows: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Local and global anchors of every frame, two disjoint (T, N) bool masks (section 3.1).

    local_count: (T, 9) int64, the best of each window by local_score. global_count: (T,) int64, the best of
    the others by global_score. Scores: (T, N).
    """
    # rank inside the window: order by score, then stably by window
    order = local_score.argsort(dim=-1, descending=True, stable=True)
    order = order.gather(-1, windows[order].argsort(dim=-1, stable=True))
    sizes = window_sizes(windows)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(order.shape[-1], device=order.device) - starts.repeat_interleave(
        sizes, output_size=windows.shape[0]
    )
    rank = torch.empty_like(order).scatter_(-1, order, rank.expand_as(order))
    local = rank < local_count[:, windows]
    others = global_score.masked_fill(local, -torch.inf)
    return local, (rank_descending(others) < global_count.unsqueeze(-1)) & ~local
