"""Acceptance scan: drafts and the target's choices -> committed tokens and their count per row.

The Metal source has been executed only in the simulator of tests/kernels and never compiled by
Metal; the CUDA source has been compiled by NVRTC 12.9 (sm_75, sm_90) and never run on a GPU.
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

INPUTS = ("drafts", "choices", "block_lengths")
OUTPUTS = ("committed",)

# One simdgroup per row. Lane l looks for the first mismatch among slots l, l + 32, ..., and the
# minimum over the lanes is the row's. A mismatch at slot i commits i + 1 tokens: d1..d_i equal
# choices [0, i), and choices[i] is the bonus. Without a mismatch the block's length is the limit.
# Inputs are indexed, never held in a pointer: MLX passes arrays of fewer than 8 elements in another
# address space.
METAL_SOURCE = """
    const int lane = int(thread_index_in_simdgroup);
    const int row = int(threadgroup_position_in_grid.y);
    const int width = choices_shape[1];
    const int limit = metal::min(int(block_lengths[row]), width);
    const int draft = row * (width - 1);
    const int choice = row * width;

    int count = limit;
    for (int i = lane; i + 1 < limit; i += 32) {
        if (drafts[draft + i] != choices[choice + i]) {
            count = i + 1;
            break;
        }
    }
    count = metal::simd_min(count);

    const int out = row * (width + 1);
    if (lane == 0) {
        committed[out] = count;
    }
    for (int i = lane; i < width; i += 32) {
        committed[out + 1 + i] = i < count ? choices[choice + i] : -1;
    }
"""

# The same walk. Five shuffles stand for simd_min: __reduce_min_sync is missing before sm_80.
CUDA_SOURCE = """
    const int lane = int(threadIdx.x);
    const int row = int(blockIdx.y);
    const int width = choices_shape[1];
    const int limit = min(int(block_lengths[row]), width);
    const int draft = row * (width - 1);
    const int choice = row * width;

    int count = limit;
    for (int i = lane; i + 1 < limit; i += 32) {
        if (drafts[draft + i] != choices[choice + i]) {
            count = i + 1;
            break;
        }
    }
    for (int step = 16; step > 0; step /= 2) {
        count = min(count, __shfl_xor_sync(0xffffffffu, count, step));
    }

    const int out = row * (width + 1);
    if (lane == 0) {
        committed[out] = count;
    }
    for (int i = lane; i < width; i += 32) {
        committed[out + 1 + i] = i < count ? choices[choice + i] : -1;
    }
"""

SOURCES = Sources("dflash_acceptance_scan", INPUTS, OUTPUTS, METAL_SOURCE, CUDA_SOURCE)


def acceptance_scan(
    drafts: mx.array,
    choices: mx.array,
    block_lengths: mx.array,
    backend: Backend | None = None,
) -> mx.array:
    """Keep each row's longest prefix of drafts that equals the target's choices, and the bonus.

    ``drafts`` int32 [R, b-1], ``choices`` int32 [R, b], ``block_lengths`` int32 [R] with
    1 <= length <= b; slots at and beyond a row's length are padding. Returns int32 [R, b+1]: column
    0 is a+1 with a <= length-1 accepted drafts, then d1..d_a, the bonus choices[r, a], and -1 up to
    the end. ``backend`` overrides the back end of the default device.
    """
    rows, width = choices.shape
    assert drafts.shape == (rows, width - 1)
    assert block_lengths.shape == (rows,)
    assert drafts.dtype == choices.dtype == block_lengths.dtype == mx.int32
    backend = backend or kernel_backend()
    # Without drafts there is nothing to scan, and a kernel would get an empty buffer.
    if backend is Backend.PLAIN or width == 1:
        return acceptance_scan_reference(drafts, choices, block_lengths)
    kernel = built(SOURCES, backend)
    return launch(kernel, drafts, choices, block_lengths)


def acceptance_scan_reference(
    drafts: mx.array, choices: mx.array, block_lengths: mx.array
) -> mx.array:
    """``acceptance_scan`` in MLX's own operations, on any device."""
    width = choices.shape[1]
    slot = mx.arange(width, dtype=mx.int32)
    # A mismatch at slot i commits i + 1 tokens, the block's length is the limit: [R, b]
    ends = mx.where(drafts == choices[:, : width - 1], width, slot[1:])
    count = mx.concatenate([ends, block_lengths[:, None]], axis=1).min(axis=1, keepdims=True)
    # Accepted drafts equal the choices, so choices[:, :count] is d1..d_a and the bonus.
    committed = mx.where(slot < count, choices, -1)
    return mx.concatenate([count, committed], axis=1)


def launch(
    kernel: Kernel, drafts: mx.array, choices: mx.array, block_lengths: mx.array
) -> mx.array:
    """``acceptance_scan`` by a kernel of either language: one group of 32 threads per row."""
    rows, width = choices.shape
    (committed,) = kernel(
        inputs=[drafts, choices, block_lengths],
        output_shapes=[(rows, width + 1)],
        output_dtypes=[mx.int32],
        grid=(SIMD_WIDTH, rows, 1),
        threadgroup=(SIMD_WIDTH, 1, 1),
    )
    return committed
