"""DFlash 2's own operations on CPUs: block convolutions, candidates, and the walk among them."""

import ctypes
import sys

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.kernels.block_conv import convolve, plain_convolve
from dflash_serve.kernels.native import native
from dflash_serve.kernels.selection import Candidates, Rescoring, plain_top, plain_walk, top, walk
from tests.kernels.cpu_library import CpuLibrary

linux = pytest.mark.skipif(sys.platform != "linux", reason="the library is built on Linux alone")

SHAPES = [(1, 16, 256, 2, 16), (90, 7, 60, 4, 3), (2, 2, 21, 5, 7), (5, 1, 32, 2, 1)]
"""Blocks, rows of each, channels, taps, groups."""


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def block(blocks: int, length: int, hidden: int, taps: int, groups: int) -> tuple[mx.array, ...]:
    """Rows, base kernels, rows' own kernels."""
    own = normal(blocks, length, 2, taps, groups, seed=2)
    return normal(blocks, length, hidden), normal(2, taps, hidden, seed=1), own


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_are_the_plain_ones(shape: tuple[int, ...], side: int) -> None:
    """To the bit, also where a block is shorter than its kernels, and of rows in any order."""
    x, base, own = block(*shape)
    want = plain_convolve(x, base, own, side)
    assert mx.array_equal(convolve(x, base, own, side), want).item()
    turned = mx.contiguous(x.swapaxes(0, 2)).swapaxes(0, 2)
    assert mx.array_equal(convolve(turned, base, own, side), want).item()
    many = [mx.concatenate([one] * 90) for one in (x, own)]
    assert mx.array_equal(convolve(many[0], base, many[1], side)[-shape[0] :], want).item()


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_have_the_plain_gradients(shape: tuple[int, ...], side: int) -> None:
    arrays, weight = block(*shape), normal(*shape[:3], seed=3)
    found, wanted = (
        mx.grad(lambda *given, form=form: (form(*given, side) * weight).sum(), (0, 1, 2))(*arrays)
        for form in (convolve, plain_convolve)
    )
    for one, other in zip(found, wanted, strict=True):
        assert mx.allclose(one, other, rtol=1e-5, atol=1e-5).item()


@pytest.mark.parametrize("count", [1, 5, 16, 64])
@pytest.mark.parametrize("width", [3, 64, 1000, 40_000])
def test_the_candidates_are_the_highest(width: int, count: int) -> None:
    logits = normal(2, 4, width)
    ids, values = top(logits, count)
    count = min(count, width)
    assert ids.shape == (2, 4, count)
    assert mx.array_equal(mx.take_along_axis(logits, ids, axis=-1), values).item()
    want = np.sort(np.array(logits), axis=-1)[..., -count:]
    assert np.array_equal(np.sort(np.array(values), axis=-1), want)
    assert np.array_equal(np.sort(np.array(plain_top(logits, count).logits), axis=-1), want)


@linux
def test_candidates_of_equal_and_odd_numbers() -> None:
    """Each is another token, and one that is no number comes last."""
    odd = np.linspace(0, 1, 300, dtype=np.float32)
    odd[[0, 7, 299]] = np.nan
    rows = mx.stack([mx.zeros(300), mx.array(odd), mx.full(300, -mx.inf)])
    found = np.array(top(rows, 16).ids)
    assert all(len(set(row)) == 16 for row in found.tolist())
    assert sorted(found[1].tolist()) == [*range(283, 299)]


@pytest.mark.parametrize("rank", [1, 16, 50])
def test_the_walk_is_the_plain_one(rank: int) -> None:
    vocab = 90
    candidates = top(normal(4, 6, vocab), 12)
    tables = (normal(vocab, rank, seed=seed) for seed in (4, 5))
    rescoring = Rescoring(normal(4, 6, rank, seed=3), *tables)
    anchors = mx.array([0, 89, 5, 5], dtype=mx.int32)
    tokens, scores = walk(anchors, candidates, rescoring)
    wanted, wanted_scores = plain_walk(anchors, candidates, rescoring)
    assert tokens.tolist() == wanted.tolist()
    assert mx.allclose(scores, wanted_scores, rtol=1e-5, atol=1e-5).item()
    likeliest = mx.take_along_axis(
        candidates.ids, mx.argmax(candidates.logits, axis=-1, keepdims=True), axis=-1
    )
    assert tokens.tolist() != likeliest[..., 0].tolist()  # the tokens before change the choice


