"""Before a route sees a request: is the server stopping, the API key, the body's size. ASGI."""

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dflash_serve.engine.client import EngineClient, EngineState
from dflash_serve.server.doors.anthropic_errors import answer
from dflash_serve.server.errors import ApiError

_OPEN_PATHS = frozenset({"/health"})
_STOPPING = (EngineState.DRAINING, EngineState.STOPPED)
_RETRY_AFTER = "2"


class RefuseWhileDraining:
    """503 for every new request once the server stops; /health is answered as ever."""

    def __init__(self, app: ASGIApp, client: EngineClient) -> None:
        self._app = app
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stopping = self._client.state in _STOPPING
        if stopping and scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            await answer(_shutting_down(), scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)


class RequireApiKey:
    """401 unless the request carries ``Authorization: Bearer <key>``. /health needs none.

    ``x-api-key: <key>`` does as well: Anthropic's clients send it.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            headers = dict(scope["headers"])
            given, bare = headers.get(b"authorization", b""), headers.get(b"x-api-key", b"")
            scheme, _, token = given.partition(b" ")
            allowed = scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._key)
            if not allowed and not hmac.compare_digest(bare, self._key):
                refusal = answer(_unauthorized(bool(given or bare)), scope["path"])
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
        message = f"The request body is larger than the limit of {self._limit} bytes."
        return ApiError(413, message, code="request_too_large")


def _shutting_down() -> ApiError:
    message = "The server is shutting down and takes no new requests. Please try again later."
    headers = {"Retry-After": _RETRY_AFTER}
    return ApiError(503, message, kind="server_error", code="engine_unavailable", headers=headers)


def _unauthorized(given: bool) -> ApiError:
    message = (
        "Incorrect API key provided: it is not the one that this server expects."
        if given
        else "You didn't provide an API key; send it as 'Authorization: Bearer KEY'."
    )
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, message, code="invalid_api_key", headers=headers)
