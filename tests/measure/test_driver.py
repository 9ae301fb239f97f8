"""The driver's books: what a round committed, what was a prompt's first token, what a stop cuts."""

from collections.abc import Callable
from itertools import chain, repeat

import pytest

from dflash_serve.bench import figures
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import StepPlan, StepResult, nothing
from dflash_serve.engine.types import EngineRequest, FinishReason
from dflash_serve.measure.driver import Answer, Driver, run_all
from dflash_serve.measure.figures import Round
from tests.engine.results import step_result

STOP = 99


class Script:
    """Every prompt begins with token 1; every round of ``rounds`` is what the device commits.

    Cut at the row's block; the last round comes again.
    """

    def __init__(self, *rounds: tuple[int, ...]) -> None:
        self._rounds = chain(rounds, repeat(rounds[-1]))

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        decode = tuple(next(self._rounds)[: row.block] for row in plan.decode)
        return step_result((1,) * len(plan.prefill), decode)

    def close(self) -> None:
        pass


def test_rounds_are_counted_without_the_first_token() -> None:
    config = EngineConfig(max_batch=2, block_size=3)
    run = run_all(Script((2, 3, 4)), config, [EngineRequest("a", (5, 6), 6)])
    answer = run.answers["a"]
    assert answer.tokens == [1, 2, 3, 4, 2, 3]
    assert answer.committed == [3, 2]
    assert [step.tokens for step in run.steps] == [0, 3, 2]
    assert run.generated == 6


def test_tokens_behind_a_stop_do_not_count() -> None:
    config = EngineConfig(max_batch=1, block_size=3)
    request = EngineRequest("a", (5,), 20, stop_tokens=frozenset({3}))
    answer = run_all(Script((2, 3, 4)), config, [request]).answers["a"]
    assert answer.finish is FinishReason.STOP
    assert answer.tokens == [1, 2]
    assert answer.committed == [2]  # the 2 and the stop token
    found = figures.acceptance([answer], 3)
    assert found["tokens_per_round"] == found["tokens_per_round_pooled"] == 2.0
    assert found["histogram"] == [0, 0, 1, 0]


def test_a_cancelled_request_keeps_its_tokens() -> None:
    driver = Driver(Script((2, 3, 4)), EngineConfig(max_batch=1, block_size=3))
    driver.add(EngineRequest("a", (5,), 50))
    driver.step()
    driver.step()
    driver.abort("a")
    run = driver.finish()
    assert run.answers["a"].finish is FinishReason.ABORTED
    assert run.answers["a"].tokens == [1, 2, 3, 4]
    assert run.stats.free_slots == run.stats.slots


def driven(script: Script, *max_tokens: int) -> dict[str, Answer]:
    driver = Driver(script, EngineConfig(max_batch=2, block_size=4))
    for index, limit in enumerate(max_tokens):
        driver.add(EngineRequest(str(index), (5, 6), limit, stop_tokens=frozenset({STOP})))
    return driver.finish().answers


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        # a bonus token that ends the answer was judged; later drafts were not accepted
        ([(2, 3), (4, STOP)], [Round(3, 1, 2), Round(3, 1, 2)]),
        # a draft that ends it: what the device accepted behind it does not count
        ([(2, 3, 4, 5), (STOP, 7, 8)], [Round(3, 3, 4), Round(3, 1, 1)]),
        ([(2,), (3, STOP, 8, 9)], [Round(3, 0, 1), Round(3, 2, 2)]),
    ],
)
def test_a_stop_token_clips_its_round(rounds: list[tuple[int, ...]], expected: list[Round]) -> None:
    answer = driven(Script(*rounds), 50)["0"]
    usage = answer.usage
    assert answer.rounds == expected
    assert answer.stop_token == STOP
    assert usage.accepted == sum(one.accepted for one in expected)
    assert usage.drafted == sum(one.proposed for one in expected)
    assert usage.completion_tokens == 1 + sum(one.committed for one in expected)


def test_the_last_round_drafts_no_more_than_is_left() -> None:
    answer = driven(Script((2, 3, 4), (5, 6)), 6)["0"]
    assert answer.rounds == [Round(3, 2, 3), Round(1, 1, 2)]


def test_rounds_go_to_their_own_requests() -> None:
    script = Script((2, 3, 4), (2,), (5,), (3, 4))
    answers = driven(script, 5, 4)
    assert answers["0"].rounds == [Round(3, 2, 3), Round(0, 0, 1)]
    assert answers["1"].rounds == [Round(2, 0, 1), Round(1, 1, 2)]
