"""Grammars of requests: bounded in time, off the event loop, honest about what they cannot do."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dflash_serve.engine.grammar import (
    Grammar,
    GrammarCompiler,
    from_choices,
    from_json_schema,
    from_lark,
    from_regex,
)
from dflash_serve.server.errors import ApiError
from dflash_serve.server.grammars import Grammars
from dflash_serve.text.tokenizer import ChatTokenizer


class Slow(GrammarCompiler):
    """Compiles nothing but warm-up until it is let go."""

    def __init__(self, *facts: Any) -> None:
        super().__init__(*facts)
        self.go = threading.Event()

    def compile(self, source: str) -> Grammar:
        if source != from_choices(("a",)):
            self.go.wait(60)
        return super().compile(source)


@pytest.fixture
def facts(tokenizer: ChatTokenizer) -> tuple[Any, ...]:
    return tokenizer.backend.to_str(), 512, sorted(tokenizer.token_text.ids(["<|im_end|>"]))


def test_what_takes_too_long_is_refused_and_the_rest_told_to_wait(facts: tuple[Any, ...]) -> None:
    async def main() -> None:
        compiler = Slow(*facts)
        grammars = Grammars(compiler, seconds=0.05)
        results = await asyncio.gather(
            *(grammars.compile(lambda: from_regex("a+"), "regex") for _ in range(3)),
            return_exceptions=True,
        )
        errors = [error for error in results if isinstance(error, ApiError)]
        assert sorted(error.status for error in errors) == [400, 400, 503]
        slow = next(error for error in errors if error.status == 400)
        assert (slow.param, slow.code) == ("regex", "invalid_value")
        assert "0.05 seconds" in slow.message
        busy = next(error for error in errors if error.status == 503)
        assert busy.headers["Retry-After"]
        compiler.go.set()
        assert "b+" in (await another(grammars)).source

    async def another(grammars: Grammars) -> Grammar:
        """Once the others are done, and when this machine takes no 0.05 seconds for it."""
        while True:
            with contextlib.suppress(ApiError):
                return await grammars.compile(lambda: from_regex("b+"), "regex")

    asyncio.run(asyncio.wait_for(main(), 120))


def test_the_event_loop_goes_on_meanwhile(facts: tuple[Any, ...]) -> None:
    async def main() -> None:
        compiler = Slow(*facts)
        compiling = asyncio.create_task(
            Grammars(compiler, seconds=60).compile(lambda: from_regex("a+"), "regex")
        )
        for _ in range(100):
            await asyncio.sleep(0)
        assert not compiling.done()
        compiler.go.set()
        await compiling

    asyncio.run(main())


def test_a_tokenizer_that_grammars_cannot_use_is_the_servers_limit(facts: tuple[Any, ...]) -> None:
    async def main() -> None:
        compiler = GrammarCompiler(facts[0], 512, [511])
        with pytest.raises(ApiError, match="tokenizer cannot be used") as caught:
            await Grammars(compiler).compile(lambda: from_regex("a+"), "regex")
        assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")

    asyncio.run(main())


def chained_rules(count: int) -> str:
    rules = (f"r{at}:r{at + 1} r{at + 1}" for at in range(count))
    return "\n".join([*rules, f'r{count}: "x"', "start: r0"])


def chained_references(count: int) -> str:
    definitions: dict[str, Any] = {
        f"a{at}": {"type": "array", "items": {"$ref": f"#/$defs/a{at + 1}"}} for at in range(count)
    }
    definitions[f"a{count}"] = {"type": "string"}
    return from_json_schema({"$defs": definitions, "$ref": "#/$defs/a0"})


@pytest.mark.parametrize(
    "source", [lambda: from_lark(chained_rules(3400)), lambda: chained_references(6000)]
)
def test_long_chains_of_rules_do_not_end_the_process(
    facts: tuple[Any, ...], source: Callable[[], str]
) -> None:
    async def main() -> None:
        grammar = await Grammars(GrammarCompiler(*facts), seconds=60).compile(source, "grammar")
        matcher = grammar.start()  # on this thread, which has a usual stack, as the engine's has
        matcher.compute_bitmask()
        assert not matcher.is_error()

    asyncio.run(main())


def test_other_threads_keep_the_usual_stack(facts: tuple[Any, ...]) -> None:
    usual = threading.stack_size()
    Grammars(GrammarCompiler(*facts)).warm_up()
    assert threading.stack_size() == usual
