"""What a run leaves behind to look at: log.jsonl and plot.png, both refreshed as it goes."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dflash_serve.training.run.curves import Curves, draw
from dflash_serve.training.run.loop import MeasureReport
from dflash_serve.training.run.trainer import StepReport

_REDRAW_SECONDS = 60.0  # a picture takes about a second
_REDRAW_MEASURED_SECONDS = 10.0


class RunLog:
    """A `Listener` that appends one JSON object per step and per measurement.

    Owner of its file and of the curves. ``resumed_at`` is the step that a resumed run begins with,
    None for a new run, which replaces an old log.
    """

    def __init__(self, directory: Path, resumed_at: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._plot = directory / "plot.png"
        self._curves, path = Curves(), directory / "log.jsonl"
        if resumed_at is not None:
            self._read(path, resumed_at)
        self._file = path.open("w" if resumed_at is None else "a", encoding="utf-8")
        if resumed_at is not None:
            # A killed run may have left half a line, which this ends.
            self._file.write("\n" if _torn(path) else "")
            self.note({"resumed": resumed_at})
        self._drawn = time.monotonic()

    def on_step(self, report: StepReport) -> None:
        self._add_step(report.step, report.loss, report.rate, report.expected, report.accuracy)
        self.note(
            {
                "step": report.step,
                "progress": round(report.progress, 6),
                "seconds": round(report.seconds, 3),
                "loss": report.loss,
                "rate": report.rate,
                "norm": report.norm,
                "expected": report.expected,
                "accuracy": [round(value, 4) for value in report.accuracy],
                "tokens": report.tokens,
                "memory": report.memory,
            }
        )
        self._draw_after(_REDRAW_SECONDS)

    def on_measure(self, report: MeasureReport) -> None:
        self._curves.add_measured(report.step, report.value, report.pooled)
        row: dict[str, Any] = {
            "step": report.step,
            "progress": round(report.progress, 6),
            "tokens_per_round": report.value,
            "tokens_per_round_pooled": report.pooled,
            "best": report.best,
        }
        if report.reported is not None:
            row["reported"] = {
                "tokens_per_round": report.reported.value,
                "tokens_per_round_pooled": report.reported.pooled,
            }
        self.note(row)
        self._draw_after(_REDRAW_MEASURED_SECONDS)

    def note(self, value: dict[str, Any]) -> None:
        """Append anything else."""
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        self._draw()

    def _draw_after(self, seconds: float) -> None:
        if time.monotonic() - self._drawn > seconds:
            self._draw()

    def _draw(self) -> None:
        # A picture is no reason to end a run: whatever ails the disk, the log will tell.
        with suppress(OSError):
            draw(self._curves, self._plot)
        self._drawn = time.monotonic()

    def _read(self, path: Path, resumed_at: int) -> None:
        for row in read_log(path):
            if "resumed" in row:
                self._curves.cut(row["resumed"])
            elif "loss" in row:
                self._add_step(
                    row["step"], row["loss"], row["rate"], row["expected"], tuple(row["accuracy"])
                )
            elif "tokens_per_round" in row:
                pooled = row.get("tokens_per_round_pooled")
                self._curves.add_measured(row["step"], row["tokens_per_round"], pooled)
        self._curves.cut(resumed_at)

    def _add_step(
        self, step: int, loss: float, rate: float, expected: float, accuracy: tuple[float, ...]
    ) -> None:
        self._curves.add_step(step, loss, rate, (expected, *accuracy))


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a log, oldest first; a line that a kill has cut short is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            yield row


def _torn(path: Path) -> bool:
    content = path.read_bytes()[-1:]
    return content not in (b"", b"\n")
