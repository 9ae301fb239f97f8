"""Token choice: logits -> the greatest one's token, or one drawn after temperature and filters.

Nothing is sorted. Every filter keeps the tokens whose logits reach some value, so that only this
value is looked for. One uniform number of two words draws from what is kept: the first word a span
of tokens, the second a token in it, both by inverse transform in the order of the vocabulary. A
position's token depends on its own logits, settings and key alone.

The Metal source has been executed only in the simulator of tests/kernels and never compiled by
Metal; the CUDA source has been compiled by NVRTC 13.2 (sm_75, sm_90) and never run on a GPU.
"""

from typing import Any, NamedTuple

import mlx.core as mx

from dflash_serve.kernels.dispatch import Backend, Kernel, Sources, built, kernel_backend
from dflash_serve.kernels.native import native

SPAN = 256
INPUTS = ("logits", "settings", "keys", "greatest")
OUTPUTS = ("tokens",)
_LEAST_DEGREE = 1e-30
_LOWEST_KEY = -0x7F800001
"""The key of minus infinity: a float's bits as an integer, in the order of the floats."""

# One threadgroup of `SPAN` threads per position. The least value that a filter keeps is the least
# one whose greater logits weigh less than a goal: for top-k each weighs 1, for top-p its
# probability. It lies between two keys, and each pass over the logits leaves a quarter of what lies
# between them, or ends where exactly top-k logits are greater than a value. Lane and simdgroup sums
# are added in one order. Inputs are indexed, never held in a pointer: MLX passes arrays of fewer
# than 8 elements in another address space.
_BODY = """
    const int lane = thread_at % 32;
    const int group = thread_at / 32;
    const int width = logits_shape[1];
    const int size = logits_shape[2];
    const int first = position * size;
    const int row = position / width;
    const float temperature = settings[4 * row];
    const float top_p = settings[4 * row + 1];
    const float top_k = settings[4 * row + 2];
    const float min_p = settings[4 * row + 3];
    const int best = greatest[position];
    const float most = static_cast<float>(logits[first + best]);
    if (temperature == 0.0f || !(most - most == 0.0f)) {
        if (thread_at == 0) {
            tokens[position] = best;
        }
        return;
    }
    const float per_degree = 1.0f / MAX(temperature, 1e-30f);
    const bool few = top_k >= 1.0f && top_k < static_cast<float>(size);
    SHARED float partial[8][3];
    SHARED float spans[Spans];
    SHARED float members[256];
    SHARED int chosen[1];

    int least = -0x7F800001;
    const int highest = BITS(most) ^ ((BITS(most) >> 31) & 0x7FFFFFFF);
    float goal = top_k;
    for (int filter = 0; filter < 3; ++filter) {
        if (filter == 1 && !(top_p < 1.0f)) {
            break;
        }
        int low = least;
        int high = filter == 1 ? low : highest;
        if (filter == 0 && !few) {
            high = low;
        }
        while (low < high || filter == 1) {
            const unsigned int from = static_cast<unsigned int>(low);
            const unsigned int step = (static_cast<unsigned int>(high) - from) / 4;
            int cuts[3];
            float values[3];
            float sums[3];
            for (int j = 0; j < 3; ++j) {
                cuts[j] = static_cast<int>(from + step * (j + 1));
                values[j] = FLOAT(cuts[j] ^ ((cuts[j] >> 31) & 0x7FFFFFFF));
                sums[j] = 0.0f;
            }
            for (int i = thread_at; i < size; i += 256) {
                const float x = static_cast<float>(logits[first + i]);
                if (filter == 1) {
                    if (x >= values[0]) {
                        sums[0] += EXP((x - most) * per_degree);
                        sums[1] += 1.0f;
                    }
                } else if (x > values[0]) {
                    const float weight = filter == 0 ? 1.0f : EXP((x - most) * per_degree);
                    for (int j = 0; j < 3; ++j) {
                        sums[j] += x > values[j] ? weight : 0.0f;
                    }
                }
            }
            for (int j = 0; j < 3; ++j) {
                const float sum = SUM(sums[j]);
                if (lane == 0) {
                    partial[group][j] = sum;
                }
            }
            BARRIER
            for (int j = 0; j < 3; ++j) {
                sums[j] = 0.0f;
                for (int g = 0; g < 8; ++g) {
                    sums[j] += partial[g][j];
                }
            }
            BARRIER
            if (filter == 1) {
                const float beyond = few ? sums[1] - top_k : 0.0f;
                goal = top_p * (sums[0] - beyond * EXP((values[0] - most) * per_degree));
                break;
            }
            for (int j = 2; j >= 0; --j) {
                if (sums[j] >= goal) {
                    low = cuts[j] + 1;
                    high = filter == 0 && sums[j] == goal ? low : high;
                    break;
                }
                high = cuts[j];
            }
        }
        least = low;
    }

    const float reach = FLOAT(least ^ ((least >> 31) & 0x7FFFFFFF));
    for (int span = group; span < Spans; span += 8) {
        float sum = 0.0f;
        for (int i = span * 256 + lane; i < (span + 1) * 256 && i < size; i += 32) {
            const float x = static_cast<float>(logits[first + i]);
            const float weight = x >= reach ? EXP((x - most) * per_degree) : 0.0f;
            sum += weight >= min_p ? weight : 0.0f;
        }
        sum = SUM(sum);
        if (lane == 0) {
            spans[span] = sum;
        }
    }
    BARRIER
    if (thread_at == 0) {
        float total = 0.0f;
        for (int span = 0; span < Spans; ++span) {
            total += spans[span];
        }
        const float target = static_cast<float>(keys[2 * position] >> 8) / 16777216.0f * total;
        int span = 0;
        float sum = spans[0];
        while (!(sum > target) && span + 1 < Spans) {
            span += 1;
            sum += spans[span];
        }
        chosen[0] = span;
    }
    BARRIER
    const int token = chosen[0] * 256 + thread_at;
    float own = 0.0f;
    if (token < size) {
        const float x = static_cast<float>(logits[first + token]);
        own = x >= reach ? EXP((x - most) * per_degree) : 0.0f;
        own = own >= min_p ? own : 0.0f;
    }
    members[thread_at] = own;
    BARRIER
    if (thread_at == 0) {
        float total = 0.0f;
        for (int i = 0; i < 256; ++i) {
            total += members[i];
        }
        const float target = static_cast<float>(keys[2 * position + 1] >> 8) / 16777216.0f * total;
        int at = 0;
        float sum = members[0];
        while (!(sum > target) && at < 255) {
            at += 1;
            sum += members[at];
        }
        tokens[position] = chosen[0] * 256 + at;
    }
"""


