"""The gated delta rule against mlx-lm's loop: held states, scans, the replay, its kernels."""

import functools

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.gated_delta import gated_delta_ops

from dflash_serve.kernels import gated_delta_replay as replay
from dflash_serve.kernels.dispatch import Backend
from dflash_serve.kernels.gated_delta import (
    HELD_BYTES,
    SPAN,
    DeltaStates,
    DeltaTokens,
    fits,
    gated_delta_scan,
)
from tests.kernels.gpu_sim import simulator

needs_gxx = pytest.mark.skipif(
    simulator.compiler() is None, reason="the GPU simulator needs g++ on Linux"
)
on_a_cpu = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="bit-equality is asked of CPUs"
)
HEADS = [(2, 4, 16, 24), (1, 1, 32, 8), (3, 3, 64, 4)]  # key heads, value heads, Dk, Dv


def drawn(rows, width, heads, dtype=mx.float32, seed=0):
    """Queries, tokens and states as a layer makes them: unit keys, decays and rates in (0, 1)."""
    key_heads, value_heads, key_dim, value_dim = heads
    keys = mx.random.split(mx.random.key(seed), 6)

    def unit(key):
        array = mx.random.normal((rows, width, key_heads, key_dim), key=key)
        return (array / mx.linalg.norm(array, axis=-1, keepdims=True)).astype(dtype)

    gates = [mx.random.uniform(shape=(rows, width, value_heads), key=key) for key in keys[3:5]]
    values = mx.random.normal((rows, width, value_heads, value_dim), key=keys[2]).astype(dtype)
    tokens = DeltaTokens(unit(keys[1]), values, gates[0], gates[1].astype(dtype))
    state = mx.random.normal((rows, value_heads, value_dim, key_dim), key=keys[5])
    return unit(keys[0]), tokens, state


def upstream(queries, tokens, state, kept):
    """mlx-lm's loop over the first ``kept`` tokens of each row."""
    mask = mx.arange(tokens.width) < kept[:, None]
    parts = (tokens.keys, tokens.values, tokens.decays, tokens.rates)
    return gated_delta_ops(queries, *parts, state, mask)


def same(found, wanted):
    return found.dtype == wanted.dtype and mx.array_equal(found, wanted).item()


@on_a_cpu
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("width", [1, 2, 8])
def test_held_states_are_mlx_lm_s_bit_for_bit(width, heads, dtype):
    rows = width + 1
    queries, tokens, state = drawn(rows, width, heads, dtype)
    kept = mx.arange(rows)  # every number of tokens, in one batch
    states = DeltaStates(tokens, state)
    outputs, _ = upstream(queries, tokens, state, mx.full((rows,), width))
    assert same(states.outputs(queries), outputs)
    assert same(states.after(kept), upstream(queries, tokens, state, kept)[1])


@on_a_cpu
@pytest.mark.parametrize("width", [SPAN, SPAN + 1, 2 * SPAN + 7])
def test_a_scan_is_mlx_lm_s_bit_for_bit(width):
    queries, tokens, state = drawn(4, width, HEADS[0])
    lengths = mx.minimum(mx.array([0, 1, SPAN + 1, width]), width)
    outputs, after = gated_delta_scan(queries, tokens, state, lengths)
    wanted, state = upstream(queries, tokens, state, lengths)
    exists = (mx.arange(width) < lengths[:, None])[..., None, None]
    assert same(mx.where(exists, outputs, 0), mx.where(exists, wanted, 0))
    assert same(after, state)


@on_a_cpu
@pytest.mark.parametrize("heads", HEADS)
def test_the_replay_is_mlx_lm_s_bit_for_bit(heads):
    queries, tokens, state = drawn(6, 5, heads)
    kept = mx.arange(6, dtype=mx.int32)
    after = replay.gated_delta_replay(tokens, state, kept, backend=Backend.PLAIN)
    assert same(after, upstream(queries, tokens, state, kept)[1])
    assert same(after[0], state[0])


@on_a_cpu
def test_traced_equals_untraced():
    queries, tokens, state = drawn(3, 5, HEADS[0])
    kept = mx.array([0, 3, 5], dtype=mx.int32)

    def both(queries, keys, values, decays, rates, state, kept):
        states = DeltaStates(DeltaTokens(keys, values, decays, rates), state)
        return states.outputs(queries), states.after(kept)

    inputs = (queries, tokens.keys, tokens.values, tokens.decays, tokens.rates, state, kept)
    for found, wanted in zip(mx.compile(both)(*inputs), both(*inputs), strict=True):
        assert same(found, wanted)


