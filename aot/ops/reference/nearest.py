"""Plans with free anchor marginals, in closed form."""

import torch


def nearest_plan(
    cost: torch.Tensor, anchor: torch.Tensor, filled: torch.Tensor, supply: torch.Tensor, *, epsilon: float
) -> torch.Tensor:
    """(B, M, K); arguments as in `aot.ops.nearest_plan`."""
    logits = cost.gather(2, anchor.unsqueeze(1).expand(-1, cost.shape[1], -1)).div_(-epsilon)
    return logits.masked_fill_(~filled.unsqueeze(1), -torch.inf).softmax(dim=-1) * supply.unsqueeze(-1)