def _spelled(words: dict[str, str]) -> str:
    body = _BODY
    for word, spelling in words.items():
        body = body.replace(word, spelling)
    return body


METAL_SOURCE = """
    const int thread_at = int(thread_index_in_threadgroup);
    const int position = int(threadgroup_position_in_grid.y);
""" + _spelled(
    {
        "MAX(": "metal::max(",
        "EXP(": "metal::exp(",
        "SUM(": "metal::simd_sum(",
        "BITS(": "as_type<int>(",
        "FLOAT(": "as_type<float>(",
        "SHARED": "threadgroup",
        "BARRIER": "metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);",
    }
)

CUDA_SOURCE = """
    const int thread_at = int(threadIdx.x);
    const int position = int(blockIdx.y);
    const auto warp_sum = [](float value) {
        for (int step = 16; step > 0; step /= 2) {
            value += __shfl_xor_sync(0xffffffffu, value, step);
        }
        return value;
    };
""" + _spelled(
    {
        "MAX(": "max(",
        "EXP(": "expf(",
        "SUM(": "warp_sum(",
        "BITS(": "__float_as_int(",
        "FLOAT(": "__int_as_float(",
        "SHARED": "__shared__",
        "BARRIER": "__syncthreads();",
    }
)

SOURCES = Sources("dflash_token_choice", INPUTS, OUTPUTS, METAL_SOURCE, CUDA_SOURCE)


class Draw(NamedTuple):
    """How rows draw.

    settings [R, 4] float32: temperature, top_p, top_k, min_p. Temperature 0 takes the greatest;
    top_k 0, top_p 1 and min_p 0 filter nothing. keys [R, width, 2] uint32, one per position.
    ``filtered`` off: no row filters.
    """

    settings: mx.array
    keys: mx.array
    filtered: bool = True


class Drafted(NamedTuple):
    """Chains that a round verifies: drafts [R, width - 1] int32 and block lengths [R] int32."""

    drafts: mx.array
    lengths: mx.array


def token_choice(
    logits: mx.array,
    draw: Draw | None = None,
    drafted: Drafted | None = None,
    backend: Backend | None = None,
) -> mx.array:
    """Logits [R, width, V] of any float type -> tokens [R, width] int32.

    Without ``draw`` the greatest, the first among equals, or the first NaN; a position whose
    greatest logit is not finite takes it in any case. Drawn tokens follow the law of temperature,
    then top-k, then top-p, then min-p, where tokens that tie with the last kept one are kept too.

    ``drafted``: tokens that no round can use may be -1: those at and beyond a row's length, and
    behind one that is not the draft's. ``backend`` overrides the back end of the default device;
    PLAIN is the reference.
    """
    if backend is None:
        wide = logits.astype(mx.float32) if kernel_backend() is Backend.PLAIN else logits
        module = native(wide)
        if module is not None:
            return _native_choice(module, wide, draw, drafted)
    backend = backend or kernel_backend()
    if backend is Backend.PLAIN or draw is None:
        return token_choice_reference(logits, draw)
    return launch(built(SOURCES, backend), logits, draw)


