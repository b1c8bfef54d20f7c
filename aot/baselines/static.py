"""Segments whose unchanging places are averaged over time: what PruneVid and HoliTom share."""

from dataclasses import dataclass

import torch

from ..temporal import clip_starts


@dataclass(frozen=True)
class StaticSplit:
    """A video of T frames in G segments.

    segment: (T,) int64 segment of each frame. start, length: (G,) int64. static: (G, P) bool places that are
    averaged over their segment; the others are dynamic. means: (G, P, D) float32 averages of all places.
    """

    segment: torch.Tensor
    start: torch.Tensor
    length: torch.Tensor
    static: torch.Tensor
    means: torch.Tensor

    @property
    def dynamic(self) -> torch.Tensor:
        """(T, P) bool."""
        return ~self.static[self.segment]

    @property
    def sizes(self) -> torch.Tensor:
        """(G + T,) int64 tokens in the static set of each segment, then in the dynamic set of each frame."""
        return torch.cat([self.static, self.dynamic]).sum(-1)

    def kept_mask(self, static: torch.Tensor, dynamic: torch.Tensor) -> torch.Tensor:
        """(T, P) bool of kept tokens from static (G, P) ones, placed in a segment's first frame, and dynamic
        (T, P) ones."""
        return dynamic.index_copy(0, self.start, dynamic[self.start] | static)


def frame_segments(lengths: list[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(G,) int64 first frame of each segment and (T,) int64 segment of each frame."""
    start = clip_starts(lengths, device)
    frame = torch.arange(sum(lengths), device=device)
    return start, torch.searchsorted(start, frame, right=True) - 1


def split_static(
    tokens: torch.Tensor, lengths: list[int], score: torch.Tensor, least: float, budget: int
) -> StaticSplit:
    """Averages the places whose score is above `least`, the highest first, while `budget` tokens remain.

    tokens: (T, P, D). score: (G, P) how alike a place stays in its segment. Segments of one frame have nothing to
    average. Averaging a place of L frames takes L - 1 tokens from the T·P.
    """
    frames, per_frame, _ = tokens.shape
    start, segment = frame_segments(lengths, tokens.device)
    length = torch.tensor(lengths, device=tokens.device)
    static = (score > least) & (length > 1).unsqueeze(1)
    # the most alike places first, as long as no more tokens go than the budget asks for
    order = score.masked_fill(~static, -torch.inf).flatten().argsort(descending=True, stable=True)
    saved = (static * (length - 1).unsqueeze(1)).flatten()[order].cumsum(0)
    allowed = torch.zeros_like(static.flatten()).index_copy_(0, order, saved <= frames * per_frame - budget)
    sums = torch.zeros(len(lengths), *tokens.shape[1:], device=tokens.device)
    means = sums.index_add_(0, segment, tokens.float()) / length.view(-1, 1, 1)
    return StaticSplit(segment, start, length, static & allowed.view_as(static), means)
