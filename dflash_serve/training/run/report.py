"""What a run leaves behind to look at: log.jsonl and plot.png, both refreshed as it goes."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dflash_serve.atomic_files import WriteError, append_text
from dflash_serve.measure.prompts import json_lines
from dflash_serve.training.run.curves import draw
from dflash_serve.training.run.loop import Listener, MeasureReport
from dflash_serve.training.run.trainer import StepReport

_REDRAW_SECONDS = 60.0  # a picture takes about a second, and more as the log grows


class RunLog(Listener):
    """Appends one JSON object per step and per measurement, and draws them.

    Owner of its file. ``resumed_at`` is the step that a resumed run begins with, None for a new
    run, which replaces an old log.

    Raises:
        WriteError: the disk refuses.
    """

    def __init__(self, directory: Path, resumed_at: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path, self._plot = directory / "log.jsonl", directory / "plot.png"
        try:
            self._file = self._path.open("w" if resumed_at is None else "a", encoding="utf-8")
        except OSError as error:
            raise WriteError(self._path, error) from error
        if resumed_at is not None:
            # A killed run may have left half a line, which this ends.
            self._file.write("\n" if _torn(self._path) else "")
            self.note({"resumed": resumed_at})
        self._drawn = time.monotonic()

    def on_step(self, report: StepReport) -> None:
        self.note(asdict(report) | {"accuracy": [round(value, 4) for value in report.accuracy]})

    def on_measure(self, report: MeasureReport) -> None:
        row: dict[str, Any] = {
            "step": report.step,
            "progress": round(report.progress, 6),
            "tokens_per_round": report.value,
            "tokens_per_round_pooled": report.pooled,
            "best": report.best,
        }
        if report.reported is not None:
            interval = report.reported.interval
            row["reported"] = {
                "tokens_per_round": report.reported.value,
                "tokens_per_round_pooled": report.reported.pooled,
                "tokens_per_round_interval": interval and asdict(interval),
            }
        self.note(row)
        if time.monotonic() - self._drawn > _REDRAW_SECONDS:
            self._draw()

    def note(self, value: dict[str, Any]) -> None:
        """Append anything else.

        Raises:
            WriteError: the disk refuses.
        """
        append_text(self._file, json.dumps(value) + "\n")

    def close(self) -> None:
        self._file.close()
        self._draw()

    def _draw(self) -> None:
        # A picture is no reason to end a run: whatever ails the disk, the log will tell.
        with suppress(OSError):
            draw(read_log(self._path), self._plot)
        self._drawn = time.monotonic()


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a log, oldest first; a line that a kill has cut short is passed over."""
    if path.exists():
        yield from (raw.value for raw in json_lines(path) if raw.fault is None)


def _torn(path: Path) -> bool:
    content = path.read_bytes()[-1:]
    return content not in (b"", b"\n")
