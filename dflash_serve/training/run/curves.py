"""The picture of a run's log. Knows no files but the one it draws."""

from collections.abc import Iterable
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dflash_serve.measure.plots import save_figure

_POINTS = 1024  # drawn of each curve: where there are more, means of neighbours are


def draw(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Loss, accuracy by slot, tokens per round and learning rate; the file is replaced whole.

    What a resumed run repeats counts once.
    """
    steps: dict[int, list[float]] = {}
    measured: dict[int, list[float]] = {}
    for row in rows:
        if "resumed" in row:
            steps = {step: steps[step] for step in steps if step < row["resumed"]}
            measured = {step: measured[step] for step in measured if step <= row["resumed"]}
        elif "loss" in row:
            told = (row[name] for name in ("step", "loss", "rate", "expected"))
            steps[row["step"]] = [*told, *row["accuracy"]]
        elif "tokens_per_round" in row:
            pooled = row.get("tokens_per_round_pooled")
            value = row["tokens_per_round"]
            measured[row["step"]] = [row["step"], value, nan if pooled is None else pooled]
    if steps:
        held = np.array(list(measured.values()) or [[nan] * 3])
        save_figure(_figure(_thinned(np.array(list(steps.values()))), held), path)


def _figure(course: np.ndarray, held: np.ndarray) -> Figure:
    """``course``: step, loss, rate, expected, accuracies; ``held``: step, value, pooled value."""
    figure = Figure(figsize=(11, 7))  # a layout that fits itself draws twice
    margins = {"left": 0.06, "right": 0.98, "bottom": 0.08, "top": 0.95, "hspace": 0.13}
    loss, accuracy, rounds, rate = figure.subplots(2, 2, sharex=True, gridspec_kw=margins).flatten()
    steps = course[:, 0]
    loss.plot(steps, _smooth(course[:, 1]))
    _title(loss, "loss")
    loss.set(yscale="log")
    slots = course.shape[1] - 4
    for slot in range(slots):
        curve = _smooth(course[:, 4 + slot])
        accuracy.plot(steps, curve, color=(slot / slots, 0.3, 1 - slot / slots))
    _title(accuracy, f"accuracy by slot, 1 (blue) to {slots} (red)")
    accuracy.set(ylim=(0, 1))
    rounds.plot(steps, _smooth(course[:, 3]), label="training")
    rounds.plot(held[:, 0], held[:, 1], "o-", label="held out")
    if not np.isnan(held[:, 2]).all():
        rounds.plot(held[:, 0], held[:, 2], "x:", label="held out, pooled")
    _title(rounds, "tokens per round")
    rounds.set(xlabel="step")
    rounds.legend()
    rate.plot(steps, course[:, 2])
    _title(rate, "learning rate")
    rate.set(xlabel="step")
    return figure


def _title(axes: Axes, text: str) -> None:
    """Placed by hand: to look for a place lays all ticks out once more, half of the drawing."""
    axes.set_title(text, y=1.0)


def _thinned(rows: np.ndarray) -> np.ndarray:
    stride = -(-len(rows) // _POINTS)
    whole = len(rows) // stride * stride
    thinned: np.ndarray = rows[:whole].reshape(-1, stride, rows.shape[1]).mean(axis=1)
    return thinned


def _smooth(values: np.ndarray, keep: float = 0.95) -> list[float]:
    """Exponential mean without a cold start."""
    smooth, weight, curve = 0.0, 0.0, []
    for value in values:
        smooth = keep * smooth + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        curve.append(smooth / weight)
    return curve
