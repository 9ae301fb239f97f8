"""Muon for weight matrices (momentum, then orthogonalised by Newton-Schulz), AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def orthogonalise(stack: Tensor, rounds: int = 5) -> Tensor:
    """Bring the singular values of every matrix in [N, R, C] near one by an odd quintic."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = stack.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Owns the optimiser state of some parameters; gradients are read and left alone."""

    def __init__(
        self, named: Iterable[tuple[str, Tensor]], matrix_rate: float, other_rate: float
    ) -> None:
        self._matrix_rate = matrix_rate
        self._other_rate = other_rate
        self._groups: dict[torch.Size, list[Tensor]] = defaultdict(list)
        others: list[Tensor] = []
        for name, parameter in named:
            if parameter.ndim == 2 and "embed" not in name:
                self._groups[parameter.shape].append(parameter)
            else:
                others.append(parameter)
        self._momentum = {
            shape: torch.zeros(len(group), *shape) for shape, group in self._groups.items()
        }
        self._adam = torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0)

    def state(self) -> dict[str, Any]:
        return {"momentum": self._momentum, "adam": self._adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self._momentum = state["momentum"]
        self._adam.load_state_dict(state["adam"])

    @torch.no_grad()
    def step(self, scale: float, momentum: float = 0.95, decay: float = 0.02) -> None:
        for shape, group in self._groups.items():
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            state = self._momentum[shape].lerp_(gradient, 1 - momentum)
            update = orthogonalise(gradient.lerp(state, momentum))
            rate = self._matrix_rate * scale
            size = rate * max(1.0, shape[0] / shape[1]) ** 0.5
            for parameter, delta in zip(group, update, strict=True):
                parameter.mul_(1 - rate * decay).sub_(delta, alpha=size)
        for settings in self._adam.param_groups:
            settings["lr"] = self._other_rate * scale
        self._adam.step()
