"""What goes wrong, as OpenAI's error object: one table for the engine's errors, one for pydantic's.

Knows nothing of routes. Messages name the field, the value and the limit.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from dflash_serve.engine.errors import EngineError, EngineUnavailable, QueueFull, RequestError

_ENGINE_ERRORS: tuple[tuple[type[EngineError], int, str, str | None], ...] = (
    (RequestError, 400, "invalid_request_error", None),
    (QueueFull, 503, "server_error", "queue_full"),
    (EngineUnavailable, 503, "server_error", "engine_unavailable"),
    (EngineError, 500, "server_error", "engine_error"),
)
"""First match wins: error class, HTTP status, OpenAI type, OpenAI code."""

_VALIDATION_CODES = {
    "unsupported_parameter": "unsupported_parameter",
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "json_invalid": "invalid_json",
}
"""pydantic error type -> OpenAI code; every other type is ``invalid_value``."""

_SHOWN = 60
"""Characters of an offending value that a message repeats."""
_SHOWN_ITEMS = 8


class ApiError(Exception):
    """An answer that is not 2xx, in OpenAI's terms."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with all its parts; an exception alone would keep the message."""
        named = {name: getattr(self, name) for name in ("kind", "param", "code", "headers")}
        return partial(ApiError, self.status, self.message, **named), ()

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON object that OpenAI's clients expect."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def json_text(self) -> str:
        return json.dumps(self.body(), ensure_ascii=False)

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def from_engine(error: EngineError) -> ApiError:
    """The answer for an error that the engine raised."""
    status, kind, code = next(row[1:] for row in _ENGINE_ERRORS if isinstance(error, row[0]))
    param = error.param if isinstance(error, RequestError) else None
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, QueueFull) else {}
    if param == "messages":
        code = "context_length_exceeded"
    return ApiError(status, str(error), kind=kind, param=param, code=code, headers=headers)


def from_validation(error: ValidationError) -> ApiError:
    """The answer for a body that does not fit its wire type: its first error, in one sentence."""
    first = error.errors(include_url=False)[0]
    kind, value = first["type"], first["input"]
    param = dotted(first["loc"])
    if param and value is None and kind.endswith("_type"):
        kind = "missing"  # null is absent
    message = _sentence(kind, first["msg"], param, value)
    code = _VALIDATION_CODES.get(kind, "invalid_value")
    return ApiError(400, message, param=param, code=code)


def dotted(location: Sequence[str | int]) -> str | None:
    """``("messages", 0, "<parts>", 1)`` -> ``messages.0.1``: tags of unions are left out."""
    steps = (str(step)[:_SHOWN] for step in location)
    return ".".join(step for step in steps if not step.startswith(("<", "[key]"))) or None


def invalid(param: str, message: str) -> ApiError:
    """The refusal of a field's value."""
    return ApiError(400, message, param=param, code="invalid_value")


def internal() -> ApiError:
    """What a client is told of a failure whose reason is in the log."""
    message = "The server had an error while processing the request."
    return ApiError(500, message, kind="server_error", code="internal_error")


def shown(value: Any) -> str:
    """``value`` as JSON, shortened."""
    if isinstance(value, dict | list) and len(value) > _SHOWN_ITEMS:
        return f"an {'object' if isinstance(value, dict) else 'array'} of {len(value)} items"
    if isinstance(value, str) and len(value) > _SHOWN:
        return json.dumps(value[:_SHOWN] + "...", ensure_ascii=False)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN + 5 else text[:_SHOWN] + "..."


def _sentence(kind: str, text: str, param: str | None, value: Any) -> str:
    if kind == "json_invalid":
        return f"The request body is not valid JSON: {text.removeprefix('Invalid JSON: ')}"
    if kind == "extra_forbidden":
        return (
            f"Unrecognized request argument supplied: {param}. This server does not know it. "
            "Remove it from the request."
        )
    if kind == "missing":
        return f"Missing required parameter: '{param}'"
    if param is None:
        return f"The request body is refused: {text}, but it is {shown(value)}"
    if kind in ("too_long", "too_short"):
        return f"Invalid '{param}': {text.replace(' after validation', '')}"
    if kind == "unsupported_parameter":
        return text.replace("<field>", param).replace("<part>", param.rpartition(".")[0])
    return f"Invalid '{param}': {text}, but it is {shown(value)}"
