"""Every option of the server, read and checked once. Knows nothing of HTTP or models."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from dflash_serve.compose.options import (
    EngineOptions,
    OptionsError,
    check_names,
    check_one_of,
    check_values,
)
from dflash_serve.server.gates.names import ANY_ORIGIN, canonical_origin, is_host

API_KEY_VARIABLE = "DFLASH_API_KEY"
ADMIN_KEY_VARIABLE = "DFLASH_ADMIN_KEY"
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")

_BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "keep_alive": (0, 3600),
    "drain_timeout": (0, 86400),
    "max_body_bytes": (1024, 2**40),
    "max_connections": (1, 2**16),
    "send_timeout": (0.1, 86400),
    "record_limit": (2**16, 2**63 - 1),
}
_NEVER_EMPTY = ("host", "served_model_name", "api_key", "admin_key", "record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(EngineOptions):
    """The options of the model, and those of the HTTP server; checked at construction.

    api_key: for inference, None asks for none; admin_key: for /admin, None switches that off.
    cors_origin: web origins that may use the server, beside its own. allowed_host: names that a
    request may call the server by; without any, every name on an address that other machines
    reach. keep_alive: seconds between the comments that keep a silent stream open, 0 for none.
    drain_timeout: seconds that running requests get after SIGTERM. max_connections: how many at
    once. send_timeout: seconds that a client may read nothing of what is sent to it. record: a
    directory for finished requests, None to keep none; record_limit: bytes that they may take
    there, the oldest make room.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str | None = None
    api_key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    cors_origin: tuple[str, ...] = ()
    allowed_host: tuple[str, ...] = ()
    log_level: str = "info"
    keep_alive: float = 10.0
    drain_timeout: float = 30.0
    max_body_bytes: int = 8 * 2**20
    max_connections: int = 1024
    send_timeout: float = 60.0
    record: str | None = None
    record_limit: int = 10**9
    record_prompts: bool = True

    def __post_init__(self) -> None:
        EngineOptions.__post_init__(self)  # super() does not know a class with slots
        check_values(self, _BOUNDS, _NEVER_EMPTY)
        check_names(self, ("record",))
        check_one_of("log_level", self.log_level, LOG_LEVELS)
        for origin in self.cors_origin:
            _check_origin(origin)
        for host in self.allowed_host:
            _check_host(host)
        if self.admin_key is not None and self.admin_key == self.api_key:
            raise OptionsError("--admin-key is the same as --api-key: choose another one")


def key(
    option_value: str | None, variable: str, environment: Mapping[str, str] = os.environ
) -> str | None:
    """A key that requests must carry: the option, else the environment's variable, else none."""
    return option_value if option_value is not None else environment.get(variable) or None


def _check_origin(value: str) -> None:
    if value != ANY_ORIGIN and canonical_origin(value) is None:
        raise OptionsError(
            f"--cors-origin is {value!r}, but must be * or SCHEME://HOST[:PORT] without a path"
        )


def _check_host(value: str) -> None:
    if not is_host(value):
        raise OptionsError(
            f"--allowed-host is {value!r}, but must be a name or an address without a port"
        )
