"""Checks on a request's head, before its body is read: the first one that refuses is the answer."""

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from dflash_serve.engine.errors import EngineError
from dflash_serve.server import errors
from dflash_serve.server.doors.anthropic_errors import answer
from dflash_serve.server.errors import ApiError

Check = Callable[[Request], None]
"""Raises ApiError or EngineError to refuse the request. Does not wait, and reads no body."""

OPEN_PATHS = frozenset({"/health"})
"""Answered without a key and in every state: load balancers ask them."""


class Gate:
    """ASGI middleware that runs ``checks`` in their order."""

    def __init__(self, app: ASGIApp, checks: Sequence[Check]) -> None:
        self._app = app
        self._checks = checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await answer(refusal, scope["path"])(scope, receive, send)

    def _refusal(self, request: Request) -> ApiError | None:
        try:
            for check in self._checks:
                check(request)
        except ApiError as error:
            return error
        except EngineError as error:
            return errors.from_engine(error)
        return None
