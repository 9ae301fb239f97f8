"""The tree scan against a walk node by node: the reference, and both kernels in the simulator."""

import functools
import itertools

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_serve.kernels import tree_scan as scan
from dflash_serve.kernels.acceptance_scan import acceptance_scan
from dflash_serve.kernels.dispatch import Backend, built
from tests.kernels.gpu_sim import simulator

PAD = -1
needs_gxx = pytest.mark.skipif(
    simulator.compiler() is None, reason="the GPU simulator needs g++ on Linux"
)


def walked(tokens, parents, choices, length, limit, depth):
    """One row's result: every live node's path, and the longest, the first in columns."""
    paths = {0: [0]}
    for node in range(1, length):
        above = paths.get(parents[node])
        if above and len(above) < limit and tokens[node] == choices[parents[node]]:
            paths[node] = [*above, node]
    best = max(paths.values(), key=lambda path: (len(path), -path[-1]))
    committed = [choices[node] for node in best]
    rest = depth - len(best)
    return [len(best), *committed, *[PAD] * rest, *best, *[0] * rest]


def by_hand(tree):
    *columns, depth = tree
    return [walked(*row, depth) for row in zip(*columns, strict=True)]


def arrays(tree):
    *columns, depth = tree
    return *(mx.array(column, dtype=mx.int32) for column in columns), depth


@functools.cache
def simulated(language, seed=0):
    if language == "metal":
        return simulator.metal_kernel(
            "tree", scan.INPUTS, scan.OUTPUTS, scan.METAL_SOURCE, seed=seed
        )
    return simulator.cuda_kernel("tree", scan.INPUTS, scan.OUTPUTS, scan.CUDA_SOURCE, seed=seed)


def launched(kernel, tree):
    *columns, depth = arrays(tree)
    return scan.launch(kernel, columns, depth).tolist()


@st.composite
def trees(draw, max_rows=4, max_width=40, depths=(1, 2, 3, 5, 8)):
    """Ragged trees over few token values, most nodes right; garbage in the padding."""
    rows = draw(st.integers(1, max_rows))
    width = draw(st.integers(1, max_width))
    depth = draw(st.sampled_from(depths))
    random = draw(st.randoms(use_true_random=False))
    vocab = random.choice([1, 2, 3, 2**31 - 1])
    right = random.choice([0.3, 0.8, 1.0])
    reach = random.choice([1, 3, width])
    columns = ([], [], [], [], [])
    for _ in range(rows):
        length = random.randint(1, width)
        parents = [random.randint(max(0, j - reach), max(0, j - 1)) for j in range(width)]
        choices = [random.randrange(vocab) for _ in range(width)]
        tokens = [
            choices[parent] if random.random() < right else random.randrange(vocab)
            for parent in parents
        ]
        parents[0] = random.choice([0, -1])
        parents[length:] = [random.choice([-1, 0, width + 7])] * (width - length)
        row = (tokens, parents, choices, length, random.randint(1, depth))
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return *columns, depth


