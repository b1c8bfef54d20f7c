"""The heavy operations, one a file: documentation, checks, float32 reference and the call of the kernel.

A Triton kernel stands in `aot/ops/triton` under the same file name. backend: "auto" takes the kernel on a GPU where
it can run and the reference elsewhere, "reference" the latter, "triton" the kernel. An explicit request that cannot
be met raises AOTError. What decides (costs, choices, plans) takes no gradient; `aggregate` and `merge` do, without a
kernel.
"""

from .aggregate import aggregate, merge
from .common import BACKENDS, use_triton
from .count_sketch import count_sketch
from .facility_location import facility_location, fewest_below
from .inter_frame import merge_clips
from .pair_cost import pair_cost
from .received_attention import received_attention
from .sinkhorn import STOPS, sinkhorn
from .softmax_plan import softmax_plan
from .temporal_change import temporal_change

__all__ = [
    "BACKENDS",
    "STOPS",
    "aggregate",
    "facility_location",
    "fewest_below",
    "merge",
    "merge_clips",
    "pair_cost",
    "received_attention",
    "sinkhorn",
    "count_sketch",
    "softmax_plan",
    "temporal_change",
    "use_triton",
]