@linux
def test_wrong_shapes_are_refused() -> None:
    module, (x, base, own) = native(mx.zeros(1)), block(2, 3, 12, 2, 4)
    with pytest.raises(ValueError, match=r"\[convolve\] needs rows"):
        module.convolve(x, base[:, :, :8], own, 0)
    with pytest.raises(ValueError, match=r"\[convolve\] there is no such side"):
        module.convolve(x, base, own, 2)
    with pytest.raises(ValueError, match=r"\[top\] needs rows of at least count"):
        module.top(x, 13)
    ids, logits = top(normal(1, 2, 8), 4)
    rescoring = module.Rescoring(normal(1, 2, 3), normal(8, 3), normal(7, 3))
    with pytest.raises(ValueError, match=r"\[walk\] needs tables"):
        module.walk(mx.zeros(1, mx.int32), module.Candidates(ids, logits), rescoring)


class Convolution(ctypes.Structure):
    """dflash_convolution of dflash_cpu.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "base", "own", "out")),
        *((name, ctypes.c_ssize_t) for name in ("rows", "own_stride")),
        *((name, ctypes.c_int) for name in ("columns", "hidden", "taps", "groups")),
    )


class Walk(ctypes.Structure):
    """dflash_walk of dflash_cpu.h."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("rows", "columns", "count", "rank")),
        *(
            (name, ctypes.c_void_p)
            for name in ("anchors", "ids", "unary", "gates", "predecessors", "successors")
        ),
        *((name, ctypes.c_void_p) for name in ("tokens", "scores")),
    )


@linux
def test_every_instruction_set_convolves_alike(library: CpuLibrary) -> None:
    x, base, own = (np.array(one) for one in block(60, 16, 84, 3, 4))
    want = np.array(plain_convolve(*(mx.array(one) for one in (x, base, own)), 1))
    for threads in (1, 3):
        library.set_threads(threads)
        out = np.empty_like(x)
        one, kernels = base[1].copy(), own[:, :, 1].copy()
        places = (array.ctypes.data for array in (x, one, kernels, out))
        library.call("dflash_convolve", ctypes.byref(Convolution(*places, 960, 12, 16, 84, 3, 4)))
        assert np.array_equal(out, want)


@linux
def test_every_instruction_set_finds_the_same_candidates(library: CpuLibrary) -> None:
    x = np.array(normal(9, 5003))
    x[3] = np.sort(x[3])
    for threads in (1, 3):
        library.set_threads(threads)
        values, ids = np.empty((9, 16), np.float32), np.empty((9, 16), np.int32)
        places = (ctypes.c_void_p(array.ctypes.data) for array in (x, values, ids))
        x_at, values_at, ids_at = places
        library.call("dflash_top", x_at, 9, ctypes.c_int(5003), ctypes.c_int(16), values_at, ids_at)
        assert np.array_equal(values, -np.sort(-x, axis=1)[:, :16])
        assert np.array_equal(np.take_along_axis(x, ids, axis=1), values)


@linux
def test_every_instruction_set_walks_alike(library: CpuLibrary) -> None:
    vocab, rank, slots = 200, 37, 9
    found = top(normal(20, slots, vocab), 16)
    gates, *tables = (
        normal(20, slots, rank, seed=6),
        normal(vocab, rank),
        normal(vocab, rank, seed=7),
    )
    anchors = mx.arange(20, dtype=mx.int32)
    wanted, _ = plain_walk(anchors, Candidates(*found), Rescoring(gates, *tables))
    given = [np.array(one) for one in (anchors, *found, gates, *tables)]
    tokens, scores = np.empty((20, slots), np.int32), np.empty((20, slots, 16), np.float32)
    places = [array.ctypes.data for array in (*given, tokens, scores)]
    for threads in (1, 3):
        library.set_threads(threads)
        library.call("dflash_walk_blocks", ctypes.byref(Walk(20, slots, 16, rank, *places)))
        assert tokens.tolist() == wanted.tolist()
        tokens[:] = -1
