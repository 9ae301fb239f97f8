"""How a request's reasoning is switched, bounded and found in a prompt. No wire names."""

from collections.abc import Mapping
from typing import Any

from dflash_serve.engine.types import ThinkingRule
from dflash_serve.server.ask import Thinking
from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.tokenizer import ChatTokenizer

_SWITCHES = ("enable_thinking", "thinking")
"""Keyword arguments by which chat templates turn reasoning on and off; the first known is set."""
_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}
"""Efforts that templates do not know -> the nearest that they do."""


def template_arguments(
    thinking: Thinking, tokenizer: ChatTokenizer, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What the template is told. ``given`` by the client itself, it wins."""
    said: dict[str, Any] = {}
    if thinking.enabled is not None:
        known = [name for name in _SWITCHES if tokenizer.template_reads(name)]
        said |= {name: thinking.enabled for name in known[:1]}
    if thinking.effort is not None and tokenizer.template_reads("reasoning_effort"):
        said["reasoning_effort"] = _EFFORTS.get(thinking.effort, thinking.effort)
    return said | dict(given)


def is_open(prompt: tuple[int, ...], markup: Markup, tokenizer: ChatTokenizer) -> bool:
    """Whether ``prompt`` ends inside the reasoning, as thinking models' templates make it."""
    if markup.reasoning is None:
        return False
    begin, end = markup.reasoning
    tail = tokenizer.last_turn(prompt, markup.markers)
    return tail.rfind(begin) > tail.rfind(end)


def rule(
    thinking: Thinking, markup: Markup, tokenizer: ChatTokenizer, begun: bool
) -> ThinkingRule | None:
    """How the engine finds and bounds the reasoning; None where there is none to find."""
    if markup.reasoning is None:
        return None
    begin, end = (tokenizer.encode_markup(marker) for marker in markup.reasoning)
    off = thinking.enabled is False
    if off and not begun:
        return None
    return ThinkingRule(
        close=end,
        open=begin,
        begun=begun,
        # a template without a switch opens the reasoning all the same: it is closed at once
        budget=0 if off else thinking.budget,
    )
