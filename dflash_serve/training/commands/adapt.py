"""dflash-train adapt: a drafter for one's own traffic, kept only if it is better there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
import numpy as np
from rich.console import Console
from rich.table import Table

from dflash_serve import provenance
from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.checkpoint import fingerprint, read_config, resolve
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.atomic_files import replace_json
from dflash_serve.compose.directories import target_directory
from dflash_serve.training.data import Answer, DataError, read_answers, usable
from dflash_serve.training.data.example import Example
from dflash_serve.training.data.records import (
    Records,
    Split,
    different_prompts,
    read_records,
    split,
)
from dflash_serve.training.drafter.initialise import load_trainable
from dflash_serve.training.drafter.layout import DTYPES, full_config, write_drafter
from dflash_serve.training.export.card import Measured, model_card
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.loop import MeasureReport, Run
from dflash_serve.training.run.measure import pooled, walk_answers
from dflash_serve.training.run.measures import RoundsMeasure
from dflash_serve.training.run.trainer import StepReport, Trainer, TrainOptions
from dflash_serve.training.run.watch import Listeners, view_of

REPORT = "adapt.json"
NOT_BETTER = 1
"""Exit code where nothing was written, because nothing better was found."""
_MIN_PROMPTS = 40
_MIN_PART = 3
_MAX_LENGTH = 4096
_FEATURE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class AdaptJob:
    """``replay``: an answer file of the old domain; ``replay_share`` of what is trained on."""

    target: str
    drafter: str
    records: Path
    out: Path
    options: TrainOptions
    replay: Path | None
    replay_share: float

    def __post_init__(self) -> None:
        if not 0 < self.replay_share < 1:
            raise ValueError(f"--replay-share is {self.replay_share}, but must be between 0 and 1")


@dataclass(frozen=True, slots=True)
class _Domain:
    """Held-out answers of one kind, and what drafters did on them."""

    name: str
    examples: list[Example]
    layers: tuple[int, ...]
    features: FeatureStore
    results: dict[str, float] = field(default_factory=dict)


def adapt(job: AdaptJob) -> int:
    """Fine-tune on recorded requests and judge on held-out ones; the exit code.

    0: ``job.out`` holds the new drafter. `NOT_BETTER`: it is as it was.

    Raises:
        DataError: records that cannot be used. AdapterError: checkpoints that cannot.
        FloatingPointError: the loss is not finite or has exploded.
    """
    console = Console()
    if job.out.exists() and not job.out.is_dir():
        raise DataError(f"--out {job.out} is no folder")
    directory, old = target_directory(job.target), resolve(job.drafter)
    records = read_records(job.records, fingerprint(directory))
    parts = _parts(job.records, records, console)
    replay = split(_usable(read_answers(job.replay))) if job.replay else Split([], [], [])
    if (read_config(old).get("dflash_config") or {}).get("training_mode") == "vp_drafter":
        raise DataError(f"{old} is a VP-drafter, which serves nobody by itself: give the first one")
    target = load_target(directory)
    drafter = load_trainable(old, target)
    domains = [
        _domain(name, answers, drafter, target)
        for name, answers in (("recorded", parts.held), ("replay", replay.held))
        if answers
    ]
    _judge("old", old, target, domains)
    if (job.out / "config.json").exists() and job.out.resolve() != old.resolve():
        _judge("in --out", job.out, target, domains)
    train = parts.train + _mixed(replay.train, len(parts.train), job)
    weights, step = _train(job.options, target, drafter, train, parts.choosing, console)
    raw = read_config(old)
    config, dtype = full_config(raw), str(raw.get("dtype") or raw.get("torch_dtype"))
    written = (config, weights, dtype if dtype in DTYPES else "float16")
    with TemporaryDirectory() as scratch:
        write_drafter(Path(scratch), *written)
        _judge("new", Path(scratch), target, domains)
    console.print(_table(domains))
    best = max(value for name, value in domains[0].results.items() if name != "new")
    if domains[0].results["new"] <= best:
        console.print(f"The new drafter is not better: {job.out} is as it was.")
        return NOT_BETTER
    measured = Measured(step, domains[0].results["new"])
    card = model_card(job.out.resolve().name, config, job.target, measured)
    write_drafter(job.out, *written, card)
    _report(job, parts, domains)
    console.print(f"The new drafter is in {job.out}, what it gained in {job.out / REPORT}.")
    return 0


def _report(job: AdaptJob, parts: Split, domains: Sequence[_Domain]) -> None:
    """What was gained and by what, as JSON beside the new drafter."""
    document = {
        **provenance.origin(),
        "settings": asdict(job.options)
        | {"replay_share": job.replay_share if job.replay else None},
        "answers": {name: len(getattr(parts, name)) for name in ("train", "choosing", "held")},
        "tokens_per_round": {
            domain.name: {"answers": len(domain.examples), **domain.results} for domain in domains
        },
    }
    replace_json(job.out / REPORT, document)


def _parts(directory: Path, records: Records, console: Console) -> Split:
    """The split answers, if they are enough; what was left out is said."""
    answers = _usable(records.answers)
    left_out = len(records.answers) - len(answers)
    for count, why in (
        (records.without_prompts, "requests were recorded without prompts"),
        (left_out, f"answers are shorter than 2 tokens or, with the prompt, over {_MAX_LENGTH}"),
        (records.of_others, "files were recorded with another target"),
    ):
        if count:
            console.print(f"left out: {count} {why}")
    prompts = different_prompts(answers)
    if records.without_prompts and not answers:
        raise DataError(
            f"{directory} was recorded with --no-record-prompts: without prompts the drafter's "
            "inputs cannot be computed, so there is nothing to learn from"
        )
    if prompts < _MIN_PROMPTS:
        raise DataError(
            f"{directory} holds answers to {prompts} different prompts; adapting needs at least "
            f"{_MIN_PROMPTS}, better some hundreds"
        )
    parts = split(answers)
    if min(map(different_prompts, (parts.train, parts.choosing, parts.held))) < _MIN_PART:
        raise DataError(f"{directory} holds too few prompts to hold some back: record more")
    console.print(
        f"{len(answers)} recorded answers to {prompts} prompts: {len(parts.train)} to learn from, "
        f"{len(parts.choosing)} to choose by, {len(parts.held)} held out"
    )
    return parts


def _usable(answers: Sequence[Answer]) -> list[Answer]:
    return usable(answers, min_loss_tokens=2, max_length=_MAX_LENGTH)[0]


def _mixed(replay: list[Answer], recorded: int, job: AdaptJob) -> list[Answer]:
    """So many answers of the old domain that they are ``replay_share`` of all."""
    wanted = round(recorded * job.replay_share / (1 - job.replay_share))
    rng = np.random.default_rng(job.options.seed)
    return [replay[index] for index in rng.permutation(len(replay))[:wanted]]


def _domain(
    name: str, answers: list[Answer], drafter: DFlashDrafter, target: TargetAdapter
) -> _Domain:
    examples = [answer.example() for answer in answers]
    layers = drafter.target_layer_ids
    return _Domain(name, examples, layers, FeatureStore(target, layers, examples, _FEATURE_BYTES))


def _judge(name: str, path: Path, target: TargetAdapter, domains: Sequence[_Domain]) -> None:
    """Tokens per round of the drafter at ``path``, as it would be served."""
    drafter = load_drafter(path, target)
    for domain in domains:
        features = domain.features
        if drafter.target_layer_ids != domain.layers:
            features = FeatureStore(target, drafter.target_layer_ids, domain.examples, 0)
        walks = walk_answers(drafter, features, domain.examples, drafter.runtime_block_size)
        domain.results[name] = pooled(walks)


class _Best:
    """A `Listener` that keeps the weights that were measured best."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.weights = trainer.masters()

    def on_step(self, report: StepReport) -> None:
        pass

    def on_measure(self, report: MeasureReport) -> None:
        if report.best:
            self.weights = self._trainer.masters()


