"""Arguments of a Python call -> what is asked of the model, by way of the HTTP requests' types.

So names, limits, defaults and messages are those of the HTTP interface.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel

from dflash_serve.llm.errors import LLMError, refused_requests
from dflash_serve.llm.options import ChatOptions, GenerateOptions, check_names
from dflash_serve.server import intake
from dflash_serve.server.ask import Ask
from dflash_serve.server.doors.chat_ask import chat_ask
from dflash_serve.server.doors.completion_ask import completion_asks
from dflash_serve.server.handling import Facts
from dflash_serve.server.protocol.chat import ChatRequest
from dflash_serve.server.protocol.completions import CompletionRequest

_Body = TypeVar("_Body", bound=BaseModel)


def generate_asks(prompts: Sequence[Any], given: Mapping[str, Any], facts: Facts) -> list[Ask]:
    """One per prompt: a text, or token ids.

    Raises:
        LLMError: naming the field, the value and the limit.
    """
    check_names(given, GenerateOptions)
    bodies = [{"model": facts.model, **given, "prompt": prompt} for prompt in prompts]
    return _asks(bodies, CompletionRequest, lambda body: completion_asks(body, facts)[0])


def chat_asks(conversations: Sequence[Any], given: Mapping[str, Any], facts: Facts) -> list[Ask]:
    """One per conversation: a list of messages as over HTTP.

    Raises:
        LLMError: naming the field, the value and the limit.
    """
    check_names(given, ChatOptions)
    bodies = [{"model": facts.model, **given, "messages": each} for each in conversations]
    return _asks(bodies, ChatRequest, lambda body: chat_ask(body, facts))


def _asks(
    bodies: Sequence[Mapping[str, Any]], kind: type[_Body], make: Callable[[_Body], Ask]
) -> list[Ask]:
    asks = []
    for at, body in enumerate(bodies):
        with refused_requests(place(at, len(bodies))):
            ask = make(intake.parse(_written(body), kind))
        drawn = replace(ask.sampling, seed=ask.sampling.seed + at * ask.n)
        asks.append(replace(ask, sampling=drawn))
    return asks


def place(at: int, count: int) -> str:
    """Which of several prompts a message is about; nothing where there is one."""
    return f"prompt {at} of {count}: " if count > 1 else ""


def _written(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise LLMError(f"the arguments cannot be written as JSON: {error}") from None