CASES = {
    "an anchor alone": ([[7]], [[-1]], [[3]], [1], [1], 2, [[1, 3, PAD, 0, 0]]),
    "the second branch": (
        [[7, 1, 2, 5, 6]],
        [[-1, 0, 0, 1, 2]],
        [[2, 5, 6, 0, 9]],
        [5],
        [4],
        4,
        [[3, 2, 6, 9, PAD, 0, 2, 4, 0]],
    ),
    "the longer of two equal siblings": (
        [[7, 1, 1, 4]],
        [[-1, 0, 0, 2]],
        [[1, 8, 4, 5]],
        [4],
        [3],
        3,
        [[3, 1, 4, 5, 0, 2, 3]],
    ),
    "the first of two equal paths": (
        [[7, 1, 1]],
        [[-1, 0, 0]],
        [[1, 5, 6]],
        [3],
        [3],
        3,
        [[2, 1, 5, PAD, 0, 1, 0]],
    ),
    "a right node below a wrong one": (
        [[7, 1, 4]],
        [[-1, 0, 1]],
        [[2, 4, 5]],
        [3],
        [3],
        3,
        [[1, 2, PAD, PAD, 0, 0, 0]],
    ),
    "a limit shorter than the path": (
        [[7, 1, 2, 3]],
        [[-1, 0, 1, 2]],
        [[1, 2, 3, 4]],
        [4],
        [2],
        4,
        [[2, 1, 2, PAD, PAD, 0, 1, 0, 0]],
    ),
    "padding that would match": (
        [[7, 1, 2]],
        [[-1, 0, 1]],
        [[1, 2, 3]],
        [2],
        [3],
        3,
        [[2, 1, 2, PAD, 0, 1, 0]],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_table(case):
    *tree, expected = case
    found = scan.tree_scan(*arrays(tree))
    assert found.dtype == mx.int32
    assert found.tolist() == expected
    assert by_hand(tree) == expected


@given(trees())
@settings(max_examples=150, deadline=None)
def test_reference_equals_the_walk(tree):
    assert scan.tree_scan_reference(*arrays(tree)).tolist() == by_hand(tree)


def test_reference_equals_the_walk_on_every_small_tree():
    """All trees of 4 nodes, two tokens, every right or wrong choice, lengths and limits."""
    cells = itertools.product(
        itertools.product([0], [0], [0, 1], [0, 1, 2]),
        itertools.product([0], [0, 1], [0, 1], [0, 1]),
        itertools.product([0, 1], repeat=4),
        range(1, 5),
        range(1, 5),
    )
    rows = [
        (tokens, parents, choices, length, limit)
        for parents, tokens, choices, length, limit in cells
    ]
    tree = *map(list, zip(*rows, strict=True)), 4
    assert scan.tree_scan_reference(*arrays(tree)).tolist() == by_hand(tree)


@given(st.integers(1, 20), st.integers(1, 4), st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_chain_is_the_acceptance_scan(width, rows, random, right):
    choices = [[random.randrange(2) for _ in range(width)] for _ in range(rows)]
    tokens = [[9, *row[:-1]] for row in choices]
    if not right:
        tokens = [[9, *(random.randrange(2) for _ in row[1:])] for row in tokens]
    lengths = mx.array([random.randint(1, width) for _ in range(rows)], dtype=mx.int32)
    parents = mx.broadcast_to(mx.arange(-1, width - 1, dtype=mx.int32), (rows, width))
    tokens, choices = (mx.array(x, dtype=mx.int32) for x in (tokens, choices))
    limits = mx.full((rows,), width, dtype=mx.int32)
    found = scan.tree_scan(tokens, parents, choices, lengths, limits, width)
    expected = acceptance_scan(tokens[:, 1:], choices, lengths)
    assert mx.array_equal(found[:, : 1 + width], expected)


@pytest.mark.parametrize(("width", "depth"), [(1, 1), (6, 3), (33, 16)])
def test_compiled_equals_uncompiled(width, depth):
    compiled = mx.compile(lambda *inputs: scan.tree_scan(*inputs, depth))
    parents = [[0, *(j // 2 for j in range(width - 1))]] * 5
    for seed in range(4):
        keys = mx.random.split(mx.random.key(seed), 4)
        tokens, choices = (
            mx.random.randint(0, 2, (5, width), dtype=mx.int32, key=key) for key in keys[:2]
        )
        lengths = mx.random.randint(1, width + 1, (5,), dtype=mx.int32, key=keys[2])
        limits = mx.random.randint(1, depth + 1, (5,), dtype=mx.int32, key=keys[3])
        inputs = tokens, mx.array(parents, dtype=mx.int32), choices, lengths, limits
        assert mx.array_equal(compiled(*inputs), scan.tree_scan(*inputs, depth))


@needs_gxx
@pytest.mark.parametrize("language", ["metal", "cuda"])
@given(tree=trees(depths=(1, 3, 16)), seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_simulated_kernel_equals_the_walk(language, tree, seed):
    assert launched(simulated(language, seed), tree) == by_hand(tree)


@needs_gxx
@pytest.mark.parametrize("language", ["metal", "cuda"])
@pytest.mark.parametrize("width", [31, 32, 33, 64, 65])
def test_simulated_kernel_at_the_edges_of_a_simdgroup(language, width):
    """The live path of row r ends in column r, whichever lane that is."""
    depth = 3
    tokens = [[1 if j == row else 0 for j in range(width)] for row in range(width)]
    parents = [[0] * width] * width
    choices = [[1] * width] * width
    tree = tokens, parents, choices, [width] * width, [depth] * width, depth
    found = launched(simulated(language), tree)
    assert found == by_hand(tree)
    assert [row[1 + depth + 1] for row in found] == list(range(width))


@needs_gxx
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("depth = limit;", "depth += 1; at = parent;"),
        ("node < length", "node < width"),
        ("node += 32", "node += 33"),
        ("best = metal::simd_max(best);", ""),
        ("+ (width - 1 - node)", "+ node"),
        ("int(limits[row])", "Depth"),
    ],
)
def test_a_wrong_metal_source_is_seen(right, wrong):
    source = scan.METAL_SOURCE.replace(right, wrong)
    assert source != scan.METAL_SOURCE
    kernel = simulator.metal_kernel("wrong", scan.INPUTS, scan.OUTPUTS, source)
    width, depth = 40, 4
    chain = [0, *range(width - 1)]
    tokens = [[1] * width, [1] * width, [1] * width, [2] * 39 + [1]]
    tokens.append([2] * 32 + [1] + [2] * 7)
    parents = [chain, chain, [0] * width, [0] * 39 + [38], [0] * width]
    tree = tokens, parents, [[1] * width] * 5, [40, 2, 35, 40, 40], [3, 4, 4, 4, 4], depth
    try:
        found = launched(kernel, tree)
    except simulator.SimulationError:
        return
    assert found != by_hand(tree)


@pytest.mark.skipif(mx.metal.is_available(), reason="this machine runs the kernel itself")
def test_the_metal_kernel_builds_but_does_not_run_without_metal():
    *tree, _ = CASES["the second branch"]
    assert built(scan.SOURCES, Backend.METAL) is built(scan.SOURCES, Backend.METAL)
    with pytest.raises(RuntimeError, match="No Metal back-end"):
        scan.tree_scan(*arrays(tree), backend=Backend.METAL)


def device_equals_reference(backend):
    width, depth = 40, 8
    parents = mx.array([[0, *(j // 2 for j in range(width - 1))]] * 7, dtype=mx.int32)
    for seed in range(20):
        keys = mx.random.split(mx.random.key(seed), 4)
        tokens, choices = (
            mx.random.randint(0, 2, (7, width), dtype=mx.int32, key=key) for key in keys[:2]
        )
        lengths = mx.random.randint(1, width + 1, (7,), dtype=mx.int32, key=keys[2])
        limits = mx.random.randint(1, depth + 1, (7,), dtype=mx.int32, key=keys[3])
        inputs = tokens, parents, choices, lengths, limits, depth
        expected = scan.tree_scan_reference(*inputs)
        assert mx.array_equal(scan.tree_scan(*inputs, backend=backend), expected)


@pytest.mark.metal
@pytest.mark.skipif(not mx.metal.is_available(), reason="needs an Apple GPU")
def test_metal_equals_reference():
    device_equals_reference(Backend.METAL)


@pytest.mark.cuda
@pytest.mark.skipif(not mx.cuda.is_available(), reason="needs MLX's CUDA build and an NVIDIA GPU")
def test_cuda_equals_reference():
    device_equals_reference(Backend.CUDA)
