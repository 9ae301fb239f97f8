"""Which implementation of a kernel this process runs. Knows MLX's devices, no kernel.

Hand-written kernels are switched by the environment alone: DFLASH_KERNELS=plain turns all of them
off, and tokens stay the same.
"""

import enum
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, cast

import mlx.core as mx

SWITCH = "DFLASH_KERNELS"
SIMD_WIDTH = 32


class Backend(enum.Enum):
    """METAL and CUDA run hand-written kernels, PLAIN the reference in MLX's own operations."""

    METAL = "metal"
    CUDA = "cuda"
    PLAIN = "plain"


class Kernel(Protocol):
    """What ``mx.fast.metal_kernel`` and ``mx.fast.cuda_kernel`` return."""

    def __call__(
        self,
        *,
        inputs: list[mx.array],
        output_shapes: list[tuple[int, ...]],
        output_dtypes: list[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Sequence[tuple[str, int | mx.Dtype]] = (),
    ) -> list[mx.array]: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """A kernel in both languages, with the names of its arrays; ``cuda`` None: in Metal alone."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metal: str
    cuda: str | None = None


@cache
def built(sources: Sources, backend: Backend) -> Kernel:
    """A kernel in the language of ``backend``, which is not PLAIN.

    Building a Metal kernel works everywhere, calling it only where Metal is; building one for CUDA
    needs MLX's CUDA back end already.
    """
    metal = backend is Backend.METAL
    make: Callable[..., object] = mx.fast.metal_kernel if metal else mx.fast.cuda_kernel
    kernel = make(
        name=sources.name,
        input_names=list(sources.inputs),
        output_names=list(sources.outputs),
        source=sources.metal if metal else sources.cuda,
    )
    return cast(Kernel, kernel)


def default_backend() -> Backend:
    """The back end of the current default device; PLAIN on a CPU, even where a GPU exists."""
    if mx.default_device() == mx.Device(mx.cpu):
        return Backend.PLAIN
    if mx.metal.is_available():
        return Backend.METAL
    return Backend.CUDA if mx.cuda.is_available() else Backend.PLAIN


def kernel_backend() -> Backend:
    """What hand-written kernels run by: the default back end, or PLAIN where they are off."""
    return default_backend() if hand_written() else Backend.PLAIN


@cache
def hand_written() -> bool:
    """Whether hand-written kernels may run; DFLASH_KERNELS is read once per process.

    Raises:
        ValueError: the variable holds neither "auto" nor "plain".
    """
    return wanted(os.environ)


def wanted(environ: Mapping[str, str]) -> bool:
    """`hand_written` of the given environment."""
    choice = environ.get(SWITCH, "auto")
    if choice not in ("auto", "plain"):
        raise ValueError(f"{SWITCH}={choice!r} is none of auto, plain")
    return choice == "auto"
