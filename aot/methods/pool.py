"""pool, a floor: average pooling over space and time to the budget, what a smaller grid and fewer frames would give.

VTC-Bench (Liao et al., ACL 2026, arXiv 2510.07143) found that plain down-sampling is ahead of many methods.

Height, width and time are shortened alike: at a retention r a cell is s = round(r^(-1/3)) tokens high and wide, and the
frames go in as many groups of neighbours as tokens are left for such cells, budget / (⌈H/s⌉·⌈W/s⌉), rounded. The
budget is shared evenly between the groups, so it is exact. A group's tokens are the means of near-equal cells: as many
rows of cells as the shape of the grid asks for, and the cells of a group shared evenly between its rows. A mean is
placed in the middle of its cell, in the middle frame of its group.
"""

import math

import torch

from ..budget import even_budgets
from ..config import AOTConfig
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from .common import gather_members


@register("pool", floor=True)
def pool(video: VideoTokens, config: AOTConfig) -> Selection:
    """Means of cells of neighbouring tokens and frames."""
    frames, per_frame = video.frames, video.tokens_per_frame
    budget = config.budget(frames, per_frame)
    groups = group_count(config.retention, budget, frames, video.pooled_grid)
    index, target, first, kept = [], [], 0, 0
    for length, count in zip(even_budgets(frames, groups), even_budgets(budget, groups), strict=True):
        cell, middle = cells(video.pooled_grid, count)
        index.append((first + (length - 1) // 2) * per_frame + middle)
        target += [cell + kept] * length
        first, kept = first + length, kept + count
    device = video.features.device
    place = torch.cat(index)
    target_index = place[torch.cat(target)].to(device)  # (T·P,)
    place = place.to(device)
    sums, mass = gather_members(video.pooled.flatten(0, 1), target_index, place)
    tokens = (sums / mass.unsqueeze(1)).to(video.pooled.dtype)
    return Selection.from_indices(tokens, place, video.pooled_grid, kind=TokenKind.LOCAL, mass=mass)


def group_count(retention: float, budget: int, frames: int, grid: tuple[int, int]) -> int:
    """Groups of frames that are averaged over time; each gets 1 to H·W tokens of the budget."""
    height, width = grid
    side = round(retention ** (-1 / 3))
    fitting = round(budget / (-(-height // side) * -(-width // side)))
    return min(max(fitting, -(-budget // (height * width))), frames, budget)


def cells(grid: tuple[int, int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A grid cut in `count` cells: (H·W,) int64 cell of each place, and (count,) int64 place in each cell's middle."""
    height, width = grid
    rows = max(round(math.sqrt(count * height / width)), -(-count // width))
    rows = min(rows, height, count)
    columns = torch.tensor(even_budgets(count, rows))  # cells in each row of cells
    band = torch.arange(height) * rows // height
    cell = (columns.cumsum(0) - columns)[band, None] + torch.arange(width) * columns[band, None] // width
    # sums over each cell of ones, rows and columns; a mean row and column, rounded down, is the middle
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([torch.ones_like(row), row, column]).flatten(1)
    size, row, column = points.new_zeros(3, count).index_add_(1, cell.flatten(), points)
    return cell.flatten(), row // size * width + column // size
