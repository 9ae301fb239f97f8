"""A run's budget held against this machine: whether it fits, how long it takes, what would help.

Knows no terminal. Times are estimates from a short measurement.
"""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dflash_serve.adapters.cpu_weights import available_memory
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.adapters.planned import PlannedWeights
from dflash_serve.measure.errors import DataError
from dflash_serve.training.run.budget import Answers, Budget, budget_of
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.run.speed import Speed


@dataclass(frozen=True, slots=True)
class Hours:
    """Of a run's parts, and ``step`` in seconds. ``steps`` is a guess where minutes set the end."""

    answers: float
    features: float
    training: float
    step: float
    steps: int

    @property
    def total(self) -> float:
        return self.answers + self.features + self.training


@dataclass(frozen=True, slots=True)
class Forecast:
    """A budget and what this machine has for it, in bytes. ``advice`` is empty where it fits.

    ``length`` of the run in words.
    """

    target: PlannedWeights
    drafter: dict[str, Any]
    answers: Answers
    length: str
    budget: Budget
    available_memory: int
    free_disk: int
    speed: Speed | None = None
    hours: Hours | None = None
    advice: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return not self.advice


def forecast(
    settings: RunSettings,
    target: PlannedWeights,
    drafter: dict[str, Any],
    answers: Answers,
    answer_batch: int,
    speed: Speed | None,
) -> Forecast:
    """What ``drafter``'s run takes here.

    Raises:
        DataError: an answer is longer than the target's context.
    """
    context = parse_dflash_config(drafter).max_position_embeddings
    if answers.longest > context:
        raise DataError(
            f"answers of {answers.longest} tokens, but the target's context is {context}"
        )
    budget = budget_of(settings, target, drafter, answers, answer_batch)
    memory, disk = available_memory(), shutil.disk_usage(_existing(settings.out)).free
    advice = []
    if budget.memory.total > memory:
        advice = _memory_advice(settings, target, budget, budget.memory.total - memory)
    if budget.disk.total > disk:
        advice.append(
            f"the disk of {settings.out} has {_gigabytes(disk)} free, but the run writes "
            f"{_gigabytes(budget.disk.total)}: choose another --out, or --keep 1"
        )
    hours = _hours(settings, budget, speed) if speed is not None else None
    length = settings.describe_length(answers.per_epoch(settings.batch))
    return Forecast(target, drafter, answers, length, budget, memory, disk, speed, hours, advice)


def as_json(made: Forecast) -> dict[str, Any]:
    """All numbers, in bytes, hours and seconds."""
    facts = asdict(made) | {"fits": made.fits}
    for name in ("memory", "disk"):
        facts["budget"][name]["total"] = getattr(made.budget, name).total
    if made.hours is not None:
        facts["hours"]["total"] = made.hours.total
    return facts


def _existing(path: Path) -> Path:
    """The nearest folder above ``path`` that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _hours(settings: RunSettings, budget: Budget, speed: Speed) -> Hours:
    made = budget.operations
    step = made.step / speed.step
    training = 60 * (settings.minutes or 0) if made.steps is None else made.steps * step
    steps = made.steps if made.steps is not None else max(1, int(training / step))
    answers = made.answers * speed.round + made.prompts * speed.forward
    return Hours(answers / 3600, made.features * speed.forward / 3600, training / 3600, step, steps)


def _memory_advice(
    settings: RunSettings, target: PlannedWeights, budget: Budget, missing: int
) -> list[str]:
    """What would take less memory, and how many bytes less."""
    memory = budget.memory
    quantised = target.dense // 2 + target.experts // 2 + (target.dense + target.experts) // 16
    matrices = memory.optimizer // 2
    choices = (
        (memory.features, "--features disk, or a smaller --feature-gb"),
        (0 if settings.muon else matrices, "--muon: one number per weight of a matrix, not two"),
        (
            0 if target.quantization else target.held - quantised,
            "the target in 4 bits (of its mlx-community conversion)",
        ),
        (
            memory.work if settings.batch > settings.accumulate else 0,
            f"--accumulate {settings.batch}: one sequence at a time (at most so much)",
        ),
    )
    lines = [f"{_gigabytes(missing)} of memory are missing; what would take less:"]
    lines += [f"{_gigabytes(saved)}: {how}" for saved, how in choices if saved > 0]
    return [*lines, "fewer --layers: weights, gradients and optimiser shrink in proportion"]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
