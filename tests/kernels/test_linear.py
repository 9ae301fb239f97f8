"""A layer's product as one operation: MLX's bits, gradients, any strides."""

import mlx.core as mx
import pytest

from dflash_serve.kernels.linear import linear
from dflash_serve.kernels.native import native


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


@pytest.mark.parametrize("shape", [(100,), (1, 1, 100), (3, 5, 100), (2, 70, 100)])
def test_products_are_mlx_s(shape: tuple[int, ...]) -> None:
    """To the bit, with a bias and without, of parts of an array and traced."""
    weight, bias = normal(37, 100, seed=1), normal(37, seed=2)
    for x in (normal(*shape), normal(*shape[:-1], 200)[..., ::2]):
        plain, biased = x @ weight.T, mx.addmm(bias, x, weight.T)
        for run in (linear, mx.compile(linear)):
            assert mx.array_equal(run(x, weight), plain).item()
            assert mx.array_equal(run(x, weight, bias), biased).item()


def test_a_transposed_weight_is_read_as_it_stands() -> None:
    """MLX adds up such a product in another order."""
    x, weight = normal(3, 20), normal(20, 7).T
    assert mx.allclose(linear(x, weight), x @ weight.T, atol=1e-5).item()


def test_gradients_are_mlx_s() -> None:
    arrays = normal(2, 3, 20), normal(7, 20, seed=1), normal(7, seed=2)

    def plain(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
        return mx.addmm(bias, x, weight.T)

    got, want = (
        mx.grad(lambda *given, run=run: mx.sin(run(*given)).sum(), (0, 1, 2))(*arrays)
        for run in (linear, plain)
    )
    assert all(mx.allclose(a, b, atol=1e-5).item() for a, b in zip(got, want, strict=True))


def test_no_rows_are_served() -> None:
    out = linear(mx.zeros((0, 8)), mx.ones((4, 8)))
    mx.eval(out)
    assert out.shape == (0, 4)


def test_other_dtypes_stay_mlx_s_own() -> None:
    x, weight = (normal(3, 8, seed=seed).astype(mx.float16) for seed in (0, 1))
    assert mx.array_equal(linear(x, weight), x @ weight.T).item()


def test_the_extension_refuses_other_shapes() -> None:
    module = native(mx.zeros((1,)))
    if module is None:
        pytest.skip("this installation has no extension")
    x, weight = normal(2, 8), normal(3, 8)
    for wrong in (
        lambda: module.linear(x, weight.T, None),
        lambda: module.linear(x, weight, normal(8)),
        lambda: module.linear(x.astype(mx.float16), weight, None),
        lambda: module.linear(x, weight[None], None),
    ):
        with pytest.raises(ValueError, match=r"\[linear\] needs"):
            wrong()
