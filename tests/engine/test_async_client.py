"""The engine's asyncio side over a scripted runner: delivery, cancels, bounds, ends."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.engine.client import EngineState
from dflash_serve.engine.commands import (
    Changed,
    Event,
    LaneRunner,
    Loaded,
    NewDrafter,
    Open,
    Stop,
)
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.errors import EngineUnavailable, QueueFull, RequestError
from dflash_serve.engine.loop import EngineLoop
from dflash_serve.engine.plan import StepPlan, StepResult, nothing
from dflash_serve.engine.types import EngineRequest, FinishReason, TokenChunk
from tests.engine.runners import CountingRunner, Drafter

CONFIG = EngineConfig(max_batch=2, max_queue=2, max_context=1000, block_size=4)


def engine(runner: CountingRunner) -> AsyncEngine:
    return AsyncEngine(lambda: Loaded(runner, CONFIG))


async def ready(runner: CountingRunner) -> AsyncEngine:
    made = engine(runner)
    assert made.state is EngineState.LOADING
    made.start()
    await asyncio.wait_for(made.loaded(), 60)
    return made


async def closed(made: AsyncEngine) -> None:
    """Close, and wait for the engine's end: closing itself gives it half a second."""
    await made.close(60)
    while not made.ended:
        await asyncio.sleep(0.001)


def request(name: str, max_tokens: int = 10) -> EngineRequest:
    return EngineRequest(name, (1, 2, 3), max_tokens)


async def drain(chunks: AsyncIterator[TokenChunk]) -> list[TokenChunk]:
    async def collect() -> list[TokenChunk]:
        return [chunk async for chunk in chunks]

    return await asyncio.wait_for(collect(), 60)


def run(test: Callable[[], object]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))  # type: ignore[arg-type]


def test_chunks_arrive_in_order_and_end_once() -> None:
    async def test() -> None:
        made = await ready(CountingRunner())
        many = await asyncio.gather(*(drain(made.submit(request(n, 25))) for n in "abcd"))
        for chunks in many:
            tokens = [token for chunk in chunks for token in chunk.tokens]
            assert tokens == list(range(4, 29))
            assert [chunk.finish for chunk in chunks if chunk.finish] == [FinishReason.LENGTH]
        await closed(made)
        assert made.state is EngineState.STOPPED

    run(test)


def test_closing_the_iterator_frees_the_row() -> None:
    async def test() -> None:
        runner = CountingRunner()
        made = await ready(runner)
        chunks = made.submit(request("a", 900))
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
        other = await drain(made.submit(request("b", 5)))
        assert other[-1].finish is FinishReason.LENGTH
        while made.stats().running:
            await asyncio.sleep(0.001)
        assert made.stats().free_slots == 2
        await closed(made)

    run(test)


def test_an_abort_ends_the_stream_with_its_usage() -> None:
    async def test() -> None:
        runner = CountingRunner()
        made = await ready(runner)
        runner.gate.clear()
        chunks = made.submit(request("a", 900))
        while not runner.waiting:
            await asyncio.sleep(0.001)
        made.abort("a")
        made.abort("a")
        made.abort("never seen")
        runner.gate.set()
        last = (await drain(chunks))[-1]
        assert last.finish is FinishReason.ABORTED
        assert last.usage is not None
        await closed(made)

    run(test)


def test_the_queue_is_bounded() -> None:
    async def test() -> None:
        runner = CountingRunner()
        made = await ready(runner)
        runner.gate.clear()
        streams = [made.submit(request(name)) for name in "abcd"]
        with pytest.raises(QueueFull, match="limit is 4") as caught:
            made.submit(request("e"))
        assert caught.value.retry_after > 0
        with pytest.raises(QueueFull, match="limit is 4"):
            made.check_room()
        runner.gate.set()
        await asyncio.gather(*(drain(stream) for stream in streams))
        made.check_room()
        await drain(made.submit(request("e")))
        await closed(made)
        with pytest.raises(EngineUnavailable, match="stopped"):
            made.check_room()

    run(test)


