"""Rounds of all widths in one engine: the tokens are those of plain decoding."""

import random
from pathlib import Path

import pytest

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, SamplingParams
from dflash_serve.engine.warm_up import measured_costs
from tests.tiny import tiny_pair

BLOCK = 4
REQUESTS = [
    EngineRequest(str(number), tuple(range(1, 3 + number)), 40, SamplingParams(heat, seed=number))
    for number, heat in enumerate((0.0, 1.0, 0.0, 0.7, 1.0))
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[TargetAdapter, DraftAdapter]:
    directory: Path = tmp_path_factory.mktemp("pair")
    return tiny_pair(directory)


def decoded(
    runner: DeviceRunner, config: EngineConfig, costs: tuple[CostPoint, ...] = ()
) -> tuple[dict[str, list[int]], set[int]]:
    """The tokens of all requests, and the widest blocks of rounds.

    By a clock that jumps, so that what rounds cost is anything.
    """
    jumps = random.Random(7)
    scheduler = Scheduler(config, lambda: jumps.random() * 100, costs=costs)
    for request in REQUESTS:
        scheduler.add(request)
    tokens: dict[str, list[int]] = {request.id: [] for request in REQUESTS}
    widths = set()
    while (plan := scheduler.plan()) is not None:
        widths.add(max((row.block for row in plan.decode), default=1))
        for chunk in scheduler.commit(plan, runner.run(plan)):
            tokens[chunk.request_id] += chunk.tokens
    return tokens, widths


def test_no_width_changes_a_token(pair: tuple[TargetAdapter, DraftAdapter]) -> None:
    target, drafter = pair
    config = EngineConfig(max_batch=3, max_context=64)
    plain, _ = decoded(DeviceRunner(target, None, 1), config)
    adaptive = EngineConfig(max_batch=3, max_context=64, block_size=BLOCK, adaptive=True)
    costs = (CostPoint(1, 1, 1.0), CostPoint(1, BLOCK, 1.1))
    found, widths = decoded(DeviceRunner(target, drafter, BLOCK), adaptive, costs)
    assert found == plain
    assert {1, BLOCK} <= widths


def test_a_runner_is_measured_and_left_without_rows(
    pair: tuple[TargetAdapter, DraftAdapter],
) -> None:
    runner = DeviceRunner(*pair, BLOCK)
    config = EngineConfig(max_batch=2, max_context=64, block_size=BLOCK, adaptive=True)
    costs = measured_costs(runner, config, runner.bytes_for)
    assert {(1, 1), (1, BLOCK)} <= {(point.rows, point.width) for point in costs}
    assert runner.rows == 0
