"""The driver's books: what a round committed, what was a prompt's first token, what a stop cuts."""

from collections.abc import Callable

from dflash_serve.bench import figures
from dflash_serve.bench.drive import Driver, run_all
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import StepPlan, StepResult, nothing
from dflash_serve.engine.types import EngineRequest, FinishReason
from tests.engine.results import step_result


class Scripted:
    """Every prompt is answered by 1; every round commits 2, 3, 4 as far as its block goes."""

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        return step_result(
            tuple(1 for _ in plan.prefill),
            tuple((2, 3, 4)[: row.block] for row in plan.decode),
        )

    def close(self) -> None:
        pass


def test_rounds_are_counted_without_the_first_token() -> None:
    config = EngineConfig(max_batch=2, block_size=3)
    run = run_all(Scripted(), config, [EngineRequest("a", (5, 6), 6)])
    answer = run.answers["a"]
    assert answer.tokens == [1, 2, 3, 4, 2, 3]
    assert answer.rounds == [3, 2]
    assert [step.tokens for step in run.steps] == [0, 3, 2]
    assert run.generated == 6


def test_tokens_behind_a_stop_do_not_count() -> None:
    config = EngineConfig(max_batch=1, block_size=3)
    request = EngineRequest("a", (5,), 20, stop_tokens=frozenset({3}))
    answer = run_all(Scripted(), config, [request]).answers["a"]
    assert answer.finish is FinishReason.STOP
    assert answer.tokens == [1, 2]
    assert answer.rounds == [2]  # the 2 and the stop token
    found = figures.acceptance([answer], 3)
    assert found["tokens_per_round"] == found["tokens_per_round_pooled"] == 2.0
    assert found["histogram"] == [0, 0, 1, 0]


def test_a_cancelled_request_keeps_its_tokens() -> None:
    driver = Driver(Scripted(), EngineConfig(max_batch=1, block_size=3))
    driver.add(EngineRequest("a", (5,), 50))
    driver.step()
    driver.step()
    driver.abort("a")
    run = driver.finish()
    assert run.answers["a"].finish is FinishReason.ABORTED
    assert run.answers["a"].tokens == [1, 2, 3, 4]
    assert run.stats.free_slots == run.stats.slots
