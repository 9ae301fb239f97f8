"""What a request body may be: JSON, not too large, not too slow."""

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dflash_serve.server.errors import ApiError, shown
from dflash_serve.server.pace import Pace

_FORM = "application/x-www-form-urlencoded"


def check_content_type(request: Request) -> None:
    """415 for a body that is not declared as JSON: a web page cannot send that type unasked."""
    headers = request.headers
    if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
        return
    given = headers.get("content-type")
    kind = (given or "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    what = "missing" if given is None else shown(given)
    hint = " (curl -d sends this type by default: add -H)" if kind == _FORM else ""
    message = (
        f"The Content-Type header is {what}{hint}, but this server reads JSON only: send "
        "'Content-Type: application/json'."
    )
    raise ApiError(415, message, code="unsupported_media_type")


class CheckLength:
    """413 for a body that is declared larger than ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def __call__(self, request: Request) -> None:
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limit:
            raise _too_large(self._limit)


class LimitBody:
    """ASGI middleware: 413 for a body in chunks that grows over ``limit`` bytes, 408 for one that
    comes more slowly than ``pace``. Both are raised where the body is read.
    """

    def __init__(self, app: ASGIApp, limit: int, pace: Pace) -> None:
        self._app = app
        self._limit = limit
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = asyncio.get_running_loop().time()
        taken, whole = 0, False

        async def counted() -> Message:
            nonlocal taken, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(began + self._pace.seconds(taken)):
                    message = await receive()
            except TimeoutError as error:
                raise _too_slow(taken, self._pace) from error
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken > self._limit:
                raise _too_large(self._limit)
            return message

        await self._app(scope, counted, send)


def _too_large(limit: int) -> ApiError:
    message = f"The request body is larger than the limit of {limit} bytes."
    return ApiError(413, message, code="request_too_large")


def _too_slow(taken: int, pace: Pace) -> ApiError:
    message = (
        f"The request body came too slowly: {taken} bytes in {pace.seconds(taken):g} seconds. It "
        f"may take {pace.grace:g} seconds, and one more for each {pace.rate} bytes."
    )
    headers = {"Connection": "close"}  # the rest of the body is not waited for
    return ApiError(408, message, code="request_timeout", headers=headers)
