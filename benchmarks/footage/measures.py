"""What kept tokens still say about all tokens: three pure measures, 0 when nothing is lost."""

import torch

RESAMPLES = 10_000


def unit(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (n, D) scaled to length 1, float64; a zero stays zero."""
    tokens = tokens.double()
    return tokens / tokens.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)


def wasserstein(tokens: torch.Tensor, kept: torch.Tensor, mass: torch.Tensor) -> float:
    """Exact Wasserstein-1 distance between all tokens, evenly weighted, and the kept ones weighted by mass.

    tokens: (n, D). kept: (S, D). mass: (S,), scaled to sum 1. The ground distance is Euclidean between tokens of
    length 1, so in [0, 2]. Raises ArithmeticError when the solver did not reach the optimum.
    """
    import ot

    cost = (2 - 2 * (unit(tokens) @ unit(kept).T)).clamp_min(0).sqrt()
    supply = torch.full((len(tokens),), 1 / len(tokens), dtype=torch.float64)
    demand = mass.double() / mass.double().sum()
    value, log = ot.emd2(supply.numpy(), demand.numpy(), cost.numpy(), numItermax=5_000_000, log=True)
    if log["warning"] is not None:
        raise ArithmeticError(f"The transport problem was not solved ({log['warning']}); raise numItermax.")
    return float(value)


def nearest_error(tokens: torch.Tensor, kept: torch.Tensor) -> float:
    """Mean over all tokens (n, D) of 1 - cos with the nearest of the kept (S, D), in [0, 2]."""
    return float((1 - (unit(tokens) @ unit(kept).T).amax(-1)).clamp_min(0).mean())


def rebuilding_error(tokens: torch.Tensor, kept: torch.Tensor, neighbours: int = 8) -> float:
    """Share of the variance of all tokens that least squares from their nearest kept ones leave unexplained.

    tokens: (n, D), each rebuilt from the `neighbours` kept tokens (S, D) that are nearest by cosine. Returns
    Σ‖x - x̂‖² / Σ‖x - mean‖²: 0 when all are rebuilt, above 1 when the mean of the video would do better.
    """
    tokens, kept = tokens.double(), unit(kept)
    near = (unit(tokens) @ kept.T).topk(min(neighbours, len(kept)), dim=-1).indices  # (n, k)
    left = 0.0
    for rows, chosen in zip(tokens.split(512), near.split(512), strict=True):
        basis = kept[chosen]  # (m, k, D)
        # the pseudo-inverse, since kept tokens may be equal
        inverse = torch.linalg.pinv(basis @ basis.mT, rtol=1e-10, hermitian=True)
        weights = inverse @ (basis @ rows.unsqueeze(-1))  # (m, k, 1)
        left += float((rows - (basis.mT @ weights).squeeze(-1)).square().sum())
    return left / float((tokens - tokens.mean(0)).square().sum())


def interval(values: torch.Tensor) -> tuple[float, float, float]:
    """Mean of one value a clip (n,), and its 95 % percentile interval when clips are drawn anew."""
    values = values.double()
    draws = torch.randint(len(values), (RESAMPLES, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = values[draws].mean(-1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(values.mean()), low, high
