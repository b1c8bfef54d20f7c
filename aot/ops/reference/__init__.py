"""Float32 reference of every operation; the specification of the fast versions and the CPU path.

A file here has the name of its kernel in `aot.ops.kernels`.
"""

from .aggregate import aggregate
from .attention import received_attention
from .cover import cover
from .nearest import nearest_plan
from .novelty import novelty
from .pair_cost import pair_cost
from .sinkhorn import sinkhorn

__all__ = ["aggregate", "cover", "nearest_plan", "novelty", "pair_cost", "received_attention", "sinkhorn"]