def test_the_choices_of_one_request_count_once() -> None:
    async def test() -> None:
        runner = CountingRunner()
        made = await ready(runner)
        runner.gate.clear()
        many = [replace(request(f"a{number}"), group="a") for number in range(128)]
        streams = [made.submit(one) for one in many]
        streams += [made.submit(request(name)) for name in "bcd"]
        with pytest.raises(QueueFull, match=r"^4 requests .* the limit is 4\. .*\.$"):
            made.submit(request("e"))
        streams.append(made.submit(replace(request("d2"), group="d")))
        runner.gate.set()
        ends = await asyncio.gather(*(drain(stream) for stream in streams))
        assert {chunks[-1].finish for chunks in ends} == {FinishReason.LENGTH}
        more = [made.submit(request(name)) for name in "efgh"]
        await asyncio.gather(*(drain(stream) for stream in more))
        await closed(made)

    run(test)


def test_a_group_leaves_room_when_its_last_request_ends() -> None:
    async def test() -> None:
        runner = CountingRunner(hold_at=10)
        made = await ready(runner)
        runner.gate.clear()
        short, long = (replace(request(n, m), group="a") for n, m in (("a0", 5), ("a1", 900)))
        streams = [made.submit(one) for one in (short, long)]
        streams += [made.submit(request(name, 900)) for name in "bcd"]
        runner.gate.set()
        await drain(streams[0])
        while runner.gate.is_set():
            await asyncio.sleep(0.001)
        with pytest.raises(QueueFull):
            made.submit(request("e"))
        made.abort("a1")
        runner.gate.set()
        await drain(streams[1])
        streams.append(made.submit(request("e")))
        for name in "bcd":
            made.abort(name)
        await asyncio.gather(*(drain(stream) for stream in streams[2:]))
        await closed(made)

    run(test)


def test_a_request_that_cannot_run_is_refused_at_once() -> None:
    async def test() -> None:
        made = await ready(CountingRunner())
        with pytest.raises(RequestError, match="1000"):
            made.submit(EngineRequest("a", tuple(range(1000)), 5))
        await closed(made)
        with pytest.raises(EngineUnavailable, match="stopped"):
            made.submit(request("b"))

    run(test)


def test_close_lets_running_requests_finish() -> None:
    async def test() -> None:
        made = await ready(CountingRunner())
        stream = made.submit(request("a", 200))
        closing = asyncio.create_task(made.close(60))
        chunks = await drain(stream)
        assert chunks[-1].finish is FinishReason.LENGTH
        await closing

    run(test)


def test_close_aborts_what_outlasts_the_grace() -> None:
    async def test() -> None:
        runner = CountingRunner()
        made = await ready(runner)
        runner.gate.clear()
        stream = made.submit(request("a", 200))
        closing = asyncio.create_task(made.close(0.05))
        await asyncio.sleep(0.2)
        with pytest.raises(EngineUnavailable, match=r"^The engine is draining and .*\.$"):
            made.submit(request("b"))
        runner.gate.set()
        assert (await drain(stream))[-1].finish is FinishReason.ABORTED
        await closing

    run(test)


def gone() -> RuntimeError:
    return RuntimeError("the device at 0x7f is gone")


def test_a_failing_step_is_told_in_plain_words_and_others_are_served() -> None:
    async def test() -> None:
        made = await ready(CountingRunner({3: gone()}))
        streams = [made.submit(request(name, 50)) for name in "abc"]
        failed, other, waiting = await asyncio.gather(*(drain(stream) for stream in streams))
        for chunks in (failed, other):
            assert chunks[-1].finish is FinishReason.ERROR
            assert chunks[-1].usage is not None
            assert re.fullmatch(r"The server failed .*\. Please .* again\.", chunks[-1].error or "")
        assert waiting[-1].finish is FinishReason.LENGTH
        assert made.state is EngineState.READY
        assert made.stats().running == made.stats().waiting == 0
        await closed(made)
        assert await made.over() is None

    run(test)


