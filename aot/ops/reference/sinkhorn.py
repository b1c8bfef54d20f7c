"""Sinkhorn-Knopp on scalings, and on logarithms."""

import torch


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
