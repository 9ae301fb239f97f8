"""The one exception of the Python interface, and how failures further down become it."""

import contextlib
import re
import traceback
from collections.abc import Iterator

from dflash_serve.compose.directories import REFUSALS
from dflash_serve.engine.errors import EngineError, RequestError
from dflash_serve.server.errors import ApiError


class LLMError(Exception):
    """Something that cannot be done, in one line: an option, a name, a request, a failed engine.

    ``param`` names the option or field at fault, where there is one.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@contextlib.contextmanager
def refused_requests(where: str = "") -> Iterator[None]:
    """Requests that are refused or fail raise `LLMError`; ``where`` goes before the message."""
    try:
        yield
    except ApiError as error:
        raise LLMError(where + error.message, error.param) from None
    except EngineError as error:
        param = error.param if isinstance(error, RequestError) else None
        raise LLMError(where + str(error), param) from None


@contextlib.contextmanager
def refused_models() -> Iterator[None]:
    """Names, checkpoints and options that cannot be used raise `LLMError`."""
    try:
        yield
    except (*REFUSALS, RuntimeError) as error:  # what MLX raises where memory does not suffice
        text = " ".join(str(error).split()) or type(error).__name__
        _let_go(error)
        raise LLMError(_in_python(text)) from None


def _let_go(error: BaseException | None) -> None:
    """Frees what the failed calls have loaded: whoever keeps the exception must not keep it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _in_python(text: str) -> str:
    """Options as keyword arguments: ``--block-size`` -> ``block_size``."""
    return re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), text)