def test_a_device_that_keeps_failing_ends_the_engine_and_nobody_waits() -> None:
    async def test() -> None:
        made = await ready(CountingRunner({step: gone() for step in range(1, 9)}))
        streams = [made.submit(request(name, 500)) for name in "abc"]
        streams += [made.submit(request(name)) for name in "d"]
        for chunks in await asyncio.gather(*(drain(stream) for stream in streams)):
            assert chunks[-1].finish is FinishReason.ERROR
            assert "0x7f" not in (chunks[-1].error or "")
        for _ in range(2):
            if made.state is EngineState.READY:
                assert (await drain(made.submit(request("e"))))[-1].finish is FinishReason.ERROR
        assert str(await asyncio.wait_for(made.over(), 60)) == "3 steps failed within 60 seconds"
        assert made.state is EngineState.FAILED
        with pytest.raises(EngineUnavailable, match=r"^The engine has failed and .*\.$"):
            made.submit(request("f"))
        await closed(made)
        assert made.ended

    run(test)


def test_a_request_that_arrives_as_the_device_fails_is_told_too() -> None:
    """Its command is still unread when the loop ends: it must not wait forever."""

    async def test() -> None:
        runner = CountingRunner({1: gone()}, reset_failure=gone())
        made = await ready(runner)
        runner.gate.clear()
        first = made.submit(request("a"))
        while not runner.waiting:
            await asyncio.sleep(0.001)
        late = made.submit(request("b"))
        swap = asyncio.create_task(made.swap(lambda _: NewDrafter(None, 1)))
        await asyncio.sleep(0)
        runner.gate.set()
        for stream in (first, late):
            assert (await drain(stream))[-1].finish is FinishReason.ERROR
        with pytest.raises(EngineUnavailable, match="failed"):
            await asyncio.wait_for(swap, 60)
        assert made.state is EngineState.FAILED
        await closed(made)

    run(test)


def test_a_failing_load_is_raised_to_whoever_waits() -> None:
    async def test() -> None:
        def load() -> Loaded:
            raise OSError("the shard is damaged")

        made = AsyncEngine(load)
        made.start()
        with pytest.raises(OSError, match="damaged"):
            await asyncio.wait_for(made.loaded(), 60)
        assert made.state is EngineState.FAILED
        await closed(made)

    run(test)


@pytest.mark.parametrize("reset_failure", [None, gone()])
def test_the_device_is_let_go_on_the_engines_thread(reset_failure: Exception | None) -> None:
    async def test() -> None:
        runner = CountingRunner({1: gone()}, reset_failure=reset_failure)
        made = await ready(runner)
        await drain(made.submit(request("a")))
        await closed(made)
        assert runner.closed_on == ["mlx-engine"]
        assert runner.threads == {"mlx-engine"}
        assert made.ended

    run(test)


def test_a_device_that_cannot_be_let_go_is_no_second_failure() -> None:
    class Stuck(CountingRunner):
        def close(self) -> None:
            raise RuntimeError("the device is gone")

    async def test() -> None:
        made = await ready(Stuck())
        await drain(made.submit(request("a")))
        await closed(made)
        assert made.state is EngineState.STOPPED

    run(test)


def test_close_does_not_wait_for_a_load() -> None:
    async def test() -> None:
        hold = threading.Event()
        made = AsyncEngine(lambda: Loaded(CountingRunner(), CONFIG) if hold.wait(120) else None)
        made.start()
        await asyncio.wait_for(made.close(600), 60)
        assert not made.ended
        hold.set()

    run(test)


