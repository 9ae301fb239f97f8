"""dflash-serve: exact, batched DFlash speculative decoding for MLX behind OpenAI's API."""

from dflash_serve.kernels import cpu_blas
from dflash_serve.version import __version__

__all__ = ["__version__"]

# Before anything imports mlx.core: a library loaded later is not seen by MLX's matmul.
cpu_blas.preload()
