"""The merge of a request's choices: every way an engine can end them."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from dflash_serve.compose.drafting import DrafterCard, DrafterSwitch
from dflash_serve.engine.errors import EngineError, EngineUnavailable
from dflash_serve.engine.types import EngineRequest, TokenChunk
from dflash_serve.server.deltas import Delta, EndDelta
from dflash_serve.server.generation import Generation
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, Script, choice, refuse, saying


def generation(engine: FakeEngine, tokenizer: ChatTokenizer, n: int = 1) -> Generation:
    requests = [EngineRequest(f"r{index}", (1, 2), 100) for index in range(n)]
    choices = [choice(at, one, tokenizer, ["END"]) for at, one in enumerate(requests)]
    made = Generation("name", engine, choices, DrafterSwitch(DrafterCard(), refuse))
    made.start()
    return made


async def collect(made: Generation) -> list[Delta]:
    return [delta async for delta in made.deltas()]


def test_every_choice_ends_once_and_with_usage(tokenizer: ChatTokenizer) -> None:
    engine = FakeEngine(saying(tokenizer, "hello world"))

    async def main() -> list[Delta]:
        return await collect(generation(engine, tokenizer, 3))

    deltas = asyncio.run(main())
    ends = [delta for delta in deltas if isinstance(delta, EndDelta)]
    assert sorted(delta.index for delta in ends) == [0, 1, 2]
    assert all(delta.usage.completion_tokens for delta in ends)
    assert engine.aborted == []


def silent(request: EngineRequest) -> Script:
    return Script(hang=True)


def test_closing_aborts_what_runs_and_may_be_repeated(tokenizer: ChatTokenizer) -> None:
    engine = FakeEngine(silent)

    async def main() -> None:
        made = generation(engine, tokenizer, 2)
        made.close()
        made.close()
        with pytest.raises(EngineUnavailable):
            await collect(made)

    asyncio.run(main())
    assert engine.aborted == ["r0", "r1"]


def test_a_reader_that_goes_away_aborts(tokenizer: ChatTokenizer) -> None:
    engine = FakeEngine(saying(tokenizer, "hello", hang=True))

    async def main() -> None:
        deltas = generation(engine, tokenizer).deltas()
        await anext(deltas)
        await deltas.aclose()  # type: ignore[attr-defined]
        while engine.live or not engine.played:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert engine.aborted == ["r0"]


class OddEngine(FakeEngine):
    """Ends requests in ways that the protocol forbids."""

    end: Callable[[], None] = staticmethod(lambda: None)

    def submit(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        return self._odd(request)

    async def _odd(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        yield TokenChunk(request.id, ())
        self.end()


def test_an_engine_that_just_stops_is_an_error_not_a_wait(tokenizer: ChatTokenizer) -> None:
    async def main() -> None:
        await collect(generation(OddEngine(silent), tokenizer))

    with pytest.raises(EngineError, match="without a last chunk"):
        asyncio.run(main())


def test_a_bug_in_the_engine_is_logged_and_kept_from_the_client(
    tokenizer: ChatTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    engine = OddEngine(silent)

    def bug() -> None:
        raise ZeroDivisionError("secret detail")

    engine.end = bug

    async def main() -> None:
        await collect(generation(engine, tokenizer))

    with pytest.raises(EngineError) as caught:
        asyncio.run(main())
    assert "secret" not in str(caught.value)
    assert "secret detail" in caplog.text


def test_a_cancelled_task_ends_the_answer(tokenizer: ChatTokenizer) -> None:
    async def main() -> None:
        made = generation(FakeEngine(silent), tokenizer)
        reading = asyncio.create_task(collect(made))
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task(), reading}:
            task.cancel()
        await reading

    with pytest.raises(EngineUnavailable):
        asyncio.run(main())
