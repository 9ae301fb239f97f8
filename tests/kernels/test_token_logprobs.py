"""Log-probabilities over whole vocabularies: the fast path, the reference, and exact sums."""

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.kernels.dispatch import Backend
from dflash_serve.kernels.token_logprobs import token_logprobs, token_logprobs_reference

SHAPES = [(1, 8, 0), (1, 8, 8), (3, 95, 5), (4, 1000, 20), (2, 4097, 20), (2, 151_936, 20)]


def exact(logits: mx.array) -> np.ndarray:
    """Log-probabilities in float64."""
    rows = np.array(logits.astype(mx.float32)).astype(np.float64)
    highest = rows.max(axis=1, keepdims=True)
    return rows - highest - np.log(np.exp(rows - highest).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize(("rows", "vocab", "top"), SHAPES)
def test_figures_are_those_of_exact_sums(rows: int, vocab: int, top: int, dtype: mx.Dtype) -> None:
    logits = (3 * mx.random.normal((rows, vocab), key=mx.random.key(vocab))).astype(dtype)
    tokens = np.arange(rows, dtype=np.int32)
    wanted = exact(logits)
    for found in (
        token_logprobs(logits, tokens, top, Backend.PLAIN),
        token_logprobs_reference(logits, tokens, top),
    ):
        assert np.allclose(found.chosen, wanted[np.arange(rows), tokens], atol=1e-3)
        assert found.ids.shape == found.values.shape == (rows, top)
        best = -np.sort(-wanted, axis=1)[:, :top]
        assert np.allclose(found.values, best, atol=1e-3)
        assert np.allclose(np.take_along_axis(wanted, found.ids, axis=1), best, atol=1e-3)


def test_both_ways_name_the_same_tokens_the_lower_id_first_among_equals() -> None:
    logits = mx.round(2 * mx.random.normal((5, 700), key=mx.random.key(0)))  # many ties
    tokens = np.zeros(5, dtype=np.int32)
    fast = token_logprobs(logits, tokens, 20, Backend.PLAIN)
    values = np.array(logits)
    for row, ids in zip(values, fast.ids, strict=True):
        order = np.lexsort((np.arange(700), -row))[:20]
        assert ids.tolist() == order.tolist()


def test_a_row_s_figures_do_not_depend_on_its_neighbours() -> None:
    logits = mx.random.normal((6, 5000), key=mx.random.key(4))
    tokens = np.arange(6, dtype=np.int32)
    together = token_logprobs(logits, tokens, 7)
    for row in range(6):
        alone = token_logprobs(logits[row : row + 1], tokens[row : row + 1], 7)
        assert alone.chosen[0] == together.chosen[row]
        assert alone.ids[0].tolist() == together.ids[row].tolist()
        assert alone.values[0].tolist() == together.values[row].tolist()


def test_one_hot_logits_have_no_nan() -> None:
    logits = mx.where(mx.arange(300) == 7, 0.0, -mx.inf)[None]
    found = token_logprobs(logits, np.array([7], dtype=np.int32), 3)
    assert found.chosen.tolist() == [0.0]
    assert found.ids[0, 0] == 7
