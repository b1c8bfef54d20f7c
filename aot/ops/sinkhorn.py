"""Entropic optimal transport: Sinkhorn-Knopp on scalings, and on logarithms."""

import torch

from ..errors import AOTError
from .common import use_triton

STOPS = ("marginal", "change", "change_batch", "never")
FLOAT32_EXPONENT = 80  # exp(-80) is about the least that float32 still tells from 0


@torch.no_grad()
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
    log_domain: iterate on logarithms; needed when cost / epsilon spans more than FLOAT32_EXPONENT. The kernel always
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
    limit = f"{cost.shape[2]} columns are more than 2048" if cost.shape[2] > 2048 else None
    if stop == "change_batch":
        limit = "the rule 'change_batch' couples the problems, which run apart"
    settings = {"epsilon": epsilon, "iterations": iterations, "stop": stop, "tolerance": tolerance}
    if use_triton(backend, "sinkhorn", cost, supply, demand, limit=limit):
        from .triton.sinkhorn import sinkhorn as kernel

        return kernel(cost, supply, demand, log_domain=log_domain, **settings)
    solve = _sinkhorn_log if log_domain else _sinkhorn_scalings
    return solve(cost.float(), supply.float(), demand.float(), **settings)


def _sinkhorn_scalings(
    cost: torch.Tensor,
    supply: torch.Tensor,
    demand: torch.Tensor,
    *,
    epsilon: float,
    iterations: int,
    stop: str,
    tolerance: float,
) -> torch.Tensor:
    """Iterates on scalings: plan = diag(row) · exp(-cost/ε) · diag(column)."""
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
            done = done | (moved < tolerance * count.float())
    return row.unsqueeze(-1) * kernel * column.unsqueeze(1)


def _sinkhorn_log(
    cost: torch.Tensor,
    supply: torch.Tensor,
    demand: torch.Tensor,
    *,
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
    """(B, 1) largest relative error of the marginals (B, M); entries without mass reach none, so they do not count."""
    error = (reached - wanted).abs() / wanted.clamp_min(torch.finfo(wanted.dtype).tiny)
    return error.amax(dim=1, keepdim=True)


def _divide(wanted: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
    """wanted / reached, 0 where no mass is wanted or can be reached."""
    usable = (wanted > 0) & (reached > 0)
    return torch.where(usable, wanted / torch.where(usable, reached, 1.0), 0.0)


def _difference(wanted: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
    """wanted - reached of logarithms, -inf where no mass is wanted or can be reached."""
    usable = (wanted > -torch.inf) & (reached > -torch.inf)
    return torch.where(usable, wanted - torch.where(usable, reached, 0.0), -torch.inf)
