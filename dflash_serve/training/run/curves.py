"""The course of a run in bounded memory, and its picture. Knows no files but the one it draws."""

from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path

from matplotlib.figure import Figure

from dflash_serve.measure.plots import save_figure

_POINTS = 1024  # per curve: beyond it neighbours are merged

Point = tuple[float, ...]


@dataclass(slots=True)
class Curve:
    """Points (step, values...), thinned by averaging so that memory does not grow with the run."""

    points: list[Point] = field(default_factory=list)
    _stride: int = 1
    _waiting: list[Point] = field(default_factory=list)

    def add(self, point: Point) -> None:
        self._waiting.append(point)
        if len(self._waiting) == self._stride:
            self.points.append(_mean(self._waiting))
            self._waiting.clear()
        if len(self.points) > _POINTS:
            halves = zip(self.points[::2], self.points[1::2], strict=False)
            self.points = [_mean([a, b]) for a, b in halves]
            self._stride *= 2

    def cut(self, step: float) -> None:
        """Forget everything from ``step`` on."""
        self.points = [point for point in self.points if point[0] < step]
        self._waiting = [point for point in self._waiting if point[0] < step]

    @property
    def steps(self) -> list[float]:
        return [point[0] for point in self.points]

    def values(self, index: int = 0) -> list[float]:
        return [point[1 + index] for point in self.points]


def _mean(points: list[Point]) -> Point:
    return tuple(sum(column) / len(points) for column in zip(*points, strict=True))


@dataclass(slots=True)
class Curves:
    """Everything that plot.png shows. ``steps`` holds loss, rate, expected and one per slot."""

    steps: Curve = field(default_factory=Curve)
    measured: Curve = field(default_factory=Curve)

    def add_step(self, step: int, loss: float, rate: float, rest: tuple[float, ...]) -> None:
        """``rest`` is the expected tokens per round, then the accuracy of each slot."""
        self.steps.add((float(step), loss, rate, *rest))

    def add_measured(self, step: int, tokens_per_round: float, pooled: float | None) -> None:
        self.measured.add((float(step), tokens_per_round, nan if pooled is None else pooled))

    def cut(self, step: int) -> None:
        """Forget what a resumed run is about to repeat: steps from ``step``, later measurements."""
        self.steps.cut(step)
        self.measured.cut(step + 1)


def draw(curves: Curves, path: Path) -> None:
    """Loss, accuracy by slot, tokens per round and learning rate; the file is replaced whole."""
    if not curves.steps.points:
        return
    figure = Figure(figsize=(11, 7))  # a layout that fits itself draws twice
    margins = {"left": 0.06, "right": 0.98, "bottom": 0.08, "top": 0.95, "hspace": 0.13}
    loss, accuracy, rounds, rate = figure.subplots(2, 2, sharex=True, gridspec_kw=margins).flatten()
    course, steps = curves.steps, curves.steps.steps
    loss.plot(steps, _smooth(course.values(0)))
    loss.set(title="loss", yscale="log")
    slots = len(course.points[0]) - 4
    for slot in range(slots):
        curve = _smooth(course.values(3 + slot))
        accuracy.plot(steps, curve, color=(slot / slots, 0.3, 1 - slot / slots))
    accuracy.set(title=f"accuracy by slot, 1 (blue) to {slots} (red)", ylim=(0, 1))
    rounds.plot(steps, _smooth(course.values(2)), label="training")
    held, pooled = curves.measured.values(), curves.measured.values(1)
    rounds.plot(curves.measured.steps, held, "o-", label="held out")
    if not all(map(isnan, pooled)):
        rounds.plot(curves.measured.steps, pooled, "x:", label="held out, pooled")
    rounds.set(title="tokens per round", xlabel="step")
    rounds.legend()
    rate.plot(steps, course.values(1))
    rate.set(title="learning rate", xlabel="step")
    save_figure(figure, path)


def _smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential mean without a cold start."""
    smooth, weight, curve = 0.0, 0.0, []
    for value in values:
        smooth = keep * smooth + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        curve.append(smooth / weight)
    return curve
