"""The markups by name, which one a template uses, and how a template switches thinking. Pure."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, TemplateError, meta

from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.parsers.fenced import Fenced
from dflash_serve.text.parsers.gemma import Gemma
from dflash_serve.text.parsers.harmony import Harmony
from dflash_serve.text.parsers.hermes import Hermes
from dflash_serve.text.parsers.lfm2 import Lfm2
from dflash_serve.text.parsers.llama import Llama
from dflash_serve.text.parsers.mistral import Mistral
from dflash_serve.text.parsers.plain_json import PlainJson
from dflash_serve.text.parsers.qwen_xml import QwenXml
from dflash_serve.text.parsers.style import ReasoningStyle, StyledMarkup, ToolStyle

NONE = "none"
HARMONY = "harmony"

_THINK = ReasoningStyle("think", "<think>", "</think>")
_THINK_MISTRAL = ReasoningStyle("mistral", "[THINK]", "[/THINK]")
_THINK_GEMMA = ReasoningStyle("gemma4", "<|channel>thought", "<channel|>", control="<|channel>")
_REASONING = {style.name: style for style in (_THINK, _THINK_MISTRAL, _THINK_GEMMA)}
_FUNCTION_GEMMA = Gemma(
    "function_gemma", "<start_function_call>", "<end_function_call>", "<escape>"
)
_STYLES: tuple[ToolStyle, ...] = (
    Hermes(),
    QwenXml(),
    Lfm2(),
    Llama(),
    Mistral(),
    Mistral(name="mistral_array", named=False),
    Gemma(),
    _FUNCTION_GEMMA,
    Fenced(),
    PlainJson(),
)
_TOOLS = {style.name: style for style in _STYLES}
_USUAL_REASONING = {
    "hermes": "think",
    "qwen_xml": "think",
    "mistral": "mistral",
    "mistral_array": "mistral",
    "gemma4": "gemma4",
}


def names() -> tuple[str, ...]:
    """The names of tool styles, each of which `by_name` and ``--tool-parser`` take."""
    return (*_TOOLS, HARMONY)


def reasoning_names() -> tuple[str, ...]:
    """The names of reasoning styles, which ``--reasoning-parser`` takes."""
    return (*_REASONING, HARMONY, NONE)


def by_name(name: str) -> Markup:
    """The family's markup: the tool style of that name, with the reasoning usual for it.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    if name == HARMONY:
        return Harmony()
    if name not in _TOOLS:
        raise ValueError(f"no tool parser is called {name!r}: there are {', '.join(names())}")
    return _styled(name, _USUAL_REASONING.get(name, NONE))


def compose(tools: str, reasoning: str) -> Markup:
    """A markup of a tool style and a reasoning style.

    Raises:
        ValueError: there is no such style, or the two cannot be combined.
    """
    if reasoning not in reasoning_names():
        known = ", ".join(reasoning_names())
        raise ValueError(f"no reasoning parser is called {reasoning!r}: there are {known}")
    if tools not in names():
        raise ValueError(f"no tool parser is called {tools!r}: there are {', '.join(names())}")
    if HARMONY not in (tools, reasoning):
        return _styled(tools, reasoning)
    if tools != reasoning:
        raise ValueError(
            f"harmony writes reasoning and calls in one: it cannot be combined with the tool"
            f" parser {tools!r} and the reasoning parser {reasoning!r}"
        )
    return Harmony()


def detect(
    template: str,
    vocabulary: Collection[str] = (),
    *,
    tools: str | None = None,
    reasoning: str | None = None,
) -> Markup:
    """The markup of a chat template, ``tools`` and ``reasoning`` put in place of what it shows.

    The template's text decides; of reasoning markers that it does not show, those that
    ``vocabulary`` (the added tokens' texts) holds. A template that shows no known calls gets
    plain JSON.

    Raises:
        ValueError: as `compose`.
    """
    if tools is None and reasoning is None and _is_harmony(template):
        return Harmony()
    found = HARMONY if _is_harmony(template) else _tool_style(template)
    if tools is None:
        tools = HARMONY if reasoning == HARMONY else found
        tools = "json" if tools == HARMONY != reasoning else tools
    if reasoning is None:
        reasoning = HARMONY if tools == HARMONY else _reasoning_style(template, vocabulary)
    return compose(tools, reasoning)


