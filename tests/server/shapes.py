"""Answers held against the OpenAI package's own types, and what they may hold beyond those."""

from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

EXTRAS = {"meta_info", "reasoning_content", "reasoning"}
"""Documented fields that OpenAI does not have."""


def completion(body: str | bytes) -> ChatCompletion:
    """A whole answer, checked field by field."""
    return _checked(ChatCompletion.model_validate_json(body, strict=True))


def chunk(data: str) -> ChatCompletionChunk:
    return _checked(ChatCompletionChunk.model_validate_json(data, strict=True))


def chunks(body: str) -> list[ChatCompletionChunk]:
    """All chunks of a streamed answer that ends well."""
    events = [line for line in body.split("\n") if line]
    assert all(line.startswith("data: ") for line in events), events
    assert events[-1] == "data: [DONE]"
    return [chunk(line.removeprefix("data: ")) for line in events[:-1]]


def _checked(model: Any) -> Any:
    _no_extras(model)
    return model


def _no_extras(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _no_extras(item)
    elif isinstance(value, BaseModel):
        assert set(value.model_extra or ()) <= EXTRAS
        for name in value.model_fields_set - EXTRAS:
            _no_extras(getattr(value, name))
