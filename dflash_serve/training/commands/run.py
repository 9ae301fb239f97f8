"""dflash-train run: a drafter from answers, measured as it goes."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.checkpoint import fingerprint, read_config, resolve
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.layered import LayeredTarget
from dflash_serve.adapters.loading import load_target
from dflash_serve.adapters.target_config import text_config
from dflash_serve.compose.directories import target_directory
from dflash_serve.training.data import (
    Answer,
    DataError,
    read_answers,
    read_origin,
    usable,
)
from dflash_serve.training.data.example import Example
from dflash_serve.training.drafter.initialise import (
    drafter_config,
    load_trainable,
    new_drafter,
    start_from_target,
)
from dflash_serve.training.drafter.layout import DTYPES, full_config
from dflash_serve.training.features.store import FeatureSettings, FeatureStore, open_features
from dflash_serve.training.run.checkpoint import Checkpoint, CheckpointError, CheckpointStore
from dflash_serve.training.run.distributed import Processes
from dflash_serve.training.run.identity import check_same_run, identity, option_facts
from dflash_serve.training.run.interrupt import Interrupt
from dflash_serve.training.run.job import TrainJob, job_of
from dflash_serve.training.run.loop import Ending, Listener, Outcome, Run, never
from dflash_serve.training.run.measures import (
    Measure,
    PrefixMeasure,
    RoundsMeasure,
    prefix_table,
)
from dflash_serve.training.run.report import RunLog
from dflash_serve.training.run.trainer import Trainer
from dflash_serve.training.run.wandb_log import open_wandb
from dflash_serve.training.run.watch import Keeper, Listeners, view_of

_MEASURED = 64  # answers held back for measuring where no --heldout is given
_HELD_BYTES = 2 << 30
_STOPPED_ELSEWHERE = 130  # another process of the run was interrupted


@dataclass(frozen=True, slots=True)
class Watching:
    """What a caller of `train` wants besides: ``stop`` ends it, ``listener`` sees it."""

    console: Console
    stop: Callable[[], bool] = never
    listener: Listener | None = None


def run(settings: Mapping[str, Any]) -> int:
    """`dflash-train run`; returns the exit code: 0, or 128 + a signal that ended it early."""
    job, processes = job_of(settings), Processes.joined()
    console = Console(quiet=not processes.first)
    with Interrupt() as interrupt:
        outcome = train(job, Watching(console, lambda: interrupt.requested), processes)
    if outcome.ending is Ending.STOPPED:
        console.print("To go on: the same command with --resume.")
        return interrupt.exit_code or _STOPPED_ELSEWHERE
    return 0


def train(job: TrainJob, watching: Watching, processes: Processes | None = None) -> Outcome:
    """Train, measure now and then, and keep the best drafter, the last one, and checkpoints.

    Raises:
        DataError, CheckpointError, AdapterError: a file that cannot be used or written.
        Diverged: the loss is not finite or has exploded.
    """
    processes, console = processes or Processes(), watching.console
    store = CheckpointStore(job.kept.out / "checkpoints", job.kept.checkpoints)
    _refuse_overwriting(job, store)
    directory = target_directory(job.target)
    target = load_target(directory)
    config, drafter = _drafter(job, directory, target, console)
    data = _read_data(job, directory, target, console)
    facts = _identity(job, directory, config, data)
    processes.check_same(facts)
    checkpoint = _checkpoint(job, store, facts, console) if processes.first else None
    with ExitStack() as stack:
        features = stack.enter_context(
            closing(_features(job, directory, target, drafter, data, processes))
        )
        trainer = Trainer(drafter, data.train, features, job.options, processes)
        measure = _measure(job, target, trainer, data)
        run = Run(trainer, measure, Listeners([]), store, facts, watching.stop)
        if processes.told({"resume": checkpoint is not None})["resume"]:
            run.resume(checkpoint)
        if processes.first:
            run.listener = _listeners(job, run, measure, config, watching, stack)
        outcome = run.go()
        if processes.first:
            Keeper(job.kept, full_config(config), trainer, measure).keep_last()
    _conclude(job, outcome, measure, console)
    return outcome


@dataclass(frozen=True, slots=True)
class _Data:
    train: list[Example]
    held: list[Example]


def _refuse_overwriting(job: TrainJob, store: CheckpointStore) -> None:
    if not job.kept.resume and store.folders():
        raise DataError(
            f"{job.kept.out} holds the checkpoints of a run: go on with --resume, or choose "
            "another --out"
        )


def _drafter(
    job: TrainJob, directory: Path, target: TargetAdapter, console: Console
) -> tuple[dict[str, Any], DFlashDrafter]:
    """config.json and a drafter with float32 weights to begin with."""
    if job.start is None:
        config = drafter_config(text_config(read_config(directory)), job.shape)
        drafter = new_drafter(config, target, job.options.seed)
        if job.copy_target:
            assert isinstance(target, LayeredTarget)
            random = start_from_target(drafter, target)
            if random:
                console.print(f"no copy of the target's, random: {', '.join(random)}")
        return config, drafter
    loaded = load_trainable(resolve(job.start), target)
    config = read_config(resolve(job.start))
    inner = dict(config.get("dflash_config") or {})
    for name in ("training_mode", "prefix_weight_base"):
        inner.pop(name, None)
    if job.shape.prefix_weight_base is not None:
        inner["training_mode"] = "vp_drafter"
        inner["prefix_weight_base"] = job.shape.prefix_weight_base
    return config | {"dflash_config": inner}, loaded


def _read_data(job: TrainJob, directory: Path, target: TargetAdapter, console: Console) -> _Data:
    """Answers to train on and to measure on; what is left out is said."""
    if read_origin(job.sources.data).get("target", "") != fingerprint(directory):
        console.print(
            f"[yellow]note:[/] {job.sources.data} was answered by another target: the drafter "
            "learns what this one may not say"
        )
    answers = _usable(job, job.sources.data, target, console)
    if job.sources.heldout:
        held = _usable(job, job.sources.heldout, target, console)
    elif len(answers) <= _MEASURED:
        raise DataError(
            f"{job.sources.data} holds {len(answers)} answers: give --heldout, or more data"
        )
    else:
        answers, held = answers[:-_MEASURED], answers[-_MEASURED:]
    # rounds are walked over one answer at a time: chats of several turns are taken apart
    turns = [turn for answer in held for turn in answer.turns()]
    return _Data([answer.example() for answer in answers], turns)


def _usable(job: TrainJob, path: Path, target: TargetAdapter, console: Console) -> list[Answer]:
    longest = min(job.sources.max_length or target.max_context, target.max_context)
    kept, left_out = usable(read_answers(path), job.sources.min_loss_tokens, longest)
    for reason, count in left_out.items():
        console.print(f"{path}: {count} answers left out, {reason}")
    if not kept:
        raise DataError(f"{path} holds no answer that can be used")
    for answer in kept:
        for token in (answer.tokens.min(), answer.tokens.max()):
            if not 0 <= token < target.vocab_size:
                raise DataError(
                    f"{path}, row {answer.row}: token {token}, but the target's vocabulary is "
                    f"{target.vocab_size}"
                )
    return kept


def _identity(
    job: TrainJob, directory: Path, config: dict[str, Any], data: _Data
) -> dict[str, Any]:
    files = {"data": job.sources.data, "held-out data": job.sources.heldout}
    rest = {
        "answers": len(data.train),
        "held-out answers": len(data.held),
        "measured block": job.measure_block,
        "feature dtype": job.sources.feature_dtype,
        **option_facts(job.options),
    }
    return identity(directory, files, config, rest)


def _checkpoint(
    job: TrainJob, store: CheckpointStore, facts: dict[str, Any], console: Console
) -> Checkpoint | None:
    """The checkpoint to go on from; None to begin anew."""
    checkpoint = store.newest() if job.kept.resume else None
    if job.kept.resume and checkpoint is None:
        console.print(f"{job.kept.out} holds no checkpoint: starting from the beginning")
    if checkpoint is not None:
        kept = checkpoint.facts.get("identity")
        if not isinstance(kept, dict):
            raise CheckpointError(f"{job.kept.out} does not say what its run was made of")
        tuned = check_same_run(kept, facts)
        console.print(f"going on behind step {checkpoint.step}" + (f"; {tuned}" if tuned else ""))
    return checkpoint


def _features(
    job: TrainJob,
    directory: Path,
    target: TargetAdapter,
    drafter: DFlashDrafter,
    data: _Data,
    processes: Processes,
) -> FeatureStore:
    folder = job.sources.feature_dir or job.kept.out / "features"
    settings = FeatureSettings(
        job.sources.features,
        job.sources.feature_bytes,
        folder if processes.size == 1 else folder / f"rank-{processes.rank}",
        fingerprint(directory),
        final=job.options.objective.soft_label > 0,
        dtype=job.sources.feature_dtype,
    )
    return open_features(target, drafter.target_layer_ids, data.train, settings)


def _measure(job: TrainJob, target: TargetAdapter, trainer: Trainer, data: _Data) -> Measure:
    layers = trainer.drafter.target_layer_ids
    dtype = DTYPES[job.sources.feature_dtype]
    features = FeatureStore(target, layers, data.held, _HELD_BYTES, dtype=dtype)
    if job.options.prefix_weight_base is not None:
        return PrefixMeasure(trainer, features, data.held)
    return RoundsMeasure(trainer, features, data.held, job.measure_block)


def _listeners(
    job: TrainJob,
    run: Run,
    measure: Measure,
    config: dict[str, Any],
    watching: Watching,
    stack: ExitStack,
) -> Listeners:
    position = run.position
    log = RunLog(job.kept.out, position.step if position.step else None)
    stack.enter_context(closing(log))
    keeper = Keeper(job.kept, full_config(config), run.trainer, measure, log)
    listeners: list[Listener] = [keeper, log]
    if job.kept.wandb:
        listeners.append(
            stack.enter_context(
                closing(
                    open_wandb(
                        job.kept.wandb, job.kept.out, run.identity, resumed=position.step > 0
                    )
                )
            )
        )
    view = view_of(watching.console, measure.name, run.progress)
    stack.enter_context(view)
    listeners.append(view)
    if watching.listener is not None:
        listeners.append(watching.listener)
    return Listeners(listeners)


def _conclude(job: TrainJob, outcome: Outcome, measure: Measure, console: Console) -> None:
    position = outcome.position
    endings = {
        Ending.FINISHED: "finished",
        Ending.NO_BETTER: f"ended early: {position.since_best} measurements without a better one",
        Ending.STOPPED: "stopped",
    }
    best = f"best {position.best:.2f} {measure.name} at step {position.best_step}"
    console.print(f"{endings[outcome.ending]} behind step {position.step}; {best}")
    if measure.detail is not None:
        console.print(prefix_table(measure.detail))
    if position.best_step:
        console.print(f"best drafter: {job.kept.out}; last: {job.kept.out / 'last'}")
