"""An evaluation from its settings to its files: ask, count, write results.json and plot.png."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console

from dflash_serve.atomic_files import replace_json
from dflash_serve.measure.errors import DataError
from dflash_serve.measure.figures import mean_of
from dflash_serve.measure.plots import save_figure
from dflash_serve.measure.progress import progress_bar
from dflash_serve.measure.results import Result, document, uncommitted
from dflash_serve.training.evaluate import sets, view
from dflash_serve.training.evaluate.figures import Figures, by_dataset, figures
from dflash_serve.training.evaluate.local import LocalRun
from dflash_serve.training.evaluate.prompts import Conversation, read_prompt_file, select
from dflash_serve.training.evaluate.published import published_tau
from dflash_serve.training.evaluate.records import Failure, Response, ResponseFile, Take
from dflash_serve.training.evaluate.remote import RemoteRun
from dflash_serve.training.evaluate.settings import EvaluateSettings

_LISTED = 5  # failures shown in the terminal; the results hold all

Asked = Mapping[str, Sequence[Conversation]]
"""Conversations by data set."""


def evaluate(settings: EvaluateSettings, console: Console) -> int:
    """Ask, count, and write results; the exit code: 1 if exact decoding was not exact.

    Raises:
        DataError, AdapterError: something given cannot be used, or nothing was answered.
    """
    asked = _conversations(settings)
    with closing(RemoteRun(settings) if settings.url else LocalRun(settings)) as run:
        responses, failures = _responses(run, asked, settings, console)
        notes = run.notes
    if not responses:
        reason = failures[0].error if failures else "no conversation was asked"
        raise DataError(f"nothing was answered: {reason}")
    found = {
        name: figures(
            one,
            run.block,
            published_tau(run.name, name, settings.temperature, settings.thinking),
        )
        for name, one in by_dataset(responses).items()
    }
    total = figures(responses, run.block)
    wrong = _wrong(total, exact=run.exact)
    measured = _measured(found, total, failures) | notes
    made = document(Result("eval", run.settings | _asked(settings, asked), measured, wrong))
    replace_json(settings.out / "results.json", made)
    save_figure(view.plot(found, total), settings.out / "plot.png")
    _show(console, (found, total), failures, wrong)
    if warning := uncommitted(made):
        console.print(warning)
    console.print(f"results in {settings.out}: results.json, responses.jsonl, plot.png")
    return 1 if wrong else 0


def _responses(
    run: LocalRun | RemoteRun, asked: Asked, settings: EvaluateSettings, console: Console
) -> tuple[list[Response], list[Failure]]:
    """Every answer that the folder holds in the end, and what went wrong."""
    every = [one for conversations in asked.values() for one in conversations]
    failures: list[Failure] = []
    with closing(ResponseFile(settings.out / "responses.jsonl", run.fixed)) as file:
        with _progress(console, every, file, failures) as take:
            for conversations in asked.values():
                run.answer(conversations, file, take)
        return [response for one in every for response in file.of(one)], failures


def _conversations(settings: EvaluateSettings) -> dict[str, list[Conversation]]:
    """Conversations per data set, shuffled and cut to the number asked for."""
    read: dict[str, list[Conversation]] = {}
    counts: dict[str, int | None] = {}
    for name in _names(settings):
        if settings.data_dir is None:
            read[name] = sets.from_hub(name)
        else:
            read[name] = sets.from_directory(settings.data_dir, name)
        counts[name] = sets.DATASETS[name].samples
    if settings.prompts is not None:
        for name, conversations in read_prompt_file(settings.prompts).items():
            if name in read:
                raise DataError(f"{settings.prompts} has a kind {name!r}, as a data set is called")
            read[name], counts[name] = conversations, None
    return {
        name: select(conversations, settings.samples or counts[name], settings.shuffle)
        for name, conversations in read.items()
    }


def _names(settings: EvaluateSettings) -> list[str]:
    if settings.datasets:
        return sets.known([part.strip() for part in settings.datasets.split(",")])
    if settings.data_dir is not None:
        found = sets.found_in(settings.data_dir)
        if not found:
            raise DataError(f"{settings.data_dir} holds none of {', '.join(sets.DATASETS)}")
        return found
    return [] if settings.prompts else list(sets.DATASETS)


@contextmanager
def _progress(
    console: Console, asked: Sequence[Conversation], file: ResponseFile, failures: list[Failure]
) -> Iterator[Take]:
    """Keeps every answer as it comes, and shows how far it is."""
    with progress_bar(console) as progress:
        turns = sum(len(one.turns) for one in asked)
        held = sum(len(file.of(one)) for one in asked)
        task = progress.add_task("answers", total=turns, completed=held)

        def take(made: Response | Failure) -> None:
            if isinstance(made, Failure):
                failures.append(made)
            else:
                file.append(made)
            now = sum(len(file.of(one)) for one in asked)
            progress.update(task, completed=now, description=f"answers, {made.dataset}")

        yield take


def _wrong(total: Figures, *, exact: bool) -> list[str]:
    """Why the command must not exit with 0."""
    if exact and total.differing:
        return [f"{total.differing} of {total.compared} responses differ from plain decoding"]
    return []


def _asked(settings: EvaluateSettings, asked: Asked) -> dict[str, Any]:
    return {
        "shuffle": settings.shuffle,
        "samples": {name: len(conversations) for name, conversations in asked.items()},
        "prompts": settings.prompts.name if settings.prompts else None,
        "data_dir": settings.data_dir.name if settings.data_dir else None,
    }


def _measured(
    found: Mapping[str, Figures], total: Figures, failures: Sequence[Failure]
) -> dict[str, Any]:
    each = list(found.values())
    rounds = [one.drafting for one in each]
    return {
        "datasets": {name: asdict(one) for name, one in found.items()},
        "total": asdict(total),
        "mean_of_datasets": {
            "tokens_per_round": mean_of(one.tokens_per_round for one in rounds),
            "tokens_per_round_pooled": mean_of(one.tokens_per_round_pooled for one in rounds),
            "speedup_end_to_end": mean_of(one.speedup_end_to_end for one in each),
            "speedup_decode": mean_of(one.speedup_decode for one in each),
        },
        "failed": [asdict(one) for one in failures],
    }


def _show(
    console: Console,
    found: tuple[Mapping[str, Figures], Figures],
    failures: Sequence[Failure],
    wrong: Sequence[str],
) -> None:
    console.print(view.drafting_table(*found))
    console.print(view.speed_table(*found))
    slots = view.slot_table(found[1])
    if slots is not None:
        console.print(slots)
    if failures:
        console.print(f"{len(failures)} turns without an answer:")
        for one in failures[:_LISTED]:
            console.print(f"  {one.dataset} row {one.row} turn {one.turn + 1}: {one.error}")
    for line in wrong:
        console.print(line)
