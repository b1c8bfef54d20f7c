"""VisionZip (Yang et al., *VisionZip: Longer is Better but Not Necessary in Vision Language Models*, CVPR 2025,
arXiv 2412.04467), frame by frame.

Dominant tokens are those with the highest received attention. Of the rest, every (R // c)-th token becomes a
contextual one; each other token goes to the contextual token with the most similar attention key (mean over
heads), and a contextual token is itself plus the mean of its own. Dominant to contextual is 54 : 10.

Deviations:
- Tokens are chosen and merged after projector and pooling, where the budget is counted; attention and keys are
  pooled by the same operator. The release chooses in front of the projector, at the tower's resolution.
- SigLIP has no class token, so saliency is the attention received from all tokens.
- The budget of the video is split evenly over frames, which then differ by at most one token; 54 : 10 is rounded
  in each frame. A frame that gets no contextual token drops what it does not keep.
- Itself plus the mean doubles the length of a contextual token. Option contextual="mean" averages the token with
  its own instead.
"""

import torch

from ..budget import even_budgets
from ..config import AOTConfig
from ..ops.common import at_least_float32, rank_descending, true_indices, unit
from ..registry import register
from ..types import Selection, TokenKind, VideoTokens
from ..validation import number_in, one_of
from .common import gather_members, others_mean, rounded_share


@register(
    "visionzip",
    options={"dominant": number_in(54 / 64, 0, 1), "contextual": one_of("sum", "mean")},
    requires=("attention_last", "keys"),
    tuned={"dominant": 0.5},
)
def visionzip(video: VideoTokens, config: AOTConfig) -> Selection:
    """Options: dominant, the share of a frame's tokens kept for their attention; contextual "sum" or "mean"."""
    budget = config.budget(video.frames, video.tokens_per_frame)
    counts = even_budgets(budget, video.frames)
    salient = [rounded_share(count, config.options["dominant"]) for count in counts]
    device = video.features.device
    dominant_count = torch.tensor(salient, device=device).unsqueeze(1)
    contextual_count = torch.tensor(counts, device=device).unsqueeze(1) - dominant_count
    dominant = rank_descending(video.pooled_extra("attention_last")) < dominant_count
    # of the R others every (R // c)-th
    step = ((video.tokens_per_frame - dominant_count) // contextual_count.clamp_min(1)).clamp_min(1)
    place = (~dominant).cumsum(-1) - 1
    contextual = ~dominant & (place % step == 0) & (place // step < contextual_count)
    target = assign(unit(video.pooled_extra("keys")), dominant, contextual)
    index = true_indices((dominant | contextual).flatten(), budget)
    flat = video.pooled.flatten(0, 1)
    sums, mass = gather_members(flat, target, index)
    own = at_least_float32(flat[index])
    tokens = own + others_mean(own, sums, mass) if config.options["contextual"] == "sum" else sums / mass.unsqueeze(1)
    limits = torch.finfo(flat.dtype)  # a doubled token may leave the range of float16
    return Selection.from_indices(
        tokens.clamp(limits.min, limits.max).to(flat.dtype),
        index,
        video.pooled_grid,
        kind=torch.where(dominant.flatten()[index], int(TokenKind.GLOBAL), int(TokenKind.LOCAL)),
        mass=mass,
    )


def assign(keys: torch.Tensor, dominant: torch.Tensor, contextual: torch.Tensor) -> torch.Tensor:
    """(T·P,) int64 flat index of the token that each one goes to, T·P for tokens of a frame without contextual ones.

    keys: (T, P, K) of length 1. dominant, contextual: (T, P) bool.
    """
    frames, per_frame = dominant.shape
    place = torch.arange(frames * per_frame, device=keys.device).view(frames, per_frame)
    alike = torch.bmm(keys, keys.transpose(1, 2)).masked_fill(~contextual.unsqueeze(1), -torch.inf)
    nearest = alike.argmax(-1) + place[:, :1]
    nearest = nearest.masked_fill(~contextual.any(-1, keepdim=True), frames * per_frame)
    return torch.where(dominant | contextual, place, nearest).flatten()
