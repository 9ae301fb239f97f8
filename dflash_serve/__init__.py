"""dflash-serve: exact, batched DFlash speculative decoding for MLX behind OpenAI's API."""

from dflash_serve.version import __version__

__all__ = ["__version__"]
