"""How a request's reasoning is switched, bounded and found in a prompt. No wire names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dflash_serve.engine.types import ThinkingRule
from dflash_serve.server.ask import Thinking
from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.parsers.table import ThinkingSwitch
from dflash_serve.text.tokenizer import ChatTokenizer


def template_arguments(
    thinking: Thinking, switch: ThinkingSwitch | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What the template is told. What the client itself gives wins."""
    if switch is None:
        return dict(given)
    return switch.kwargs(enabled=thinking.enabled, effort=thinking.effort) | dict(given)


def is_open(prompt: Sequence[int], markup: Markup, tokenizer: ChatTokenizer) -> bool:
    """Whether ``prompt`` ends inside the reasoning, as thinking models' templates make it."""
    return markup.in_reasoning(tokenizer.last_turn(prompt, markup.markers))


def rule(
    thinking: Thinking, switch: ThinkingSwitch | None, markers: "Markers", begun: bool
) -> ThinkingRule:
    """How the engine finds and bounds the reasoning.

    Reasoning that is switched off, by a template that cannot do it, is closed at once.
    """
    off = thinking.enabled is False
    return ThinkingRule(
        close=markers.close,
        # a model that was told not to think could escape a grammar by its marker
        open=() if off and _can_be_off(switch) else markers.open,
        begun=begun,
        budget=0 if off else thinking.budget,
    )


@dataclass(frozen=True, slots=True)
class Markers:
    """A markup's reasoning markers as token ids."""

    open: tuple[int, ...]
    close: tuple[int, ...]


def markers(markup: Markup, tokenizer: ChatTokenizer) -> Markers | None:
    """None: the model writes no reasoning."""
    if markup.reasoning is None:
        return None
    return Markers(*(tokenizer.encode_markup(marker) for marker in markup.reasoning))


def _can_be_off(switch: ThinkingSwitch | None) -> bool:
    if switch is None:
        return False
    words = switch.effort is not None and (not switch.levels or "none" in switch.levels)
    return switch.flag is not None or words
