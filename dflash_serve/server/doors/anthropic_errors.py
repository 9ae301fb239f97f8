"""Errors in the shape of the door they are an answer of: OpenAI's, or Anthropic's for its paths."""

import json
import secrets

from starlette.responses import JSONResponse, Response

from dflash_serve.server.errors import ApiError
from dflash_serve.server.protocol.messages import ErrorOut, Fault, FaultDetails

_PATH = "/v1/messages"
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_OVERLOADED = frozenset({"queue_full", "grammar_queue_full", "too_many_connections"})
"""Codes of a 503 that is gone in a moment; Anthropic has a status of its own for it."""

_DETAILS = {"thread": "thread_unsupported_request"}
"""Refused fields without which Anthropic's clients try again, if they are told so."""


def answer(error: ApiError, path: str) -> Response:
    """The answer that clients of ``path`` understand."""
    if path != _PATH and not path.startswith(f"{_PATH}/"):
        return error.response()
    body = anthropic_error(error)
    headers = {**error.headers, "request-id": body.request_id}
    return JSONResponse(json.loads(body.json_text()), _status(error), headers)


def anthropic_error(error: ApiError) -> ErrorOut:
    """``error`` as Anthropic's error object."""
    status = _status(error)
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    # coding agents compact their conversation when they read these words
    too_long = "prompt is too long: " if error.code == "context_length_exceeded" else ""
    fault = Fault(type=kind, message=too_long + error.message)
    if error.param in _DETAILS:
        fault.details = FaultDetails(error_code=_DETAILS[error.param])
    return ErrorOut(type="error", error=fault, request_id=f"req_{secrets.token_hex(12)}")


def _status(error: ApiError) -> int:
    return 529 if error.code in _OVERLOADED else error.status
