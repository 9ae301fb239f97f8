"""dflash-train run: a drafter from answers, measured as it goes."""

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from rich.console import Console
from rich.progress import Progress
from transformers import AutoTokenizer

from dflash_serve.adapters.base import DraftAdapter
from dflash_serve.adapters.checkpoint import read_config, read_weights, resolve
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.training.commands.show import progress_bar
from dflash_serve.training.data import (
    Answer,
    DataError,
    read_answers,
)
from dflash_serve.training.export import (
    DrafterShape,
    drafter_config,
    export_drafter,
    new_drafter,
    start_from_target,
)
from dflash_serve.training.features import FeatureStore
from dflash_serve.training.measure import pooled, walk_answers
from dflash_serve.training.report import RunLog
from dflash_serve.training.trainer import StepReport, Trainer, TrainOptions

_MEASURED = 64  # answers held back for measuring where no --heldout is given
_FEATURE_BYTES = 6 << 30
_DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}


@dataclass(frozen=True, slots=True)
class TrainJob:
    target: str
    data: Path
    out: Path
    shape: DrafterShape
    options: TrainOptions
    heldout: Path | None
    start: str | None
    copy_target: bool
    measure_block: int | None
    dtype: str


def mask_token_id(target: str, given: int | None) -> int:
    """The id asked for, the tokenizer's own mask token, or the first id that no token uses.

    Raises:
        DataError: the vocabulary has no room for one.
    """
    if given is not None:
        return given
    directory = resolve(target)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for token in ("<|mask|>", "<|MASK|>"):
        if token in tokenizer.get_vocab():
            return int(tokenizer.convert_tokens_to_ids(token))
    if len(tokenizer) < int(read_config(directory)["vocab_size"]):
        return len(tokenizer)
    raise DataError(f"{target} has no unused token id: choose one with --mask-token")


def train(job: TrainJob) -> None:
    """Train, measure now and then, and keep the best drafter in ``job.out``."""
    if job.dtype not in _DTYPES:
        raise DataError(f"dtype {job.dtype!r} is none of {', '.join(_DTYPES)}")
    console, directory = Console(), resolve(job.target)
    target = load_target(directory)
    if job.start:
        drafter = _trainable(load_drafter(resolve(job.start), target))
        config = read_config(resolve(job.start))
    else:
        config = drafter_config(read_config(directory), job.shape)
        drafter = new_drafter(config, target, job.options.seed)
        if job.copy_target:
            start_from_target(drafter, read_weights(directory))
    answers, held = _split(job)
    examples = [answer.example() for answer in answers]
    measured = [answer.example() for answer in held]
    taps = drafter.target_layer_ids
    features = FeatureStore(target, taps, measured, _FEATURE_BYTES)
    trainer = Trainer(
        drafter, examples, FeatureStore(target, taps, examples, _FEATURE_BYTES), job.options
    )
    width = job.measure_block or drafter.block_size
    with closing(RunLog(job.out)) as log, progress_bar(console) as progress:
        view = _View(progress, log, lambda: _save(job, config, drafter))
        best = trainer.run(lambda: pooled(walk_answers(drafter, features, measured, width)), view)
    console.print(f"{len(examples)} answers, best {best:.2f} tokens per round at block {width}")


def _trainable(drafter: DraftAdapter) -> DFlashDrafter:
    """A loaded drafter with float32 weights."""
    assert isinstance(drafter, DFlashDrafter)
    drafter.model.set_dtype(mx.float32)
    drafter.model.train()
    return drafter


def _save(job: TrainJob, config: dict[str, Any], drafter: DFlashDrafter) -> None:
    export_drafter(job.out, config, drafter.model, _DTYPES[job.dtype])


def _split(job: TrainJob) -> tuple[list[Answer], list[Answer]]:
    """Answers to train on and to measure on; those too short for one block are left out."""
    answers = _long_enough(read_answers(job.data))
    if job.heldout:
        return answers, _long_enough(read_answers(job.heldout))
    if len(answers) <= _MEASURED:
        raise DataError(f"{job.data} holds {len(answers)} answers: give --heldout, or more data")
    return answers[:-_MEASURED], answers[-_MEASURED:]


def _long_enough(answers: Iterable[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.loss_tokens >= 2]


class _View:
    """Shows the run, logs it, and saves the drafter whenever it is the best so far."""

    def __init__(self, progress: Progress, log: RunLog, save: Callable[[], None]) -> None:
        self._progress, self._log, self._save = progress, log, save
        self._task = progress.add_task("training", total=1.0)

    def on_step(self, report: StepReport) -> None:
        self._log.on_step(report)
        self._progress.update(
            self._task,
            completed=report.progress,
            description=f"step {report.step}  loss {report.loss:.3f}  "
            f"slot 1 {report.accuracy[0]:.2f}  expected {report.expected:.2f}",
        )

    def on_measure(self, step: int, tokens_per_round: float, best: bool) -> None:
        self._log.on_measure(step, tokens_per_round)
        mark = " (best)" if best else ""
        self._progress.console.print(f"step {step}: {tokens_per_round:.3f} tokens per round{mark}")
        if best:
            self._save()
