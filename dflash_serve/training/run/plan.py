"""What a run takes, held against this machine: whether it fits, how long it takes, what would help.

From config.json alone; times are estimates from a short measurement.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from dflash_serve.adapters.checkpoint import read_config, resolve
from dflash_serve.adapters.cpu_weights import available_memory
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.adapters.planned import PlannedWeights, planned_weights
from dflash_serve.adapters.target_config import text_config
from dflash_serve.compose.directories import target_directory
from dflash_serve.measure.errors import DataError
from dflash_serve.measure.tables import facts
from dflash_serve.training.data.answers import read_answers
from dflash_serve.training.data.split import Subset, answer_marker
from dflash_serve.training.drafter.initialise import drafter_config
from dflash_serve.training.run.budget import Answers, Budget, budget_of
from dflash_serve.training.run.job import drafter_shape
from dflash_serve.training.run.run_data import held_back, hold_back, usable_answers
from dflash_serve.training.run.settings import PlanSettings
from dflash_serve.training.run.speed import Speed, measure_speed

_MEMORY = {
    "target": "target's weights",
    "masters": "drafter's weights, float32",
    "optimizer": "optimiser",
    "gradients": "gradients",
    "copies": "weights in the step's dtype",
    "work": "a step's work (estimate)",
    "features": "features kept in memory",
}
_DISK = {
    "answers": "answer file",
    "features": "features kept on disk",
    "checkpoints": "checkpoints",
    "drafters": "drafters",
}


@dataclass(frozen=True, slots=True)
class Hours:
    """Of a run's parts, and ``step`` in seconds. ``steps`` is a guess where minutes set the end."""

    answers: float
    features: float
    training: float
    step: float
    steps: int
    total: float


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

    def as_json(self) -> dict[str, Any]:
        """All numbers, in bytes, hours and seconds."""
        return asdict(self) | {"fits": self.fits}

    def tables(self) -> list[Table]:
        budget, answers = self.budget, self.answers
        layers, millions = self.drafter["num_hidden_layers"], budget.parameters / 1e6
        trained = {
            "drafter": f"{layers} layers, {millions:.1f} M weights",
            "answers": f"{answers.sequences:,} of {answers.tokens:,} tokens, the longest of "
            f"{answers.longest:,}",
            "held back of them": f"{answers.held_back:,}",
            "length": self.length,
            "all features, wherever": _bytes(budget.feature_bytes),
        }
        told = [facts("What is trained", trained.items())]
        for title, names, parts, free in (
            ("Memory at the worst moment of a step", _MEMORY, budget.memory, self.available_memory),
            ("Disk", _DISK, budget.disk, self.free_disk),
        ):
            needed = [(words, _bytes(parts[name])) for name, words in names.items() if parts[name]]
            sums = [("together", _bytes(parts["total"])), ("free here", _bytes(free))]
            told.append(facts(title, needed, sums))
        return told if self.hours is None else [*told, _hours_table(self.hours)]


def forecast(settings: PlanSettings) -> Forecast:
    """What a run of these settings takes here.

    Raises:
        DataError: an answer is longer than the target's context, or the answers cannot be used.
    """
    directory = target_directory(settings.target, config_only=True)
    config = read_config(directory)
    target = planned_weights(config, f"target {settings.target}")
    if settings.start is not None:
        drafter = read_config(resolve(settings.start, ("config.json",)))
    else:
        drafter = drafter_config(text_config(config), drafter_shape(settings, 0))
    context = parse_dflash_config(drafter).max_position_embeddings
    if settings.data is not None:
        answers = _answers_of(settings, settings.data, directory, context)
    else:
        answers = _answers_told(settings)
    if answers.longest > context:
        raise DataError(
            f"answers of {answers.longest} tokens, but the target's context is {context}"
        )
    batch = settings.answer_batch
    speed = measure_speed(settings, target, drafter, batch) if settings.measure else None
    budget = budget_of(settings, target, drafter, answers, batch)
    memory, disk = available_memory(), shutil.disk_usage(_existing(settings.out)).free
    return Forecast(
        target,
        drafter,
        answers,
        settings.describe_length(answers.per_epoch(settings.batch)),
        budget,
        memory,
        disk,
        speed,
        _hours(settings, budget, speed) if speed is not None else None,
        list(_advice(settings, target, budget, memory, disk)),
    )


