"""Whether a web page may use this server: pages of other origins may not, unless they are named."""

from collections.abc import Sequence

from starlette.requests import Request

from dflash_serve.server.errors import ApiError, shown
from dflash_serve.server.gates.names import ANY_ORIGIN, canonical_origin


class CheckOrigin:
    """403 for a foreign Origin. Clients that are no browser send none, and pass.

    ``null`` (sandboxed frames, local files) is foreign. The own origin is the request's scheme
    and Host, which `CheckHost` has seen before.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._any = ANY_ORIGIN in allowed
        self._allowed = frozenset(allowed_origins(allowed))

    def __call__(self, request: Request) -> None:
        if self._any:
            return
        for given in request.headers.getlist("origin"):
            origin = canonical_origin(given)
            if origin is None or (origin not in self._allowed and origin != _own(request)):
                message = (
                    f"Origin {shown(given)} may not use this server: it is neither the server's "
                    "own nor given by --cors-origin."
                )
                raise ApiError(403, message, kind="permission_error", code="origin_not_allowed")


def allowed_origins(given: Sequence[str]) -> list[str]:
    """The values of --cors-origin as browsers write them."""
    return [canonical_origin(value) or value for value in given]


def _own(request: Request) -> str | None:
    return canonical_origin(f"{request.scope['scheme']}://{request.headers.get('host', '')}")
