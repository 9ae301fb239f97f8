"""Schemas narrowed for generation: closed objects, and nothing that could become impossible."""

import copy
from typing import Any

import jsonschema
import pytest

from dflash_serve.text.json_schema import closed

OPEN = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def accepts(schema: Any, value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def test_declared_objects_take_no_other_member() -> None:
    before = copy.deepcopy(OPEN)
    assert not accepts(closed(OPEN), {"a": 1, "b": 2})
    assert accepts(closed(OPEN), {"a": 1})
    assert before == OPEN


def test_objects_inside_objects_lists_and_definitions_are_closed_too() -> None:
    schema = {
        "type": "object",
        "properties": {"list": {"type": "array", "items": OPEN}, "ref": {"$ref": "#/$defs/x"}},
        "$defs": {"x": OPEN},
    }
    narrow = closed(schema)
    assert accepts(narrow, {"list": [{"a": 1}], "ref": {"a": 2}})
    assert not accepts(narrow, {"list": [{"a": 1, "b": 1}]})
    assert not accepts(narrow, {"ref": {"a": 1, "b": 1}})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object"}, {"x": 1}),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"x": 1}),
        (OPEN | {"additionalProperties": True}, {"a": 1, "x": 1}),
        (OPEN | {"patternProperties": {"^x": {}}}, {"a": 1, "x": 1}),
        (OPEN | {"required": ["a", "x"]}, {"a": 1, "x": 1}),
        (OPEN | {"minProperties": 2}, {"a": 1, "x": 1}),
        ({"allOf": [OPEN, {"type": "object", "properties": {"b": {}}}]}, {"a": 1, "b": 1}),
        (OPEN | {"anyOf": [{"required": ["b"]}, {"required": ["c"]}]}, {"a": 1, "b": 1}),
        (True, 5),
        ({"properties": {"properties": {"type": "integer"}}}, {"properties": 3}),
    ],
)
def test_what_might_become_impossible_stays_open(schema: Any, value: Any) -> None:
    assert accepts(schema, value)
    assert accepts(closed(schema), value)
