"""The engine loop over scripted runners: faults, swaps and several lanes, with a clock of its own.

Events are read as they come; nothing sleeps.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from dflash_serve.engine.client import EngineState
from dflash_serve.engine.commands import (
    Abort,
    Add,
    Changed,
    Emitted,
    Event,
    Loaded,
    NewDrafter,
    Open,
    Stop,
    Swap,
    Swapped,
)
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.errors import EngineFailed
from dflash_serve.engine.loop import EngineLoop
from dflash_serve.engine.plan import StepPlan, StepResult, nothing
from dflash_serve.engine.types import EngineRequest, FinishReason, TokenChunk
from tests.engine.runners import CountingRunner, Drafter
from tests.engine.test_faults import Clock
from tests.fakes import eventually

CONFIG = EngineConfig(max_batch=4, max_context=1000, block_size=4, prefill_chunk=64)
ERROR, LENGTH = FinishReason.ERROR, FinishReason.LENGTH


def broken() -> ValueError:
    return ValueError("shapes (3, 4) and\n(5, 6)")


def no_memory() -> RuntimeError:
    return RuntimeError("[malloc] Unable to allocate 1024 bytes.")


@dataclass
class Told:
    """A loop and what it has told, sorted."""

    loop: EngineLoop
    events: "queue.SimpleQueue[Event]"
    clock: Clock
    chunks: dict[str, list[TokenChunk]] = field(default_factory=dict)
    states: list[Changed] = field(default_factory=list)
    swaps: dict[int, BaseException | None] = field(default_factory=dict)

    def take(self) -> None:
        """The next event."""
        match self.events.get(timeout=60):
            case Emitted(chunks):
                for chunk in chunks:
                    self.chunks.setdefault(chunk.request_id, []).append(chunk)
            case Swapped(number, failure):
                self.swaps[number] = failure
            case Changed() as changed:
                self.states.append(changed)

    def add(self, name: str, prompt: Sequence[int] = (1, 2, 3), tokens: int = 10) -> None:
        self.loop.put(Add(EngineRequest(name, tuple(prompt), tokens)))

    def ends(self, *names: str) -> list[FinishReason | None]:
        """How requests ended, once all have."""
        while not all(name in self.chunks and self.chunks[name][-1].finish for name in names):
            self.take()
        return [self.chunks[name][-1].finish for name in names]

    def tokens(self, name: str) -> list[int]:
        return [token for chunk in self.chunks[name] for token in chunk.tokens]

    def swap(self, number: int, drafter: Drafter | None, block: int, lane: int = 0) -> None:
        self.loop.put(Swap(number, NewDrafter(drafter, block), lane))  # type: ignore[arg-type]

    def swapped(self, number: int) -> BaseException | None:
        while number not in self.swaps:
            self.take()
        return self.swaps[number]

    def end(self) -> Changed:
        """The last word."""
        while not self.states or self.states[-1].state is EngineState.READY:
            self.take()
        return self.states[-1]


@contextlib.contextmanager
def serving(*runners: CountingRunner, config: EngineConfig = CONFIG) -> Iterator[Told]:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    clock = Clock()
    told = Told(EngineLoop(events.put, clock), events, clock)
    told.loop.start()
    for runner in runners:
        told.loop.put(Open(Loaded(runner, config)))
    while len(told.states) < len(runners):
        told.take()
    assert [changed.state for changed in told.states] == [EngineState.READY] * len(runners)
    try:
        yield told
    finally:
        for runner in runners:
            runner.gate.set()
        told.loop.put(Stop())
        assert told.loop.join(60)
    assert all(len(runner.closed_on) == 1 for runner in runners)


@pytest.mark.parametrize("step", range(1, 15))
def test_rows_of_a_failed_step_end_and_all_others_get_their_tokens(step: int) -> None:
    """Four rows whose prompts take three chunks in turns, and two that wait. Any step may fail."""
    runner = CountingRunner({step: broken()})
    runner.gate.clear()
    with serving(runner) as told:
        names = "abcdef"
        for number, name in enumerate(names):
            told.add(name, range(1000 * number, 1000 * number + 150), tokens=11)
        runner.gate.set()
        ends = told.ends(*names)
        failed = runner.plans[step - 1]
        assert ends.count(ERROR) == len(failed.prefill) + len(failed.decode) > 0
        assert set(ends) == {ERROR, LENGTH}
        for number, (name, end) in enumerate(zip(names, ends, strict=True)):
            known = 1000 * number + 150
            whole = list(range(known, known + 11))
            if end is LENGTH:
                assert told.tokens(name) == whole
            else:
                assert told.tokens(name) == whole[: len(told.tokens(name))]
                assert "shapes" not in (told.chunks[name][-1].error or "shapes")
        told.add("next")
        assert told.ends("next") == [LENGTH]
        assert told.tokens("next") == list(range(4, 14))
        stats = told.loop.stats
        assert (stats.running, stats.waiting, stats.finished_requests) == (0, 0, 7)


def test_a_bystander_whose_prompt_was_half_done_begins_it_again() -> None:
    """It was not in the step, but its caches were lost with those of the rows that were."""
    runner = CountingRunner({3: broken()})
    runner.gate.clear()
    with serving(runner) as told:
        for number, (name, size) in enumerate((("a", 300), ("b", 150))):
            told.add(name, range(1000 * number, 1000 * number + size))
        runner.gate.set()
        ends = told.ends("a", "b")
        assert sorted(end.value for end in ends if end) == ["error", "length"]
        survivor = 1000 * ends.index(LENGTH)
        begun = [
            number
            for number, plan in enumerate(runner.plans)
            for row in plan.prefill
            if row.start == 0 and row.tokens[0] == survivor
        ]
        assert len(begun) == 2
        assert begun[0] < 2 < begun[1]


def test_the_log_has_the_traceback_once(caplog: pytest.LogCaptureFixture) -> None:
    with serving(CountingRunner({2: broken()})) as told, caplog.at_level(logging.DEBUG):
        told.add("a")
        assert told.ends("a") == [ERROR]
    records = [record for record in caplog.records if record.exc_info]
    assert [record.getMessage() for record in records] == ["a step failed"]
    assert records[0].exc_info is not None
    assert isinstance(records[0].exc_info[1], ValueError)


def test_three_failures_in_a_minute_end_the_engine() -> None:
    runner = CountingRunner({1: broken(), 2: broken(), 3: broken()})
    with serving(runner) as told:
        for name in "abc":
            told.add(name)
            told.clock.now += 20
            if name < "c":
                assert told.ends(name) == [ERROR]
        assert told.end().state is EngineState.FAILED
        assert isinstance(told.end().failure, EngineFailed)
        assert str(told.end().failure) == "3 steps failed within 60 seconds"
        assert told.end().failure.__traceback__ is None  # it would hold arrays of the thread


def test_failures_further_apart_do_not() -> None:
    with serving(CountingRunner({step: broken() for step in range(1, 9)})) as told:
        for name in "abcdefgh":
            told.add(name)
            assert told.ends(name) == [ERROR]
            told.clock.now += 31
        told.add("i")
        assert told.ends("i") == [LENGTH]


def test_the_second_time_without_memory_ends_the_engine() -> None:
    with serving(CountingRunner({1: no_memory(), 9: no_memory()})) as told:
        told.add("a")
        assert told.ends("a") == [ERROR]
        told.clock.now += 100_000
        told.add("b", tokens=900)
        assert told.end().state is EngineState.FAILED
        assert "memory" in str(told.end().failure)


def test_a_reset_that_fails_ends_the_engine() -> None:
    runner = CountingRunner({3: broken()}, reset_failure=RuntimeError("the device is gone"))
    with serving(runner) as told:
        told.add("a")
        assert told.end().state is EngineState.FAILED
        assert "the device is gone" in str(told.end().failure)


def test_a_runner_that_breaks_its_promise_ends_the_engine() -> None:
    """A result that does not fit the plan leaves the scheduler in no state to go on."""

    class Mute(CountingRunner):
        def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
            result = super().run(plan, meanwhile)
            return replace(result, decode=()) if self.steps else result

    with serving(Mute()) as told:
        told.add("a")
        assert told.end().state is EngineState.FAILED


@dataclass
class Logging(CountingRunner):
    """Logs when its steps begin and end, and what the loop that it runs in tells in between."""

    log: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    stop_within: int = -1

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        self.log.append("begin")
        result = super().run(plan, meanwhile)
        self.log.append("end")
        if self.steps == self.stop_within:
            self.loop.put(Stop())
        return result

    def serve(self, request: EngineRequest) -> None:
        """One request, to its end or the loop's own."""
        ready, over = threading.Event(), threading.Event()

        def tell(event: Event) -> None:
            if isinstance(event, Changed):
                (ready if event.state is EngineState.READY else over).set()
            if isinstance(event, Emitted):
                self.log.append("told")
                self.tokens += [token for chunk in event.chunks for token in chunk.tokens]
                if event.chunks[-1].finish:
                    over.set()

        self.loop = EngineLoop(tell)
        self.loop.start()
        self.loop.put(Open(Loaded(self, CONFIG)))
        assert ready.wait(60)
        self.log.clear()
        self.loop.put(Add(request))
        assert over.wait(60)
        self.loop.put(Stop())
        assert self.loop.join(60)


