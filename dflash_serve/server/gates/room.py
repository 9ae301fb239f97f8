"""Whether the server can take a request now: is it stopping, full, or out of connections."""

from collections.abc import Collection

from starlette.requests import Request

from dflash_serve.engine.client import EngineClient, EngineState
from dflash_serve.server.connection import CROWDED
from dflash_serve.server.errors import ApiError
from dflash_serve.server.gates.gate import OPEN_PATHS

_STOPPING = (EngineState.DRAINING, EngineState.STOPPED)
_RETRY_AFTER = {"Retry-After": "2"}


def check_connections(request: Request) -> None:
    """503 on connections beyond --max-connections; they are closed after it."""
    if request.scope.get("state", {}).get(CROWDED) and request.scope["path"] not in OPEN_PATHS:
        message = "The server has as many connections as it takes. Please try again later."
        headers = {**_RETRY_AFTER, "Connection": "close"}
        raise ApiError(
            503, message, kind="server_error", code="too_many_connections", headers=headers
        )


class CheckStopping:
    """503 for every new request once the server stops."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    def __call__(self, request: Request) -> None:
        if self._client.state in _STOPPING and request.scope["path"] not in OPEN_PATHS:
            message = (
                "The server is shutting down and takes no new requests. Please try again later."
            )
            raise ApiError(
                503,
                message,
                kind="server_error",
                code="engine_unavailable",
                headers=_RETRY_AFTER,
            )


class CheckRoom:
    """503 where the engine would take no request now; ``paths`` are the routes that generate."""

    def __init__(self, client: EngineClient, paths: Collection[str]) -> None:
        self._client = client
        self._paths = paths

    def __call__(self, request: Request) -> None:
        if request.method == "POST" and request.scope["path"] in self._paths:
            self._client.check_room()
