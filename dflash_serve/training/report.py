"""What a run leaves behind to look at: log.jsonl and plot.png."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dflash_serve.training.trainer import StepReport


class RunLog:
    """Appends one JSON object per step and per measurement; owner of its file and the curves."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._file = (directory / "log.jsonl").open("w", encoding="utf-8")
        self._steps: list[StepReport] = []
        self._measured: list[tuple[int, float]] = []

    def on_step(self, report: StepReport) -> None:
        self._steps.append(report)
        self._write(
            {
                "step": report.step,
                "seconds": round(report.seconds, 3),
                "loss": report.loss,
                "rate": report.rate,
                "expected": report.expected,
                "accuracy": [round(value, 4) for value in report.accuracy],
            }
        )

    def on_measure(self, step: int, tokens_per_round: float) -> None:
        self._measured.append((step, tokens_per_round))
        self._write({"step": step, "tokens_per_round": tokens_per_round})

    def close(self) -> None:
        self._file.close()
        if self._steps:
            self._figure().savefig(self._directory / "plot.png", dpi=110)

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()

    def _figure(self) -> Figure:
        """Loss, accuracy by slot and tokens per round over the steps."""
        figure = Figure(figsize=(11, 7), layout="constrained")
        loss, accuracy, rounds, rate = figure.subplots(2, 2, sharex=True).flatten()
        steps = [report.step for report in self._steps]
        loss.plot(steps, _smooth([report.loss for report in self._steps]))
        loss.set(title="loss", yscale="log")
        slots = len(self._steps[0].accuracy)
        for slot in range(slots):
            curve = _smooth([report.accuracy[slot] for report in self._steps])
            accuracy.plot(steps, curve, color=(slot / slots, 0.3, 1 - slot / slots))
        accuracy.set(title=f"accuracy by slot, 1 (blue) to {slots} (red)", ylim=(0, 1))
        rounds.plot(steps, _smooth([report.expected for report in self._steps]), label="training")
        rounds.plot(*zip(*self._measured, strict=True), "o-", label="held out")
        rounds.set(title="tokens per round", xlabel="step")
        rounds.legend()
        rate.plot(steps, [report.rate for report in self._steps])
        rate.set(title="learning rate", xlabel="step")
        return figure


def _smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential mean without a cold start."""
    smooth, weight, curve = 0.0, 0.0, []
    for value in values:
        smooth = keep * smooth + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        curve.append(smooth / weight)
    return curve
