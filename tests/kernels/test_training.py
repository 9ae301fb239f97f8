"""What training computes on CPUs: results and gradients are those of plain operations."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import optimizers

from dflash_serve.kernels import cpu_blas
from dflash_serve.kernels.block_attention import attend_blocks, block_mask, plain_attend_blocks
from dflash_serve.kernels.cross_entropy import cross_entropy
from dflash_serve.kernels.native import native
from dflash_serve.kernels.rms_norm import rms_norm
from dflash_serve.kernels.rotation import HeadNorm, rotate
from dflash_serve.kernels.updates import AdamW, sum_of_squares
from tests.kernels.cpu_library import ISAS, CpuLibrary

F64 = mx.float64
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or cpu_blas.status().path is None,
    reason="the primitives are built on Linux alone",
)


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    with mx.stream(mx.cpu):
        assert native(mx.zeros(1)) is not None
        yield


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def apart(found: mx.array, wanted: mx.array) -> float:
    """|found - wanted| / |wanted|."""
    off = np.array(found.astype(F64)) - np.array(wanted.astype(F64))
    return float(np.linalg.norm(off) / np.linalg.norm(np.array(wanted.astype(F64))))


def check(
    own: Callable[..., mx.array], exact: Callable[..., mx.array], arrays: Sequence[mx.array]
) -> None:
    """The value, and the gradient of every array, beside the same in float64."""
    toward = normal(*own(*arrays).shape, seed=9)
    doubles = [array.astype(F64) for array in arrays]
    assert apart(own(*arrays), exact(*doubles)) < 1e-6
    numbers = tuple(range(len(arrays)))
    found = mx.grad(lambda *given: (toward * own(*given)).sum(), numbers)(*arrays)
    wanted = mx.grad(lambda *given: (toward.astype(F64) * exact(*given)).sum(), numbers)(*doubles)
    for number, (got, want) in enumerate(zip(found, wanted, strict=True)):
        assert apart(got, want) < 2e-6, number


@pytest.mark.parametrize(("rows", "width"), [(1, 7), (70, 33), (3000, 64)])
def test_a_norm_of_rows(rows: int, width: int) -> None:
    def exact(x: mx.array, weight: mx.array) -> mx.array:
        return x * mx.rsqrt(mx.square(x).mean(-1, keepdims=True) + 1e-3) * (weight + 0.5)

    arrays = [normal(rows, width), normal(width, seed=1)]
    check(lambda x, weight: rms_norm(x, weight, 1e-3, 0.5), exact, arrays)


@pytest.mark.parametrize("dim", [16, 20])
def test_a_rotation_of_normed_heads_as_projections_leave_them(dim: int) -> None:
    """Of 16 numbers of a head; the heads are a transposed view."""
    turns = normal(3, 1, 50, 8, seed=2)

    def exact(x: mx.array, weight: mx.array) -> mx.array:
        cos, sin = mx.cos(turns.astype(F64)), mx.sin(turns.astype(F64))
        x = x.transpose(0, 2, 1, 3)
        x = x * mx.rsqrt(mx.square(x).mean(-1, keepdims=True) + 1e-6) * weight
        left, right, rest = x[..., :8], x[..., 8:16], x[..., 16:]
        return mx.concatenate([left * cos - right * sin, left * sin + right * cos, rest], -1)

    def own(x: mx.array, weight: mx.array) -> mx.array:
        heads = x.transpose(0, 2, 1, 3)
        return rotate(heads, mx.cos(turns), mx.sin(turns), HeadNorm(weight, 1e-6))

    check(own, exact, [normal(3, 50, 4, dim), normal(dim, seed=1)])


@pytest.mark.parametrize(("rows", "width"), [(5, 3), (40, 1000)])
def test_cross_entropy(rows: int, width: int) -> None:
    labels = mx.random.randint(0, width, (2, rows), key=mx.random.key(4))

    def exact(logits: mx.array) -> mx.array:
        return mx.logsumexp(logits, -1) - mx.take_along_axis(logits, labels[..., None], -1)[..., 0]

    check(lambda logits: cross_entropy(logits, labels), exact, [20 * normal(2, rows, width)])


def test_cross_entropy_of_hopeless_and_certain_rows() -> None:
    logits = mx.array([[0.0, 300.0, -300.0], [300.0, 0.0, 0.0], [-mx.inf, 0.0, 0.0]])
    labels = mx.array([2, 0, 1])
    losses = cross_entropy(logits, labels)
    np.testing.assert_allclose(np.array(losses), [600.0, 0.0, np.log(2.0)], rtol=1e-6)
    slopes = mx.grad(lambda x: cross_entropy(x, labels).sum())(logits)
    wanted = [[0.0, 1.0, -1.0], [0.0, 0.0, 0.0], [0.0, -0.5, 0.5]]
    np.testing.assert_allclose(np.array(slopes), wanted, atol=1e-6)


SEQUENCES, HEADS, KV, DIM = 2, 4, 2, 8


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3, 9])
@pytest.mark.parametrize(("block", "length"), [(3, 40), (16, 21)])
def test_attention_over_a_context_and_the_own_block(
    block: int, length: int, window: int | None, causal: bool
) -> None:
    """Anchors at both ends and not in order; more blocks than fit into a chunk of rows."""
    rng = np.random.default_rng(0)
    places = [rng.permutation(length)[:20] for _ in range(SEQUENCES)]
    anchors = mx.array(np.stack([np.append(p, [0, 0, length - 1]) for p in places]), mx.int32)
    blocks = anchors.size
    inside, outside = (blocks, KV, block, DIM), (SEQUENCES, KV, length, DIM)
    mask = block_mask(anchors, block, length, window, causal)

    def own(queries: mx.array, k: mx.array, v: mx.array, kc: mx.array, vc: mx.array) -> mx.array:
        v, vc = v.swapaxes(1, 2), vc.swapaxes(1, 2)  # as projections leave them
        return attend_blocks(
            queries, (k, v), (kc, vc), anchors, window=window, causal=causal
        )  # fmt: skip

    def exact(queries: mx.array, k: mx.array, v: mx.array, kc: mx.array, vc: mx.array) -> mx.array:
        v, vc = v.swapaxes(1, 2), vc.swapaxes(1, 2)
        return plain_attend_blocks(queries * DIM**-0.5, (k, v), (kc, vc), mask)

    def turned(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], shape[2], shape[1], shape[3])

    shapes = [(blocks, HEADS, block, DIM), inside, turned(inside), outside, turned(outside)]
    check(own, exact, [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)])


def test_what_a_block_does_not_see_may_hold_anything() -> None:
    anchors = mx.array([[2, 5]], dtype=mx.int32)
    queries, k, v = (normal(2, 2, 3, DIM, seed=seed) for seed in range(3))
    keys, values = (normal(1, 2, 9, DIM, seed=seed) for seed in (3, 4))
    kinds = {"window": None, "causal": False}
    out = attend_blocks(queries, (k, v), (keys, values), anchors, **kinds)
    keys[:, :, 5:], values[:, :, 5:] = mx.nan, mx.nan
    assert mx.array_equal(out, attend_blocks(queries, (k, v), (keys, values), anchors, **kinds))


def test_scratch_memory_of_an_earlier_call_does_not_matter() -> None:
    anchors = mx.array([[2, 5]], dtype=mx.int32)
    arrays = [normal(2, 2, 3, DIM, seed=seed) for seed in range(3)]
    arrays += [normal(1, 2, 9, DIM, seed=seed) for seed in (3, 4)]

    def total(*given: mx.array) -> mx.array:
        queries, k, v, keys, values = given
        out = attend_blocks(queries, (k, v), (keys, values), anchors, window=None, causal=False)
        return mx.square(out).sum()

    slopes = mx.grad(total, (0, 1, 2, 3, 4))
    wanted = slopes(*arrays)
    mx.eval(wanted, slopes(*(mx.full(array.shape, mx.nan) for array in arrays)))
    for found, want in zip(slopes(*arrays), wanted, strict=True):
        np.testing.assert_array_equal(np.array(found), np.array(want))


def test_adamw_is_mlx_s() -> None:
    weights = {"a": normal(300, 70), "b": normal(5, seed=1)}
    own = AdamW(1e-2, weight_decay=0.1)
    other = optimizers.AdamW(1e-2, weight_decay=0.1, bias_correction=True)
    found, wanted = dict(weights), dict(weights)
    for step in range(4):
        slopes = {name: normal(*w.shape, seed=7 + step) for name, w in weights.items()}
        found = own.apply_gradients(slopes, found)
        wanted = other.apply_gradients(slopes, wanted)
        for name, value in wanted.items():
            np.testing.assert_allclose(np.array(found[name]), np.array(value), rtol=2e-6, atol=1e-6)
    for name, state in other.state["a"].items():
        np.testing.assert_allclose(
            np.array(own.state["a"][name]), np.array(state), rtol=1e-5, atol=1e-6
        )


def test_squares_are_added_over_all_arrays() -> None:
    arrays = [normal(300, 500), normal(7, seed=1).reshape(7, 1).T, mx.zeros((0, 3))]
    wanted = sum(float(np.square(np.array(x, dtype=np.float64)).sum()) for x in arrays)
    assert sum_of_squares(arrays).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_threads_and_instruction_sets_change_little_or_nothing(isa: str, tmp_path: Path) -> None:
    library = CpuLibrary(tmp_path)
    if not library.select(isa):
        pytest.skip("this machine lacks the instruction set")
    rng = np.random.default_rng(0)
    rows, width = 61, 1001
    logits = rng.normal(size=(rows, width)).astype(np.float32)
    labels = rng.integers(0, width, rows).astype(np.int32)
    results = []
    for threads in (1, 2, 3):
        library.set_threads(threads)
        losses, sums = np.empty((2, rows), np.float32)
        slopes, gate, up = np.empty((3, rows, width), np.float32)
        library.call("dflash_entropy", logits, labels, losses, sums, rows, width)
        library.call("dflash_entropy_grad", logits, labels, sums, losses, slopes, rows, width)
        library.call("dflash_swiglu_grad", logits, logits, slopes, gate, up, logits.size)
        results.append((losses, slopes, gate, up))
    for again in results[1:]:
        for found, wanted in zip(again, results[0], strict=True):
            np.testing.assert_array_equal(found, wanted)
    losses, slopes, *to_both = results[0]
    exact = logits.astype(np.float64)
    shares = np.exp(exact) / np.exp(exact).sum(-1, keepdims=True)
    np.testing.assert_allclose(losses, -np.log(shares[np.arange(rows), labels]), rtol=1e-6)
    shares[np.arange(rows), labels] -= 1.0
    np.testing.assert_allclose(slopes, shares * losses[:, None], rtol=1e-5, atol=1e-8)
    sigma = 1.0 / (1.0 + np.exp(-exact))
    wanted = [slopes * exact * sigma * (1 + exact * (1 - sigma)), slopes * exact * sigma]
    for found, want in zip(to_both, wanted, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-8)
