"""What an answer's text must be -> a compiled grammar, off the event loop and within a bound."""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from dflash_serve.engine.grammar import (
    Grammar,
    GrammarCompiler,
    GrammarError,
    from_choices,
    from_json_schema,
    from_lark,
    from_regex,
)
from dflash_serve.server.ask import FormatKind, OutputFormat, ToolMode, ToolUse
from dflash_serve.server.errors import ApiError, invalid, shown
from dflash_serve.text.json_schema import closed
from dflash_serve.text.parsers.base import Markup, ToolSpec

_THREADS = 2
_STACK = 256 * 2**20
"""Bytes of stack of a compiling thread, taken up only where they are used. The compiler calls
itself once per rule or reference that leads to the next: 2,000 of them overflow the usual 8 MiB,
which would end the process."""
_MAX_LARK = 64 * 1024
"""Characters of a grammar that a client writes itself."""
_SOURCES: dict[FormatKind, Callable[[OutputFormat], str]] = {
    FormatKind.JSON_OBJECT: lambda form: from_json_schema({"type": "object"}),
    FormatKind.JSON_SCHEMA: lambda form: from_json_schema(_schema(form)),
    FormatKind.REGEX: lambda form: from_regex(form.value),
    FormatKind.CHOICE: lambda form: from_choices(form.value),
    FormatKind.GRAMMAR: lambda form: from_lark(_bounded(form.value)),
}


class Grammars:
    """Compiles the grammars of requests on threads of its own. Lives on the event loop.

    ``seconds``: how long one may take.
    """

    def __init__(self, compiler: GrammarCompiler, seconds: float = 2.0) -> None:
        self._compiler = compiler
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="grammar")
        self._ready: Future[Grammar] | None = None

    def warm_up(self) -> None:
        """Begin to read the vocabulary, which takes a second for large ones."""
        if self._ready is None:
            self._start_threads()
            self._ready = self._pool.submit(self._compiler.compile, from_choices(("a",)))

    async def compile(self, source: Callable[[], str], param: str) -> Grammar:
        """The grammar of what ``source`` returns.

        Raises:
            ApiError: it cannot be compiled, or not within the bound; ``param`` is named.
        """
        self.warm_up()
        assert self._ready is not None
        try:
            await asyncio.wrap_future(self._ready)
        except ValueError as error:
            text = f"This model's tokenizer cannot be used with '{param}': {shown(str(error))}"
            raise ApiError(400, text, param=param, code="unsupported_parameter") from error
        work = self._pool.submit(lambda: self._compiler.compile(source()))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), self._seconds)
        except GrammarError as error:
            raise invalid(param, f"Invalid '{param}': it cannot be compiled: {error}") from error
        except TimeoutError as error:
            if not work.cancelled():
                text = (
                    f"Invalid '{param}': compiling it takes longer than {self._seconds:g} seconds"
                )
                raise invalid(param, text) from error
            message = "The server is busy compiling other grammars. Try again in a few seconds."
            raise ApiError(
                503,
                message,
                kind="server_error",
                code="grammar_queue_full",
                headers={"Retry-After": "2"},
            ) from error

    def close(self) -> None:
        """End the threads; does not wait for what they compile."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start_threads(self) -> None:
        """All at once, so that each has the large stack and no other thread has."""
        usual = threading.stack_size(_STACK)
        started = threading.Barrier(_THREADS)
        for _ in range(_THREADS):
            self._pool.submit(started.wait)
        threading.stack_size(usual)


def needed(
    form: OutputFormat | None, use: ToolUse, markup: Markup
) -> tuple[Callable[[], str], str] | None:
    """What makes the grammar's source, and the field that asks for it; None where text is free.

    Raises:
        ApiError: the format excludes the tool call that is required.
    """
    if use.mode is ToolMode.REQUIRED:
        if form is not None:
            message = (
                f"A tool call is required, so the answer cannot obey '{form.param}' as well. "
                f'Remove `{form.param}`, or set `tool_choice` to "auto".'
            )
            raise invalid(form.param, message)
        tools = wanted_tools(use)
        return lambda: _calls(markup, tools, use, required=True), "tools"
    tools = wanted_tools(use)
    if form is not None and tools:
        return lambda: _either(_text(form), _calls(markup, tools, use, required=True)), form.param
    if form is not None:
        return lambda: _text(form), form.param
    if any(tool.strict for tool in tools):
        return lambda: _calls(markup, tools, use, required=False), "tools"
    return None


def wanted_tools(use: ToolUse) -> tuple[ToolSpec, ...]:
    """The tools that the answer may call."""
    if use.mode is ToolMode.NONE:
        return ()
    return tuple(tool for tool in use.tools if use.only is None or tool.name == use.only)


def _text(form: OutputFormat) -> str:
    return _guarded(lambda: _SOURCES[form.kind](form))


def _bounded(text: str) -> str:
    if len(text) > _MAX_LARK:
        raise GrammarError(f"it has {len(text)} characters, the limit is {_MAX_LARK}")
    return text


def _schema(form: OutputFormat) -> dict[str, Any] | bool:
    if not isinstance(form.value, dict):
        return bool(form.value)
    # the compiler's own options, which are not the client's to set
    return closed(form.value) | {"x-guidance": {"lenient": not form.strict, "coerce_one_of": True}}


def _calls(markup: Markup, tools: tuple[ToolSpec, ...], use: ToolUse, *, required: bool) -> str:
    def source() -> str:
        narrow = [replace(tool, parameters=closed(tool.parameters)) for tool in tools]
        return from_lark(markup.call_grammar(narrow, required=required, parallel=use.parallel))

    return _guarded(source)


def _guarded(source: Callable[[], str]) -> str:
    """What cannot even be written as a grammar is the request's fault, not the server's."""
    try:
        return source()
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise GrammarError(shown(str(error))) from error


def _either(text: str, calls: str) -> str:
    """The union of two sources: an answer in the wanted format, or tool calls."""
    parts = []
    for name, source in (("text", text), ("calls", calls)):
        spec = json.loads(source)["grammars"] if source.startswith("{") else [_lark(source)]
        if len(spec) != 1:
            raise GrammarError("it is made of several grammars, which cannot go with tools")
        parts.append(spec[0] | {"name": name})
    return json.dumps({"grammars": [{"lark_grammar": "start: @text | @calls"}, *parts]})


def _lark(source: str) -> dict[str, str]:
    return {"lark_grammar": source}
