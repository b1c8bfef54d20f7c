"""`compress`: the one entry of the package."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from .config import AOTConfig
from .ops.common import without_autocast
from .registry import METHODS
from .types import CompressedVideo, Selection, TokenKind, VideoTokens
from .validation import check_arguments, check_clips, check_grid, check_newline_position, check_video, count


def compress(
    features: torch.Tensor,
    shallow: torch.Tensor | None = None,
    deep: torch.Tensor | None = None,
    config: AOTConfig | Mapping[str, Any] | None = None,
    *,
    pool: str | None = "bilinear",
    newline: torch.Tensor | None = None,
    newline_position: str = "grid",
    clips: Sequence[int] | None = None,
    grid: tuple[int, int] | None = None,
    extras: Mapping[str, torch.Tensor] | None = None,
    before: torch.Tensor | None = None,
    first_frame: int = 0,
    trace: bool = False,
) -> CompressedVideo:
    """Reduces the tokens of one video.

    features: (T, N, D) after the projector, before the 2x pooling. shallow, deep: (T, N) received attention of the two
    layers of `aot.layers`; extras: these and further tower outputs by name; each where `config.requires` names it.
    config: AOTConfig or its dict; None is AOTConfig(). pool: the host model's pooling. newline: (D,) newline token or
    None; newline_position: where the host puts it ("grid", "frame", "one_token", "no_token"). clips: clip lengths in
    frames that sum to T, for a method that reads them; None lets it decide. grid: tower (H, W); None means square.
    before: (1, N, D), the frame before these in a stream. first_frame: the number of the first one in it, from which
    frames of the result and of messages count. trace: keep what pictures need.
    Raises AOTError (a ValueError) for inputs or settings that do not fit, and on a CPU for values that cannot be used
    (NaN, Inf, a negative importance). A GPU is not waited for: there such places count as 0, and `check` of the result
    raises the error when somebody asks.
    Gradients reach features and newline through kept and merged tokens; choice, plan and masses are held fixed.
    """
    # check what came
    config = AOTConfig.from_dict({} if config is None else config)
    check_arguments(features, {"shallow": shallow, "deep": deep}, extras)
    check_newline_position(newline_position)
    # what decides passes no gradient on
    deciding = {"shallow": shallow, "deep": deep, **(extras or {}), "before": before}
    held = {name: x.detach() if isinstance(x, torch.Tensor) else x for name, x in deciding.items()}
    video = VideoTokens(
        features=features,
        **{name: held.pop(name) for name in ("shallow", "deep", "before")},
        grid=check_grid(features.shape[1], grid),
        pool=pool,
        clips=None if clips is None else check_clips(clips, features.shape[0]),
        newline=newline,
        newline_position=newline_position,
        extras=held,
        trace=trace,
        first_frame=count("first_frame", first_frame, 0),
    )
    check_video(video, config.requires)
    # run the method, then place newline tokens
    wanted = torch.is_grad_enabled() and (features.requires_grad or (newline is not None and newline.requires_grad))
    # in the features' precision, or float32 where the method says so
    with torch.set_grad_enabled(wanted), without_autocast(features.device):
        shared = config if config.max_tokens is None else config.on_video(video.frames, video.tokens_per_frame)
        selection = insert_newlines(METHODS[config.method].run(video, shared), video, config)
    return CompressedVideo(
        selection.tokens,
        selection.frame + video.first_frame,
        selection.position,
        selection.kind,
        selection.mass,
        video.pooled_grid,
        video.frames,
        selection.clips,
        config,
        selection.trace if trace else None,
        video.usable,
        budget=None if config.distortion is None else shared.budget(video.frames, video.tokens_per_frame),
        first_frame=video.first_frame,
    )


def insert_newlines(selection: Selection, video: VideoTokens, config: AOTConfig) -> Selection:
    """Places newline tokens of the host model behind the tokens of their frame or row; they are no part of the budget.

    The selection must be in frame and raster order, or say behind which frame a token's newline goes. One
    newline per frame, per row that kept a token ("row"), per row ("all"), or one at the very end, as config
    and host mode say. Only "row" waits for a number from the device.
    """
    position, frames, (height, width) = video.newline_position, video.frames, video.pooled_grid
    if video.newline is None or selection.newlines_done or position == "no_token":
        return selection
    if config.newlines == "none" and position != "one_token":
        return selection
    # S tokens and G newlines: the group (S,) of each token, frame and row (G,) of each newline
    device = selection.frame.device
    group = selection.frame if selection.newline_frame is None else selection.newline_frame
    if position == "one_token":
        frame = torch.full((1,), frames - 1, device=device)
        group, row = torch.zeros_like(group), torch.full_like(frame, height - 1)
    elif position == "frame" or config.newlines == "frame":
        frame = torch.arange(frames, device=device)
        row = torch.full_like(frame, height - 1)
    else:
        group = group * height + selection.position[:, 0]  # row of the video
        rows = torch.arange(frames * height, device=device)
        if config.newlines == "row":
            used = torch.zeros(frames * height, dtype=torch.bool, device=device)
            rows = used.index_fill(0, group, True).nonzero().squeeze(-1)
            group = torch.searchsorted(rows, group)
        frame, row = rows // height, rows % height
    # newline g stands behind the last token of group g; before token i stand i tokens and newlines of earlier groups
    number = torch.arange(len(group) + len(frame), device=device)
    tokens, newlines = number[: len(group)], number[: len(frame)]
    place = torch.cat([tokens + group, torch.searchsorted(group, newlines, right=True) + newlines])
    order = torch.empty_like(place).scatter_(0, place, number)
    added = {
        "tokens": video.newline.to(device, selection.tokens.dtype).expand(len(frame), -1),
        "frame": frame,
        "position": torch.stack([row, torch.full_like(row, width)], dim=-1),
        "kind": torch.full_like(frame, int(TokenKind.NEWLINE)),
        "mass": torch.zeros(len(frame), dtype=torch.float32, device=device),
    }
    joined = {n: torch.cat([getattr(selection, n), new]).index_select(0, order) for n, new in added.items()}
    return replace(selection, newlines_done=True, **joined)
