"""A whole run from its settings: read, begin or go on, train, measure, keep, say how it went."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.loading import load_target
from dflash_serve.atomic_files import replace_json
from dflash_serve.compose.directories import target_directory
from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.example import Example
from dflash_serve.training.drafter.initialise import Beginning
from dflash_serve.training.drafter.layout import DTYPES, full_config, write_drafter
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.checkpoint import Checkpoint, CheckpointError, CheckpointStore
from dflash_serve.training.run.distributed import Processes
from dflash_serve.training.run.identity import check_same_run, identity
from dflash_serve.training.run.job import begin, open_features, train_options
from dflash_serve.training.run.loop import Ending, Listener, MeasureReport, Outcome, Run, never
from dflash_serve.training.run.measure import RoundsMeasure
from dflash_serve.training.run.measure_prefix import PrefixMeasure, prefix_table
from dflash_serve.training.run.record import RunRecord, Worth, read_record
from dflash_serve.training.run.report import RunLog
from dflash_serve.training.run.run_data import RunData, read_data
from dflash_serve.training.run.schedule import Horizon
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.run.trainer import Trainer, TrainOptions
from dflash_serve.training.run.view import view_of
from dflash_serve.training.run.wandb_log import open_wandb
from dflash_serve.training.step.batches import steps_per_epoch

_HELD_BYTES = 1 << 30  # of the features of each held-out set


@dataclass(frozen=True, slots=True)
class Watching:
    """What a caller of `train` wants besides: ``stop`` ends it, ``listener`` sees it."""

    console: Console
    stop: Callable[[], bool] = never
    listener: Listener | None = None


def train(settings: RunSettings, watching: Watching, processes: Processes | None = None) -> Outcome:
    """Train, measure now and then, and keep the best drafter, the last one, and checkpoints."""
    processes, console = processes or Processes(), watching.console
    store = CheckpointStore(settings.out / "checkpoints", settings.keep)
    _check_out(settings, store)
    parts = _parts(settings, console)
    processes.check_same(parts.facts)
    wanted = processes.first and settings.resume
    checkpoint = _checkpoint(store, parts, console) if wanted else None
    drafter, data = parts.begun.drafter, parts.data
    with ExitStack() as stack:
        layers = drafter.target_layer_ids
        features = open_features(
            settings, parts.directory, parts.target, layers, data.train, processes
        )
        stack.enter_context(closing(features))
        trainer = Trainer(drafter, data.train, features, parts.options, processes)
        choosing = _measure(settings, parts.target, trainer, data.choosing)
        reporting = _measure(settings, parts.target, trainer, data.reporting, data.reporting_names)
        run = Run(trainer, choosing, (), store, parts.facts, watching.stop, reporting)
        if processes.told({"resume": checkpoint is not None})["resume"]:
            run.resume(checkpoint)
        if not processes.first:
            return run.go()
        log = RunLog(settings.out, run.position.step or None)
        keeper = _Keeper(settings, full_config(parts.begun.config), data, trainer, log)
        listeners = chain((keeper, log), _watchers(settings, run, choosing.name, watching))
        run.listeners = [stack.enter_context(closing(listener)) for listener in listeners]
        outcome = run.go()
        keeper.keep_last()
        log.note({"ended": outcome.ending, **asdict(outcome.position)})
    _conclude(settings, outcome, (reporting.name, keeper.detail), data, console)
    return outcome


@dataclass(slots=True)
class _Keeper(Listener):
    """Writes the drafter whenever it was measured: ``out/last``, and ``out`` if it is the best.

    run.json says what the best one is worth on answers that did not choose it. Further detail of
    that measurement goes to the log, and for the best to vp.json; ``detail`` is the last one's.
    """

    settings: RunSettings
    config: dict[str, Any]
    data: RunData
    trainer: Trainer
    log: RunLog
    detail: dict[str, Any] | None = None

    def on_measure(self, report: MeasureReport) -> None:
        self.keep_last()
        if report.best:
            self._write(self.settings.out)
            self._record(report).write(self.settings.out)
        self.detail = detail = report.reported.detail if report.reported else None
        if detail is not None:
            self.log.note({"step": report.step, "prefixes": detail})
        if detail is not None and report.best:
            replace_json(self.settings.out / "vp.json", {"step": report.step, **detail})

    def keep_last(self) -> None:
        self._write(self.settings.out / "last")

    def _record(self, report: MeasureReport) -> RunRecord:
        found, data = report.reported, self.data
        assert found is not None
        worth = Worth(
            step=report.step,
            on=data.reported_on,
            tokens_per_round=found.value,
            tokens_per_round_pooled=found.pooled,
            tokens_per_round_interval=found.interval,
        )
        return RunRecord(target=self.settings.target, trained_on=data.trained_on, reported=worth)

    def _write(self, directory: Path) -> None:
        write_drafter(directory, self.config, self.trainer.masters(), self.settings.dtype)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a run is made of; ``facts`` say so for its checkpoints."""

    directory: Path
    target: TargetAdapter
    begun: Beginning
    data: RunData
    options: TrainOptions
    facts: dict[str, Any]


