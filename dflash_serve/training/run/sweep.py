"""Runs of a table, one after another: pruned early, ranked in the end, taken up where stopped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from matplotlib.figure import Figure
from pydantic import ValidationError
from rich.console import Console

from dflash_serve.atomic_files import replace_json
from dflash_serve.measure import tables
from dflash_serve.measure.errors import DataError
from dflash_serve.measure.intervals import LEVEL
from dflash_serve.measure.plots import save_figure
from dflash_serve.training.data.origin import describe_changes
from dflash_serve.training.run.distributed import Processes
from dflash_serve.training.run.guard import Diverged
from dflash_serve.training.run.interrupt import Interrupt
from dflash_serve.training.run.loop import Listener, MeasureReport
from dflash_serve.training.run.report import read_log
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.run.table import Entry, Point, Prune, Result, Table, ranked, read_table
from dflash_serve.training.run.train import Watching, train
from dflash_serve.training.settings import fault

_OUTCOME = "outcome.json"
Plan = list[tuple[Entry, RunSettings]]


class _Pruner(Listener):
    """Wants a hopeless run to end."""

    def __init__(
        self, rule: Prune, course: Sequence[Point], others: Sequence[Sequence[Point]]
    ) -> None:
        self._rule, self._course, self._others = rule, list(course), others
        self.pruned = False

    def on_measure(self, report: MeasureReport) -> None:
        self._course.append((report.progress, report.value))
        if report.progress < 1.0:
            self.pruned = self._rule.hopeless(self._course, self._others)


def run_table(path: Path, out: Path) -> int:
    """Run what is left of the table; returns the exit code.

    Raises:
        DataError: the table is wrong, or a finished run was made with other settings.
    """
    if Processes.joined().size > 1:
        raise DataError("a sweep runs in one process: use mlx.launch for single runs")
    console, table = tables.console(soft_wrap=True), read_table(path)
    plan = _plan(table, out)
    results: list[Result] = []
    with Interrupt() as interrupt:
        for entry, settings in plan:
            result = _done(settings)
            if result is None:
                console.rule(entry.name)
                others = [result.course for result in results]
                result = _run(entry, settings, table.prune, others, (console, interrupt))
            if result is None:
                console.print("To go on: the same command.")
                return interrupt.exit_code
            results.append(result)
            _report(out, results)
    _show(console, results, table.entries)
    return 0


def _plan(table: Table, out: Path) -> Plan:
    """Settings of all runs: a mistake in the last is told before the first one begins."""
    plan = []
    for entry in table.entries:
        given = table.base | entry.own
        if "out" in given or "resume" in given:
            raise DataError("a sweep chooses out and resume itself")
        try:
            settings = RunSettings(**given, out=out / entry.name, resume=True)
        except ValidationError as error:
            raise DataError(f"{entry.name}: {fault(error)}") from error
        plan.append((entry, settings))
    return plan


def _done(settings: RunSettings) -> Result | None:
    """The result of a run that has ended before."""
    path = settings.out / _OUTCOME
    if not path.exists():
        return None
    result = Result.model_validate_json(path.read_text(encoding="utf-8"))
    changed = describe_changes(result.settings, settings.model_dump(mode="json"))
    if changed:
        raise DataError(f"{settings.out} was made with {changed}: choose another name or folder")
    return result


def _run(
    entry: Entry,
    settings: RunSettings,
    rule: Prune,
    others: Sequence[Sequence[Point]],
    around: tuple[Console, Interrupt],
) -> Result | None:
    """One run to its end; None where it was interrupted."""
    console, interrupt = around
    pruner = _Pruner(rule, _course(settings.out), others)
    watching = Watching(console, lambda: interrupt.requested or pruner.pruned, pruner)
    state, message = "finished", ""
    try:
        train(settings, watching)
    except Diverged as error:
        state, message = "failed", str(error)
        console.print(f"[red]failed:[/] {message}")
    mx.clear_cache()
    if interrupt.requested:
        return None
    if pruner.pruned:
        state = "pruned"
        console.print("pruned: too far behind the best by now")
    result = _result(entry.name, state, settings, message)
    replace_json(settings.out / _OUTCOME, result.model_dump())
    return result


def _result(name: str, state: str, settings: RunSettings, message: str) -> Result:
    rows = list(read_log(settings.out / "log.jsonl"))
    measured = {row["step"]: row for row in rows if "tokens_per_round" in row}
    best: dict[str, Any] = max(
        measured.values(), key=lambda row: row["tokens_per_round"], default={}
    )
    reported = best.get("reported", {})
    steps = [row for row in rows if "loss" in row]
    return Result(
        name=name,
        state=state,
        settings=settings.model_dump(mode="json"),
        best=best.get("tokens_per_round", 0.0),
        best_pooled=best.get("tokens_per_round_pooled"),
        reported=reported.get("tokens_per_round", 0.0),
        reported_pooled=reported.get("tokens_per_round_pooled"),
        reported_interval=reported.get("tokens_per_round_interval"),
        best_step=best.get("step", 0),
        steps=steps[-1]["step"] + 1 if steps else 0,
        seconds=steps[-1]["seconds"] if steps else 0.0,
        course=_course(settings.out),
        message=message,
    )


def _course(folder: Path) -> tuple[Point, ...]:
    """Measurements of a run's log by step; one that was repeated counts once."""
    rows = [row for row in read_log(folder / "log.jsonl") if "tokens_per_round" in row]
    by_step = {row["step"]: (row["progress"], row["tokens_per_round"]) for row in rows}
    return tuple(by_step[step] for step in sorted(by_step))


def _report(out: Path, results: Sequence[Result]) -> None:
    """sweep.json and sweep.png: all runs so far, the best first."""
    replace_json(out / "sweep.json", [result.model_dump() for result in ranked(results)])
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for result in ranked(results):
        if result.course:
            axes.plot(*zip(*result.course, strict=True), "o-", label=result.name)
    axes.set(xlabel="share of the run", ylabel="tokens per round", title="sweep")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    save_figure(figure, out / "sweep.png")


def _figures(result: Result) -> list[object]:
    means = (result.best, result.best_pooled, result.reported, result.reported_pooled)
    best, pooled, reported, its_pooled = (
        None if value is None else f"{value:.3f}" for value in means
    )
    return [best, pooled, reported, result.reported_interval, its_pooled]


def _show(console: Console, results: Sequence[Result], entries: Sequence[Entry]) -> None:
    own = {entry.name: entry.own for entry in entries}
    columns = list(dict.fromkeys(name for entry in entries for name in entry.own))
    figures = ("best", "pooled", "reported", f"{LEVEL:.0%}", "pooled")
    headings = ("rank", "run", *columns, *figures, "at step", "steps", "minutes", "state")
    rows = [
        (
            rank,
            result.name,
            *(str(own[result.name].get(name, "")) for name in columns),
            *_figures(result),
            result.best_step,
            result.steps,
            f"{result.seconds / 60:.1f}",
            result.state,
        )
        for rank, result in enumerate(ranked(results), start=1)
    ]
    caption = (
        "ranked by best: mean over the responses that choose each run's drafter; reported: the "
        "same drafter on others, which nothing was chosen by; pooled: all tokens / all rounds"
    )
    console.print(tables.table("tokens per round, the best first", headings, rows, caption=caption))
