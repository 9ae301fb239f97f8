"""A target and answers on disk, tiny, and `dflash-train run` on them."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner, Result

from dflash_serve.adapters.checkpoint import fingerprint
from dflash_serve.training.cli import app
from dflash_serve.training.run.loop import Listener, MeasureReport
from dflash_serve.training.run.report import read_log
from dflash_serve.training.run.trainer import StepReport
from tests.tiny import TARGET, write_target

COMMAND = [sys.executable, "-c", "from dflash_serve.training.cli import main; main()"]


class Recorder(Listener):
    """Remembers what a run told."""

    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.measured: list[MeasureReport] = []

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_measure(self, report: MeasureReport) -> None:
        self.measured.append(report)


@dataclass(frozen=True)
class World:
    """A folder with ``target`` and ``answers.jsonl``; runs go to folders beside them."""

    root: Path

    @staticmethod
    def make(root: Path, base: dict[str, Any] = TARGET) -> "World":
        target = write_target(root / "target", base=base)
        write_answers(root / "answers.jsonl", fingerprint(target), seed=5)
        return World(root)

    def arguments(self, out: str, **options: Any) -> list[str]:
        """`run` with small sizes; a keyword replaces, adds or (None) drops an option.

        True is a flag.
        """
        given = {
            "target": self.root / "target",
            "data": self.root / "answers.jsonl",
            "heldout": self.root / "answers.jsonl",
            "out": self.root / out,
            "mask_token": 95,
            "layers": 1,
            "block_size": 4,
            "target_layers": "0,2",
            "batch": 2,
            "anchors": 4,
            "measure_every": 3,
        } | options
        words = ["run"]
        for name, value in given.items():
            if value is None:
                continue
            flag = "--" + name.replace("_", "-")
            words += [flag] if value is True else [flag, str(value)]
        return words

    def invoke(self, out: str, **options: Any) -> Result:
        return CliRunner().invoke(app, self.arguments(out, **options))

    def start(self, out: str, **options: Any) -> subprocess.Popen[str]:
        """The same in a process of its own, its output as text."""
        return subprocess.Popen(
            [*COMMAND, *self.arguments(out, **options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def log(self, out: str) -> list[dict[str, Any]]:
        return list(read_log(self.root / out / "log.jsonl"))

    def losses(self, out: str) -> dict[int, float]:
        """By step; where a step was repeated, the last."""
        return {row["step"]: row["loss"] for row in self.log(out) if "loss" in row}


def write_answers(path: Path, target: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = [{"target": target}]
    for row in range(6):
        prompt, answer = rng.integers(0, 90, 5), rng.integers(0, 90, 8 + 2 * row)
        rows.append({"row": row, "kind": "k", "prompt": prompt.tolist(), "answer": answer.tolist()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