def test_what_a_step_made_is_told_while_the_next_one_runs() -> None:
    runner = Logging()
    runner.serve(EngineRequest("a", (1, 2, 3), 10))
    # a prompt, three rounds of blocks of 4, and a step that frees the row
    assert " ".join(runner.log) == "begin end" + 4 * " begin told end"


def test_nothing_is_lost_when_the_engine_stops_behind_a_step() -> None:
    runner = Logging(stop_within=2)
    runner.serve(EngineRequest("a", (1, 2, 3), 10))
    assert runner.tokens == [4, 5, 6, 7, 8]


def test_a_pair_that_cannot_run_is_a_failed_start() -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    loop = EngineLoop(events.put)
    loop.start()
    runner = CountingRunner(drafter=Drafter("bad", broken=True))
    loop.put(Open(Loaded(runner, CONFIG)))  # type: ignore[arg-type]
    assert events.get(timeout=60).state is EngineState.FAILED  # type: ignore[union-attr]
    assert loop.join(60)
    assert runner.closed_on == ["mlx-engine"]


def test_a_swap_is_tried_between_the_steps_of_streams_that_go_on() -> None:
    """At most one of the new drafter's first steps comes between two steps of the streams."""
    runner = CountingRunner(hold_at=3)
    with serving(runner) as told:
        told.add("a", tokens=900)
        eventually(lambda: not runner.gate.is_set())
        told.swap(1, Drafter("new"), 2)
        runner.gate.set()
        assert told.swapped(1) is None
        assert told.ends("a") == [LENGTH]
        assert told.tokens("a") == list(range(4, 904))
        (trial,) = runner.besides
        assert len(trial.scratch_plans) == 4
        assert {row.block for plan in trial.scratch_plans for row in plan.decode} == {2}
        assert trial.closed_on == ["mlx-engine"]
        assert trial.threads == {"mlx-engine"}
        assert runner.drafter == Drafter("new")
        assert any(plan.context for plan in runner.plans)
        took = next(n for n, plan in enumerate(runner.plans) if plan.context)
        assert took - 3 >= len(trial.scratch_plans) - 1
        assert {row.block for plan in runner.plans[-9:-3] for row in plan.decode} == {2}


