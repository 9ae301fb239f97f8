"""What every family must keep: one row of `FAMILIES` runs all of it, over caches of both kinds."""

from pathlib import Path

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.cache_spec import AttentionSpec, StateSpec
from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.loading import load_target
from dflash_serve.kernels.native import native
from tests.adapters.caches import EngineRows
from tests.adapters.dense import DenseRows, PlacedRows
from tests.adapters.families import FAMILIES, Family
from tests.adapters.feeding import PROMPT, feed
from tests.adapters.upstream import Upstream
from tests.tiny import WINDOW

LONG = [*PROMPT, *reversed(PROMPT)] * 2
"""Several windows, and more than a ring of the engine's holds."""
SHORT = LONG[: len(LONG) // 2]
"""For a target without rings; more than the first arrays of its caches hold."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def directory(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family.write(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def target(directory: Path) -> TargetAdapter:
    return load_target(directory, CpuWeights.STORED, own_products=False)


def slides(target: TargetAdapter) -> bool:
    return any(
        isinstance(spec, AttentionSpec) and spec.window is not None for spec in target.cache_specs
    )


def text_for(target: TargetAdapter) -> list[int]:
    return LONG if slides(target) else SHORT


def test_logits_are_bit_for_bit_those_of_mlx_lm(
    family: Family, directory: Path, target: TargetAdapter
) -> None:
    """A prompt, single tokens and a block; keys stand in mlx-lm's order."""
    theirs, rows = Upstream(directory, family.left_out), DenseRows(target.cache_specs, 1)
    for tokens in (PROMPT, [3], [94], [0], [7, 8, 9]):
        want = theirs.logits(tokens)
        got = target.logits(feed(target, rows, [tokens]).hidden)
        assert got.dtype == mx.float32
        assert mx.array_equal(got, want).item(), mx.abs(got - want).max().item()


def test_taps_are_the_residual_stream_after_each_layer(
    family: Family, directory: Path, target: TargetAdapter
) -> None:
    """Not before the layer, not after the norm; in the order asked for."""
    *after, normed = Upstream(directory, family.left_out).residuals(PROMPT)
    captured = feed(target, DenseRows(target.cache_specs, 1), [PROMPT], (2, 0, 3))
    want = mx.concatenate([after[index] for index in (2, 0, 3)], axis=-1)
    assert mx.array_equal(captured.taps, want).item()
    assert mx.array_equal(captured.hidden, normed).item()


def test_a_prompt_in_chunks_equals_the_whole_one(target: TargetAdapter) -> None:
    """Bit for bit: how many tokens a forward has is nothing to any of them.

    The single ones are the first three and those on both sides of the end of a ring, or of the
    first arrays.
    """
    text = text_for(target)
    whole = feed(target, EngineRows(target.cache_specs, 1), [text], (0, 3))
    end = len(text) // 64 * 64
    for sizes in ([1, 1, 1, end - 9, *[1] * 12, 64], [5] * 30, [64] * 3):
        rows = EngineRows(target.cache_specs, 1)
        hidden, taps, start = [], [], 0
        for size in sizes:
            if not (part := text[start : start + size]):
                break
            captured = feed(target, rows, [part], (0, 3))
            hidden.append(captured.hidden)
            taps.append(captured.taps)
            start += size
        assert mx.array_equal(mx.concatenate(hidden, axis=1), whole.hidden).item(), sizes
        assert mx.array_equal(mx.concatenate(taps, axis=1), whole.taps).item(), sizes


def test_ragged_rows_equal_rows_alone(target: TargetAdapter) -> None:
    """Bit for bit, with padding, beside rows of other lengths."""
    prompts = [PROMPT[:3], LONG, PROMPT[5:20]]
    steps = [[1, 2, 3, 4], [5], [6, 7]]
    rows = EngineRows(target.cache_specs, 3)
    feed(target, rows, prompts)
    together = feed(target, rows, steps, taps=(1,))
    assert together.taps is not None
    for row, (prompt, step) in enumerate(zip(prompts, steps, strict=True)):
        alone = EngineRows(target.cache_specs, 1)
        feed(target, alone, [prompt])
        captured = feed(target, alone, [step], taps=(1,))
        assert captured.taps is not None
        for mine, theirs in ((together.hidden, captured.hidden), (together.taps, captured.taps)):
            assert mx.array_equal(mine[row, : len(step)], theirs[0]).item()


def test_a_position_per_token_is_as_good_as_an_offset_per_row(target: TargetAdapter) -> None:
    """Bit for bit, where they say the same. Trees give the first, where layers keep no states."""
    if any(isinstance(spec, StateSpec) for spec in target.cache_specs):
        return
    prompts = [PROMPT, PROMPT[:3]]
    rows, placed = (make(target.cache_specs, 2) for make in (DenseRows, PlacedRows))
    for tokens in (prompts, [[1, 2, 3], [4, 5, 6]]):
        want, got = (feed(target, one, tokens).hidden for one in (rows, placed))
        for row, existing in enumerate(tokens):
            count = len(existing)
            assert mx.array_equal(got[row, :count], want[row, :count]).item()


def test_rejected_tokens_leave_nothing(target: TargetAdapter) -> None:
    """Rows that keep 0 to all tokens of a block go on as rows that never saw the others."""
    block, after = [5, 6, 7, 8], [9, 10]
    counts = list(range(len(block) + 1))
    text, rows = text_for(target), EngineRows(target.cache_specs, len(counts))
    feed(target, rows, [text] * len(counts))
    feed(target, rows, [block] * len(counts), keep=counts)
    again = feed(target, rows, [after] * len(counts)).hidden
    for row, count in enumerate(counts):
        fresh = EngineRows(target.cache_specs, 1)
        feed(target, fresh, [[*text, *block[:count]]])
        want = feed(target, fresh, [after]).hidden
        assert mx.array_equal(again[row], want[0]).item(), count


@pytest.mark.parametrize(("block", "width"), [([5, 6, 7, 8, 9, 10], 8), ([5], 1)])
def test_a_kept_state_is_that_of_a_fresh_run(
    target: TargetAdapter, block: list[int], width: int
) -> None:
    """Every array of every recurrent layer, for every number of tokens of a padded block."""
    counts = list(range(len(block) + 1))
    rows = DenseRows(target.cache_specs, len(counts))
    has_states = any(isinstance(spec, StateSpec) for spec in target.cache_specs)
    assert bool(states(rows)) == has_states
    if not has_states:
        return
    feed(target, rows, [PROMPT] * len(counts))
    feed(target, rows, [block] * len(counts), width=width, keep=counts)
    for row, count in enumerate(counts):
        fresh = DenseRows(target.cache_specs, 1)
        feed(target, fresh, [[*PROMPT, *block[:count]]])
        for mine, theirs in zip(states(rows), states(fresh), strict=True):
            assert mx.array_equal(mine[row], theirs[0]).item(), count
            assert mx.abs(theirs).max().item() > 1e-3


def test_both_caches_compute_the_same(target: TargetAdapter) -> None:
    """The same numbers; the same bits where both attend by MLX's operations.

    But for a ring, which adds up its keys in another order than that of positions.
    """
    dense, engine = (make(target.cache_specs, 1) for make in (DenseRows, EngineRows))
    for tokens, exact in ((PROMPT, True), ([3], True), (LONG, False), ([1, 2, 3], False)):
        one, other = (feed(target, rows, [tokens]).hidden for rows in (dense, engine))
        if native() is None and (exact or not slides(target)):
            assert mx.array_equal(one, other).item()
        assert mx.allclose(one, other, atol=1e-4).item()


def test_layers_that_slide_do_not_see_beyond_their_window(target: TargetAdapter) -> None:
    """What was said long ago reaches the last token only where some layer remembers it.

    Four layers of a window pass on what is up to four windows old.
    """
    beyond = 4 * WINDOW
    texts = [[start, *LONG[:beyond]] for start in (1, 2)]
    one, other = (
        feed(target, DenseRows(target.cache_specs, 1), [text]).hidden[0, -1] for text in texts
    )
    forgets = all(getattr(spec, "window", None) is not None for spec in target.cache_specs)
    assert mx.array_equal(one, other).item() == forgets


def states(rows: DenseRows) -> list[mx.array]:
    """The arrays [R, ...] of all recurrent layers."""
    return [array for layer in rows.layers for array in getattr(layer, "state", ())]
