"""What every family must keep: one row of ``FAMILIES`` runs all of it."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.loading import load_target
from tests.adapters.caches import Rows
from tests.adapters.quantised import write_quantised
from tests.adapters.test_qwen3 import PROMPT, feed
from tests.tiny import write_target

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "qwen3": write_target,
    "qwen3, 4 bit": lambda directory: write_quantised(directory, 4),
}
HUGE = 1e30


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def target(directory: Path) -> TargetAdapter:
    return load_target(directory)


def best(target: TargetAdapter, hidden: mx.array) -> int:
    return int(mx.argmax(target.logits(hidden[0, -1])).item())


def test_greedy_text_is_that_of_mlx_lm(directory: Path, target: TargetAdapter) -> None:
    theirs, _ = load_model(directory)
    want = [int(token) for token, _ in generate_step(mx.array(PROMPT), theirs, max_tokens=24)]
    rows = Rows(target.layout, 1, 128)
    got = [best(target, feed(target, rows, [PROMPT]).hidden)]
    while len(got) < 24:
        got.append(best(target, feed(target, rows, [got[-1:]]).hidden))
    assert got == want
    assert len(set(want)) > 4, "a text that says nothing proves nothing"


def test_rollback_is_a_length(target: TargetAdapter) -> None:
    """After rejected tokens, and with anything at all written where they were."""
    rows = Rows(target.layout, 1, 64)
    feed(target, rows, [PROMPT])
    feed(target, rows, [[5, 6, 7, 8]])
    rows.lengths = [len(PROMPT) + 1]
    rows.spoil(HUGE)
    again = feed(target, rows, [[9, 10]]).hidden
    fresh = Rows(target.layout, 1, 64)
    want = feed(target, fresh, [[*PROMPT, 5, 9, 10]]).hidden[:, -2:]
    assert mx.array_equal(again, want).item()


def test_ragged_rows_equal_rows_alone(target: TargetAdapter) -> None:
    """Bit for bit, with padding, between spoiled neighbours."""
    prompts = [PROMPT[:3], PROMPT, PROMPT[5:20]]
    steps = [[1, 2, 3, 4], [5], [6, 7]]
    rows = Rows(target.layout, 3, 64, first=1)
    rows.spoil(HUGE)
    feed(target, rows, prompts, width=40)
    together = feed(target, rows, steps, taps=(1,))
    assert together.taps is not None
    for row, (prompt, step) in enumerate(zip(prompts, steps, strict=True)):
        alone = Rows(target.layout, 1, 64)
        feed(target, alone, [prompt])
        captured = feed(target, alone, [step], taps=(1,))
        for mine, theirs in ((together.hidden, captured.hidden), (together.taps, captured.taps)):
            assert mx.array_equal(mine[row, : len(step)], theirs[0]).item()
