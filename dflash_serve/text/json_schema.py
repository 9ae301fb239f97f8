"""JSON schemas made narrower for generation: what fits the result fits the original. Pure."""

from collections.abc import Mapping
from typing import Any

_COMBINING = frozenset(
    {
        *("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
        *("additionalProperties", "unevaluatedProperties", "patternProperties"),
        *("propertyNames", "dependentSchemas", "minProperties"),
    }
)
"""Keywords beside which closing an object could forbid what the schema asks for."""
_MAPS = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")


def closed(schema: Any) -> Any:
    """``schema`` with objects that declare ``properties`` limited to those.

    JSON Schema allows any other member beside the declared ones, which small models go on adding
    until their tokens run out. Objects that say ``additionalProperties`` themselves, or that are
    combined with other schemas, stay as they are; so does a schema that uses ``allOf``.
    """
    return schema if _mentions(schema, "allOf") else _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    result = dict(schema)
    for name in _MAPS:
        if isinstance(result.get(name), Mapping):
            result[name] = {key: _closed(value) for key, value in result[name].items()}
    for name in _LISTS:
        if isinstance(result.get(name), list):
            result[name] = [_closed(value) for value in result[name]]
    for name in _SINGLE:
        if name in result:
            result[name] = _closed(result[name])
    if isinstance(result.get("properties"), dict) and _COMBINING.isdisjoint(result):
        required = result.get("required", [])
        if isinstance(required, list) and all(name in result["properties"] for name in required):
            result["additionalProperties"] = False
    return result


def _mentions(schema: Any, keyword: str) -> bool:
    if isinstance(schema, Mapping):
        return keyword in schema or any(_mentions(value, keyword) for value in schema.values())
    return isinstance(schema, list) and any(_mentions(value, keyword) for value in schema)
