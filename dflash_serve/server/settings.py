"""Every option of the server, read and checked once. Knows nothing of HTTP or models."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from dflash_serve.compose.options import EngineOptions, check_one_of, check_values

API_KEY_VARIABLE = "DFLASH_API_KEY"
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")

_BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "keep_alive": (0, 3600),
    "drain_timeout": (0, 86400),
    "max_body_bytes": (1024, 2**40),
    "record_limit": (2**16, 2**63 - 1),
}
_NEVER_EMPTY = ("host", "served_model_name", "api_key", "record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(EngineOptions):
    """The options of the model, and those of the HTTP server; checked at construction.

    keep_alive: seconds between the comments that keep a silent stream open, 0 for none.
    drain_timeout: seconds that running requests get after SIGTERM. record: a directory for
    finished requests, None to keep none; record_limit: bytes that they may take there, the oldest
    make room.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str | None = None
    api_key: str | None = field(default=None, repr=False)
    cors_origin: tuple[str, ...] = ()
    log_level: str = "info"
    keep_alive: float = 10.0
    drain_timeout: float = 30.0
    max_body_bytes: int = 8 * 2**20
    record: str | None = None
    record_limit: int = 10**9
    record_prompts: bool = True

    def __post_init__(self) -> None:
        EngineOptions.__post_init__(self)  # super() does not know a class with slots
        check_values(self, _BOUNDS, _NEVER_EMPTY)
        check_one_of("log_level", self.log_level, LOG_LEVELS)


def api_key(option_value: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key that requests must carry: the option, else the environment, else none."""
    return option_value if option_value is not None else environment.get(API_KEY_VARIABLE) or None
