"""Semi-unconstrained entropic transport: plans with free anchor marginals, in closed form."""

import torch

from .common import use_triton


@torch.no_grad()
def softmax_plan(
    cost: torch.Tensor,
    anchor: torch.Tensor,
    valid: torch.Tensor,
    supply: torch.Tensor,
    *,
    epsilon: float,
    backend: str = "auto",
) -> torch.Tensor:
    """Plan T_ij = supply_i · softmax_j(-cost_ij / ε): each source spreads its mass over the anchors as it likes.

    It is the entropic plan for the column sums that it has (docs/method.md).
    cost: (B, M, n) float32. anchor: (B, K) int64, the columns that are anchors; no gathered copy of them is written.
    valid: (B, K) bool, False for padding, True at least once a problem. supply: (B, M) float32, mass of each source.
    Returns (B, M, K) float32, whose rows sum to the supply. The kernel takes up to 2,048 anchors.
    """
    columns = anchor.shape[1]
    limit = f"{columns} columns are more than 2048" if columns > 2048 else None
    if use_triton(backend, "softmax_plan", cost, anchor, valid, supply, limit=limit):
        from .triton.softmax_plan import softmax_plan as kernel

        return kernel(cost, anchor, valid, supply, epsilon=epsilon)
    logits = cost.gather(2, anchor.unsqueeze(1).expand(-1, cost.shape[1], -1)).div_(-epsilon)
    plan = logits.masked_fill_(~valid.unsqueeze(1), -torch.inf).softmax(dim=-1) * supply.unsqueeze(-1)
    # what float32 holds only as a denormal makes products ten times as slow on a CPU, and moves no token
    return torch.nn.functional.threshold(plan, 1e-30, 0.0, inplace=True)
