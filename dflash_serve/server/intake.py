"""What every door does with a request body first: parse it, check the model, fill in defaults.

Knows nothing of engines or sockets: it also runs in worker processes.
"""

import secrets
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from dflash_serve.engine.types import SamplingParams
from dflash_serve.server import errors
from dflash_serve.server.errors import ApiError, shown
from dflash_serve.server.handling import Facts

_GREEDY_BELOW = 1e-3
"""Temperatures under this are greedy: dividing logits by them overflows half precision."""

_Body = TypeVar("_Body", bound=BaseModel)


def parse(data: bytes, kind: type[_Body]) -> _Body:
    """The body as its wire type.

    Raises:
        ApiError: it is not JSON, or does not fit the type.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise errors.from_validation(error) from error


def check_model(name: str, facts: Facts) -> None:
    """
    Raises:
        ApiError: another model is served.
    """
    if name != facts.model:
        message = f"The model {shown(name)} does not exist; this server serves {shown(facts.model)}"
        raise ApiError(404, message, param="model", code="model_not_found")


def sampling(
    facts: Facts,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    seed: int | None = None,
) -> SamplingParams:
    """The request's parameters over the model's defaults, with a seed in any case.

    A ``top_p`` of 0 leaves the most likely token, so it is greedy, like a temperature near 0;
    ``top_k`` -1 switches the filter off, as 0 does.
    """
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    chosen = {name: value for name, value in given.items() if value is not None}
    filled: SamplingParams = replace(facts.sampling, **chosen)  # type: ignore[arg-type]
    greedy = filled.temperature < _GREEDY_BELOW or filled.top_p == 0
    return replace(
        filled,
        temperature=0.0 if greedy else filled.temperature,
        top_p=filled.top_p or 1.0,
        top_k=max(0, filled.top_k),
        seed=_seed(seed, facts),
    )


def _seed(given: int | None, facts: Facts) -> int:
    default = facts.seed if given is None else given
    return secrets.randbits(63) if default is None else default
