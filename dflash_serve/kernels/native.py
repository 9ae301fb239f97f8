"""The extension's primitives for MLX's CPU back end, or nothing where they cannot run.

They are glue over the CPU library, which `cpu_blas` loads. Without a compiler at install, on
another version of MLX than they were built for, or with DFLASH_KERNELS=plain, plain operations of
MLX take their place: slower, and as exact.
"""

import importlib
import importlib.metadata
import logging
from functools import cache
from types import ModuleType
from typing import Any

import mlx.core as mx

from dflash_serve.kernels import cpu_blas
from dflash_serve.kernels.dispatch import Backend, default_backend, hand_written

_log = logging.getLogger(__name__)


def native(*arrays: mx.array) -> Any:
    """The extension module if it can compute with ``arrays`` on the default device, else None."""
    if default_backend() is not Backend.PLAIN or any(a.dtype != mx.float32 for a in arrays):
        return None
    return _extension()


@cache
def _extension() -> ModuleType | None:
    if not hand_written() or cpu_blas.status().state is not cpu_blas.CpuBlasState.LOADED:
        return None
    try:
        module = importlib.import_module("dflash_serve.kernels._native")
    except ImportError as error:
        _log.warning("MLX keeps its own, slow CPU operations: %s", error)
        return None
    version = importlib.metadata.version("mlx")
    if _version_number(version) != module.MLX_VERSION:
        _log.warning(
            "MLX keeps its own, slow CPU operations: the extension was built for another version "
            "than %s; reinstall dflash-serve",
            version,
        )
        return None
    return module


def _version_number(version: str) -> int:
    """As MLX_VERSION_NUMERIC of its headers; -1 for what has other parts."""
    parts = version.split(".")[:3]
    if len(parts) < 3 or not all(part.isdecimal() for part in parts):
        return -1
    major, minor, patch = map(int, parts)
    return 100000 * major + 1000 * minor + patch
