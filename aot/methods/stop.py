"""SToP, sink-token-aware pruning (Kim et al. 2026, arXiv 2604.20937), on HoliTom: its part before the language model.

A sink is a place that is attended to in every frame and says little. Its score is the mean over frames of the attention
received, to the power 1.1, min-max normalised over the places. HoliTom is changed in three places: from the attention
that ranks dynamic tokens μ_s = 0.04 times the score is taken; to the cosine that makes a place static inside its window
μ_t = 0.07 times it is added; and from the peaks ρδ of static places 0.3 times it. Windows are cut by the cosines alone,
τ = 0.8.

Deviations: those of HoliTom, whose file says the rest. μ_s is measured against attention as a mean over queries, which
is 1/N on average for N tokens of the tower; 729 where it was chosen. The paper puts the same scores into VisionZip
and FastVID as well.
"""

import torch

from ..config import AOTConfig
from ..ops.common import unit
from ..registry import register
from ..types import Selection, VideoTokens
from ..validation import number_in
from .common import split_static
from .holitom import lowest_cosine, merge_and_choose, static_windows

POWER = 1.1
PEAK_WEIGHT = 0.3
CENTER_WEIGHT, NEIGHBOURS = 0.6, 7  # HoliTom's


@register(
    "stop",
    options={
        "spatial": number_in(0.04, 0, 100),
        "temporal": number_in(0.07, 0, 100),
        "threshold": number_in(0.8, -1, 1),
    },
    requires=("attention_last",),
    tuned={"threshold": 0.9, "temporal": 0.0},
)
def stop(video: VideoTokens, config: AOTConfig) -> Selection:
    """Options: spatial μ_s and temporal μ_t, what a sink's score counts against attention and beside cosines; threshold
    τ of static places."""
    threshold = config.options["threshold"]
    budget = config.budget(video.frames, video.tokens_per_frame)
    attention = video.pooled_extra("attention_last") / video.features.shape[1]
    sink = sink_score(attention)
    units = unit(video.pooled)
    cosine = torch.linalg.vecdot(units[1:], units[:-1])
    lengths = video.clips or static_windows(cosine > threshold)
    alike = lowest_cosine(cosine + config.options["temporal"] * sink, lengths)
    return merge_and_choose(
        video,
        split_static(video.pooled, lengths, alike, threshold, budget),
        attention - config.options["spatial"] * sink,
        budget,
        center_weight=CENTER_WEIGHT,
        neighbours=NEIGHBOURS,
        penalty=PEAK_WEIGHT * sink,
    )


def sink_score(attention: torch.Tensor) -> torch.Tensor:
    """(P,) in [0, 1]: how much a place is attended to in all frames; 0 where all places are alike.

    attention: (T, P) float32, 0 or more.
    """
    lasting = attention.mean(dim=0) ** POWER
    low, high = lasting.amin(), lasting.amax()
    return (lasting - low) / torch.where(high > low, high - low, 1.0)
