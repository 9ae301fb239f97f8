"""What a run shows: views, log, curves, and the wish to stop."""

import io
import json
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from dflash_serve.atomic_files import WriteError
from dflash_serve.training.run.curves import draw
from dflash_serve.training.run.interrupt import Interrupt
from dflash_serve.training.run.loop import MeasureReport
from dflash_serve.training.run.report import RunLog, read_log
from dflash_serve.training.run.trainer import StepReport
from dflash_serve.training.run.view import LiveView, PlainView, bars
from dflash_serve.training.run.wandb_log import open_wandb
from tests.training.disk import no_file_above

pytestmark = pytest.mark.usefixtures("rendered")


def step(number: int, seconds: float = 0.0) -> StepReport:
    return StepReport(
        number, number / 100, seconds, 2.5, 1e-3, (1.0, 0.5, 0.0), 2.25, 0.75, 64, 10**9
    )


def test_a_log_on_a_full_disk_names_the_file_and_holds_whole_lines(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.on_step(step(0))
    whole = (tmp_path / "log.jsonl").read_bytes()
    with no_file_above(len(whole) + 10):
        with pytest.raises(WriteError, match=r"log\.jsonl cannot be written: File too large"):
            log.on_step(step(1))
        log.close()  # draws nothing, and says no more
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [whole]


def test_bars_are_as_high_as_the_accuracy() -> None:
    assert bars((0.0, 0.5, 1.0)) == " ▄█"


def test_the_live_view_shows_the_last_step_and_the_best_measurement() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with closing(LiveView(console, "tokens per round")) as view:
        view.on_step(step(6, 1.0))
        view.on_measure(MeasureReport(7, 0.07, 3.25, True))
        view.on_step(step(7, 2.0))
        view.on_step(step(8, 4.0))
        view.on_measure(MeasureReport(9, 0.09, 3.0, False))
        view.on_step(step(9, 5.0))
        view.on_step(step(10, 7.0))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("10 %", "2.5000", "1.00e-03", "3.000 (best 3.250 at 7)", "█▄", "1.00 GB", "32"):
        assert part in text


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    lines: list[str] = []
    with closing(PlainView(lines.append, "tokens per round")) as view:
        for number in range(100):
            view.on_step(step(number, float(number)))
        view.on_measure(MeasureReport(100, 1.0, 3.25, True))
    assert len(lines) == 5
    assert "step 30  loss 2.5000" in lines[1]
    assert lines[-1] == "step 100: 3.250 tokens per round (best)"


def test_a_resumed_log_goes_on_and_is_read_past_a_torn_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for number in range(6):
        log.on_step(step(number))
    log.on_measure(MeasureReport(6, 0.06, 3.0, True))
    log.close()
    path = tmp_path / "log.jsonl"
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    again = RunLog(tmp_path, resumed_at=4)
    again.on_step(step(4))
    again.close()
    rows = list(read_log(path))
    assert [row.get("step") for row in rows] == [0, 1, 2, 3, 4, 5, 6, None, 4]
    assert rows[7] == {"resumed": 4}
    assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"
    fresh = RunLog(tmp_path)
    fresh.close()
    assert list(read_log(path)) == []


def test_a_log_longer_than_a_curve_has_points_is_drawn(tmp_path: Path) -> None:
    rows = [
        {"step": n, "loss": 2.0, "rate": 1e-3, "expected": 1.5, "accuracy": [0.5]}
        for n in range(5000)
    ]
    draw([*rows, {"step": 9, "tokens_per_round": 2.0}, {"resumed": 4000}], tmp_path / "long.png")
    assert (tmp_path / "long.png").read_bytes()[1:4] == b"PNG"


def test_a_first_signal_is_a_wish_and_a_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
        assert interrupt.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_weights_and_biases_gets_the_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    run = SimpleNamespace(
        log=lambda values, step: sent.append((step, values)), finish=lambda: sent.append("end")
    )

    def init(**options: Any) -> Any:
        sent.append(options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    log = open_wandb("drafters", tmp_path, {"batch": 8}, resumed=False)
    log.on_step(step(3))
    log.on_measure(MeasureReport(4, 0.04, 3.0, True))
    log.close()
    open_wandb("drafters", tmp_path, {}, resumed=True)
    open_wandb("drafters", tmp_path, {}, resumed=False)
    first, curves, measured, end, resumed, anew = sent
    assert (first["project"], first["config"], first["resume"]) == (
        "drafters", {"batch": 8}, "allow",
    )  # fmt: skip
    assert curves[0] == 3
    assert curves[1]["accuracy/slot 2"] == 0.5
    assert measured == (4, {"tokens per round": 3.0})
    assert end == "end"
    assert first["id"] == resumed["id"] != anew["id"]
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": anew["id"]}
