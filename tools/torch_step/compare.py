"""One DFlash training step in this package against the same step in PyTorch, on this machine.

Both compute with the same weights and the same batch in processes of their own, two threads each,
and take turns; loss and gradients must agree. Run from an environment with this package; PyTorch
lives in another one:

    python tools/torch_step/compare.py --torch-python TORCH/bin/python --out docs/results/NAME.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from safetensors.numpy import load_file

from dflash_serve.bench.report import Destination, show, table, write
from dflash_serve.bench.training_step import SHAPES
from dflash_serve.measure.results import Result

HERE = Path(__file__).parent
TORCH_KINDS = ("eager", "compiled")
"""PyTorch op by op, and by torch.compile."""
REST_SECONDS = 0.3  # a library's idle threads may spin for a while
TOLERANCE = 1e-5


class Worker:
    """A process that steps when it is told to."""

    def __init__(self, command: Sequence[str], threads: int) -> None:
        count = str(threads)
        environ = os.environ | {"OMP_NUM_THREADS": count, "DFLASH_BLAS_THREADS": count}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )
        self._read()

    def ask(self, name: str, *arguments: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args} ended with {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """|found - wanted| / |wanted|, Euclidean norms over a whole tensor."""
    wanted = wanted.astype(np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def agreement(ours: Worker, other: Worker, folder: Path) -> dict[str, Any]:
    """Both losses, and the farthest gradient of any tensor."""
    paths = [str(folder / name) for name in ("ours.safetensors", "torch.safetensors")]
    mine, theirs = ours.ask("gradients", paths[0]), other.ask("gradients", paths[1])
    found, wanted = load_file(paths[0]), load_file(paths[1])
    if found.keys() != wanted.keys():
        raise SystemExit(f"tensors differ: {sorted(found.keys() ^ wanted.keys())}")
    apart = {name: distance(found[name], wanted[name]) for name in found}
    worst = max(apart, key=apart.__getitem__)
    return {
        "loss": mine["loss"],
        "torch_loss": theirs["loss"],
        "right": mine["right"],
        "torch_right": theirs["right"],
        "worst_gradient": worst,
        "worst_gradient_distance": apart[worst],
    }


def failures(name: str, found: dict[str, Any]) -> list[str]:
    said = []
    if abs(found["loss"] / found["torch_loss"] - 1.0) > TOLERANCE:
        said.append(f"{name}: the losses are {found['loss']} and {found['torch_loss']}")
    if found["worst_gradient_distance"] > TOLERANCE:
        said.append(
            f"{name}: the gradients of {found['worst_gradient']} differ by "
            f"{found['worst_gradient_distance']:.1e}"
        )
    return said


def take_turns(workers: dict[str, Worker], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per step of each worker, one figure per round; every second round is backwards."""
    taken: dict[str, list[float]] = {name: [] for name in workers}
    for worker in workers.values():
        worker.ask("seconds", 2)
    for number in range(rounds):
        for name, worker in list(workers.items())[:: -1 if number % 2 else 1]:
            time.sleep(REST_SECONDS)
            taken[name].append(worker.ask("seconds", steps))
    return taken


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command = [sys.executable, str(HERE / "our_worker.py"), str(folder), name]
        ours = stack.enter_context(Worker(command, given.threads))
        others = {
            kind: stack.enter_context(
                Worker(
                    [str(given.torch_python), str(HERE / "torch_worker.py"), str(folder), kind,
                     str(given.threads)],
                    given.threads,
                )
            )
            for kind in given.kind or TORCH_KINDS
        }  # fmt: skip
        agreements = {kind: agreement(ours, other, folder) for kind, other in others.items()}
        workers = {"ours": ours, **{f"torch {kind}": other for kind, other in others.items()}}
        seconds = take_turns(workers, SHAPES[name].steps, given.rounds)
        return {
            "agreement": agreements,
            "seconds_per_step": seconds,
            "times_faster": {
                kind: median(
                    theirs / mine
                    for theirs, mine in zip(values, seconds["ours"], strict=True)
                )
                for kind, values in seconds.items()
                if kind != "ours"
            },
            "peak_resident_bytes": {kind: worker.ask("peak") for kind, worker in workers.items()},
            "versions": {kind: worker.ask("version") for kind, worker in workers.items()},
        }  # fmt: skip


def tables(measured: dict[str, Any]) -> Table:
    kinds = list(next(iter(measured.values()))["seconds_per_step"])
    rows = [
        (
            name,
            *(median(found["seconds_per_step"][kind]) for kind in kinds),
            *found["times_faster"].values(),
            max(one["worst_gradient_distance"] for one in found["agreement"].values()),
            *(found["peak_resident_bytes"][kind] / 1e6 for kind in kinds),
        )
        for name, found in measured.items()
    ]
    columns = ("shape", *(f"{kind} s" for kind in kinds))
    columns += tuple(f"{kind} / ours" for kind in kinds[1:])
    columns += ("gradients apart", *(f"{kind} MB" for kind in kinds))
    return table("one training step", columns, rows)


def plot(measured: dict[str, Any]) -> Figure:
    """How many times PyTorch's seconds are ours, by shape; above 1 this package is faster."""
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(measured))
    for index, kind in enumerate(next(iter(measured.values()))["times_faster"]):
        values = [found["times_faster"][kind] for found in measured.values()]
        axes.bar(places + 0.4 * index - 0.2, values, 0.38, label=kind)
    axes.set_xticks(places, list(measured))
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set(title="PyTorch's time / this package's, one training step")
    axes.legend()
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", type=Path, required=True)
    parser.add_argument("--shape", action="append", choices=sorted(SHAPES))
    parser.add_argument("--kind", action="append", choices=TORCH_KINDS)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    names = given.shape or [name for name, shape in SHAPES.items() if shape.plain]
    measured = {}
    for name in names:
        measured[name] = measure(name, given)
        show(tables({name: measured[name]}))
    settings = {
        "threads": given.threads,
        "rounds": given.rounds,
        "shapes": {name: asdict(SHAPES[name]) for name in names},
    }
    said = [
        line
        for name, found in measured.items()
        for kind, one in found["agreement"].items()
        for line in failures(f"{name}, {kind}", one)
    ]
    result = Result("torch-step", settings, measured, tuple(said))
    write(result, Destination(given.out), lambda: plot(measured))
    for line in said:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
