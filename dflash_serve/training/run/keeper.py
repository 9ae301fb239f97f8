"""What a run keeps as it goes: its drafters on disk, and what the best one is worth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_serve.atomic_files import replace_json
from dflash_serve.training.drafter.layout import write_drafter
from dflash_serve.training.run.loop import Listener, MeasureReport
from dflash_serve.training.run.record import RunRecord, Worth
from dflash_serve.training.run.report import RunLog
from dflash_serve.training.run.run_data import RunData
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.run.trainer import Trainer


@dataclass(slots=True)
class Keeper(Listener):
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
