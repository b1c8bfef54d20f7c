"""Greedy facility location: the tokens that leave the least to be transported, and how few of them do."""

import torch

from .common import rank_descending, true_indices, use_triton

# tokens of a problem up to which one program for each is taken to be faster than the reference, which has the whole GPU
FASTER_UP_TO = 2048


@torch.no_grad()
def facility_location(
    cost: torch.Tensor,
    weight: torch.Tensor,
    selected: torch.Tensor | None,
    candidates: torch.Tensor,
    count: torch.Tensor,
    *,
    max_steps: int,
    max_cost: float,
    stride: int = 1,
    backend: str = "auto",
) -> torch.Tensor:
    """Picks `count` tokens per problem that minimise Σ_i w_i · min_{j selected} cost_ij, greedily, B problems at once.

    Each step selects the candidate that lowers the sum most; where nothing is left to gain, the largest weight decides.
    cost: (B, n, n) float32, symmetric; a token without any selected one costs max_cost. weight: (B, n) w_i; what is no
    positive number counts as 0. selected: (B, n) bool, selected before; None: nothing is. candidates: (B, n) bool.
    count: (B,) int64, at most the candidates that are not selected. max_steps: of the greedy choice. stride: step s
    looks at the candidates s, s + stride, … alone, 1/stride of the work; what is passed over has neighbours like it.
    If fewer than `count` are found in max_steps, the candidates of the largest weights fill up, so the count is exact.
    Returns a (B, n) bool mask of the new tokens. The kernel takes up to 4,096 tokens, on "auto" up to FASTER_UP_TO.
    """
    tokens = cost.shape[1]
    limit = f"{tokens} tokens a problem are more than 4096" if tokens > 4096 else None
    faster = tokens <= FASTER_UP_TO
    if use_triton(backend, "facility_location", cost, weight, candidates, count, limit=limit, faster=faster):
        from .triton.facility_location import facility_location as kernel

        arguments = (cost, weight, selected, candidates, count)
        return kernel(*arguments, max_steps=max_steps, max_cost=max_cost, stride=stride)
    problems = torch.arange(cost.shape[0], device=cost.device)
    stride = min(stride, tokens)
    # best_cost (B, n): what each token costs with the tokens selected so far
    if selected is None:
        best_cost = torch.full_like(weight, max_cost)
    else:
        best_cost = torch.where(selected.unsqueeze(2), cost, max_cost).amin(dim=1)
        candidates = candidates & ~selected
    weight = torch.where(weight > 0, weight, 0.0).clamp_max_(1e30)  # NaN weighs nothing
    # tie_break (B, n): what a candidate is worth where nothing is to be gained; -inf when it may not be selected
    tie_break = weight / weight.amax(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) * 1e-6
    tie_break = tie_break.masked_fill(~candidates, -torch.inf)
    new = torch.zeros_like(candidates)
    for step in range(max_steps):
        looked_at = slice(step % stride, None, stride)
        saved = (best_cost.unsqueeze(1) - cost[:, looked_at]).clamp_min_(0)
        # weights from the left: a CPU multiplies a row by a matrix several times as fast as a matrix by a column
        saved = weight.unsqueeze(1).matmul(saved.transpose(1, 2)).squeeze(1)
        gain, best = (saved + tie_break[:, looked_at]).nan_to_num_(-torch.inf, torch.inf, -torch.inf).max(dim=1)
        best = best * stride + step % stride
        found = (gain > -torch.inf) & (step < count)
        new[problems, best] |= found
        tie_break[problems, best] = torch.where(found, -torch.inf, tie_break[problems, best])
        best_cost = torch.where(found.unsqueeze(1), torch.minimum(best_cost, cost[problems, best]), best_cost)
    missing = count - new.sum(dim=1)
    return new | (rank_descending(tie_break) < missing.unsqueeze(1))


@torch.no_grad()
def fewest_below(
    cost: torch.Tensor, weight: torch.Tensor, selected: torch.Tensor, most: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first of the selected tokens in greedy order, until the cost per token is below `most`, B problems at once.

    cost, weight, selected: as in `facility_location`. The cost per token is Σ_i w_i · min_j cost_ij / Σ_i w_i over the
    tokens j taken so far; each step takes the selected one that leaves the least of it, the earlier one of equals.
    Returns a (B, n) bool mask, one token at least of each problem that has one, and the curve (B, steps) float32, the
    cost per token after each step; a problem that is done stays where it is. A larger `most` takes the same tokens and
    ends earlier. There is no kernel: every step waits for the device.
    """
    weight = torch.where(weight > 0, weight, 0.0).clamp_max(1e30)  # NaN weighs nothing
    weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    problems, count = torch.arange(cost.shape[0], device=cost.device), selected.sum(dim=1)
    place = true_indices(selected, int(count.max()))  # (B, K)
    open_ = torch.arange(place.shape[1], device=cost.device) < count.unsqueeze(1)  # (B, K) may be taken
    rows = cost.gather(1, place.unsqueeze(2).expand(-1, -1, cost.shape[2]))  # (B, K, n)
    best_cost = torch.full_like(weight, torch.finfo(weight.dtype).max)  # what each token costs with those taken so far
    left = torch.full_like(weight[:, 0], torch.inf)
    taken, curve = torch.zeros_like(selected), []
    while bool((unfinished := (left >= most) & open_.any(dim=1)).any()):
        after = torch.minimum(best_cost.unsqueeze(1), rows).matmul(weight.unsqueeze(2)).squeeze(2)  # (B, K)
        least, best = after.masked_fill(~open_, torch.inf).min(dim=1)
        chosen = place[problems, best]
        taken[problems, chosen] |= unfinished
        open_[problems, best] &= ~unfinished
        best_cost = torch.where(unfinished.unsqueeze(1), torch.minimum(best_cost, rows[problems, best]), best_cost)
        left = torch.where(unfinished, least, left)
        curve.append(left)
    return taken, torch.stack(curve, dim=1)
