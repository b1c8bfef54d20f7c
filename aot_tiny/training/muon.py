"""Muon for the hidden matrices, AdamW for everything else, as one optimizer that a Trainer can save and resume.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by its nearest semi-orthogonal matrix, found by a few
Newton-Schulz steps; scaled by 0.2·√max(rows, columns) its updates have the size of AdamW's (Liu et al. 2025), so
one learning rate serves both.
"""

from __future__ import annotations

import torch

STEPS = 5  # Newton-Schulz
MOMENTUM = 0.95  # Muon's
BETAS, EPS = (0.9, 0.98), 1e-8  # AdamW's


def orthogonalised(matrix: torch.Tensor, *, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Singular values of (..., m, n) matrices pulled to about one, by products in dtype."""
    x = matrix.to(dtype)
    x = x if x.shape[-2] <= x.shape[-1] else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x if matrix.shape[-2] <= matrix.shape[-1] else x.mT).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """groups: parameter groups; those with muon=True hold matrices only.

    lr, weight_decay (decoupled) as in AdamW. dtype: of Muon's products.
    """

    def __init__(self, groups, *, lr: float, dtype: torch.dtype = torch.bfloat16):
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "muon": False})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            for p in trained:
                p.mul_(1 - group["lr"] * group["weight_decay"])
            (self._muon if group["muon"] else self._adam)(trained, group["lr"])
        return loss

    def _muon(self, matrices: list[torch.Tensor], lr: float) -> None:
        shapes: dict[torch.Size, list[torch.Tensor]] = {}
        for p in matrices:
            shapes.setdefault(p.shape, []).append(p)
        for shape, same in shapes.items():  # matrices of one shape go together
            updates = []
            for p in same:
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - MOMENTUM)
                updates.append(p.grad.lerp(momentum, MOMENTUM))
            size = 0.2 * max(shape) ** 0.5
            for p, update in zip(same, orthogonalised(torch.stack(updates), dtype=self.dtype), strict=True):
                p.add_(update, alpha=-lr * size)

    def _adam(self, parameters: list[torch.Tensor], lr: float) -> None:
        first, second = BETAS
        for p in parameters:
            state = self.state[p]
            if not state:
                state |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
            state["step"] += 1
            state["mean"].lerp_(p.grad, 1 - first)
            state["square"].lerp_(p.grad.square(), 1 - second)
            mean = state["mean"] / (1 - first ** state["step"])
            square = state["square"] / (1 - second ** state["step"])
            p.addcdiv_(mean, square.sqrt() + EPS, value=-lr)