def test_large_states_are_not_held():
    state = mx.zeros((1, 32, 128, 128))
    assert not fits(state, 8)
    assert fits(state[:, :2], 8)
    places = HELD_BYTES // state[:, :1].nbytes
    assert fits(state[:, :1], places - 1)
    assert not fits(state[:, :1].astype(mx.complex64), places - 1)
    assert fits(state[:, :1], 10_000) is fits(state[:, :1], SPAN)


@functools.cache
def simulated(language, seed=0):
    make = simulator.metal_kernel if language == "metal" else simulator.cuda_kernel
    source = replay.METAL_SOURCE if language == "metal" else replay.CUDA_SOURCE
    return make("replay", replay.INPUTS, replay.OUTPUTS, source, seed=seed)


@needs_gxx
@pytest.mark.parametrize(
    ("language", "dtype", "heads"),
    [
        ("metal", mx.float32, (2, 4, 32, 8)),
        ("metal", mx.bfloat16, (2, 2, 128, 4)),
        ("cuda", mx.float32, (1, 3, 96, 4)),
    ],
)
def test_simulated_kernel_equals_the_reference(language, dtype, heads):
    rows, width = 4, 3
    _, tokens, state = drawn(rows, width, heads, dtype, seed=1)
    kept = mx.array([2, 0, 3, 1], dtype=mx.int32)
    found = replay.launch(simulated(language, seed=heads[0]), tokens, state, kept)
    wanted = replay.gated_delta_replay_reference(tokens, state, kept)
    np.testing.assert_allclose(np.array(found), np.array(wanted), atol=2e-6)
    assert same(found[1], state[1])


@needs_gxx
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("t < kept_here", "t < width"),
        ("held[i] = held[i] * decay;", ""),
        ("distance < 32", "distance < 16"),
        ("head / (Hv / Hk)", "head % Hk"),
        ("* Dv + value_row]", "* Dv]"),
        ("n / Hv * width", "n / Hv"),
    ],
)
def test_a_wrong_metal_source_is_seen(right, wrong):
    source = replay.METAL_SOURCE.replace(right, wrong)
    assert source != replay.METAL_SOURCE
    kernel = simulator.metal_kernel("wrong", replay.INPUTS, replay.OUTPUTS, source)
    _, tokens, state = drawn(2, 3, (2, 4, 32, 4), seed=2)
    kept = mx.array([2, 3], dtype=mx.int32)
    wanted = replay.gated_delta_replay_reference(tokens, state, kept)
    try:
        found = replay.launch(kernel, tokens, state, kept)
    except simulator.SimulationError:
        return
    assert not mx.allclose(found, wanted, atol=1e-4)


@pytest.mark.skipif(mx.metal.is_available(), reason="this machine runs the kernel itself")
def test_shapes_that_no_kernel_is_for_never_reach_one():
    _, tokens, state = drawn(2, 3, HEADS[0])
    kept = mx.array([2, 3], dtype=mx.int32)
    for backend in Backend:
        found = replay.gated_delta_replay(tokens, state, kept, backend=backend)
        assert same(found, replay.gated_delta_replay_reference(tokens, state, kept))
    _, tokens, state = drawn(2, 3, (1, 1, 32, 4))
    with pytest.raises(RuntimeError, match="No Metal back-end"):
        replay.gated_delta_replay(tokens, state, kept, backend=Backend.METAL)


def device_equals_reference(backend):
    for seed, heads in enumerate([(2, 4, 32, 8), (16, 32, 128, 128)]):
        _, tokens, state = drawn(3, 8, heads, mx.bfloat16, seed)
        kept = mx.array([0, 5, 8], dtype=mx.int32)
        found = replay.gated_delta_replay(tokens, state, kept, backend=backend)
        wanted = replay.gated_delta_replay_reference(tokens, state, kept)
        assert mx.allclose(found, wanted, atol=1e-4)
        assert same(found[0], state[0])


@pytest.mark.metal
@pytest.mark.skipif(not mx.metal.is_available(), reason="needs an Apple GPU")
def test_metal_equals_reference():
    device_equals_reference(Backend.METAL)


@pytest.mark.cuda
@pytest.mark.skipif(not mx.cuda.is_available(), reason="needs MLX's CUDA build and an NVIDIA GPU")
def test_cuda_equals_reference():
    device_equals_reference(Backend.CUDA)
