"""One dispatch for the operations that have fast versions.

backend: "auto" takes the Triton kernel on a GPU where it can run and the float32 PyTorch reference elsewhere,
"reference" the latter, "triton" the kernel; an explicit request that cannot be met raises AOTError.
"""

import torch

from ..errors import AOTError
from . import reference
from .select import BACKENDS, use_triton

__all__ = [
    "BACKENDS",
    "STOPS",
    "aggregate",
    "cover",
    "nearest_plan",
    "novelty",
    "pair_cost",
    "received_attention",
    "sinkhorn",
    "use_triton",
]

# tokens of a problem up to which one program for each is taken to be faster than the reference, which has the whole GPU
COVER_FASTER = 2048

STOPS = ("marginal", "change", "change_batch", "never")


def received_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    scale: float,
    *,
    lse: torch.Tensor | None = None,
    chunk: int | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Mean over heads, sum over queries of softmax(q kᵀ · scale)[:, j].

    q, k: (B, H, N, d) of any float dtype; returns (B, N) float32. No N x N map is kept. lse: (B, H, N)
    float32, natural logarithms of the softmax's denominators as fused attention leaves them; None computes
    them. Raises AOTError for an unknown or unavailable backend, or for shapes that do not fit.
    """
    if q.dim() != 4 or k.dim() != 4 or q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1]:
        shapes = f"{tuple(q.shape)} and {tuple(k.shape)}"
        raise AOTError(f"q and k must be (B, H, N, d) with equal B, H and d; got {shapes}.")
    if lse is not None and lse.shape != q.shape[:3]:
        raise AOTError(f"lse is {tuple(lse.shape)}; it must be (B, H, N) = {tuple(q.shape[:3])}.")
    if use_triton(backend, "received_attention", q, k):
        from .kernels.attention import received_attention as kernel

        return kernel(q, k, scale, lse)
    return reference.received_attention(q, k, scale, lse=lse, chunk=chunk)


def sinkhorn(
    cost: torch.Tensor,
    supply: torch.Tensor,
    demand: torch.Tensor,
    *,
    epsilon: float,
    iterations: int = 100,
    stop: str = "marginal",
    tolerance: float = 1e-3,
    log_domain: bool = False,
    backend: str = "auto",
) -> torch.Tensor:
    """Entropic optimal transport of a batch of problems by Sinkhorn-Knopp (section 3.2 of the paper).

    cost: (B, M, K). supply: (B, M) and demand: (B, K), non-negative with equal sums per problem; entries of
    0 are padding and get no mass. epsilon: entropic regularisation in units of the cost. Returns plans
    (B, M, K) float32 whose columns sum to demand and rows to supply.
    stop: "marginal" freezes each problem once no row is off by more than tolerance, relative; "change"
    when the mean change of its row scalings, which start at 1, is below tolerance; "change_batch" takes
    that mean over the whole batch (the released code's rules); "never". A frozen problem keeps its
    plan while the others go on, and no result is read back from the device.
    log_domain: iterate on logarithms; needed when cost / epsilon spans more than about 80. The kernel always
    does and takes up to 2,048 columns and every rule but "change_batch".
    Raises AOTError for shapes that do not fit, and for an unknown rule or an unavailable backend.
    """
    if cost.dim() != 3 or supply.shape != cost.shape[:2] or demand.shape != (cost.shape[0], cost.shape[2]):
        shapes = f"{tuple(cost.shape)}, {tuple(supply.shape)}, {tuple(demand.shape)}"
        raise AOTError(f"cost, supply and demand must be (B, M, K), (B, M), (B, K); got {shapes}.")
    if stop not in STOPS:
        raise AOTError(f"Unknown stopping rule {stop!r}; use one of: {', '.join(STOPS)}.")
    if log_domain and stop.startswith("change"):
        raise AOTError("The rules 'change' and 'change_batch' are defined on scalings; set log_domain=False.")
    settings = {"epsilon": epsilon, "iterations": iterations, "stop": stop, "tolerance": tolerance}
    limit = _too_wide(cost.shape[2])
    if stop == "change_batch":
        limit = "the rule 'change_batch' couples the problems, which run apart"
    if use_triton(backend, "sinkhorn", cost, supply, demand, limit=limit):
        from .kernels.sinkhorn import sinkhorn as kernel

        return kernel(cost, supply, demand, log_domain=log_domain, **settings)
    return reference.sinkhorn(cost, supply, demand, log_domain=log_domain, **settings)


def nearest_plan(
    cost: torch.Tensor,
    anchor: torch.Tensor,
    filled: torch.Tensor,
    supply: torch.Tensor,
    *,
    epsilon: float,
    backend: str = "auto",
) -> torch.Tensor:
    """Plan with free anchor marginals: each supplier's mass spread by softmax(-cost/ε) over the anchors.

    It is the entropic plan for the column sums that it has (docs/method.md). cost: (B, M, n) float32. anchor: (B, K)
    int64, the columns that are anchors; no gathered copy of them is written. filled: (B, K) bool, False for padding,
    True at least once a problem. supply: (B, M) float32, mass of each supplier. Returns (B, M, K) float32, whose rows
    sum to the supply.
    """
    if use_triton(backend, "nearest_plan", cost, anchor, filled, supply, limit=_too_wide(anchor.shape[1])):
        from .kernels.nearest import nearest_plan as kernel
    else:
        kernel = reference.nearest_plan
    return kernel(cost, anchor, filled, supply, epsilon=epsilon)


def _too_wide(columns: int) -> str | None:
    return f"{columns} columns are more than 2048" if columns > 2048 else None


def cover(
    cost: torch.Tensor,
    weight: torch.Tensor,
    taken: torch.Tensor | None,
    free: torch.Tensor,
    count: torch.Tensor,
    *,
    steps: int,
    unexplained: float,
    every: int = 1,
    backend: str = "auto",
) -> torch.Tensor:
    """Chooses `count` further tokens of each of B problems by greedy facility location, all problems at once.

    A token i costs weight_i times the cheapest way to explain it by a kept token j: cost (B, n, n) float32, symmetric,
    at most `unexplained` where it is to count. Each step keeps the token that lowers the sum most; where nothing is
    left to gain, the largest weight (B, n) decides. taken: (B, n) bool, kept already; None: nothing is.
    free: (B, n) bool, may be chosen. count: (B,) int64, at most the free tokens of its problem. every: step s looks at
    the tokens s, s + every, s + 2·every … alone, which makes it cheaper and changes little, since what is passed over
    has neighbours like it. What `steps` steps leave open goes to the largest weights. Weights that are no positive
    numbers count as 0, and the count is exact whatever the numbers are. Returns (B, n) bool, those taken left out.
    The kernel takes up to 4,096 tokens a problem, on "auto" up to COVER_FASTER.
    """
    limit = f"{cost.shape[1]} tokens a problem are more than 4096" if cost.shape[1] > 4096 else None
    faster = cost.shape[1] <= COVER_FASTER
    if use_triton(backend, "cover", cost, weight, free, count, limit=limit, faster=faster):
        from .kernels.cover import cover as kernel
    else:
        kernel = reference.cover
    return kernel(cost, weight, taken, free, count, steps=steps, unexplained=unexplained, every=every)


def pair_cost(
    tokens: torch.Tensor,
    starts: torch.Tensor,
    length: int,
    anchor: torch.Tensor | None = None,
    *,
    grid: tuple[int, int],
    spatial_weight: float,
    temporal_weight: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Costs (1 - cos) + spatial_weight·distance + temporal_weight·frames apart of token pairs, (G, M, K) float32.

    tokens: (T, P, D) of any float dtype and length; no normalised or gathered copy is written. Group g pairs
    all M = length·P tokens of the frames from starts[g] on with the tokens anchor[g]. starts: (G,) int64,
    consecutive groups that cover the video; what lies beyond its end repeats the last frame. anchor: (G, K)
    flat indices t·P + place of tokens of the group; None pairs all tokens of a group with each other, K = M.
    grid: (H, W) of a frame, whose sides span [0, 1].
    """
    if use_triton(backend, "pair_cost", tokens, starts, *([] if anchor is None else [anchor])):
        from .kernels.pair_cost import pair_cost as kernel
    else:
        kernel = reference.pair_cost
    weights = {"spatial_weight": spatial_weight, "temporal_weight": temporal_weight}
    return kernel(tokens, starts, length, anchor, grid=grid, **weights)


def aggregate(
    plan: torch.Tensor, tokens: torch.Tensor, starts: torch.Tensor, length: int, *, backend: str = "auto"
) -> torch.Tensor:
    """What plans (G, M, K) carry, Σ_m plan[g, m, k]·token: (G, K, D) float32. Other arguments as in `pair_cost`."""
    if use_triton(backend, "aggregate", plan, tokens, starts):
        from .kernels.aggregate import aggregate as kernel
    else:
        kernel = reference.aggregate
    return kernel(plan, tokens, starts, length)


def novelty(tokens: torch.Tensor, before: torch.Tensor | None = None, *, backend: str = "auto") -> torch.Tensor:
    """How new each token is, (T, P) float32 in [0, 2]: 1 - cos with the same place one frame earlier.

    tokens: (T, P, D). before: (1, P, D), the frame before the first one. Without it the first frame is compared with
    the mean of its tokens scaled to length 1. No normalised copy is written.
    """
    if use_triton(backend, "novelty", tokens, *([] if before is None else [before])):
        from .kernels.novelty import novelty as kernel
    else:
        kernel = reference.novelty
    return kernel(tokens, before)
