"""What happens before a route sees a request: the API key and the body's size. Plain ASGI."""

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dflash_serve.server.doors.anthropic_errors import answer
from dflash_serve.server.errors import ApiError

_OPEN_PATHS = frozenset({"/health"})


class RequireApiKey:
    """401 unless the request carries ``Authorization: Bearer <key>``. /health needs none.

    ``x-api-key: <key>`` does as well: Anthropic's clients send it.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()
        self._expected = b"Bearer " + self._key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            headers = dict(scope["headers"])
            bearer, bare = headers.get(b"authorization", b""), headers.get(b"x-api-key", b"")
            allowed = hmac.compare_digest(bearer, self._expected)
            if not allowed and not hmac.compare_digest(bare, self._key):
                refusal = answer(_unauthorized(bool(bearer or bare)), scope["path"])
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class LimitBody:
    """413 for bodies over ``limit`` bytes, by their header or, sent in chunks, as they come."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self._limit:
            await answer(self._too_large(), scope["path"])(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> ApiError:
        message = f"The request body is larger than the limit of {self._limit} bytes"
        return ApiError(413, message, code="request_too_large")


def _unauthorized(given: bool) -> ApiError:
    message = (
        "Incorrect API key provided"
        if given
        else "You didn't provide an API key; send it as 'Authorization: Bearer KEY'"
    )
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, message, code="invalid_api_key", headers=headers)
