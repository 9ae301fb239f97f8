"""What the tests ask the demo pair."""

from typing import Any

HELLO = [{"role": "user", "content": "Hello!"}]
COUNT = [{"role": "user", "content": "Count from 2 to 9."}]
SUMS = [[{"role": "user", "content": f"What is {at} plus {at}?"}] for at in range(1, 9)]
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "boolean"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
POINT_FORMAT = {"type": "json_schema", "json_schema": {"name": "point", "schema": POINT}}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "move_to", "description": "Go there.", "parameters": POINT},
}