def _native_choice(
    module: Any, logits: mx.array, draw: Draw | None, drafted: Drafted | None
) -> mx.array:
    drawing = None if draw is None else module.Draw(draw.settings, draw.keys)
    cut = None if drafted is None else module.Drafted(*drafted)
    tokens: mx.array = module.choose(logits, drawing, cut)
    return tokens


def token_choice_reference(logits: mx.array, draw: Draw | None) -> mx.array:
    """``token_choice`` in MLX's own operations, on any device."""
    greatest = mx.argmax(logits, axis=-1).astype(mx.int32)
    if draw is None:
        return greatest
    logits = logits.astype(mx.float32)
    temperature, top_p, top_k, min_p = (draw.settings[:, i, None, None] for i in range(4))
    most = mx.max(logits, axis=-1, keepdims=True)
    degrees = mx.maximum(temperature, _LEAST_DEGREE)
    weights = mx.exp((logits - most) / degrees)
    if draw.filtered:
        wanted = mx.where(top_k >= 1, top_k, mx.inf)
        least = _least_kept(logits, None, wanted, most)
        weights = weights * (logits >= least)
        # of equals at the end only as many count as top-k wants
        beyond = mx.maximum(mx.sum(logits >= least, axis=-1, keepdims=True) - wanted, 0)
        total = mx.sum(weights, axis=-1, keepdims=True)
        total = total - beyond * mx.exp((least - most) / degrees)
        goal = mx.where(top_p < 1, top_p * total, mx.inf)
        least = _least_kept(logits, weights, goal, most)
        weights = weights * (logits >= least) * (weights >= min_p)
    drawn = _drawn(weights, draw.keys)
    certain = (temperature[..., 0] == 0) | ~mx.isfinite(most[..., 0])
    return mx.where(certain, greatest, drawn)


def _least_kept(
    logits: mx.array, weights: mx.array | None, goal: mx.array, most: mx.array
) -> mx.array:
    """The least value whose greater logits weigh less than ``goal``, or the greatest logit.

    By bisection of the keys: [R, width, 1]. Without ``weights`` each weighs 1.
    """
    high = _key(most)
    low = mx.full(high.shape, _LOWEST_KEY, dtype=mx.int32)
    for _ in range(32):
        middle = (low & high) + ((low ^ high) >> 1)
        above = logits > _value(middle)
        over = mx.sum(above if weights is None else weights * above, axis=-1, keepdims=True)
        high = mx.where(over < goal, middle, high)
        low = mx.minimum(mx.where(over < goal, low, middle + 1), high)
    return _value(high)


def _key(values: mx.array) -> mx.array:
    bits = values.view(mx.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _value(keys: mx.array) -> mx.array:
    return (keys ^ ((keys >> 31) & 0x7FFFFFFF)).view(mx.float32)


def _drawn(weights: mx.array, keys: mx.array) -> mx.array:
    """Tokens [R, width] by weights [R, width, V]: a span, and a token in it."""
    spans = -(-weights.shape[-1] // SPAN)
    padded = mx.pad(weights, [(0, 0), (0, 0), (0, spans * SPAN - weights.shape[-1])])
    parts = padded.reshape(*weights.shape[:2], spans, SPAN)
    span = _index(mx.sum(parts, axis=-1), keys[..., 0])
    inside = mx.take_along_axis(parts, span[..., None, None], axis=2)[..., 0, :]
    return span * SPAN + _index(inside, keys[..., 1])


def _index(weights: mx.array, words: mx.array) -> mx.array:
    """An index of weights [R, width, n] that is not 0, by words [R, width] uint32."""
    sums = mx.cumsum(weights, axis=-1) * (weights > 0)
    uniform = (words >> 8).astype(mx.float32) * 2.0**-24
    target = uniform[..., None] * mx.max(sums, axis=-1, keepdims=True)
    return mx.argmax(sums > target, axis=-1).astype(mx.int32)


def launch(kernel: Kernel, logits: mx.array, draw: Draw) -> mx.array:
    """``token_choice`` by a kernel of either language: one group of threads per position."""
    rows, width, size = logits.shape
    greatest = mx.argmax(logits, axis=-1).astype(mx.int32)
    (tokens,) = kernel(
        inputs=[logits, draw.settings, draw.keys, greatest],
        output_shapes=[(rows, width)],
        output_dtypes=[mx.int32],
        grid=(SPAN, rows * width, 1),
        threadgroup=(SPAN, 1, 1),
        template=[("Spans", -(-size // SPAN))],
    )
    return tokens
