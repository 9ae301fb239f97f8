"""dflash-serve: exact, batched DFlash speculative decoding for MLX behind OpenAI's API."""

import importlib
from typing import TYPE_CHECKING, Any

from dflash_serve.kernels import cpu_blas
from dflash_serve.version import __version__

if TYPE_CHECKING:
    from dflash_serve.llm import LLM, AsyncLLM, LLMError

__all__ = ["LLM", "AsyncLLM", "LLMError", "__version__"]

# Before anything imports mlx.core: a library loaded later is not seen by MLX's matmul.
cpu_blas.preload()


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is first asked for: command lines start without it."""
    if name in __all__:
        return getattr(importlib.import_module("dflash_serve.llm"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
