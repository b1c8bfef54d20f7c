"""Float32 reference of every operation; the specification of the fast versions and the CPU path."""

import torch

# values of a piece of an attention map: as many as stay in a CPU's cache, or fill a GPU
MAP_VALUES = {"cpu": 2**20}
MAP_VALUES_ELSEWHERE = 2**24


def received_attention(
    q: torch.Tensor, k: torch.Tensor, scale: float, *, lse: torch.Tensor | None = None, chunk: int | None = None
) -> torch.Tensor:
    """Attention received by each token: mean over heads, sum over queries of softmax(q kᵀ · scale)[:, j].

    q, k: (B, H, N, d). lse: (B, H, N) or None. Returns (B, N) float32. Queries go in chunks, so that the
    largest map held is (B, H, chunk, N).
    """
    batch, heads, queries, _ = q.shape
    tokens = k.shape[2]
    if chunk is None:
        most = MAP_VALUES.get(q.device.type, MAP_VALUES_ELSEWHERE)
        chunk = max(1, min(queries, most // max(1, batch * heads * tokens)))
    keys = k.float().transpose(-1, -2)
    received = torch.zeros(batch, tokens, dtype=torch.float32, device=q.device)
    for start in range(0, queries, chunk):
        logits = torch.matmul(q[:, :, start : start + chunk].float() * scale, keys)
        part = None if lse is None else lse[:, :, start : start + chunk, None]
        weights = logits.softmax(dim=-1) if part is None else logits.sub_(part).exp_()
        received += weights.sum(dim=(1, 2))
    return received / heads


def sinkhorn(
    cost: torch.Tensor,
    supply: torch.Tensor,
    demand: torch.Tensor,
    *,
    epsilon: float,
    iterations: int,
    stop: str,
    tolerance: float,
    log_domain: bool,
) -> torch.Tensor:
    """Entropic transport plans; arguments as in `aot.ops.sinkhorn`."""
    cost, supply, demand = cost.float(), supply.float(), demand.float()
    if log_domain:
        return _sinkhorn_log(cost, supply, demand, epsilon, iterations, stop, tolerance)
    if stop.startswith("change"):
        kernel = torch.exp(cost / -epsilon)
    else:
        # a 1 in every row and column keeps the scalings far from the limits of float32
        cost = cost - cost.amin(dim=2, keepdim=True)
        kernel = torch.exp((cost - cost.amin(dim=1, keepdim=True)) / -epsilon)
    row, column = (supply > 0).float(), (demand > 0).float()
    done = torch.zeros(cost.shape[0], 1, dtype=torch.bool, device=cost.device)
    for _ in range(iterations):
        through = torch.bmm(kernel, column.unsqueeze(-1)).squeeze(-1)
        if stop == "marginal":
            done = done | (_marginal_error(row * through, supply) < tolerance)
        new_row = torch.where(done, row, _divide(supply, through))
        reached = torch.bmm(new_row.unsqueeze(1), kernel).squeeze(1)
        column = torch.where(done, column, _divide(demand, reached))
        moved, row = (new_row - row).abs(), new_row
        if stop.startswith("change"):
            # the mean runs over real suppliers; what is done stays done, since its row no longer moves
            moved, count = moved.sum(1, keepdim=True), (supply > 0).sum(1, keepdim=True)
            if stop == "change_batch":
                moved, count = moved.sum(0, keepdim=True), count.sum(0, keepdim=True)
            done = done | (moved < tolerance * count)
    return row.unsqueeze(-1) * kernel * column.unsqueeze(1)


def _sinkhorn_log(
    cost: torch.Tensor,
    supply: torch.Tensor,
    demand: torch.Tensor,
    epsilon: float,
    iterations: int,
    stop: str,
    tolerance: float,
) -> torch.Tensor:
    """The same iteration on logarithms, for costs that span hundreds of ε."""
    scores = cost / -epsilon
    log_supply, log_demand = supply.log(), demand.log()
    row, column = (supply > 0).float().log(), (demand > 0).float().log()
    done = torch.zeros(cost.shape[0], 1, dtype=torch.bool, device=cost.device)
    for _ in range(iterations):
        through = torch.logsumexp(scores + column.unsqueeze(1), dim=2)
        if stop == "marginal":
            done = done | (_marginal_error((row + through).exp(), supply) < tolerance)
        row = torch.where(done, row, _difference(log_supply, through))
        reached = torch.logsumexp(scores + row.unsqueeze(-1), dim=1)
        column = torch.where(done, column, _difference(log_demand, reached))
    return (row.unsqueeze(-1) + scores + column.unsqueeze(1)).exp()


def _marginal_error(reached: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(B, 1) largest relative error of the marginals (B, M); entries without mass do not count."""
    error = (reached - wanted).abs() / wanted.clamp_min(torch.finfo(wanted.dtype).tiny)
    return torch.where(wanted > 0, error, 0.0).amax(dim=1, keepdim=True)


def _divide(wanted: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
    """wanted / reached, 0 where no mass is wanted or can be reached."""
    usable = (wanted > 0) & (reached > 0)
    return torch.where(usable, wanted / torch.where(usable, reached, 1.0), 0.0)


def _difference(wanted: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
    """wanted - reached of logarithms, -inf where no mass is wanted or can be reached."""
    usable = (wanted > -torch.inf) & (reached > -torch.inf)
    return torch.where(usable, wanted - torch.where(usable, reached, 0.0), -torch.inf)


def grid_distances(grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """(H·W, H·W) float32 distances of tokens whose rows and columns lie in [0, 1]², linspace on both axes."""
    height, width = grid
    rows = torch.linspace(0, 1, height, device=device)
    columns = torch.linspace(0, 1, width, device=device)
    place = torch.cartesian_prod(rows, columns)
    return torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist")


def group_frames(tokens: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """(G, length·P, D) tokens of each group; a view when the groups are equally long."""
    groups = starts.shape[0]
    if groups * length == tokens.shape[0]:
        return tokens.reshape(groups, -1, tokens.shape[2])
    frame = starts.unsqueeze(1) + torch.arange(length, device=starts.device)
    return tokens[frame.clamp_max(tokens.shape[0] - 1)].flatten(1, 2)


def inverse_length(tokens: torch.Tensor) -> torch.Tensor:
    """(...,) float32 of tokens (..., D): 1 / length, 0 for tokens of zeros, which have no direction."""
    norm = torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float32)
    return torch.where(norm > 0, 1 / norm, 0.0)


def pair_cost(
    tokens: torch.Tensor,
    starts: torch.Tensor,
    length: int,
    anchor: torch.Tensor,
    *,
    grid: tuple[int, int],
    spatial_weight: float,
) -> torch.Tensor:
    """Costs of token pairs (G, M, K); arguments as in `aot.ops.pair_cost`. Norms divide products, not tokens."""
    per_frame = tokens.shape[1]
    flat = tokens.flatten(0, 1)
    by = inverse_length(tokens).unsqueeze(-1)
    right = flat[anchor].float() * -by.flatten(0, 1)[anchor]
    cost = torch.bmm(group_frames(tokens, starts, length).float(), right.transpose(1, 2))
    cost = cost.mul_(group_frames(by, starts, length)).add_(1)
    if spatial_weight > 0:
        between = grid_distances(grid, tokens.device) * spatial_weight
        cost.unflatten(1, (length, per_frame)).add_(between[anchor % per_frame].transpose(1, 2).unsqueeze(1))
    return cost


def aggregate(plan: torch.Tensor, tokens: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """Tokens carried by plans, (G, K, D); arguments as in `aot.ops.aggregate`."""
    return torch.bmm(plan.transpose(1, 2), group_frames(tokens, starts, length).float())


def novelty(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """change, rarity (T, P); as in `aot.ops.novelty`. Norms divide products, not tokens."""
    tokens = tokens.float()
    by = inverse_length(tokens)
    moved = torch.linalg.vecdot(tokens[1:], tokens[:-1]) * by[1:] * by[:-1]
    change = torch.cat([torch.zeros_like(by[:1]), (1 - moved).clamp_min(0)])
    mean = torch.bmm(by.unsqueeze(1), tokens).transpose(1, 2)
    with_mean = torch.bmm(tokens, mean).squeeze(-1) * by * inverse_length(mean.squeeze(-1)).unsqueeze(-1)
    return change, (1 - with_mean).clamp_min(0)
