"""A drafter for one's own traffic: fine-tuned on recorded requests, kept only if it is better."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.checkpoint import fingerprint, read_config, resolve
from dflash_serve.adapters.loading import load_target
from dflash_serve.atomic_files import replace_json
from dflash_serve.compose.cards import first_config
from dflash_serve.compose.directories import target_directory
from dflash_serve.measure.errors import DataError
from dflash_serve.measure.results import Result, document
from dflash_serve.training.data.answers import read_set
from dflash_serve.training.data.origin import describe_parts
from dflash_serve.training.data.records import read_records, read_replay
from dflash_serve.training.data.split import Split, answer_marker, mixed, split
from dflash_serve.training.drafter.initialise import load_trainable
from dflash_serve.training.drafter.layout import DTYPES, full_config, write_drafter
from dflash_serve.training.evaluate.judge import NEW, HeldOut, objections, table_of
from dflash_serve.training.export.card import model_card
from dflash_serve.training.export.settings import AdaptSettings
from dflash_serve.training.run.fine_tune import Tuned, fine_tune
from dflash_serve.training.run.record import RunRecord, Worth
from dflash_serve.training.run.trainer import TrainOptions
from dflash_serve.training.step.blocks import default_gamma

REPORT = "adapt.json"
NOT_BETTER = 1
"""Exit code where nothing was written, because nothing better was found."""
_MAX_LENGTH = 4096


def adapt_drafter(settings: AdaptSettings, console: Console) -> int:
    """Fine-tune, judge on held-out conversations, and write what is better; the exit code."""
    old = resolve(settings.drafter)
    directory = target_directory(settings.target)
    _check_drafters(settings.out, old)
    splits = _splits(settings, directory, console)
    target = load_target(directory)
    held = [HeldOut(one.kind, one.held, target) for one in splits]
    _judge_others(held, settings.out, old, console)
    tuned, config = _tune(settings, target, old, splits, console)
    with TemporaryDirectory() as scratch:
        _write(Path(scratch), config, tuned)
        for one in held:
            one.judge(NEW, Path(scratch))
    console.print(table_of(held))
    if found := objections(held, settings.replay_tolerance):
        for reason in found:
            console.print(f"The new drafter is not better: {reason}.")
        console.print(f"{settings.out} is as it was.")
        return NOT_BETTER
    record = _record(settings, tuned, held[0])
    name = settings.out.resolve().name
    card = model_card(name, config, settings.target, record.reported, record.trained_on)
    _write(settings.out, config, tuned, card)
    record.write(settings.out)
    _report(settings, splits, tuned, held)
    console.print(f"The new drafter is in {settings.out}, what it gained in {REPORT} there.")
    return 0


def _check_drafters(out: Path, old: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DataError(f"--out {out} is no folder")
    if (out / "log.jsonl").exists():
        raise DataError(f"--out {out} is the folder of a run: what it says would be of another one")
    first_config(old)


def _splits(settings: AdaptSettings, directory: Path, console: Console) -> list[Split]:
    """The recorded answers and, if given, the replay's; says the numbers."""
    target, marker = fingerprint(directory), answer_marker(directory)
    records = read_records(settings.records, target, _MAX_LENGTH)
    for reason, count in records.left_out.items():
        console.print(f"left out: {count} {reason}")
    splits = [split("recorded", records.answers, marker)]
    splits[0].check(settings.records, choosing=True)
    if settings.replay is not None:
        splits.append(split("replay", read_replay(settings.replay, target, _MAX_LENGTH), marker))
        splits[1].check(settings.replay, choosing=False)
    for one in splits:
        console.print(str(one))
    return splits


def _judge_others(held: Sequence[HeldOut], out: Path, old: Path, console: Console) -> None:
    """The old drafter, and the one that --out may hold already."""
    others = {"old": old}
    if (out / "config.json").exists() and out.resolve() != old.resolve():
        others["in --out"] = out
        console.print(
            f"in --out: the drafter that {out} holds. If adapt did not make it, it may have been "
            "trained on held-out conversations, and its figures may be too high."
        )
    for name, path in others.items():
        for one in held:
            one.judge(name, path)


def _tune(
    settings: AdaptSettings,
    target: TargetAdapter,
    old: Path,
    splits: Sequence[Split],
    console: Console,
) -> tuple[Tuned, dict[str, Any]]:
    """The best weights, and the config.json that goes with them."""
    drafter, config = load_trainable(old, target), read_config(old)
    options = TrainOptions(
        settings.horizon,
        settings.course,
        batch=settings.batch,
        anchors=settings.anchors,
        gamma=settings.gamma or default_gamma(drafter.block_size),
        measure_every=settings.measure_every,
        seed=settings.seed,
        muon=settings.muon,
    )
    train = mixed(splits, settings.replay_share, settings.seed)
    if settings.batch > len(train):
        raise DataError(
            f"--batch is {settings.batch}, but there are {len(train)} answers to train on"
        )
    tuned = fine_tune(drafter, target, train, splits[0].choosing.answers, options, console)
    return tuned, full_config(config) | {"dtype": config.get("dtype", config.get("torch_dtype"))}


def _write(out: Path, config: dict[str, Any], tuned: Tuned, card: str | None = None) -> None:
    dtype = config["dtype"] if config["dtype"] in DTYPES else "float16"
    write_drafter(out, config, tuned.weights, dtype, card)


def _record(settings: AdaptSettings, tuned: Tuned, held: HeldOut) -> RunRecord:
    """What the drafter learned from, and what it is worth on the held-out recorded answers."""
    found = held.acceptance(NEW)
    worth = Worth(
        step=tuned.chosen.step,
        on=f"{held.responses} recorded answers of {held.conversations} held-out conversations",
        tokens_per_round=found.tokens_per_round,
        tokens_per_round_pooled=found.tokens_per_round_pooled,
        tokens_per_round_interval=held.interval(NEW),
    )
    trained_on = "recorded answers of the target, from an older drafter on"
    if settings.replay is not None:
        trained_on += f"; beside them on {describe_parts(read_set(settings.replay).parts)}"
    return RunRecord(target=settings.target, trained_on=trained_on, reported=worth)


def _report(
    settings: AdaptSettings, splits: Sequence[Split], tuned: Tuned, held: Sequence[HeldOut]
) -> None:
    """What was gained and by what, as JSON beside the new drafter; each figure with its set."""
    given = settings.model_dump(mode="json", include={"replay_share", "replay_tolerance"})
    measured = {
        "split": {one.kind: one.as_json() for one in splits},
        "chosen": {
            "set": "recorded, to choose by",
            "step": tuned.chosen.step,
            "tokens_per_round": tuned.chosen.value,
            "tokens_per_round_pooled": tuned.chosen.pooled,
        },
        "judged": [one.as_json() for one in held],
    }
    made = document(Result("adapt", asdict(tuned.options) | given, measured))
    replace_json(settings.out / REPORT, made)
