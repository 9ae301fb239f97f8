"""Whether bit-equality may be demanded of this process."""

from dflash_serve.adapters.loading import on_cpu
from dflash_serve.kernels import cpu_blas


def exact_path() -> bool:
    """Whether this process computes rows in an order that does not depend on their number.

    True on the CPU with this package's matmul or the wheel's own; false with a foreign BLAS below
    MLX, and on a GPU.
    """
    return on_cpu() and cpu_blas.status().state is not cpu_blas.CpuBlasState.NOT_NEEDED
