"""What the Python interface can be told: the command line's and the HTTP interface's own names."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, get_type_hints

from dflash_serve.compose.options import EngineOptions, parse_bytes
from dflash_serve.llm.errors import LLMError, refused_models


class EngineKeywords(TypedDict, total=False):
    """Options of the models and the engine, as ``dflash-serve --help`` explains them.

    ``block_size``: tokens verified per round, or "auto". ``memory_limit``: bytes of cache, or a
    size like "8GB". ``max_batch`` requests are decoded together and ``max_queue`` wait in the
    engine; more are held back and follow. ``seed`` is for requests without one.
    """

    block_size: int | Literal["auto"]
    speculation: Literal["auto", "always", "off"]
    cpu_weights: Literal["auto", "float32", "stored"]
    drafter_bits: Literal[0, 4, 8]
    second_drafter: str
    tree: str
    max_batch: int
    max_queue: int
    max_context: int
    prefill_chunk: int
    max_stall_ms: int
    memory_limit: int | str
    seed: int | None
    tool_parser: str
    reasoning_parser: str


class AnswerOptions(TypedDict, total=False):
    """How an answer is drawn: fields of the HTTP requests, with their limits and defaults.

    Sampling parameters that are left out are the checkpoint's own defaults. One of
    ``response_format`` (OpenAI's object), ``regex``, ``choice`` (a list of strings) and
    ``grammar`` (Lark) may constrain the text. Of several prompts with ``n`` choices each, prompt i
    draws with ``seed + i * n`` and the next ``n - 1`` seeds.
    """

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    n: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    min_tokens: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    include_stop_str_in_output: bool | None
    ignore_eos: bool | None
    response_format: Mapping[str, Any] | None
    regex: str | None
    choice: Sequence[str] | None
    grammar: str | None


class GenerateOptions(AnswerOptions, total=False):
    """Options of `generate` and `stream`; ``max_tokens`` is 16 unless given, as over HTTP.

    ``logprobs``: how many of the most likely tokens to report beside each one. ``echo``: the
    prompt stands before the text.
    """

    logprobs: int | None
    echo: bool | None


class ChatOptions(AnswerOptions, total=False):
    """Options of `chat` and `stream_chat`; without ``max_tokens`` the context's end is the limit.

    ``logprobs`` true reports each token's, ``top_logprobs`` how many of the most likely ones.
    """

    logprobs: bool | None
    top_logprobs: int | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    reasoning_effort: str | None
    enable_thinking: bool | None
    thinking_budget: int | None
    chat_template_kwargs: Mapping[str, Any] | None


_HINTS = get_type_hints(EngineOptions)


def engine_options(
    target: str | os.PathLike[str] | None,
    drafter: str | os.PathLike[str],
    given: Mapping[str, Any],
) -> EngineOptions:
    """The options of `LLM`, checked.

    Raises:
        LLMError: naming the option, the value and what it can be.
    """
    check_names(given, EngineKeywords)
    chosen = {"target": _name(target), "drafter": _name(drafter), **given}
    if chosen.get("block_size") == "auto":
        chosen["block_size"] = 0
    with refused_models():
        if isinstance(limit := chosen.get("memory_limit"), str):
            chosen["memory_limit"] = parse_bytes("memory_limit", limit)
        for name, value in chosen.items():
            _check_type(name, value)
        return EngineOptions(**chosen)


def check_names(given: Mapping[str, Any], known: type) -> None:
    """
    Raises:
        LLMError: an option that ``known``, a `TypedDict`, does not have.
    """
    names = get_type_hints(known)
    for name in given:
        if name not in names:
            options = ", ".join(sorted(names))
            raise LLMError(f"there is no option {name}; the options are {options}", name)


def _name(name: Any) -> Any:
    return str(Path(name)) if isinstance(name, os.PathLike) else name


def _check_type(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, _HINTS[name]):
        wanted = getattr(_HINTS[name], "__name__", str(_HINTS[name]))
        raise LLMError(f"{name} is {value!r}, but must be of type {wanted}", name)
