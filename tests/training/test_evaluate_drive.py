"""The engine's step told round by round, with a device that plays a script."""

from collections.abc import Callable
from itertools import count

import pytest

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import StepPlan, StepResult, nothing
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, Usage
from dflash_serve.measure.driver import Round, drive
from tests.engine.results import step_result

STOP = 99


class Script:
    """Every prompt begins with token 1; every round of ``rounds`` is what the device commits."""

    def __init__(self, *rounds: tuple[int, ...]) -> None:
        self._rounds = iter(rounds)

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        return step_result((1,) * len(plan.prefill), tuple(next(self._rounds) for _ in plan.decode))

    def close(self) -> None:
        pass


def driven(script: Script, *max_tokens: int) -> tuple[dict[str, list[Round | None]], list[Usage]]:
    """Rounds per request, None for the prompt's own token, and the usage of each."""
    clock = count()
    config = EngineConfig(max_batch=2, block_size=4)
    scheduler = Scheduler(config, lambda: float(next(clock)))
    for index, limit in enumerate(max_tokens):
        stops = frozenset({STOP})
        scheduler.add(EngineRequest(str(index), (5, 6), limit, stop_tokens=stops))
    told: dict[str, list[Round | None]] = {}
    usages = []
    for chunk, one in drive(scheduler, script):
        told.setdefault(chunk.request_id, []).append(one)
        usages += [chunk.usage] if chunk.usage else []
    return told, usages


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
    told, (usage,) = driven(Script(*rounds), 50)
    assert told["0"] == [None, *expected]
    assert usage.accepted == sum(one.accepted for one in expected)
    assert usage.drafted == sum(one.proposed for one in expected)
    assert usage.completion_tokens == 1 + sum(one.committed for one in expected)


def test_the_last_round_drafts_no_more_than_is_left() -> None:
    told, _ = driven(Script((2, 3, 4), (5, 6)), 6)
    assert told["0"] == [None, Round(3, 2, 3), Round(1, 1, 2)]


def test_rounds_go_to_their_own_requests() -> None:
    script = Script((2, 3, 4), (2,), (5,), (3, 4))
    told, _ = driven(script, 5, 4)
    assert told["0"] == [None, Round(3, 2, 3), Round(0, 0, 1)]
    assert told["1"] == [None, Round(2, 0, 1), Round(1, 1, 2)]
