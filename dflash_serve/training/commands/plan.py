"""dflash-train plan: what training a drafter takes, from the target's config.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dflash_serve.training.commands.options import command
from dflash_serve.training.run.settings import RunSettings

if TYPE_CHECKING:
    from rich.table import Table

    from dflash_serve.training.run.budget import Answers
    from dflash_serve.training.run.forecast import Forecast

DOES_NOT_FIT = 1
"""Exit code where memory or disk is missing."""
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


class PlanSettings(RunSettings):
    """Options of the command: those of `run`, and how much there is to learn from."""

    data: Path | None = Field(  # type: ignore[assignment]  # a plan needs none
        None, description="Answer file, if it is there: its own numbers are taken."
    )
    out: Path = Field(Path("drafter"), description="Folder of the run, whose disk is looked at.")
    answers: int = Field(
        5000, ge=1, description="Answers of the file; without --heldout some are held back."
    )
    length: int = Field(512, ge=2, description="Mean tokens of a prompt with its answer.")
    answer_length: int | None = Field(
        None, ge=1, description="Mean tokens of an answer; default: three quarters of --length."
    )
    answer_batch: int = Field(16, ge=1, description="Chats answered together: --batch of `data`.")
    measure: bool = Field(
        True, description="Measure this machine for some seconds; without, no hours are told."
    )
    json_: bool = Field(False, alias="json", description="Print JSON instead of tables.")


@command(PlanSettings)
def plan(settings: PlanSettings) -> int:
    """Say what a run takes in memory, disk and hours, and whether this machine has it (or exit 1).

    Of the target only config.json is read.
    """
    import json

    import typer
    from rich.console import Console

    from dflash_serve.training.run.forecast import as_json

    made = _forecast(settings)
    if settings.json_:
        typer.echo(json.dumps(as_json(made), indent=2))
    else:
        console = Console()
        for table in _tables(made):
            console.print(table)
        for line in made.advice or ["It fits."]:
            console.print(line, soft_wrap=True, highlight=False)
    return 0 if made.fits else DOES_NOT_FIT


def _forecast(settings: PlanSettings) -> Forecast:
    from dflash_serve.adapters.checkpoint import read_config, resolve
    from dflash_serve.adapters.planned import planned_weights
    from dflash_serve.adapters.target_config import text_config
    from dflash_serve.compose.directories import target_directory
    from dflash_serve.training.drafter.initialise import drafter_config
    from dflash_serve.training.run.forecast import forecast
    from dflash_serve.training.run.job import drafter_shape
    from dflash_serve.training.run.speed import measure_speed

    directory = target_directory(settings.target, config_only=True)
    config = read_config(directory)
    target = planned_weights(config, f"target {settings.target}")
    if settings.start is not None:
        drafter = read_config(resolve(settings.start, ("config.json",)))
    else:
        drafter = drafter_config(text_config(config), drafter_shape(settings, 0))
    if settings.data is not None:
        answers = _answers_of(settings, settings.data, directory, drafter)
    else:
        answers = _answers_told(settings)
    batch = settings.answer_batch
    speed = measure_speed(settings, target, drafter, batch) if settings.measure else None
    return forecast(settings, target, drafter, answers, batch, speed)


def _answers_of(
    settings: PlanSettings, path: Path, directory: Path, drafter: dict[str, Any]
) -> Answers:
    """What a run uses of a file."""
    from dflash_serve.adapters.dflash_config import parse_dflash_config
    from dflash_serve.training.data.answers import read_answers
    from dflash_serve.training.data.split import answer_marker, conversation_names
    from dflash_serve.training.run.budget import Answers
    from dflash_serve.training.run.run_data import hold_back, usable_answers

    context = parse_dflash_config(drafter).max_position_embeddings
    found = usable_answers(settings, path, read_answers(path), context, lambda _: None)
    names = conversation_names(found, answer_marker(directory))
    named = list(zip(found, names, strict=True))
    held = [] if settings.heldout else hold_back(path, named)[1]
    lengths = [len(answer.tokens) for answer in found]
    told = sum(answer.loss_tokens for answer in found)
    return Answers(len(found), sum(lengths), told, max(lengths), len(held))


def _answers_told(settings: PlanSettings) -> Answers:
    from dflash_serve.measure.errors import DataError
    from dflash_serve.training.run.budget import Answers
    from dflash_serve.training.run.run_data import held_back

    each = settings.answer_length or max(1, 3 * settings.length // 4)
    if each >= settings.length:
        raise DataError(
            f"--answer-length is {each}, but must be below --length, which is {settings.length}"
        )
    longest = settings.max_length or 2 * settings.length
    count = settings.answers
    held = 0 if settings.heldout else held_back(f"--answers {count}", count)
    return Answers(count, count * settings.length, count * each, longest, held)


def _tables(made: Forecast) -> list[Table]:
    from rich.table import Table

    budget, told = made.budget, []
    config = made.drafter
    facts = Table(title="What is trained", title_justify="left", show_header=False)
    facts.add_row(
        "drafter", f"{config['num_hidden_layers']} layers, {budget.parameters / 1e6:.1f} M weights"
    )
    facts.add_row(
        "answers",
        f"{made.answers.sequences:,} of {made.answers.tokens:,} tokens, the longest of "
        f"{made.answers.longest:,}",
    )
    facts.add_row("held back of them", f"{made.answers.held_back:,}")
    facts.add_row("length", made.length)
    facts.add_row("all features, wherever", _bytes(budget.feature_bytes))
    told.append(facts)
    for title, names, parts, there in (
        ("Memory at the worst moment of a step", _MEMORY, budget.memory, made.available_memory),
        ("Disk", _DISK, budget.disk, made.free_disk),
    ):
        table = Table(title=title, title_justify="left", show_header=False, show_footer=False)
        for name, words in names.items():
            if getattr(parts, name):
                table.add_row(words, _bytes(getattr(parts, name)))
        table.add_section()
        table.add_row("together", _bytes(parts.total))
        table.add_row("free here", _bytes(there))
        told.append(table)
    return told if made.hours is None else [*told, _hours(made)]


def _hours(made: Forecast) -> Table:
    from rich.table import Table

    hours: Any = made.hours
    title = "Time, an estimate: products of the target's form and steps of a small drafter, timed"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_row("answers, without a drafter", _time(hours.answers))
    table.add_row("the target's features", _time(hours.features))
    table.add_row(f"{hours.steps} steps of {hours.step:.3g} s", _time(hours.training))
    table.add_section()
    table.add_row("together, without measuring", _time(hours.total))
    return table


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
