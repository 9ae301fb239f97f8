"""What a parameter's JSON schema says about its value, for markups that do not write JSON. Pure.

Validates nothing: it tells which JSON types a value may have, and reads text as one of them.
"""

import json
from collections.abc import Mapping
from typing import Any

from dflash_serve.text.parsers.json_text import loads
from dflash_serve.text.parsers.lark import OPTIONS, Lark
from dflash_serve.text.parsers.reader import Unparsed

ALL = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
STRING = frozenset({"string"})
_DEPTH = 16
"""Schemas inside schemas that are looked through."""
_PYTHON = {"True": ("true", "boolean"), "False": ("false", "boolean"), "None": ("null", "null")}
Schema = Mapping[str, Any]
_NOT_ENFORCED = (
    "allOf",
    "not",
    "if",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "dependentRequired",
    "dependentSchemas",
    "contains",
    "prefixItems",
    "uniqueItems",
)
"""Keywords that no grammar of text other than JSON enforces."""
_SHAPES: dict[str, tuple[type, str]] = {
    "properties": (dict, "an object"),
    **dict.fromkeys(("required", "enum", "anyOf", "oneOf"), (list, "a list")),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), (int, "an integer")),
}


def resolve(schema: Any, root: Schema) -> Schema:
    """``schema`` behind its references into ``root``; {} where there is nothing."""
    for _ in range(_DEPTH):
        if not isinstance(schema, Mapping):
            return {}
        target = schema.get("$ref")
        if not isinstance(target, str):
            return schema
        schema = pointed(root, target)
    return {}


def pointed(root: Schema, pointer: str) -> Any:
    """What ``pointer`` leads to inside ``root``; None where that is nothing."""
    found: Any = root
    for part in pointer.removeprefix("#").strip("/").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def definitions(root: Schema) -> dict[str, Any]:
    """The parts of ``root`` that a schema taken out of it needs."""
    return {name: root[name] for name in ("$defs", "definitions", OPTIONS) if name in root}


def check(schema: Schema, root: Schema, *also: str) -> None:
    """Refuse what is no schema, and keywords that cannot be enforced where ``root`` is strict.

    Raises:
        ValueError: ``schema`` has one of them, or of ``also``, or a value of a wrong type.
    """
    for name, (shape, words) in _SHAPES.items():
        if not isinstance(schema.get(name, shape()), shape):
            raise ValueError(f"'{name}' in a tool's schema must be {words}")
    if not all(isinstance(key, str) for key in schema.get("required", ())):
        raise ValueError("'required' in a tool's schema must be a list of names")
    if root[OPTIONS]["lenient"]:
        return
    for name in (*_NOT_ENFORCED, *also):
        if schema.get(name):
            raise ValueError(f"'{name}' in a tool's schema cannot be enforced for this model")


def members(schema: Schema) -> tuple[dict[str, Any], frozenset[str]]:
    """The members of an object that are declared or required, and those required."""
    declared = dict(schema.get("properties", {}))
    required = frozenset(schema.get("required", ()))
    return declared | {key: {} for key in sorted(required - declared.keys())}, required


def kinds(schema: Any, root: Schema, depth: int = 0) -> frozenset[str]:
    """The JSON types that a value of ``schema`` may have."""
    schema = resolve(schema, root)
    if depth > _DEPTH:
        return ALL
    found = ALL
    declared = schema.get("type")
    if isinstance(declared, str):
        found &= {declared}
    elif isinstance(declared, list):
        found &= {kind for kind in declared if isinstance(kind, str)}
    if "number" in found:
        found |= {"integer"}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        found &= frozenset().union(*map(kinds_of, values))
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            branches = (kinds(branch, root, depth + 1) for branch in schema[name])
            found &= frozenset().union(*branches)
    if isinstance(schema.get("allOf"), list):
        for branch in schema["allOf"]:
            found &= kinds(branch, root, depth + 1)
    return found | {"null"} if schema.get("nullable") is True else found


def kinds_of(value: Any) -> frozenset[str]:
    """The JSON types that ``value`` counts as."""
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return frozenset({"integer", "number"})
    names = {str: "string", float: "number", dict: "object", list: "array"}
    return frozenset({names.get(type(value), "object")})


def typed(text: str, allowed: frozenset[str]) -> str:
    """``text`` as the JSON text of a value of an allowed type; else as whatever it is."""
    bare = text.strip()
    python = _PYTHON.get(bare)
    if python is not None and python[1] in allowed:
        return python[0]
    try:
        value = loads(bare)
    except Unparsed:
        return json.dumps(text, ensure_ascii=False)
    other_kind = allowed.isdisjoint(kinds_of(value)) and "string" in allowed
    if other_kind or (isinstance(value, str) and "string" in allowed):
        return json.dumps(text, ensure_ascii=False)
    return bare


def text_value(lark: Lark, schema: Schema, closing: str, line: str = "") -> str:
    """An expression of a string's own text, and ``closing``, which it does not hold.

    ``minLength``, ``maxLength`` and ``pattern`` are obeyed; ``line``, which then stands before
    ``closing``, does not count.
    """
    limits = [name for name in ("minLength", "maxLength", "pattern") if name in schema]
    if not limits:
        return lark.up_to(closing)
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    body = f"/(?s:.{{{least},{most}}})/ & ~/(?s:.*){_slashed(_escaped(closing))}(?s:.*)/"
    if "pattern" in schema:
        body += f" & /{_slashed(_whole(str(schema['pattern'])))}/"
    return f"{lark.terminal(body)} {lark.literal(line + closing)}"


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in r"\.+*?()|[]{}^$" else char for char in text)


def _slashed(pattern: str) -> str:
    """``pattern`` as it stands between slashes."""
    return pattern.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n")


def _whole(pattern: str) -> str:
    """JSON schema finds a pattern anywhere; the grammar's terminals match from end to end."""
    start = "" if pattern.startswith("^") else "(?s:.*)"
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    body = pattern.removeprefix("^")
    return f"{start}(?:{body[:-1] if ends else body}){'' if ends else '(?s:.*)'}"
