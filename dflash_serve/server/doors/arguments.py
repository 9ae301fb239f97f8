"""Arguments of tool calls: JSON text that clients send back -> the object that templates read."""

from typing import Any

from pydantic_core import from_json

from dflash_serve.server.errors import invalid, shown


def parse_arguments(text: str, where: str) -> dict[str, Any]:
    """The object, no deeper than a request body may be. ``where`` is the field's name.

    Raises:
        ApiError: it is no JSON object.
    """
    try:
        arguments = from_json(text or "{}", allow_inf_nan=False)
    except ValueError as error:
        message = f"Invalid '{where}': {shown(text)} is not valid JSON: {error}"
        raise invalid(where, message) from error
    if not isinstance(arguments, dict):
        message = f"Invalid '{where}': it must be a JSON object, but is {shown(text)}"
        raise invalid(where, message)
    return arguments
