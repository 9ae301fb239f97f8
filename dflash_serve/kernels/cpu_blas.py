"""Slides the package's own float32 matmul (csrc/) under MLX's CPU build on Linux, before MLX loads.

Switched by the environment alone (DFLASH_CPU_BLAS, DFLASH_BLAS_THREADS): it runs at import, before
any command line is read. Knows which BLAS MLX would load; knows nothing of arrays or models.
"""

import ctypes
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from dflash_serve.kernels.cores import usable_cores
from dflash_serve.kernels.elf import read_dynamic_names

ISAS = ("avx512", "avx2", "neon", "generic")
LIBRARY = Path(__file__).with_name("libdflash_blas.so")

_OPTIMISED = re.compile("openblas|mkl|blis|armpl|atlas|nvpl", re.IGNORECASE)
_log = logging.getLogger(__name__)


class CpuBlasState(Enum):
    LOADED = "loaded"
    OFF = "off"
    NOT_NEEDED = "not needed"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class CpuBlasStatus:
    state: CpuBlasState
    reason: str
    isa: str | None = None
    threads: int | None = None
    path: Path | None = None


@cache
def preload() -> CpuBlasStatus:
    """Loads the library once per process, so that a later `import mlx.core` binds to it."""
    status = _preload(os.environ)
    if status.state is CpuBlasState.UNAVAILABLE:
        _log.warning("MLX keeps its own, slow CPU matmul: %s", status.reason)
    return status


def status() -> CpuBlasStatus:
    """What `preload` did in this process."""
    return preload()


def _preload(environ: Mapping[str, str]) -> CpuBlasStatus:
    if sys.platform != "linux":
        return CpuBlasStatus(CpuBlasState.NOT_NEEDED, f"MLX on {sys.platform} has a fast matmul")
    choice = environ.get("DFLASH_CPU_BLAS", "auto")
    if choice == "off":
        return CpuBlasStatus(CpuBlasState.OFF, "DFLASH_CPU_BLAS=off")
    try:
        threads = _checked_threads(choice, environ.get("DFLASH_BLAS_THREADS", "auto"))
        needless = _needless()
    except (ValueError, OSError) as error:
        return CpuBlasStatus(CpuBlasState.UNAVAILABLE, str(error))
    if needless:
        return CpuBlasStatus(CpuBlasState.NOT_NEEDED, needless)
    if "mlx.core" in sys.modules:
        reason = "mlx.core was imported before dflash_serve"
        return CpuBlasStatus(CpuBlasState.UNAVAILABLE, reason)
    return _load(choice, threads)


def _checked_threads(choice: str, threads: str) -> int:
    if choice not in ("auto", *ISAS):
        raise ValueError(f"DFLASH_CPU_BLAS={choice!r} is none of off, auto, {', '.join(ISAS)}")
    if threads == "auto":
        return usable_cores()
    if not (threads.isascii() and threads.isdecimal()) or int(threads) < 1:
        raise ValueError(f"DFLASH_BLAS_THREADS={threads!r} is neither auto nor a number from 1")
    return int(threads)


def _needless() -> str | None:
    """Why the installed MLX gains nothing from this library; None if it does."""
    spec = importlib.util.find_spec("mlx")
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    library = next((found for place in places for found in place.glob("lib/libmlx.so")), None)
    if library is None:
        return "no MLX library is installed"
    names = read_dynamic_names(library)
    if not names.mentions("cblas_sgemm"):
        return "this build of MLX calls no CBLAS"
    fast = next((name for name in names.needed if _OPTIMISED.search(name)), None)
    return f"MLX is linked to {fast}" if fast else None


def _load(choice: str, threads: int) -> CpuBlasStatus:
    if not LIBRARY.exists():
        reason = (
            f"{LIBRARY.name} was not built; reinstall the package where a C compiler is present"
        )
        return CpuBlasStatus(CpuBlasState.UNAVAILABLE, reason)
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if choice != "auto" and not library.dflash_blas_select(choice.encode()):
            reason = f"DFLASH_CPU_BLAS={choice}: not on this processor"
            return CpuBlasStatus(CpuBlasState.UNAVAILABLE, reason)
        ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return CpuBlasStatus(CpuBlasState.UNAVAILABLE, str(error))
    library.dflash_blas_isa.restype = ctypes.c_char_p
    isa = library.dflash_blas_isa().decode()
    cores = usable_cores()
    if threads > cores:
        _log.warning("DFLASH_BLAS_THREADS=%d: capped at the %d usable cores", threads, cores)
    in_use = library.dflash_blas_set_threads(min(threads, cores))
    return CpuBlasStatus(CpuBlasState.LOADED, "under MLX's CPU matmul", isa, in_use, LIBRARY)
