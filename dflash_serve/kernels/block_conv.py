"""DFlash 2's causal convolutions along a block's rows: one primitive on CPUs."""

import mlx.core as mx

from dflash_serve.kernels.native import native


def convolve(x: mx.array, base: mx.array, own: mx.array, side: int) -> mx.array:
    """Rows [R, q, H], base kernels [2, taps, H], rows' own [R, q, 2, taps, groups] -> [R, q, H].

    out[i] = sum over taps t of (base[side, t] + own[i, side, t]) * x[i - t]; rows before the
    block's first are zero.
    """
    module = native(x, base, own)
    return (
        plain_convolve(x, base, own, side)
        if module is None
        else module.convolve(x, base, own, side)
    )


def plain_convolve(x: mx.array, base: mx.array, own: mx.array, side: int) -> mx.array:
    """The reference."""
    rows, length, hidden = x.shape
    taps, groups = own.shape[3:]
    grouped = x.reshape(rows, length, groups, -1)
    # [R, q, taps, groups, size]
    kernel = base[side].reshape(taps, groups, -1) + own[:, :, side, ..., None]
    out = kernel[:, :, 0] * grouped
    for tap in range(1, min(taps, length)):
        earlier = mx.pad(grouped[:, :-tap], [(0, 0), (tap, 0), (0, 0), (0, 0)])
        out = out + kernel[:, :, tap] * earlier
    return out.reshape(rows, length, hidden)
