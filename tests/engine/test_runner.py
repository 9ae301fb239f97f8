"""What a step costs in graphs and passes, by what its rows ask for."""

from collections import Counter
from collections.abc import Callable

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.engine.grammar import from_regex
from dflash_serve.engine.plan import DecodeRow, OpenedRow, PrefillRow, RowSpec, StepPlan
from dflash_serve.engine.rounds import Rounds
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import LogitRules, SamplingParams, ThinkingRule
from tests.engine.letters import END, THINK, THOUGHT, compiler
from tests.tiny import tiny_pair

STOPS = frozenset([END])
GREEDY = SamplingParams()
PENALTY = RowSpec(LogitRules(frequency=0.5), STOPS)
LOGPROBS = RowSpec(LogitRules(), STOPS, logprobs=2)
REASONING = RowSpec(
    LogitRules(), STOPS, thinking=ThinkingRule((THOUGHT,), (THINK,), begun=True, budget=40)
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[TargetAdapter, DraftAdapter]:
    return tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each graph of a round was run; the graphs run as always."""
    calls: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., object]:
        function = getattr(Rounds, name)

        def call(self: Rounds, *arguments: object) -> object:
            calls[name] += 1
            return function(self, *arguments)

        return call

    for name in ("run", "propose", "verify"):
        monkeypatch.setattr(Rounds, name, counted(name))
    return calls


def started(pair: tuple[TargetAdapter, DraftAdapter], *specs: RowSpec | None) -> DeviceRunner:
    """A runner whose rows 0, 1, ... hold three tokens each."""
    runner = DeviceRunner(*pair, 4)
    opened = tuple(OpenedRow(row, spec) for row, spec in enumerate(specs) if spec is not None)
    prefill = tuple(PrefillRow(row, 0, (5, 6, 7), True, GREEDY) for row in range(len(specs)))
    runner.run(StepPlan(opened=opened, prefill=prefill))
    return runner


def one_round(runner: DeviceRunner, rows: int, block: int = 4) -> None:
    runner.run(StepPlan(decode=tuple(DecodeRow(row, 3, 8, block, GREEDY) for row in range(rows))))


def guided() -> RowSpec:
    return RowSpec(LogitRules(), STOPS, grammar=compiler().compile(from_regex("[a-z]*")))


def test_rows_that_need_no_host_share_one_graph(
    pair: tuple[TargetAdapter, DraftAdapter], halves: Counter[str]
) -> None:
    one_round(started(pair, None, PENALTY, LOGPROBS, REASONING), 4)
    assert halves == {"run": 1}


def test_a_grammar_splits_the_round_in_two(
    pair: tuple[TargetAdapter, DraftAdapter], halves: Counter[str]
) -> None:
    one_round(started(pair, None, guided()), 2)
    assert halves == {"propose": 1, "verify": 1}


def test_a_grammar_needs_no_second_graph_where_nothing_is_drafted(
    pair: tuple[TargetAdapter, DraftAdapter], halves: Counter[str]
) -> None:
    one_round(started(pair, None, guided()), 2, block=1)
    assert halves == {"run": 1}


def test_a_grammar_behind_reasoning_waits_without_a_second_graph(
    pair: tuple[TargetAdapter, DraftAdapter], halves: Counter[str]
) -> None:
    spec = RowSpec(
        LogitRules(),
        STOPS,
        grammar=compiler().compile(from_regex("[a-z]*")),
        thinking=ThinkingRule((THOUGHT,), (THINK,), begun=True),
    )
    one_round(started(pair, spec), 1)
    assert halves == {"run": 1}


def test_the_order_of_rows_traces_no_further_graph(
    pair: tuple[TargetAdapter, DraftAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[object] = []
    compile_ = mx.compile

    def compiled(function: object) -> object:
        traced.append(function)
        return compile_(function)

    monkeypatch.setattr(mx, "compile", compiled)
    runner = started(pair, None, PENALTY, LOGPROBS, guided())
    order = [[0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 3, 1]]
    for rows in order:
        decode = tuple(
            DecodeRow(row, 3, 8, 4, SamplingParams(0.7 if row == 2 else 0.0)) for row in rows
        )
        runner.run(StepPlan(decode=decode))
    assert len(traced) == 2  # one for each half


def test_a_closed_row_leaves_nothing_behind(pair: tuple[TargetAdapter, DraftAdapter]) -> None:
    """Row numbers are never used again, and a row without a state is plain."""
    runner = started(pair, LOGPROBS)
    row = DecodeRow(0, 3, 8, 4, GREEDY)
    assert runner.run(StepPlan(decode=(row,))).decode[0].logprobs
    assert not runner.run(StepPlan(closed=(0,), decode=(row,))).decode[0].logprobs


def test_close_lets_the_caches_go(pair: tuple[TargetAdapter, DraftAdapter]) -> None:
    runner = started(pair, None)
    one_round(runner, 1)
    held = mx.get_active_memory()
    runner.close()
    assert mx.get_active_memory() < held
