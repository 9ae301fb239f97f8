"""How long one request waits for another: in chunks, and in seconds of a clock made by hand."""

from collections.abc import Callable

import pytest

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import StepPlan
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, TokenChunk
from tests.engine.results import step_result

LONG = 30_000


class Machine:
    """A scheduler over a machine on which a step takes ``seconds(plan)`` and nothing stops."""

    def __init__(self, seconds: Callable[[StepPlan], float] = lambda _: 0.0, **limits: int) -> None:
        self.now = 0.0
        self._seconds = seconds
        config = EngineConfig(max_context=2 * LONG, max_queue=10_000, **limits)
        self.scheduler = Scheduler(config, lambda: self.now)
        self.steps: list[float] = []

    def add(self, name: str, prompt: int, max_tokens: int = 1) -> None:
        self.scheduler.add(EngineRequest(name, tuple(range(prompt)), max_tokens))

    def step(self) -> list[TokenChunk]:
        plan = self.scheduler.plan()
        assert plan is not None
        self.steps.append(self._seconds(plan))
        self.now += self.steps[-1]
        firsts = [1] * len(plan.prefill)
        return self.scheduler.commit(plan, step_result(firsts, [[1]] * len(plan.decode)))

    def steps_until(self, name: str, limit: int = 1000) -> int:
        """Steps up to the next token of a request."""
        for number in range(1, limit + 1):
            if any(chunk.request_id == name for chunk in self.step()):
                return number
        raise AssertionError(f"{name} got no token in {limit} steps")


@pytest.mark.parametrize("chunks_before", range(5))
@pytest.mark.parametrize("streams", [0, 3])
def test_a_short_prompt_behind_a_long_one_gets_its_first_token_within_three_chunks(
    chunks_before: int, streams: int
) -> None:
    machine = Machine()
    for number in range(streams):
        machine.add(f"stream {number}", 3, 10_000)
    if streams:
        machine.steps_until("stream 0")
    machine.add("long", LONG)
    for _ in range(chunks_before):
        machine.step()
    machine.add("short", 10)
    # the chunk that runs when it arrives is the first of the three
    assert machine.steps_until("short") <= 2


@pytest.mark.parametrize("chunks_before", range(4))
def test_the_same_holds_behind_many_long_prompts_and_amid_other_short_ones(
    chunks_before: int,
) -> None:
    machine = Machine(max_batch=16)
    for number in range(5):
        machine.add(f"long {number}", LONG - number)
    for number in range(4):
        machine.add(f"medium {number}", 700 + number)
    for number in range(chunks_before):
        machine.add(f"other {number}", 8)
        machine.step()
    machine.add("short", 10)
    assert machine.steps_until("short") <= 2


def test_a_stream_of_short_prompts_leaves_a_long_one_every_other_chunk() -> None:
    machine = Machine(max_batch=4)
    machine.add("long", LONG)
    chunks = -(-LONG // 512)
    for number in range(2 * chunks + 2):
        machine.add(f"short {number}", 10)
        if any(chunk.request_id == "long" for chunk in machine.step()):
            break
    assert number <= 2 * chunks


def test_a_long_prompt_alone_is_prefilled_in_the_largest_chunks() -> None:
    machine = Machine(lambda plan: 10.0 * len(plan.prefill))
    machine.add("long", LONG)
    assert machine.steps_until("long") == -(-LONG // 512)


def plan_seconds(plan: StepPlan) -> float:
    """A round of 100 ms, and tokens that cost more the further they stand."""
    rows = plan.prefill or plan.context
    width = max((len(row.tokens) for row in rows), default=0)
    start = max((row.start for row in rows), default=0)
    return 0.1 * bool(plan.decode) + len(rows) * width * (0.0004 + 2e-8 * start)


def test_streams_never_stall_for_longer_than_the_target_while_a_long_prompt_is_prefilled() -> None:
    machine = Machine(plan_seconds)
    for number in range(3):
        machine.add(f"stream {number}", 100, 10_000)
    for _ in range(5):
        machine.step()
    machine.steps.clear()
    machine.add("long", LONG)
    count = machine.steps_until("long")
    assert max(machine.steps) <= 0.25 * 1.05
    assert machine.steps[5] > 0.2, "soon: what a round takes is known already"
    assert machine.now / count > 0.2, "and chunks are no smaller than that takes"


def test_a_new_drafter_is_shown_what_it_missed_at_less_than_a_tenth_of_a_second_a_step() -> None:
    machine = Machine(plan_seconds)
    for number in range(3):
        machine.add(f"stream {number}", 3000, 10_000)
    machine.steps_until("stream 2")
    machine.steps_until("stream 2")
    machine.steps.clear()
    machine.scheduler.draft_anew(4, lambda tokens: tokens)
    machine.steps_until("stream 0")
    while any(step > 0.1 for step in machine.steps[-1:]):
        machine.step()
    assert len(machine.steps) > 3 * 3000 / 250
    assert max(machine.steps) < 0.1 + 0.1


def test_a_short_prompt_waits_no_longer_than_two_stall_targets() -> None:
    machine = Machine(plan_seconds)
    machine.add("stream", 100, 10_000)
    machine.step()
    machine.add("long", LONG)
    for _ in range(20):
        machine.step()
    machine.add("short", 10)
    arrived = machine.now
    machine.steps_until("short")
    assert machine.now - arrived <= 2 * 0.25


def test_after_a_swap_new_prompts_do_not_wait_until_old_rows_were_shown_to_the_drafter() -> None:
    machine = Machine(block_size=4)
    machine.add("old", LONG, 1000)
    machine.steps_until("old")
    machine.scheduler.draft_anew(4, lambda tokens: 0)
    machine.add("new", 10)
    assert machine.steps_until("new") <= 2
    steps = -(-LONG // 512)
    shown = 0
    for _ in range(steps + 2):
        plan = machine.scheduler.plan()
        assert plan is not None
        shown += sum(len(row.tokens) for row in plan.context)
        machine.scheduler.commit(plan, step_result((), [[1]] * len(plan.decode)))
    assert LONG <= shown <= LONG + steps, "its own tokens too, of rounds in the meantime"
    assert [row.block for row in plan.decode] == [4]
