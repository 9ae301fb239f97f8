"""GatedDelta replay: the state after the accepted part of a verified block, without its outputs.

The Metal source has been executed only in the simulator of tests/kernels and never compiled by
Metal; the CUDA source has been compiled for float32 by NVRTC 12.9 (sm_75, sm_90) and never run on a
GPU.
"""

import mlx.core as mx

from dflash_serve.kernels.dispatch import (
    SIMD_WIDTH,
    Backend,
    Kernel,
    Sources,
    built,
    kernel_backend,
)
from dflash_serve.kernels.gated_delta import DeltaTokens, next_state

INPUTS = ("keys", "values", "decays", "rates", "state", "kept")
OUTPUTS = ("after",)
GROUPS = 4  # simdgroups of a threadgroup

# One simdgroup per row of values in a state: lane l holds Dk / 32 neighbouring elements, from
# element l * Dk / 32 on. A row's work ends at its own number of kept tokens. Sums go over the lanes
# by exchanges of growing distance, the order that mlx-lm's kernel for a forward has.
_BODY = """
    const int head = n % Hv;
    const int kept_here = MIN(int(kept[n / Hv]), width);
    const int key_head = head / (Hv / Hk);
    const int place = (n * Dv + value_row) * Dk + lane * (Dk / 32);

    float held[Dk / 32];
    for (int i = 0; i < Dk / 32; ++i) {
        held[i] = state[place + i];
    }
    for (int t = 0; t < kept_here; ++t) {
        const int token = n / Hv * width + t;
        const int key = (token * Hk + key_head) * Dk + lane * (Dk / 32);
        const float decay = static_cast<float>(decays[token * Hv + head]);
        float found = 0.0f;
        for (int i = 0; i < Dk / 32; ++i) {
            held[i] = held[i] * decay;
            found += held[i] * static_cast<float>(keys[key + i]);
        }
        for (int distance = 1; distance < 32; distance *= 2) {
            found += EXCHANGE(found, distance);
        }
        const float value = static_cast<float>(values[(token * Hv + head) * Dv + value_row]);
        const float delta = (value - found) * static_cast<float>(rates[token * Hv + head]);
        for (int i = 0; i < Dk / 32; ++i) {
            held[i] = held[i] + static_cast<float>(keys[key + i]) * delta;
        }
    }
    for (int i = 0; i < Dk / 32; ++i) {
        after[place + i] = held[i];
    }
"""

METAL_SOURCE = """
    const int lane = int(thread_index_in_simdgroup);
    const int value_row = int(thread_position_in_grid.y);
    const int n = int(thread_position_in_grid.z);
    const int width = keys_shape[1];
""" + _BODY.replace("MIN", "metal::min").replace("EXCHANGE(found", "metal::simd_shuffle_xor(found")

CUDA_SOURCE = """
    const int lane = int(threadIdx.x);
    const int value_row = int(blockIdx.y * blockDim.y + threadIdx.y);
    const int n = int(blockIdx.z);
    const int width = keys_shape[1];
""" + _BODY.replace("MIN", "min").replace("EXCHANGE(found", "__shfl_xor_sync(0xffffffffu, found")

SOURCES = Sources("dflash_gated_delta_replay", INPUTS, OUTPUTS, METAL_SOURCE, CUDA_SOURCE)


def gated_delta_replay(
    tokens: DeltaTokens, state: mx.array, kept: mx.array, backend: Backend | None = None
) -> mx.array:
    """``state`` float32 [R, Hv, Dv, Dk] advanced by each row's first ``kept`` int32 [R] tokens.

    0 <= kept <= q. ``backend`` overrides the back end of the default device.
    """
    assert state.dtype == mx.float32
    assert kept.dtype == mx.int32
    backend = backend or kernel_backend()
    _, _, values, keys = state.shape
    if backend is Backend.PLAIN or keys % SIMD_WIDTH or values % GROUPS:
        return gated_delta_replay_reference(tokens, state, kept)
    kernel = built(SOURCES, backend)
    return launch(kernel, tokens, state, kept)


def gated_delta_replay_reference(tokens: DeltaTokens, state: mx.array, kept: mx.array) -> mx.array:
    """``gated_delta_replay`` in MLX's own operations: on a CPU, bit for bit mlx-lm's loop."""
    state, kept = state[:, None], kept[:, None, None, None, None]
    for place, token in enumerate(tokens.each()):
        state = mx.where(place < kept, next_state(state, *token), state)
    return state[:, 0]


def launch(kernel: Kernel, tokens: DeltaTokens, state: mx.array, kept: mx.array) -> mx.array:
    """``gated_delta_replay`` by a kernel of either language: 32 threads per row of values."""
    rows, heads, values, keys = state.shape
    (after,) = kernel(
        inputs=[tokens.keys, tokens.values, tokens.decays, tokens.rates, state, kept],
        output_shapes=[state.shape],
        output_dtypes=[mx.float32],
        grid=(SIMD_WIDTH, values, rows * heads),
        threadgroup=(SIMD_WIDTH, GROUPS, 1),
        template=[("Hk", tokens.keys.shape[2]), ("Hv", heads), ("Dk", keys), ("Dv", values)],
    )
    return after
