"""Whether the Host header names this server: a page whose name was made to lead here does not."""

from collections.abc import Sequence

from starlette.requests import Request

from dflash_serve.server.errors import ApiError, shown
from dflash_serve.server.gates.names import (
    canonical,
    is_loopback,
    listens_on_loopback,
    parse_authority,
)

_CONTAINERS = "host.docker.internal"
"""Under this name containers reach the loopback of the machine that runs them."""


class CheckHost:
    """421 for another server's name, 400 for what is no name. The port does not matter.

    Any name is taken on an address that other machines reach, unless ``allowed`` names some.
    """

    def __init__(self, address: str, allowed: Sequence[str]) -> None:
        self._address = address
        self._any = not allowed and not listens_on_loopback(address)
        self._names = frozenset(map(canonical, (*allowed, address, _CONTAINERS)))

    def __call__(self, request: Request) -> None:
        given = request.headers.getlist("host")
        if not given and request.scope["http_version"] == "1.0":
            return  # no browser sends HTTP/1.0
        authority = parse_authority(given[0]) if len(given) == 1 else None
        if authority is None:
            raise _malformed(given)
        host = authority.host
        if not self._any and host not in self._names and not is_loopback(host):
            message = (
                f"Host is {shown(host)}, but this server listens on {self._address} and takes "
                "only names of this machine and those given by --allowed-host. Use "
                f"http://127.0.0.1, or start the server with --allowed-host {host}."
            )
            raise ApiError(421, message, code="host_not_allowed")


def _malformed(given: Sequence[str]) -> ApiError:
    if len(given) == 1:
        message = f"The Host header is {shown(given[0])}, which is not a host and port."
    else:
        message = f"The request has {len(given)} Host headers, but must have one."
    return ApiError(400, message, code="invalid_host")
