"""One dispatch for the operations that have fast versions.

backend: "auto" takes the fastest version that can run on the inputs, "reference" the float32 PyTorch one,
"triton" the GPU kernels; an explicit request that cannot be met raises AOTError.
"""

import torch

from ..errors import AOTError
from . import reference

BACKENDS = ("auto", "reference", "triton")
STOPS = ("marginal", "change", "change_batch", "never")


def resolve_backend(backend: str, op: str) -> str:
    """Name of the backend that will run `op`; "auto" falls back, an explicit choice does not."""
    if backend not in BACKENDS:
        raise AOTError(f"Unknown backend {backend!r}; use one of: {', '.join(BACKENDS)}.")
    if backend == "triton":
        raise AOTError(f"No triton kernel for {op} in this version; use backend='auto' or 'reference'.")
    return "reference"


def received_attention(
    q: torch.Tensor, k: torch.Tensor, scale: float, *, chunk: int | None = None, backend: str = "auto"
) -> torch.Tensor:
    """Mean over heads, sum over queries of softmax(q kᵀ · scale)[:, j] (method section 1).

    q, k: (B, H, N, d) of any float dtype; returns (B, N) float32. No N x N map is kept.
    Raises AOTError for an unknown or unavailable backend, or for shapes that do not fit.
    """
    if q.dim() != 4 or k.dim() != 4 or q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1]:
        shapes = f"{tuple(q.shape)} and {tuple(k.shape)}"
        raise AOTError(f"q and k must be (B, H, N, d) with equal B, H and d; got {shapes}.")
    resolve_backend(backend, "received_attention")
    return reference.received_attention(q, k, scale, chunk=chunk)


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
    log_domain: iterate on logarithms; needed when cost / epsilon spans more than about 80.
    Raises AOTError for shapes that do not fit, and for an unknown rule or an unavailable backend.
    """
    if cost.dim() != 3 or supply.shape != cost.shape[:2] or demand.shape != (cost.shape[0], cost.shape[2]):
        shapes = f"{tuple(cost.shape)}, {tuple(supply.shape)}, {tuple(demand.shape)}"
        raise AOTError(f"cost, supply and demand must be (B, M, K), (B, M), (B, K); got {shapes}.")
    if stop not in STOPS:
        raise AOTError(f"Unknown stopping rule {stop!r}; use one of: {', '.join(STOPS)}.")
    if log_domain and stop.startswith("change"):
        raise AOTError("The rules 'change' and 'change_batch' are defined on scalings; set log_domain=False.")
    resolve_backend(backend, "sinkhorn")
    return reference.sinkhorn(
        cost,
        supply,
        demand,
        epsilon=epsilon,
        iterations=iterations,
        stop=stop,
        tolerance=tolerance,
        log_domain=log_domain,
    )
