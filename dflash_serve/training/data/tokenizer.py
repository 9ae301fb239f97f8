"""A target's tokenizer, and what ``--thinking`` tells its chat template: as the server tells it."""

from pathlib import Path
from typing import Any

from dflash_serve.measure.errors import DataError
from dflash_serve.text.parsers.table import ThinkingSwitch, thinking_switch
from dflash_serve.text.tokenizer import ChatTokenizer

_STRENGTH = "reasoning_strength"
"""Takes the level in templates that do not know the server's own switch for it."""


def read_tokenizer(directory: Path) -> ChatTokenizer:
    """That of the target in ``directory``.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    try:
        return ChatTokenizer.load(directory)
    except ValueError as error:
        raise DataError(str(error)) from error


def template_arguments(thinking: str, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """Keyword arguments for the chat template; ``thinking`` is off, on, default or a level.

    ``default`` tells nothing, and ``off`` tells nothing to a template that cannot think.

    Raises:
        DataError: the template has no such switch.
    """
    if thinking == "default":
        return {}
    switch = thinking_switch(tokenizer.template) or ThinkingSwitch()
    if thinking == "off":
        return switch.kwargs(enabled=False, effort=None)
    if thinking == "on":
        told = switch.kwargs(enabled=True, effort=None)
    elif switch.effort is None and tokenizer.template_reads(_STRENGTH):
        told = switch.kwargs(enabled=True, effort=None) | {_STRENGTH: thinking}
    elif switch.effort is not None and thinking in (switch.levels or (thinking,)):
        told = switch.kwargs(enabled=thinking != "none", effort=thinking)
    else:
        told = {}
    if not told:
        raise DataError(
            f"--thinking is {thinking!r}, but the target's chat template knows {_known(switch)}"
        )
    return told


def _known(switch: ThinkingSwitch) -> str:
    words = ["off", "default"]
    if switch.flag is not None:
        words.insert(0, "on")
    if switch.effort is not None:
        words += switch.levels or ("any level",)
    return "only " + ", ".join(words)
