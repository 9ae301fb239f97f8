"""Values of a drafter's config.json, read from the first of their places and checked."""

import math
from typing import Any

from dflash_serve.adapters.base import AdapterError

Place = dict[str, Any]
LARGEST = 2**31 - 1
"""Elements of an array's dimension in MLX."""


def first(key: str, *places: Place) -> Any:
    """The value in the first place that has one; null is none."""
    return next((place[key] for place in places if place.get(key) is not None), None)


def integer(
    key: str, *places: Place, least: int = 1, most: int = LARGEST, default: int | None = None
) -> int:
    """
    Raises:
        AdapterError: the value is missing without a default, or no integer of the range.
    """
    value = _required(key, places, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise AdapterError(
            f"drafter config: {key} is {value!r}, but must be an integer from {least}"
        )
    if value > most:
        raise AdapterError(f"drafter config: {key} is {value}, but must be at most {most}")
    return value


def number(key: str, *places: Place, default: float | None = None) -> float:
    """
    Raises:
        AdapterError: the value is missing without a default, or no finite number.
    """
    value = _required(key, places, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterError(f"drafter config: {key} is {value!r}, but must be a number")
    return float(value)


def flag(key: str, *places: Place) -> bool:
    """False where it is missing.

    Raises:
        AdapterError: the value is neither true nor false.
    """
    value = first(key, *places)
    if not isinstance(value, bool | None):
        raise AdapterError(f"drafter config: {key} is {value!r}, but must be true or false")
    return bool(value)


def section(key: str, config: Place) -> Place:
    """The object under ``key``; empty where there is none.

    Raises:
        AdapterError: it is no object.
    """
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise AdapterError(f"drafter config: {key} is {value!r}, but must be an object")
    return value


def nested(config: Place) -> Place:
    """The config's dflash_config; empty where it has none."""
    return section("dflash_config", config)


def _required(key: str, places: tuple[Place, ...], default: Any) -> Any:
    value = first(key, *places)
    value = default if value is None else value
    if value is None:
        raise AdapterError(f"drafter config: {key} is missing")
    return value
