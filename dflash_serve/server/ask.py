"""What any door asks of the model, in one shape: validated, defaults resolved. No wire names.

Doors translate their wire types into an `Ask`; `begin` turns it into a running `Generation`.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dflash_serve.engine.types import LogitRules, SamplingParams
from dflash_serve.text.parsers.base import ToolSpec


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages as chat templates read them (``role``, ``content``, ``tool_calls``, ...).

    Arguments of tool calls are objects, not JSON text. ``param`` is the door's name for them.
    """

    messages: tuple[Mapping[str, Any], ...]
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    param: str = "messages"


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """A prompt without a template: text, in which control tokens are read, or token ids."""

    text: str | None = None
    tokens: tuple[int, ...] = ()
    param: str = "prompt"


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the model reads it.

    ``chat``: a template made it; ``begun``: it ends inside the reasoning. ``text`` is what an echo
    of it shows. An array of 32-bit ids: it is pickled as bytes.
    """

    tokens: "array[int]"
    param: str
    chat: bool
    begun: bool = False
    text: str | None = None


class ToolMode(Enum):
    """Whether the answer may or must call tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of one request. ``only``: the one tool that must be called (with REQUIRED)."""

    tools: tuple[ToolSpec, ...] = ()
    mode: ToolMode = ToolMode.AUTO
    only: str | None = None
    parallel: bool = True


class FormatKind(Enum):
    """What the answer's text must be."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """``value``: the schema (an object or a bool), regex, tuple of choices, or Lark grammar.

    ``strict``: a schema with keywords that cannot be guaranteed is refused; else they are left
    out. ``oneOf`` is read as ``anyOf`` either way.
    """

    kind: FormatKind
    value: Any = None
    param: str = "response_format"
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Thinking:
    """``enabled`` None leaves it to the template. ``budget``: tokens of reasoning, None for all.

    ``effort`` (minimal, low, medium, high, ...) reaches templates that know it.
    """

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to the model, from any door.

    ``sampling`` has its seed; choice i draws with seed + i. ``max_tokens`` None is all the room
    that is left. ``stop`` are strings; ``stop_tokens`` end the answer beside the model's own,
    which ``ignore_end`` switches off. ``logprobs``: None, or how many of the most likely tokens.
    ``echo`` puts the prompt before the text (raw prompts).
    """

    prompt: ChatPrompt | RawPrompt | EncodedPrompt
    sampling: SamplingParams
    n: int = 1
    max_tokens: int | None = None
    rules: LogitRules = field(default_factory=LogitRules)
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    ignore_end: bool = False
    include_stop: bool = False
    logprobs: int | None = None
    echo: bool = False
    tools: ToolUse = field(default_factory=ToolUse)
    format: OutputFormat | None = None
    thinking: Thinking = field(default_factory=Thinking)
