"""Which types a parameter's schema allows, and what text becomes under them."""

import json
from typing import Any

import pytest

from dflash_serve.text.parsers.schema import ALL, kinds, typed

NUMBERS = {"number", "integer"}
ROOT: dict[str, Any] = {
    "$defs": {
        "Name": {"type": "string"},
        "Level": {"enum": ["low", 3]},
        "Self": {"$ref": "#/$defs/Self"},
        "Tree": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]},
        "a/b": {"type": "null"},
    }
}


@pytest.mark.parametrize(
    ("schema", "allowed"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": "number"}, NUMBERS),
        ({"type": "integer"}, {"integer"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"type": "string", "nullable": True}, {"string", "null"}),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, {"string", "array"}),
        ({"oneOf": [{"$ref": "#/$defs/Name"}, {"type": "null"}]}, {"string", "null"}),
        ({"allOf": [{"$ref": "#/$defs/Name"}]}, {"string"}),
        ({"$ref": "#/$defs/Level"}, {"string", *NUMBERS}),
        ({"$ref": "#/$defs/a~1b"}, {"null"}),
        ({"const": "x"}, {"string"}),
        ({"enum": [True, None, 1.5, {}, []]}, {"boolean", "null", "number", "object", "array"}),
        ({}, ALL),
        (True, ALL),
        ({"$ref": "#/$defs/Nowhere"}, ALL),
        ({"$ref": "#/$defs/Self"}, ALL),
        ({"$ref": "#/$defs/Tree"}, ALL),
        ({"type": 5, "anyOf": 3, "enum": "x"}, ALL),
    ],
)
def test_the_types_a_schema_allows(schema: Any, allowed: set[str]) -> None:
    assert kinds(schema, ROOT) == allowed


@pytest.mark.parametrize(
    ("text", "allowed", "value"),
    [
        ("5", {"string"}, "5"),
        ("5", {"integer"}, 5),
        ("5", {"string", "integer"}, 5),
        ("5.5", {"string", "integer"}, "5.5"),
        ("5.0", {"integer", "string"}, 5.0),
        ("5", {"number", "integer"}, 5),
        (" [1, 2]\n", {"array"}, [1, 2]),
        ("{'a': 1}", {"object"}, "{'a': 1}"),
        ('{"a": 1}', {"string", "object"}, {"a": 1}),
        ('{"a": 1}', {"string", "array"}, '{"a": 1}'),
        ("true", {"boolean"}, True),
        ("True", {"boolean"}, True),
        ("False", {"string"}, "False"),
        ("None", {"null", "integer"}, None),
        ("null", {"string", "integer"}, "null"),
        ('"x"', {"string", "integer"}, '"x"'),
        ('"x"', {"integer"}, "x"),
        ("five", {"integer"}, "five"),
        ("NaN", {"number"}, "NaN"),
        ("1" * 5000, {"integer"}, "1" * 5000),
        ("[" * 5000, {"array"}, "[" * 5000),
        ("", {"null", "integer"}, ""),
        ("five", ALL, "five"),
        ("[1]", ALL, [1]),
    ],
)
def test_text_as_a_value_of_the_allowed_types(text: str, allowed: set[str], value: object) -> None:
    assert json.loads(typed(text, frozenset(allowed))) == value
