"""What a results file says of its origin: machine, versions and commit. Knows no measurement."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from dflash_serve.version import __version__

_PACKAGES = ("mlx", "mlx-lm", "transformers")


def origin() -> dict[str, Any]:
    """Where a result comes from: machine, versions and commit, as every results file has them."""
    return {"machine": machine(), "versions": versions(), "commit": commit()}


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