def _answers_of(settings: PlanSettings, path: Path, directory: Path, context: int) -> Answers:
    """What a run uses of a file."""
    found = usable_answers(settings, path, read_answers(path), context, lambda _: None)
    whole = Subset.of(found, answer_marker(directory))
    held = [] if settings.heldout else hold_back(path, whole)[0].answers
    lengths = [len(answer.tokens) for answer in found]
    told = sum(answer.loss_tokens for answer in found)
    return Answers(len(found), sum(lengths), told, max(lengths), len(held))


def _answers_told(settings: PlanSettings) -> Answers:
    each = settings.answer_length or max(1, 3 * settings.length // 4)
    if each >= settings.length:
        raise DataError(
            f"--answer-length is {each}, but must be below --length, which is {settings.length}"
        )
    longest = settings.max_length or 2 * settings.length
    count = settings.answers
    held = 0 if settings.heldout else held_back(count, f"--answers is {count}")
    return Answers(count, count * settings.length, count * each, longest, held)


def _existing(path: Path) -> Path:
    """The nearest folder above ``path`` that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _hours(settings: PlanSettings, budget: Budget, speed: Speed) -> Hours:
    made = budget.operations
    step = made.step / speed.step
    training = 60 * (settings.minutes or 0) if made.steps is None else made.steps * step
    steps = made.steps if made.steps is not None else max(1, int(training / step))
    answers = (made.answers * speed.round + made.prompts * speed.forward) / 3600
    features, training = made.features * speed.forward / 3600, training / 3600
    return Hours(answers, features, training, step, steps, answers + features + training)


def _advice(
    settings: PlanSettings, target: PlannedWeights, budget: Budget, memory: int, disk: int
) -> Iterator[str]:
    """What is missing of this machine's ``memory`` and ``disk``, and what would take less."""
    parts = budget.memory
    if parts["total"] > memory:
        yield f"{_bytes(parts['total'] - memory)} of memory are missing; what would take less:"
        weights = target.dense + target.experts
        quantised = target.dense // 2 + target.experts // 2 + weights // 16
        choices = (
            (parts["features"], "--features disk, or a smaller --feature-gb"),
            (
                0 if settings.muon else parts["optimizer"] // 2,
                "--muon: one number per weight of a matrix, not two",
            ),
            (
                0 if target.quantization else target.held - quantised,
                "the target in 4 bits (of its mlx-community conversion)",
            ),
            (
                parts["work"] if settings.batch > settings.accumulate else 0,
                f"--accumulate {settings.batch}: one sequence at a time (at most so much)",
            ),
        )
        yield from (f"{_bytes(saved)}: {how}" for saved, how in choices if saved > 0)
        yield "fewer --layers: weights, gradients and optimiser shrink in proportion"
    if budget.disk["total"] > disk:
        yield (
            f"the disk of {settings.out} has {_bytes(disk)} free, but the run writes "
            f"{_bytes(budget.disk['total'])}: choose another --out, or --keep 1"
        )


def _hours_table(hours: Hours) -> Table:
    title = "Time, an estimate: products of the target's form and steps of a small drafter, timed"
    parts = {
        "answers, without a drafter": hours.answers,
        "the target's features": hours.features,
        f"{hours.steps} steps of {hours.step:.3g} s": hours.training,
    }
    total = [("together, without measuring", _time(hours.total))]
    return facts(title, [(name, _time(value)) for name, value in parts.items()], total)


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
