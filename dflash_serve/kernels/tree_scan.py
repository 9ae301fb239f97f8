"""Tree scan: a verified tree of drafts and the target's choices -> committed tokens and their path.

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

INPUTS = ("tokens", "parents", "choices", "lengths", "limits")
OUTPUTS = ("scanned",)

# One simdgroup per row. Lane l takes the nodes l, l + 32, ... and climbs from each to the anchor; a
# node whose climb finds a token that is not its parent's choice, or limit steps, is dead. The
# maximum over the lanes of depth * width + (width - 1 - column) is the deepest live node, the
# lowest column among equals. Lane 0 climbs from it once more and writes. Inputs are indexed, never
# held in a pointer: MLX passes arrays of fewer than 8 elements in another address space.
_CLIMB = """
    int best = width - 1;
    for (int node = lane; node < length; node += 32) {
        int depth = 0;
        int at = node;
        while (at > 0 && depth < limit) {
            const int parent = parents[first + at];
            if (tokens[first + at] != choices[first + parent]) {
                depth = limit;
            } else {
                depth += 1;
                at = parent;
            }
        }
        if (depth < limit) {
            best = MAX(best, depth * width + (width - 1 - node));
        }
    }
"""
_WRITE = """
    const int count = best / width + 1;
    const int out = row * (1 + 2 * Depth);
    if (lane == 0) {
        scanned[out] = count;
        int at = width - 1 - best % width;
        for (int i = count - 1; i >= 0; --i) {
            scanned[out + 1 + i] = choices[first + at];
            scanned[out + 1 + Depth + i] = at;
            at = parents[first + at];
        }
    }
    for (int i = count + lane; i < Depth; i += 32) {
        scanned[out + 1 + i] = -1;
        scanned[out + 1 + Depth + i] = 0;
    }
"""

METAL_SOURCE = f"""
    const int lane = int(thread_index_in_simdgroup);
    const int row = int(threadgroup_position_in_grid.y);
    const int width = tokens_shape[1];
    const int first = row * width;
    const int length = metal::min(int(lengths[row]), width);
    const int limit = metal::min(int(limits[row]), Depth);
{_CLIMB.replace("MAX", "metal::max")}
    best = metal::simd_max(best);
{_WRITE}
"""

# The same walk. Five shuffles stand for simd_max: __reduce_max_sync is missing before sm_80.
CUDA_SOURCE = f"""
    const int lane = int(threadIdx.x);
    const int row = int(blockIdx.y);
    const int width = tokens_shape[1];
    const int first = row * width;
    const int length = min(int(lengths[row]), width);
    const int limit = min(int(limits[row]), Depth);
{_CLIMB.replace("MAX", "max")}
    for (int step = 16; step > 0; step /= 2) {{
        best = max(best, __shfl_xor_sync(0xffffffffu, best, step));
    }}
{_WRITE}
"""

SOURCES = Sources("dflash_tree_scan", INPUTS, OUTPUTS, METAL_SOURCE, CUDA_SOURCE)


def tree_scan(
    tokens: mx.array,
    parents: mx.array,
    choices: mx.array,
    lengths: mx.array,
    limits: mx.array,
    depth: int,
    backend: Backend | None = None,
) -> mx.array:
    """Keep each row's longest path from the anchor whose tokens are the target's choices.

    All arrays int32. ``tokens`` [R, n]: the nodes' tokens, the anchor in column 0. ``parents``
    [R, n]: 0 <= parents[r, j] < j; column 0 is not read. ``choices`` [R, n]: the target's token
    after each node. ``lengths`` [R], 1 <= length <= n: columns at and beyond a row's length are
    padding. ``limits`` [R], 1 <= limit <= depth: the most tokens that a row commits.

    A node is live if its parent is live and its token is its parent's choice; the anchor is live. A
    path of a accepted nodes commits a + 1 tokens. Equal siblings may be live together: the deepest
    live node within the limit wins, the lowest column among equals.

    Returns int32 [R, 1 + 2 * depth]: count = a + 1; then d1..d_a, the winner's choice, and -1 up to
    ``depth`` columns; then the columns of the anchor and d1..d_a, and 0 up to ``depth`` columns.
    ``backend`` overrides the back end of the default device.
    """
    rows, width = tokens.shape
    assert parents.shape == choices.shape == (rows, width)
    assert lengths.shape == limits.shape == (rows,)
    assert all(x.dtype == mx.int32 for x in (tokens, parents, choices, lengths, limits))
    assert depth >= 1
    backend = backend or kernel_backend()
    if backend is Backend.PLAIN:
        return tree_scan_reference(tokens, parents, choices, lengths, limits, depth)
    kernel = built(SOURCES, backend)
    return launch(kernel, [tokens, parents, choices, lengths, limits], depth)


def tree_scan_reference(
    tokens: mx.array,
    parents: mx.array,
    choices: mx.array,
    lengths: mx.array,
    limits: mx.array,
    depth: int,
) -> mx.array:
    """``tree_scan`` in MLX's own operations, on any device."""
    column = mx.arange(tokens.shape[1], dtype=mx.int32)
    filled = column < lengths[:, None]
    above = mx.where(filled & (column > 0), parents, 0)
    match = filled & (tokens == mx.take_along_axis(choices, above, axis=1))
    # Steps to the anchor. A mismatch costs `depth`, and no limit is greater: [R, n]
    steps = mx.where(column > 0, mx.where(match, 1, depth), 0)
    jumps = [above]  # jumps[i]: the ancestor 2**i steps up
    for _ in range((depth - 1).bit_length()):
        steps = steps + mx.take_along_axis(steps, jumps[-1], axis=1)
        jumps.append(mx.take_along_axis(jumps[-1], jumps[-1], axis=1))
    reached = mx.where(steps < limits[:, None], steps, -1)
    winner = mx.argmax(reached, axis=1, keepdims=True).astype(mx.int32)  # the first among equals
    count = mx.take_along_axis(reached, winner, axis=1) + 1
    climb = winner  # climb[:, i]: i steps above the winner
    for jump in jumps[:-1]:
        climb = mx.concatenate([climb, mx.take_along_axis(jump, climb, axis=1)], axis=1)
    place = mx.arange(depth, dtype=mx.int32)
    path = mx.take_along_axis(climb, mx.maximum(count - 1 - place, 0), axis=1)
    # An accepted token is its parent's choice, so choices on the path are d1..d_a and the bonus.
    committed = mx.take_along_axis(choices, path, axis=1)
    inside = place < count
    return mx.concatenate(
        [count, mx.where(inside, committed, -1), mx.where(inside, path, 0)], axis=1
    )


def launch(kernel: Kernel, inputs: list[mx.array], depth: int) -> mx.array:
    """``tree_scan`` by a kernel of either language: one group of 32 threads per row."""
    rows, _ = inputs[0].shape
    (scanned,) = kernel(
        inputs=inputs,
        output_shapes=[(rows, 1 + 2 * depth)],
        output_dtypes=[mx.int32],
        grid=(SIMD_WIDTH, rows, 1),
        threadgroup=(SIMD_WIDTH, 1, 1),
        template=[("Depth", depth)],
    )
    return scanned