def _is_harmony(template: str) -> bool:
    return "<|channel|>" in template and "<|message|>" in template


def _tool_style(template: str) -> str:
    """The first that fits: those with markers of their own, then those that share some."""
    shown = (
        ("gemma4", "<|tool_call>" in template),
        ("function_gemma", "<start_function_call>" in template),
        ("lfm2", "<|tool_call_start|>" in template or "<|tool_list_start|>" in template),
        ("qwen_xml", "<function=" in template and "<parameter=" in template),
        ("mistral", "[TOOL_CALLS]" in template and "[ARGS]" in template),
        ("mistral_array", "[TOOL_CALLS]" in template),
        ("hermes", "<tool_call>" in template and "<arg_key>" not in template),
        ("llama3", "<|python_tag|>" in template),
        ("llama3", "<|start_header_id|>" in template and "parameters" in template),
        ("gemma3", "<start_of_turn>" in template),
    )
    return next((name for name, fits in shown if fits), "json")


def _reasoning_style(template: str, vocabulary: Collection[str]) -> str:
    for style in _REASONING.values():
        if style.open in template or style.close in template:
            return style.name
    for style in _REASONING.values():
        if all(marker in vocabulary for marker in style.markers):
            return style.name
    return NONE


def _styled(tools: str, reasoning: str) -> Markup:
    name = tools if reasoning in (NONE, tools) else f"{tools}+{reasoning}"
    return StyledMarkup(name, _REASONING.get(reasoning), _TOOLS[tools])


@dataclass(frozen=True, slots=True)
class ThinkingSwitch:
    """The keywords by which a template switches thinking. ``flag`` takes a bool.

    ``effort`` takes one of ``levels`` (the first is the least); no levels: any word.
    """

    flag: str | None = None
    effort: str | None = None
    levels: tuple[str, ...] = ()

    def kwargs(self, *, enabled: bool | None, effort: str | None) -> dict[str, Any]:
        """Keywords for the template; what is None is left to it."""
        chosen: dict[str, Any] = {}
        if self.flag is not None and enabled is not None:
            chosen[self.flag] = enabled
        if self.effort is not None:
            level = self._level("none" if enabled is False else effort)
            if level is not None:
                chosen[self.effort] = level
        return chosen

    def _level(self, effort: str | None) -> str | None:
        if effort is None or not self.levels or effort in self.levels:
            return effort
        return self.levels[0] if effort in ("none", "minimal", "low") else self.levels[-1]


_FLAGS = ("enable_thinking", "thinking")
_EFFORT = "reasoning_effort"
_LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def thinking_switch(template: str) -> ThinkingSwitch | None:
    """How ``template`` lets a request switch thinking; None: it does not."""
    variables = _variables(template)
    flag = next((name for name in _FLAGS if name in variables), None)
    if _EFFORT not in variables:
        return ThinkingSwitch(flag) if flag else None
    if _is_harmony(template):
        return ThinkingSwitch(flag, _EFFORT, ("low", "medium", "high"))
    quoted = set(re.findall(r"""["'](\w+)["']""", template))
    levels = tuple(level for level in _LEVELS if level in quoted)
    return ThinkingSwitch(flag, _EFFORT, levels if len(levels) > 1 else ())


def _variables(template: str) -> Collection[str]:
    """The names that ``template`` reads but does not set itself for good."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"])
    try:
        return meta.find_undeclared_variables(environment.parse(template))
    except TemplateError:  # tags of the renderer's own
        return set(re.findall(r"\w+", template))
