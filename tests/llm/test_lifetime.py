"""What an `LLM` holds, and that it gives it back."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from dflash_serve import LLM, AsyncLLM, LLMError
from dflash_serve.llm import GenerateOptions
from tests.llm.chats import HELLO, SUMS

THREADS = ("dflash-llm", "mlx-engine", "grammar")
LONG: GenerateOptions = {"temperature": 0, "max_tokens": 1500, "ignore_eos": True}


LITTLE = 1024
"""Bytes: a number or two that Python lets go of later than its owner."""


def threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith(THREADS)}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails unless threads and device memory are at the end what they were."""
    gc.collect()
    mx.clear_cache()
    before, memory = threads(), mx.get_active_memory()
    yield
    for thread in threads() - before:
        thread.join(60)
    assert threads() == before
    assert mx.get_active_memory() <= memory
    assert mx.get_cache_memory() < LITTLE


@pytest.mark.usefixtures("nothing_left")
def test_leaving_the_block_frees_the_device_and_ends_the_threads() -> None:
    with LLM() as llm:
        llm.chat(HELLO, choice=["yes"])
        assert mx.get_active_memory() > 0
    with pytest.raises(LLMError, match="closed"):
        llm.generate("Hello")
    llm.close()


@pytest.mark.usefixtures("nothing_left")
def test_two_after_one_another_say_the_same() -> None:
    texts = []
    for _ in range(2):
        with LLM() as llm:
            texts.append(llm.chat(HELLO, temperature=0, max_tokens=16).text)
    assert texts[0] == texts[1]


@pytest.mark.usefixtures("nothing_left")
def test_one_that_is_dropped_is_freed() -> None:
    llm = LLM()
    llm.generate("Hello")
    del llm
    gc.collect()


@pytest.mark.usefixtures("nothing_left")
def test_one_that_cannot_be_loaded_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LLMError, match=r"config\.json"):
        LLM(tmp_path, "none")
    with pytest.raises(LLMError, match="memory_limit is 3 bytes"):
        LLM(memory_limit=3)


@pytest.mark.usefixtures("nothing_left")
def test_closing_ends_what_another_thread_waits_for() -> None:
    llm, raised = LLM(), []

    def ask() -> None:
        for piece in llm.stream("Hello", **LONG):
            if piece.text:
                begun.set()

    def catch() -> None:
        try:
            ask()
        except LLMError as error:
            raised.append(error)

    begun = threading.Event()
    thread = threading.Thread(target=catch)
    thread.start()
    assert begun.wait(60)
    llm.close()
    thread.join(60)
    assert len(raised) == 1
    assert "\n" not in str(raised[0])


def test_a_stream_that_is_left_early_gives_its_place_back() -> None:
    with LLM(max_batch=1, max_queue=0) as llm:
        for piece in llm.stream("Hello", **LONG):
            if piece.text:
                break
        assert llm.generate("Hello", max_tokens=2).usage.completion_tokens == 2


def test_threads_share_one_engine() -> None:
    with LLM(max_batch=2) as llm:
        chats = SUMS[:4]
        alone = [llm.chat(chat, temperature=0, max_tokens=24).text for chat in chats]
        texts = [""] * len(chats)

        def ask(at: int) -> None:
            texts[at] = llm.chat(chats[at], temperature=0, max_tokens=24).text

        asking = [threading.Thread(target=ask, args=(at,)) for at in range(len(chats))]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(60)
        assert texts == alone


@pytest.mark.usefixtures("nothing_left")
def test_asyncio_programs_ask_side_by_side_and_cancel() -> None:
    async def main() -> None:
        async with AsyncLLM(max_batch=2, max_queue=0) as llm:
            whole, parts = await asyncio.gather(
                llm.chat(HELLO, temperature=0, max_tokens=16),
                collect(llm),
            )
            assert parts == whole.text
            endless = [asyncio.create_task(llm.generate("Hello", **LONG)) for _ in range(4)]
            await asyncio.sleep(0.05)
            for task in endless:
                task.cancel()
            await asyncio.wait(endless)
            assert all(task.cancelled() for task in endless)
            again = await llm.chat(HELLO, temperature=0, max_tokens=16)
            assert again.text == whole.text
        with pytest.raises(LLMError, match="closed"):
            await llm.generate("Hello")

    async def collect(llm: AsyncLLM) -> str:
        pieces = llm.stream_chat(HELLO, temperature=0, max_tokens=16)
        return "".join([piece.text async for piece in pieces])

    asyncio.run(main())


@pytest.mark.usefixtures("nothing_left")
def test_one_of_several_prompts_that_fails_ends_the_others() -> None:
    with LLM(max_batch=2, max_queue=0, max_context=256) as llm:
        with pytest.raises(LLMError, match=r"^prompt 1 of 2: The prompt is 300 tokens long"):
            llm.generate([[1], [1] * 300], temperature=0, max_tokens=200, ignore_eos=True)
        assert llm.generate("Hello", max_tokens=2).usage.completion_tokens == 2
