"""The cost of single operations on a GPU, and machines' expected times, by hand."""

import mlx.core as mx
import pytest

from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.gpu_form import StandIns, gpu_form
from dflash_serve.bench.graph_cost import Cost, Totals, costs, total
from dflash_serve.bench.graph_fusion import fused
from dflash_serve.bench.graph_walk import Node, Tensor, walk
from dflash_serve.bench.roofline import Part, expected

VOCAB = 1000


class World:
    """Leaves of a graph, and what its operations cost."""

    def __init__(self) -> None:
        self.stand_ins = StandIns()

    def leaf(self, *shape: int, role: str = "activations") -> mx.array:
        return self.stand_ins.leaf(role, shape, mx.float16)

    def cost(self, *outputs: mx.array) -> Totals:
        return total(costs(fused(walk(lambda: outputs, self.stand_ins)), VOCAB))


@pytest.fixture
def world() -> World:
    return World()


def test_views_cost_nothing(world: World) -> None:
    x = world.leaf(2, 6, 4)
    part, _ = mx.split(x.transpose(0, 2, 1)[:, None], 2, axis=2)
    assert world.cost(mx.broadcast_to(part, (3, 2, 2, 2, 6)).squeeze()).launches == 0


def test_a_reshape_copies_what_does_not_lie_in_order(world: World) -> None:
    x = world.leaf(2, 6, 4)
    assert world.cost(x.reshape(12, 4)).launches == 0
    turned = world.cost(x.transpose(0, 2, 1).reshape(2, 24))
    assert (turned.launches, turned.copies, turned.nbytes) == (1, 1, 2 * 2 * 48)


def test_an_update_in_place_writes_itself_alone(world: World) -> None:
    cache, new, start = (
        world.leaf(1, 2, 64, 8, role="caches"),
        world.leaf(1, 2, 4, 8),
        mx.array([3]),
    )
    found = world.cost(mx.slice_update(cache, new, start, (2,)))
    assert (found.launches, found.copies) == (2, 0)  # the place, then the copy
    assert found.writes == {"caches": 2 * 2 * 4 * 8}
    assert found.reads["caches"] == 0


def test_an_array_that_something_else_reads_is_copied_first(world: World) -> None:
    cache, new = world.leaf(1, 2, 64, 8, role="caches"), world.leaf(1, 2, 4, 8)
    after = mx.slice_update(cache, new, mx.array([3]), (2,))
    found = world.cost(after, mx.softmax(cache, axis=-1))
    assert found.copies == 1
    assert found.writes["caches"] == 2 * (2 * 64 * 8 + 2 * 4 * 8)


def test_a_join_is_a_kernel_for_each_part(world: World) -> None:
    parts = [world.leaf(2, 3) for _ in range(4)]
    found = world.cost(mx.concatenate(parts))
    assert (found.launches, found.nbytes) == (4, 2 * 2 * 4 * 6)


def test_a_gather_reads_its_rows(world: World) -> None:
    table = world.leaf(500, 16, role="weights")
    assert world.cost(table[mx.array([1, 7])]).reads["weights"] == 2 * 2 * 16


def test_logits_are_known_by_the_vocabulary(world: World) -> None:
    x = world.leaf(4, 32) @ world.leaf(VOCAB, 32, role="weights").T
    found = world.cost(mx.argmax(x, axis=-1))
    assert found.writes["logits"] == found.reads["logits"] == 2 * 4 * VOCAB
    assert found.flops == 2 * 4 * 32 * VOCAB
    assert found.reads["weights"] == 2 * 32 * VOCAB


def test_a_long_sort_is_many_kernels(world: World) -> None:
    assert world.cost(mx.sort(world.leaf(4, 64), axis=-1)).launches == 1
    # 8 blocks, merged in 3 turns of two kernels each; the copies before and after
    assert world.cost(mx.sort(world.leaf(4, 8 * 2048), axis=-1)).launches == 1 + 2 * 3 + 2


def test_attention_of_one_row_leaves_columns_before_heads(world: World) -> None:
    queries, keys = world.leaf(1, 4, 16, 64), world.leaf(1, 2, 32, 64, role="caches")
    with gpu_form(world.stand_ins):
        out = mx.fast.scaled_dot_product_attention(queries, keys, keys, scale=1.0)
    found = world.cost(out.transpose(0, 2, 1, 3).reshape(1, 16, 256))
    assert (found.launches, found.copies) == (1, 0)
    assert found.flops == 4 * 4 * 16 * 32 * 64
    assert found.reads["caches"] == 2 * 2 * (2 * 32 * 64)


def test_an_unknown_operation_is_refused(world: World) -> None:
    with pytest.raises(BenchError, match="FFT"):
        world.cost(mx.fft.fft(world.leaf(8).astype(mx.float32)))


def test_a_kernel_takes_what_bounds_it_and_its_start() -> None:
    part = Part("one", bandwidth=1.0, tflops=0.001, launch_us=10.0)  # 1 byte or operation a ns
    node = Node("Matmul", (), (Tensor("A", (1,), mx.float16),))
    bytes_first = Cost(node, launches=2, flops=50)
    bytes_first.reads["weights"] = 300
    bytes_first.writes["activations"] = 100
    compute_first = Cost(node, flops=900)
    compute_first.reads["weights"] = 800
    found = expected([bytes_first, compute_first], part, host=1e-6)
    assert found.shares == pytest.approx(
        {"weights": 3e-7, "activations": 1e-7, "compute": 9e-7, "launches": 3e-5}
    )
    assert found.seconds == pytest.approx(3.13e-5)
    assert found.bound == "launches"
    assert expected([compute_first], part, host=1.0).bound == "host"