def test_a_step_that_hangs_holds_up_neither_close_nor_the_clients() -> None:
    async def test() -> None:
        runner = CountingRunner()
        made = await ready(runner)
        runner.gate.clear()
        stream = made.submit(request("a", 200))
        while not runner.waiting:
            await asyncio.sleep(0.001)
        await asyncio.wait_for(made.close(0), 60)
        assert not made.ended
        assert (await drain(stream))[-1].finish is FinishReason.ABORTED
        runner.gate.set()

    run(test)


def test_weights_load_beside_the_steps_and_a_swap_waits_for_one() -> None:
    async def test() -> None:
        runner, threads, hold = CountingRunner(), [], threading.Event()
        made = AsyncEngine(lambda: threads.append(on_thread()) or Loaded(runner, CONFIG))
        with pytest.raises(EngineUnavailable, match="loading"):
            await made.swap(lambda _: NewDrafter(None, 1))
        made.start()
        await asyncio.wait_for(made.loaded(), 60)

        def load(given: LaneRunner) -> NewDrafter:
            assert given is runner
            threads.append(on_thread())
            assert hold.wait(60)
            return NewDrafter(Drafter("new"), 2)

        def fail(_: LaneRunner) -> NewDrafter:
            raise OSError("no such drafter")

        swap = asyncio.create_task(made.swap(load))
        while len(threads) < 2:
            await asyncio.sleep(0.001)
        before = await drain(made.submit(request("a", 41)))  # while the weights load
        assert not swap.done()
        hold.set()
        await swap
        assert runner.drafter == Drafter("new")
        with pytest.raises(OSError, match="no such drafter"):
            await made.swap(fail)
        after = await drain(made.submit(request("b", 41)))
        assert [len(chunk.tokens) for chunk in before[:3]] == [1, 4, 4]
        assert [len(chunk.tokens) for chunk in after[:3]] == [1, 2, 2]
        assert set(threads) == {"mlx-loader_0"}
        assert runner.threads == {"mlx-engine"}
        await closed(made)
        with pytest.raises(EngineUnavailable, match="stopped"):
            await made.swap(load)

    run(test)


def on_thread() -> str:
    return threading.current_thread().name


def test_no_traced_graph_is_left_when_the_engine_has_stopped() -> None:
    """What is freed only as the thread ends needs the interpreter, which may be gone by then."""
    size, held, kept = 1 << 20, [], []
    ready, stopped = threading.Event(), threading.Event()

    def trace() -> None:
        held.append(mx.get_active_memory())
        kept.append(mx.compile(lambda x: x + mx.array(np.arange(size, dtype=np.float32))))
        mx.eval(kept[0](mx.ones((1,))))
        mx.clear_cache()
        held.append(mx.get_active_memory())

    def tell(event: Event) -> None:
        assert isinstance(event, Changed)
        if event.state is EngineState.STOPPED:
            held.append(mx.get_active_memory())
            stopped.set()
        ready.set()

    class Tracing(CountingRunner):
        def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
            if not kept:
                trace()
            return super().run(plan, meanwhile)

    loop = EngineLoop(tell)
    loop.start()
    loop.put(Open(Loaded(Tracing(), CONFIG)))
    assert ready.wait(60)
    loop.put(Stop())
    assert stopped.wait(60)
    assert loop.join(60)
    before, traced, after = held
    assert traced - before >= 4 * size, "the graph was to hold an array of its own"
    assert after - before < 4 * size


CLOSED_WHILE_LOADING = """
import asyncio, time
import mlx.core as mx
from dflash_serve.engine.async_client import AsyncEngine

def load():
    time.sleep(0.3)
    mx.eval(mx.random.normal((64, 64)) @ mx.ones((64, 64)))
    raise OSError("damaged")

async def main():
    engine = AsyncEngine(load)
    engine.start()
    await engine.close(0)
    await engine.close(0)
    assert not engine.ended

asyncio.run(main())
"""


def test_a_process_that_goes_while_weights_load_ends_in_order() -> None:
    command = [sys.executable, "-c", CLOSED_WHILE_LOADING]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    ends = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, ends