def _parts(settings: RunSettings, console: Console) -> _Parts:
    directory = target_directory(settings.target)
    target = load_target(directory)
    begun = begin(settings, directory, target)
    if begun.not_copied:
        console.print(
            f"begun at random, the target has no such part: {', '.join(begun.not_copied)}"
        )
    data = read_data(settings, directory, target, console.print)
    drafter = begun.drafter
    base = drafter.config.prefix_weight_base
    options = train_options(settings, drafter.block_size, base, len(data.train))
    per_epoch = steps_per_epoch(len(data.train), settings.batch)
    console.print(
        f"trained on {len(data.train):,} sequences: {settings.describe_length(per_epoch)}"
    )
    files = {"data": settings.data, "held-out data": settings.heldout}
    rest = {
        "answers": len(data.train),
        "held-out answers": len(data.choosing) + len(data.reporting),
        "measured block": settings.measure_block,
        "feature dtype": settings.feature_dtype,
    }
    facts = identity(directory, files, begun.config, options, rest)
    return _Parts(directory, target, begun, data, options, facts)


def _check_out(settings: RunSettings, store: CheckpointStore) -> None:
    if not settings.resume and store.folders():
        raise DataError(
            f"{settings.out} holds the checkpoints of a run: go on with --resume, or choose "
            "another --out"
        )
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {settings.out} cannot be written: {error}") from error


def _checkpoint(store: CheckpointStore, parts: _Parts, console: Console) -> Checkpoint | None:
    """The checkpoint to go on from; None to begin anew."""
    checkpoint = store.newest()
    if checkpoint is None:
        console.print("there is no checkpoint to resume from: starting from the beginning")
        return None
    kept = checkpoint.facts.get("identity")
    if not isinstance(kept, dict):
        raise CheckpointError("the newest checkpoint does not say what its run was made of")
    options, position = parts.options, checkpoint.facts["position"]
    per_epoch = steps_per_epoch(len(parts.data.train), options.batch)
    before = Horizon(*(kept.get(f"horizon.{unit}") for unit in ("steps", "minutes", "epochs")))
    may_grow = options.schedule.may_grow(
        before.in_steps(per_epoch),
        options.horizon.in_steps(per_epoch),
        position["step"],
        position["seconds"],
    )
    tuned = check_same_run(kept, parts.facts, may_grow=may_grow)
    console.print(f"going on behind step {checkpoint.step}" + (f"; {tuned}" if tuned else ""))
    return checkpoint


def _measure(
    settings: RunSettings,
    target: TargetAdapter,
    trainer: Trainer,
    held: Sequence[Example],
    names: Sequence[bytes] = (),
) -> RoundsMeasure | PrefixMeasure:
    """Of this process's share of the held-out examples; ``names`` of their conversations."""
    own = held[trainer.processes.rank :: trainer.processes.size]
    layers, dtype = trainer.drafter.target_layer_ids, DTYPES[settings.feature_dtype]
    features = FeatureStore(target, layers, own, _HELD_BYTES, dtype=dtype)
    if trainer.options.prefix_weight_base is not None:
        return PrefixMeasure(trainer, features, own)
    return RoundsMeasure(trainer, features, own, settings.measure_block, names)


def _watchers(settings: RunSettings, run: Run, name: str, watching: Watching) -> Iterator[Listener]:
    """Those that write nothing into the run's folder."""
    if settings.wandb:
        resumed = run.position.step > 0
        yield open_wandb(settings.wandb, settings.out, run.identity, resumed=resumed)
    yield view_of(watching.console, name, run.progress)
    if watching.listener is not None:
        yield watching.listener


def _conclude(
    settings: RunSettings,
    outcome: Outcome,
    reported: tuple[str, dict[str, Any] | None],
    data: RunData,
    console: Console,
) -> None:
    """``reported``: what was measured, and the detail of the last time."""
    position, (name, detail) = outcome.position, reported
    endings = {
        Ending.FINISHED: "finished",
        Ending.NO_BETTER: f"ended early: {position.since_best} measurements without a better one",
        Ending.STOPPED: "stopped",
    }
    console.print(f"{endings[outcome.ending]} behind step {position.step}")
    if detail is not None:
        console.print(prefix_table(detail))
    if position.best_step:
        record, step = read_record(settings.out), position.best_step
        kept = record.reported if record else None
        worth = kept or Worth(step=step, on=data.reported_on, tokens_per_round=position.reported)
        console.print(
            f"best drafter: {settings.out}, of step {step}: {worth.figures(name)}, on {worth.on}; "
            f"{position.best:.2f} on the {len(data.choosing)} that did; last drafter: "
            f"{settings.out / 'last'}"
        )
