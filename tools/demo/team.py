"""Worker processes that train one shared model, and the checkpoints from which they go on.

Each worker has one thread and a fixed part of every step, so that a repeat adds up the same numbers
in the same order. Knows nothing of the data.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from muon import Muon
from torch import Tensor, nn

LOSSES = 4
"""Pieces of a step; worker r computes r, r + workers, and so on."""


class Team:
    """Owns the shared model, its running average, and every worker's gradients."""

    def __init__(self, model: nn.Module, workers: int) -> None:
        self.model = model.share_memory()
        self.workers = workers
        self.average = [p.detach().clone().share_memory_() for p in model.parameters()]
        self.losses = torch.zeros(LOSSES).share_memory_()
        self._gradients = [
            [torch.zeros_like(p).share_memory_() for p in model.parameters()]
            for _ in range(workers)
        ]
        self._barrier = mp.Barrier(workers)

    def wait(self) -> None:
        self._barrier.wait()

    def adopt(self, rank: int) -> None:
        """Let autograd of this process accumulate into the buffers of its rank."""
        for parameter, gradient in zip(self.model.parameters(), self._gradients[rank], strict=True):
            parameter.grad = gradient

    def share_of(self, rank: int) -> list[tuple[str, nn.Parameter]]:
        """The parameters that this rank updates."""
        return list(self.model.named_parameters())[rank :: self.workers]

    def exchange(self, rank: int) -> None:
        """Between two barriers: sum the gradients of this rank's share over all workers."""
        for i in range(rank, len(self.average), self.workers):
            for other in range(self.workers):
                if other != rank:
                    self._gradients[rank][i] += self._gradients[other][i]

    @torch.no_grad()
    def take_average(self, rank: int, taken: int) -> None:
        """Add the weights of this rank's share to a running average of ``taken`` steps."""
        for i, (_, parameter) in enumerate(self.share_of(rank)):
            self.average[rank + i * self.workers].lerp_(parameter, 1 / (taken + 1))

    def clear(self, rank: int) -> None:
        for gradient in self._gradients[rank]:
            gradient.zero_()

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the average in the model's place."""
        for parameter, average in zip(self.model.parameters(), self.average, strict=True):
            parameter.copy_(average)


class Checkpoints:
    """Folders ``step-…``, of which the newest stays. A folder appears whole or not at all."""

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self._directory = directory
        self._settings = settings

    @property
    def newest(self) -> Path | None:
        return max(self._directory.glob("step-*"), default=None)

    def first_step(self) -> int:
        """Where to go on; refuses checkpoints of a run with other settings."""
        if self.newest is None:
            return 0
        known = torch.load(self.newest / "model.pt")["settings"]
        if known != self._settings:
            raise SystemExit(
                f"{self.newest} is of a run with {known}, not {self._settings}: "
                "delete it or choose another folder"
            )
        return int(self.newest.name.removeprefix("step-"))

    def load(self, team: Team) -> None:
        if self.newest is None:
            return
        known = torch.load(self.newest / "model.pt")
        team.model.load_state_dict(known["model"])
        for average, value in zip(team.average, known["average"], strict=True):
            average.copy_(value)

    def restore(self, optimiser: Muon, rank: int) -> None:
        if self.newest is not None:
            optimiser.restore(torch.load(self.newest / f"optimiser-{rank}.pt"))

    def save(self, team: Team, optimiser: Muon, rank: int, step: int) -> None:
        """Of all workers at once: the last line of every rank is behind the barrier."""
        new, old = self._directory / "new", self.newest
        new.mkdir(parents=True, exist_ok=True)
        torch.save(optimiser.state(), new / f"optimiser-{rank}.pt")
        if rank == 0:
            state: dict[str, dict[str, Tensor] | list[Tensor] | dict[str, Any]] = {
                "settings": self._settings,
                "model": team.model.state_dict(),
                "average": team.average,
            }
            torch.save(state, new / "model.pt")
        team.wait()
        if rank == 0:
            os.replace(new, self._directory / f"step-{step:06d}")
            if old is not None:
                shutil.rmtree(old)
        team.wait()