def _train(
    options: TrainOptions,
    target: TargetAdapter,
    drafter: DFlashDrafter,
    train: Sequence[Answer],
    choosing: Sequence[Answer],
    console: Console,
) -> tuple[dict[str, mx.array], int]:
    """The weights that were best on ``choosing`` at any time of the run, and after which step."""
    examples = [answer.example() for answer in train]
    seen = [answer.example() for answer in choosing]
    layers = drafter.target_layer_ids
    features = FeatureStore(target, layers, examples, _FEATURE_BYTES)
    trainer = Trainer(drafter, examples, features, options)
    best = _Best(trainer)
    measure = RoundsMeasure(
        trainer,
        FeatureStore(target, layers, seen, _FEATURE_BYTES),
        seen,
        drafter.runtime_block_size,
    )
    view = view_of(console, measure.name, 0.0)
    with view:
        outcome = Run(trainer, measure, Listeners([best, view])).go()
    return best.weights, outcome.position.best_step


def _table(domains: Sequence[_Domain]) -> Table:
    table = Table(title="tokens per round on held-out answers")
    for name in ("", "answers", *domains[0].results, "change"):
        table.add_column(name, justify="right" if name else "left")
    for domain in domains:
        results = domain.results
        change = results["new"] / results["old"] - 1
        figures = [f"{value:.3f}" for value in results.values()]
        table.add_row(domain.name, str(len(domain.examples)), *figures, f"{change:+.1%}")
    return table
