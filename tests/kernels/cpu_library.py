"""A private copy of the CPU library, so that its settings are not those MLX works with here."""

import ctypes
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from dflash_serve.kernels import cpu_blas

ISAS = ("neon", "generic") if platform.machine() == "aarch64" else ("avx512", "avx2", "generic")
"""The best first; a machine may lack it."""


class CpuLibrary:
    """Functions of dflash_cpu.h over numpy arrays."""

    def __init__(self, directory: Path) -> None:
        copy = directory / "copy.so"
        shutil.copy(cpu_blas.LIBRARY, copy)
        self._library = ctypes.CDLL(str(copy))

    def select(self, isa: str) -> bool:
        return bool(self._library.dflash_blas_select(isa.encode()))

    def set_threads(self, count: int) -> int:
        return self._library.dflash_blas_set_threads(count)

    def call(self, name: str, *values: Any) -> None:
        """Arrays by their address, floats as C's float, integers as sizes."""
        getattr(self._library, name)(*(_passed(value) for value in values))


def _passed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_ssize_t(value) if isinstance(value, int) else value