def test_a_drafter_that_cannot_run_is_refused_and_the_old_one_goes_on() -> None:
    runner = CountingRunner()
    with serving(runner) as told:
        told.add("a", tokens=900)
        told.swap(1, Drafter("bad", broken=True), 2)
        failure = told.swapped(1)
        assert isinstance(failure, RuntimeError)
        assert "matmul" in str(failure)
        assert failure.__traceback__ is None
        assert told.ends("a") == [LENGTH]
        assert runner.drafter is None
        assert runner.besides[0].closed_on == ["mlx-engine"]
        assert {row.block for plan in runner.plans[-9:-3] for row in plan.decode} == {4}
        for number in range(2, 6):  # it is no failed step
            told.swap(number, Drafter("bad", broken=True), 2)
            assert told.swapped(number) is not None
        told.swap(9, None, 1)
        assert told.swapped(9) is None


def test_a_drafter_too_large_for_the_memory_limit_is_refused_before_it_runs() -> None:
    runner = CountingRunner(token_bytes=10)
    with serving(runner, config=replace(CONFIG, memory_limit=10_050)) as told:
        told.swap(1, Drafter("wide"), 8)
        failure = told.swapped(1)
        assert isinstance(failure, ValueError)
        assert "10050" in str(failure)
        assert "10080" in str(failure)
        assert not runner.besides[0].scratch_plans
        assert runner.drafter is None


def test_rows_without_room_beside_a_new_drafter_are_freed_before_it_takes_over() -> None:
    held: list[int] = []

    class Watched(CountingRunner):
        def draft_with(self, drafter: Drafter | None, block_size: int) -> None:
            held.append(len(self.rows))
            super().draft_with(drafter, block_size)

    runner = Watched(token_bytes=10, hold_at=3)
    runner.gate.clear()
    limit = 2 * (3 + 500 + 4) * 10 + 2 * (1 + 4) * 15  # two rows, and the two of a trial
    with serving(runner, config=replace(CONFIG, memory_limit=limit, max_context=600)) as told:
        told.add("a", (1, 2, 3), 500)
        told.add("b", (5001, 5002, 5003), 500)
        runner.gate.set()
        eventually(lambda: not runner.gate.is_set())
        told.swap(1, Drafter("wide", token_bytes=5), 4)
        runner.gate.set()
        assert told.swapped(1) is None
        assert told.ends("a", "b") == [LENGTH, LENGTH]
    assert held == [1]
    assert told.tokens("a") == list(range(4, 504))
    assert told.tokens("b") == list(range(5004, 5504))
    assert max(len(plan.decode) for plan in runner.plans) == 2


