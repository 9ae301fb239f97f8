"""A layer's product: one operation on CPUs, where MLX makes four nodes of a graph of it."""

import mlx.core as mx

from dflash_serve.kernels.native import native


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """x [..., K] by weight [N, K], and bias [N], to [..., N]; MLX's own bits."""
    module = native(x, weight) if bias is None else native(x, weight, bias)
    if module is not None:
        return module.linear(x, weight, bias)
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)
