"""A run in the terminal: a live view, or now and then a line where there is no terminal.

Neither writes files.
"""

from collections import deque
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dflash_serve.measure.progress import progress_bar
from dflash_serve.training.run.loop import Listener, MeasureReport
from dflash_serve.training.run.trainer import StepReport

_BARS = " ▁▂▃▄▅▆▇█"
_WINDOW = 20  # steps that the shown pace is the mean of
_LINE_SECONDS = 30.0


class _View(Listener):
    """What both views know: the last step, the last measurement, the best, the pace."""

    def __init__(self, value_name: str) -> None:
        self.value_name = value_name
        self.last: StepReport | None = None
        self.measured: MeasureReport | None = None
        self.best: MeasureReport | None = None
        self._times: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    def on_step(self, report: StepReport) -> None:
        self.last = report
        self._times.append((report.seconds, report.tokens))

    def on_measure(self, report: MeasureReport) -> None:
        self.measured = report
        if report.best:
            self.best = report
        self._times.clear()  # measuring is no training

    @property
    def pace(self) -> float:
        """Trained tokens per second over the last steps; 0 before two of them."""
        if len(self._times) < 2:
            return 0.0
        gone = self._times[-1][0] - self._times[0][0]
        return sum(tokens for _, tokens in list(self._times)[:-1]) / gone if gone > 0 else 0.0


def bars(accuracy: tuple[float, ...]) -> str:
    """One block per slot, as high as its accuracy."""
    return "".join(_BARS[round(share * (len(_BARS) - 1))] for share in accuracy)


def view_of(console: Console, value_name: str, begun: float) -> Listener:
    """Live in a terminal; otherwise a line now and then."""
    if console.is_terminal:
        return LiveView(console, value_name, begun)
    return PlainView(console.print, value_name)


class LiveView(_View):
    """Repaints a few lines in place, from when it is made until it is closed."""

    def __init__(self, console: Console, value_name: str, begun: float = 0.0) -> None:
        super().__init__(value_name)
        self._bar = progress_bar(console)
        self._task = self._bar.add_task("training", total=1.0)
        self._bar.update(self._task, completed=begun)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)
        self._live.start()

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        step = self.last
        if step is None:
            return self._bar
        measured = self.measured.progress if self.measured else 0.0
        self._bar.update(self._task, completed=max(step.progress, measured))
        table = Table.grid(padding=(0, 2))
        table.add_row("step", f"{step.step}", "loss", f"{step.loss:.4f}")
        table.add_row("rate", f"{step.rate:.2e}", "gradient", f"{step.norm:.3f}")
        table.add_row("tokens/s", f"{self.pace:,.0f}", "memory", f"{step.memory / 1e9:.2f} GB")
        table.add_row(self.value_name, self._measured(), "in training", f"{step.expected:.2f}")
        slots = Text.assemble(
            f"accuracy by slot  {step.accuracy[0]:.2f} ",
            (bars(step.accuracy), "cyan"),
            f" {step.accuracy[-1]:.2f}",
        )
        return Group(self._bar, table, slots)

    def _measured(self) -> str:
        if self.measured is None:
            return "not yet measured"
        text = value_text(self.measured)
        if self.best is None or self.best is self.measured:
            return text
        return f"{text} (best {self.best.value:.3f} at {self.best.step})"


class PlainView(_View):
    """Prints a line per measurement and one every half a minute."""

    def __init__(self, write: Callable[[str], None], value_name: str) -> None:
        super().__init__(value_name)
        self._write = write
        self._said: float | None = None

    def on_step(self, report: StepReport) -> None:
        super().on_step(report)
        if self._said is None or report.seconds - self._said >= _LINE_SECONDS:
            self._said = report.seconds
            self._write(
                f"{report.progress:4.0%}  step {report.step}  loss {report.loss:.4f}  "
                f"rate {report.rate:.2e}  slots {bars(report.accuracy)}  "
                f"{self.pace:,.0f} tokens/s"
            )

    def on_measure(self, report: MeasureReport) -> None:
        super().on_measure(report)
        mark = " (best)" if report.best else ""
        self._write(f"step {report.step}: {value_text(report)} {self.value_name}{mark}")


def value_text(report: MeasureReport) -> str:
    """The value, and the pooled one behind it."""
    pooled = "" if report.pooled is None else f" (pooled {report.pooled:.3f})"
    return f"{report.value:.3f}{pooled}"