def test_a_takeover_that_fails_for_memory_costs_the_rows_their_caches_only() -> None:
    class Full(CountingRunner):
        def draft_with(self, drafter: Drafter | None, block_size: int) -> None:
            first = self.drafter is None
            super().draft_with(drafter, block_size)
            if first:
                self.rows.clear()
                raise no_memory()

    runner = Full()
    with serving(runner) as told:
        told.add("a", tokens=900)
        told.swap(1, Drafter("new"), 2)
        assert told.swapped(1) is None
        assert runner.drafter == Drafter("new")
        assert told.ends("a") == [LENGTH]
        assert told.tokens("a") == list(range(4, 904))
        assert {row.block for plan in runner.plans[-9:-3] for row in plan.decode} == {2}


def test_a_trial_waits_for_room_under_the_memory_limit_and_nobody_passes_it() -> None:
    """Its two rows take 60 bytes. When ``a`` ends, they come before ``d``, which waits for all."""
    runner = CountingRunner(token_bytes=10, hold_at=9)
    runner.gate.clear()
    limit = 2 * (3 + 900 + 4) * 10 + (3 + 300 + 4) * 10 + 50
    with serving(runner, config=replace(CONFIG, memory_limit=limit)) as told:
        for name, tokens in (("a", 300), ("b", 900), ("c", 900), ("d", 300)):
            told.add(name, tokens=tokens)
        runner.gate.set()
        eventually(lambda: not runner.gate.is_set())
        told.swap(1, Drafter("new"), 2)
        runner.gate.set()
        assert told.swapped(1) is None
        assert told.chunks["a"][-1].finish is LENGTH
        assert "d" not in told.chunks
        assert set(told.ends(*"abcd")) == {LENGTH}


def test_stopping_in_the_middle_of_a_trial_frees_its_runner() -> None:
    runner = CountingRunner(hold_at=1)
    with serving(runner) as told:
        told.add("a", tokens=900)
        eventually(lambda: not runner.gate.is_set())
        told.swap(1, Drafter("new"), 2)
        told.loop.put(Stop())
        runner.gate.set()
        assert told.end().state is EngineState.STOPPED
        assert all(trial.closed_on == ["mlx-engine"] for trial in runner.besides)


def test_two_lanes_step_in_turn_and_fail_apart() -> None:
    first, second = CountingRunner({2: broken()}), CountingRunner()
    for runner in (first, second):
        runner.gate.clear()
    with serving(first, second) as told:
        told.add("a", tokens=200)
        told.loop.put(Add(EngineRequest("b", (50,), 200), lane=1))
        told.loop.put(Add(EngineRequest("c", (60,), 200), lane=1))
        for runner in (first, second):
            runner.gate.set()
        assert told.ends("a", "b") == [ERROR, LENGTH]
        assert told.tokens("b") == list(range(51, 251))
        assert not any(row.row < 0 for plan in second.plans for row in plan.decode)
        told.loop.put(Abort("c"))
        told.add("d")
        assert told.ends("d") == [LENGTH]
        assert {len(plan.decode) for plan in first.plans} <= {0, 1}
        assert told.loop.stats.slots == 8


def test_lanes_share_one_memory_limit() -> None:
    """Together they never reserve more, and who waits for the other is served in the end."""
    together = []

    class Watched(CountingRunner):
        def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
            result = super().run(plan, meanwhile)
            together.append(len(first.rows) + len(second.rows))
            return result

    first, second = Watched(token_bytes=10), Watched(token_bytes=10)
    with serving(first, second, config=replace(CONFIG, memory_limit=30_000)) as told:
        together.clear()  # scratch rows of warm-ups
        for number in range(12):
            request = EngineRequest(f"{number}", (number,), 900)
            told.loop.put(Add(request, lane=number % 2))
        assert set(told.ends(*(f"{number}" for number in range(12)))) == {LENGTH}
        assert max(together) == 3
        plans = [*first.plans, *second.plans]
        assert all(plan.prefill or plan.decode or plan.closed for plan in plans)
