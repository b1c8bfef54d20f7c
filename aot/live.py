"""A video that does not end: old clips are compressed further as new ones come, and one budget holds at all times."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from .clips import COST_BYTES, MAX_CLIP_TOKENS, default_clip_length
from .config import AOTConfig
from .errors import AOTError
from .ops import count_sketch, facility_location, merge, softmax_plan
from .ops.common import at_least_float32, true_indices, unit, without_autocast
from .ops.pair_cost import grid_distances
from .stream import VideoStream, join, tokens_at
from .types import CompressedVideo, TokenKind

LEAST_TOKENS = 64  # one for each part of 2^31 clips


class LiveStream(VideoStream):
    """Keeps a video that does not end in at most max_tokens visual tokens, and at most as many newlines.

    After each closed clip exactly `config.budget(frames so far, P)` visual tokens are kept. As long as the retention
    decides, they are those of a `VideoStream`. From where max_tokens decides, a hierarchy of parts shares it:

    - with each clip two neighbouring parts are joined, the newest that last no longer together than the time since. So
      every two parts double the time that is held, and T frames in clips of c are at most about 2·log2(T / c) + 2 parts
    - a new clip comes in with what its retention allows. For it the newest parts that hold more than an even share of
      max_tokens are compressed further by `recompress`: mostly two that were joined, and what lies before them stays

    What is held beside the tokens is a clip and a push. config: of the method "aot" in its default variant, with
    max_tokens of at least 64. Other arguments as in `VideoStream`. Raises AOTError for other settings.
    """

    def __init__(self, config: AOTConfig | Mapping, **settings: Any):
        self.whole = config = AOTConfig.from_dict(config)
        if config.method != "aot" or config.variant != "default":
            raise AOTError("A live video is compressed again and again by the method 'aot' in its default variant.")
        if config.max_tokens is None or config.max_tokens < LEAST_TOKENS:
            raise AOTError(f"A live video does not end; set max_tokens, to at least {LEAST_TOKENS}.")
        # by itself a clip keeps what the retention says
        super().__init__(config.replace(max_tokens=None, retention=config.retention or 1.0), **settings)
        self.parts: list[CompressedVideo] = []  # in the order of the video

    def video(self) -> CompressedVideo:
        """All that was pushed as one video, with the frames of the open clip; the stream goes on as if nobody asked."""
        asked = copy(self)
        asked.finish()
        video = join(asked.parts)
        if self.whole.distortion is None:
            return video
        return replace(video, budget=self.whole.budget(video.frames, self._tokens_per_frame()))  # of this moment

    def _budget(self, frames: int) -> int:
        return self._shares(frames)[-1]

    def _shares(self, frames: int) -> list[int]:
        """Visual tokens of each part and of the next clip, which has so many frames."""
        before, after = (
            self.config.budget(count, self._tokens_per_frame()) if count else 0
            for count in (self._frames, self._frames + frames)
        )
        wanted = [*(part.num_visual for part in self.parts), after - before]
        return newest_give(wanted, min(sum(wanted), self.whole.max_tokens))

    def _close(self, frames: int, *, last: bool) -> CompressedVideo:
        *shares, _ = self._shares(frames)
        clip = super()._close(frames, last=last)
        clip.check()  # the masks would pile up
        clip = replace(clip, config=self.whole, usable={})
        clip = _subset(clip, torch.arange(len(clip.kind), device=clip.kind.device)[clip.kind != TokenKind.NEWLINE])
        self.parts = join_newest([*recompress(self.parts, shares), clip])
        return clip


def newest_give(wanted: Sequence[int], budget: int) -> list[int]:
    """What parts that want so many tokens may keep, the budget in all: the newest give first, none below an even share.

    budget: at most what is wanted in all.
    """
    shares, surplus = list(wanted), sum(wanted) - budget
    for place in reversed(range(len(wanted))):
        given = min(surplus, max(0, wanted[place] - budget // len(wanted)))
        shares[place] -= given
        surplus -= given
    return shares


def join_newest(parts: Sequence[CompressedVideo]) -> list[CompressedVideo]:
    """Joins the newest neighbours that last no longer together than the time since, and can still be compared."""
    since = 0  # frames behind the two
    for place in reversed(range(len(parts) - 1)):
        part, later = parts[place : place + 2]
        if part.frames + later.frames <= since and len(part.tokens) + len(later.tokens) <= MAX_CLIP_TOKENS:
            joined = join([part, later])
            return [*parts[:place], replace(joined, clips=[joined.frames]), *parts[place + 2 :]]
        since += later.frames
    return list(parts)


@torch.no_grad()
def recompress(videos: Sequence[CompressedVideo], counts: Sequence[int]) -> list[CompressedVideo]:
    """Each of B videos with at most so many of its visual tokens, chosen and merged as in steps 2 to 5 of the method.

    Each token counts as what it stands for: its mass is its weight in the choice, and what it brings or holds in the
    transport. A video's frames lie as far apart as if all of them were one clip. Masses are summed, so that the whole
    stays. A newline goes with the last token in front of it. The costs of all pairs of tokens are held, as many videos
    at once as COST_BYTES take. All have one grid and the settings of the first.
    """
    visual = [(video.kind != TokenKind.NEWLINE).nonzero().squeeze(1) for video in videos]  # waits for the device
    crowded = [place for place, count in enumerate(counts) if len(visual[place]) > count]
    size = max(1, COST_BYTES // (4 * max(map(len, visual), default=1) ** 2))
    left = list(videos)
    for start in range(0, len(crowded), size):
        group = crowded[start : start + size]
        with without_autocast(videos[0].tokens.device):
            smaller = _recompress([videos[i] for i in group], [visual[i] for i in group], [counts[i] for i in group])
        for place, video in zip(group, smaller, strict=True):
            left[place] = video
    return left


def _recompress(videos: list[CompressedVideo], visual: list[torch.Tensor], counts: list[int]) -> list[CompressedVideo]:
    """visual: (n,) places of the visual tokens of each video, padded to N in what follows."""
    config, grid = videos[0].config, videos[0].grid
    clip = config.clip_length or default_clip_length(grid[0] * grid[1])
    each = list(zip(videos, visual, strict=True))
    tokens = pad_sequence([at_least_float32(video.tokens[held]) for video, held in each], True)  # (B, N, D)
    mass = pad_sequence([video.mass[held] for video, held in each], True)  # (B, N), at least 1, and 0 for padding
    place = pad_sequence(
        [(video.position[held] * torch.tensor([grid[1], 1], device=mass.device)).sum(1) for video, held in each], True
    )
    scales = [min(clip, video.frames) / video.frames for video in videos]
    times = [(v.frame[held] - v.frame[0]).float() * scale for (v, held), scale in zip(each, scales, strict=True)]
    # 2. cost (B, N, N): features, places, and times in clips
    wide = tokens.shape[-1] >= 2 * config.cost_channels
    direction = unit(count_sketch(tokens, config.cost_channels) if wide else tokens)
    cost = 1 - direction @ direction.mT
    distances = grid_distances(grid, cost.device)
    cost += config.spatial_weight * distances[place.unsqueeze(2), place.unsqueeze(1)]
    time = pad_sequence(times, True)
    cost += config.temporal_weight * (time.unsqueeze(2) - time.unsqueeze(1)).abs()
    # 3. choice (B, N), and as indices (B, K)
    most, count = max(counts), torch.tensor(counts, device=cost.device)
    max_cost = 2 + 2**0.5 * config.spatial_weight + clip * config.temporal_weight
    settings = {"max_steps": most, "max_cost": max_cost, "backend": config.backend}
    chosen = facility_location(cost, mass, None, mass > 0, count, **settings)
    kept = true_indices(chosen, most)
    # 4. and 5. transport onto them, and merge: what was carried, in units of what each stands for already
    valid = torch.arange(most, device=cost.device) < count.unsqueeze(1)
    supply = mass.masked_fill(chosen, 0)
    plan = softmax_plan(cost, kept, valid, supply, epsilon=config.epsilon, backend=config.backend)
    received, own = plan.sum(dim=1), mass.gather(1, kept)
    carried = plan.mT.to(tokens.dtype) @ tokens / own.unsqueeze(-1)
    anchors = tokens.gather(1, kept.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
    merged = merge(anchors, carried, received / own, strength=config.merge_strength, cap=config.merge_cap)
    # 6. emission of each, in the order that was
    smaller = []
    for number, (video, held) in enumerate(each):
        stay, some = held[kept[number, : counts[number]]], slice(counts[number])
        updated = {
            "tokens": video.tokens.index_copy(0, stay, merged[number, some].to(video.tokens.dtype)),
            "mass": video.mass.index_copy(0, stay, (own + received)[number, some]),
            "budget": None if video.budget is None else counts[number],
        }
        smaller.append(_subset(replace(video, **updated), stay))
    return smaller


def _subset(video: CompressedVideo, stay: torch.Tensor) -> CompressedVideo:
    """The visual tokens stay (S,), and each newline that has one of them between the newline before it and itself."""
    newline = video.kind == TokenKind.NEWLINE
    behind = newline.long().cumsum(0) - newline.long()  # newlines in front of each token
    used = torch.zeros_like(newline).index_fill(0, behind[stay], True)
    left = (newline & used[behind]).index_fill(0, stay, True)
    return tokens_at(video, left)
