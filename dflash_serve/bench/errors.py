"""What a benchmark cannot do, said in one line for the person at the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from dflash_serve.training.settings import fault


class BenchError(Exception):
    """Bad input, or a measurement that cannot be made here. Commands exit with 2 on it."""


@contextmanager
def refusals() -> Iterator[None]:
    """Settings, pairs and options that cannot be used become a `BenchError`."""
    from dflash_serve.adapters.base import AdapterError  # noqa: PLC0415 - imports MLX
    from dflash_serve.compose.options import OptionsError  # noqa: PLC0415 - imports MLX

    try:
        yield
    except ValidationError as error:
        raise BenchError(fault(error)) from error
    except (AdapterError, OptionsError) as error:
        raise BenchError(str(error)) from error
