"""Which implementation of a kernel this process can run. Knows MLX's devices, no kernel."""

import enum

import mlx.core as mx


class Backend(enum.Enum):
    """METAL and CUDA run hand-written kernels, PLAIN the reference in MLX's own operations."""

    METAL = "metal"
    CUDA = "cuda"
    PLAIN = "plain"


def default_backend() -> Backend:
    """The back end of the current default device; PLAIN on a CPU, even where a GPU exists."""
    if mx.default_device() == mx.Device(mx.cpu):
        return Backend.PLAIN
    if mx.metal.is_available():
        return Backend.METAL
    return Backend.CUDA if mx.cuda.is_available() else Backend.PLAIN
