"""Newline tokens of the host model behind the kept tokens; counted apart from the budget."""

from dataclasses import replace

import torch

from .config import AOTConfig
from .result import Kind, Selection
from .video import VideoTokens


def insert_newlines(selection: Selection, video: VideoTokens, config: AOTConfig) -> Selection:
    """Places newline tokens behind the tokens of their frame or row.

    The selection must be in frame and raster order, or say behind which frame a token's newline goes. One
    newline per frame, per row that kept a token ("row"), per row ("all"), or one at the very end, as config
    and host mode say. Only "row" waits for a number from the device.
    """
    if video.newline is None or selection.newlines_done or video.newline_position == "no_token":
        return selection
    frames, (height, width) = video.frames, video.pooled_grid
    position = video.newline_position
    if position == "one_token":
        last = torch.full((1,), frames - 1, device=selection.frame.device)
        return _merge(selection, video.newline, None, last, torch.full_like(last, height - 1), width)
    if config.newlines == "none":
        return selection
    device = selection.frame.device
    behind = selection.frame if selection.newline_frame is None else selection.newline_frame
    if position == "frame" or config.newlines == "frame":
        each = torch.arange(frames, device=device)
        order = _newlines_behind(behind, each)
        return _merge(selection, video.newline, order, each, torch.full_like(each, height - 1), width)
    group = behind * height + selection.position[:, 0]
    if config.newlines == "row":
        used = torch.zeros(frames * height, dtype=torch.bool, device=device)
        present = used.index_fill(0, group, True).nonzero().squeeze(-1)
        group = torch.searchsorted(present, group)
    else:
        present = torch.arange(frames * height, device=device)
    order = _newlines_behind(group, torch.arange(len(present), device=device))
    return _merge(selection, video.newline, order, present // height, present % height, width)


def _newlines_behind(group: torch.Tensor, newlines: torch.Tensor) -> torch.Tensor:
    """(S + G,) order of S tokens and then G newlines in which newline g stands behind the last token of group g.

    group: (S,) ascending. newlines: 0 to G - 1.
    """
    tokens = torch.arange(len(group), device=group.device)
    # before token i stand i tokens and the newlines of earlier groups; before newline g those of its group as well
    place = torch.cat([tokens + group, torch.searchsorted(group, newlines, right=True) + newlines])
    each = torch.arange(len(place), device=group.device)
    return torch.empty_like(place).scatter_(0, place, each)


def _merge(
    selection: Selection,
    newline: torch.Tensor,
    order: torch.Tensor | None,
    frame: torch.Tensor,
    row: torch.Tensor,
    width: int,
) -> Selection:
    """Tokens and newlines in the order given, (S + G,) indices of both. frame, row: (G,) of the newlines.

    order None leaves the newlines behind all tokens.
    """
    device, groups = frame.device, frame.shape[0]

    def join(kept: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([kept, added.to(kept.dtype)])
        return joined if order is None else joined.index_select(0, order)

    return replace(
        selection,
        tokens=join(selection.tokens, newline.to(device).expand(groups, -1)),
        frame=join(selection.frame, frame),
        position=join(selection.position, torch.stack([row, torch.full_like(row, width)], dim=-1)),
        kind=join(selection.kind, torch.full_like(frame, int(Kind.NEWLINE))),
        mass=join(selection.mass, torch.zeros(groups, device=device)),
        newlines_done=True,
    )
