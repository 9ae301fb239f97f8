"""Every option of the server, read and checked once. Knows nothing of HTTP or models."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

API_KEY_VARIABLE = "DFLASH_API_KEY"
SPECULATION = ("always", "off")
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "max_batch": (1, 1024),
    "max_queue": (0, 1_000_000),
    "max_context": (0, 2**31 - 1),
    "block_size": (0, 1024),
    "prefill_chunk": (1, 2**20),
    "memory_limit": (0, 2**63 - 1),
    "keep_alive": (0, 3600),
    "drain_timeout": (0, 86400),
    "max_body_bytes": (1024, 2**40),
    "record_limit": (2**16, 2**63 - 1),
}
_NEVER_EMPTY = (
    "target",
    "drafter",
    "host",
    "served_model_name",
    "api_key",
    "tool_parser",
    "reasoning_parser",
    "record",
)


class SettingsError(ValueError):
    """An option with a value that cannot be. The message is one line for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All options, checked at construction.

    target: None is the embedded demo pair. drafter: ``auto``, ``none``, a path or a hub id.
    max_context and block_size: 0 takes the model's own. memory_limit: bytes, 0 for none.
    seed: for requests without one; None draws a fresh one per request. keep_alive: seconds
    between the comments that keep a silent stream open, 0 for none. drain_timeout: seconds that
    running requests get after SIGTERM. tool_parser and reasoning_parser: ``auto`` takes what the
    chat template shows. record: a directory for finished requests, None to keep
    none; record_limit: bytes that they may take there, the oldest make room.
    """

    target: str | None = None
    drafter: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str | None = None
    api_key: str | None = field(default=None, repr=False)
    max_batch: int = 8
    max_queue: int = 128
    max_context: int = 0
    block_size: int = 0
    speculation: str = "always"
    prefill_chunk: int = 512
    memory_limit: int = 0
    seed: int | None = None
    cors_origin: tuple[str, ...] = ()
    log_level: str = "info"
    keep_alive: float = 10.0
    drain_timeout: float = 30.0
    max_body_bytes: int = 8 * 2**20
    tool_parser: str = "auto"
    reasoning_parser: str = "auto"
    record: str | None = None
    record_limit: int = 10**9
    record_prompts: bool = True

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{option(name)} is {value}, but must be {low} to {high}")
        _one_of("speculation", self.speculation, SPECULATION)
        _one_of("log_level", self.log_level, LOG_LEVELS)
        for name in _NEVER_EMPTY:
            if getattr(self, name) == "":
                raise SettingsError(f"{option(name)} is empty")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise SettingsError(f"{option('seed')} is {self.seed}, but must fit 64 bits")


def option(name: str) -> str:
    """A field's name as the command line spells it."""
    return "--" + name.replace("_", "-")


def parse_bytes(name: str, text: str) -> int:
    """``8GB``, ``512 MB``, ``1.5GiB`` or plain bytes."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise SettingsError(f"{option(name)} is {text!r}; write a size like 8GB, 512MB or 2GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_block_size(text: str) -> int:
    """``auto`` (0: what the drafter advises) or a number of tokens."""
    if text == "auto":
        return 0
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise SettingsError(f"--block-size is {text!r}, but must be auto or a number from 1")
    return int(text)


def api_key(option_value: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key that requests must carry: the option, else the environment, else none."""
    return option_value if option_value is not None else environment.get(API_KEY_VARIABLE) or None


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingsError(f"{option(name)} is {value!r}, but must be {' or '.join(allowed)}")
