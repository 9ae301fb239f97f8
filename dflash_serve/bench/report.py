"""What a measurement leaves behind: a JSON file, a plot beside it and tables on the terminal.

Knows what every result carries (machine, versions, commit, settings), nothing of what is measured.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.table import Table

from dflash_serve.bench.errors import BenchError
from dflash_serve.kernels import cpu_blas
from dflash_serve.version import __version__

if TYPE_CHECKING:  # dflash-doctor reports without the extra that plots
    from matplotlib.figure import Figure

RESULTS = Path("docs/results")
"""Where ``--save`` puts results, relative to the working directory."""

_PACKAGES = ("mlx", "mlx-lm", "transformers")


@dataclass(frozen=True, slots=True)
class Result:
    """One command's outcome. ``measured`` and ``settings`` hold JSON values only.

    ``failures``: why the command must not exit with 0, one line each.
    """

    name: str
    settings: Mapping[str, Any]
    measured: Mapping[str, Any]
    failures: tuple[str, ...] = ()


def document(result: Result) -> dict[str, Any]:
    """The whole JSON object of a result."""
    return {
        "name": result.name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv[1:],
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "blas": blas(),
        "settings": dict(result.settings),
        "results": dict(result.measured),
        "failures": list(result.failures),
    }


def machine() -> dict[str, Any]:
    """Processor, cores, memory (bytes), system and the load at this moment."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": platform.platform(),
        "arch": platform.machine(),
        "load_average": [round(value, 2) for value in load],
    }


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "dflash-serve": __version__,
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def commit() -> dict[str, Any] | None:
    """The commit that this package is run from, None outside a checkout."""
    here = Path(__file__).parent
    head = _git(here, "rev-parse", "HEAD")
    if head is None:
        return None
    changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    return {"hash": head.strip(), "dirty": bool(changed and changed.strip())}


def blas() -> dict[str, Any]:
    """The state of the matmul under MLX in this process."""
    status = cpu_blas.status()
    return {
        "state": status.state.value,
        "isa": status.isa,
        "threads": status.threads,
        "reason": status.reason,
    }


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a result goes: ``out`` names a JSON file, ``save`` picks one in `RESULTS`."""

    out: Path | None = None
    save: bool = False

    def path(self, name: str) -> Path | None:
        if self.out is not None:
            return self.out
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        return RESULTS / f"{name}-{day}.json" if self.save else None


def write(
    result: Result, destination: Destination, plot: "Callable[[], Figure] | None" = None
) -> Path | None:
    """Write the JSON atomically and the plot beside it as PNG; the JSON's path, if any."""
    path = destination.path(result.name)
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(document(result), indent=1) + "\n")
        if plot is not None:
            plot().savefig(path.with_suffix(".png"), dpi=110)
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, text: bool = False
) -> Table:
    """A table with the first column left and the rest right; with ``text`` all left, no header."""
    made = Table(title=title, title_justify="left", show_header=not text)
    for index, column in enumerate(columns):
        made.add_column(
            column, justify="right" if index and not text else "left", no_wrap=not index
        )
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    return made


def cell(value: object) -> str:
    """Floats to three or four digits, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def show(*tables: Table) -> None:
    console = Console(width=None if sys.stdout.isatty() else 130)
    for one in tables:
        console.print(one)


def middle(values: Sequence[float]) -> float:
    """The median; 0.0 of nothing."""
    return median(values) if values else 0.0


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank; 0.0 of nothing."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))]


def ratio(above: float, below: float) -> float | None:
    return above / below if below else None


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=path.name, delete=False
    ) as file:
        file.write(text)
    Path(file.name).chmod(0o644)
    os.replace(file.name, path)


def _cpu_model() -> str:
    if sys.platform == "darwin":
        return _run("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _git(directory: Path, *arguments: str) -> str | None:
    return _run("git", "-C", str(directory), *arguments)


def _run(*command: str) -> str | None:
    """Standard output, or None if the command is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
