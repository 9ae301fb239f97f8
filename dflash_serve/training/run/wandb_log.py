"""A run on Weights & Biases, if that is installed. The local log does not depend on it."""

import importlib
import json
import uuid
from pathlib import Path
from typing import Any

from dflash_serve.measure.errors import DataError
from dflash_serve.training.run.loop import Listener, MeasureReport
from dflash_serve.training.run.trainer import StepReport


class WandbLog(Listener):
    """Sends curves to a run of theirs."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def on_step(self, report: StepReport) -> None:
        slots = {f"accuracy/slot {k}": a for k, a in enumerate(report.accuracy, start=1)}
        self._run.log(
            {
                "loss": report.loss,
                "learning rate": report.rate,
                "gradient norm": report.norm,
                "expected tokens per round": report.expected,
                **slots,
            },
            step=report.step,
        )

    def on_measure(self, report: MeasureReport) -> None:
        values = {"tokens per round": report.value}
        if report.pooled is not None:
            values["tokens per round, pooled"] = report.pooled
        if report.reported is not None:
            values["tokens per round, reported"] = report.reported.value
        self._run.log(values, step=report.step)

    def close(self) -> None:
        self._run.finish()


def open_wandb(project: str, directory: Path, config: dict[str, Any], *, resumed: bool) -> WandbLog:
    """A new run, or for a resumed one that which ``directory`` was logged to before.

    Raises:
        DataError: the package is not installed.
    """
    try:
        wandb: Any = importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise DataError("--wandb needs a package that is not here: pip install wandb") from error
    path = directory / "wandb.json"
    if not (resumed and path.exists()):
        path.write_text(json.dumps({"id": uuid.uuid4().hex[:12]}), encoding="utf-8")
    name = json.loads(path.read_text(encoding="utf-8"))["id"]
    return WandbLog(
        wandb.init(
            project=project, name=directory.name, id=name, resume="allow", config=config,
            dir=str(directory),
        )
    )  # fmt: skip
