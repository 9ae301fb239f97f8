"""The acceptance scan against a plain loop: the reference, and both kernels in the simulator."""

import functools

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_serve.kernels import acceptance_scan as scan
from dflash_serve.kernels.dispatch import Backend, built, default_backend
from tests.kernels.gpu_sim import simulator

PAD = -1
needs_gxx = pytest.mark.skipif(
    simulator.compiler() is None, reason="the GPU simulator needs g++ on Linux"
)


def by_hand(drafts, choices, block_lengths):
    """What the scan means, one token at a time."""
    committed = []
    for draft, choice, length in zip(drafts, choices, block_lengths, strict=True):
        tokens = []
        for slot in range(length):
            tokens.append(choice[slot])
            if slot == length - 1 or draft[slot] != choice[slot]:
                break
        committed.append([len(tokens), *tokens, *[PAD] * (len(choice) - len(tokens))])
    return committed


def arrays(drafts, choices, block_lengths):
    rows, width = len(choices), len(choices[0])
    return (
        mx.array(drafts, dtype=mx.int32).reshape(rows, width - 1),
        mx.array(choices, dtype=mx.int32),
        mx.array(block_lengths, dtype=mx.int32),
    )


@functools.cache
def simulated(language, seed=0):
    if language == "metal":
        return simulator.metal_kernel(
            "scan", scan.INPUTS, scan.OUTPUTS, scan.METAL_SOURCE, seed=seed
        )
    return simulator.cuda_kernel("scan", scan.INPUTS, scan.OUTPUTS, scan.CUDA_SOURCE, seed=seed)


@st.composite
def blocks(draw, max_rows=9, min_width=1, max_width=40):
    """Ragged blocks over few token values; drafts are right up to a drawn slot, then by chance."""
    rows = draw(st.integers(1, max_rows))
    width = draw(st.integers(min_width, max_width))
    token = st.integers(0, draw(st.sampled_from([0, 1, 3, 2**31 - 1])))
    row = st.lists(token, min_size=width, max_size=width)
    choices = draw(st.lists(row, min_size=rows, max_size=rows))
    drafts = []
    for choice in choices:
        right = draw(st.integers(0, width - 1))
        rest = draw(st.lists(token, min_size=width - 1 - right, max_size=width - 1 - right))
        drafts.append(choice[:right] + rest)
    lengths = draw(st.lists(st.integers(1, width), min_size=rows, max_size=rows))
    return drafts, choices, lengths


CASES = {
    "nothing drafted": ([[]], [[7]], [1], [[1, 7]]),
    "all accepted": ([[1, 2, 3]], [[1, 2, 3, 4]], [4], [[4, 1, 2, 3, 4]]),
    "none accepted": ([[9, 2, 3]], [[1, 2, 3, 4]], [4], [[1, 1, PAD, PAD, PAD]]),
    "prefix accepted": ([[1, 2, 9]], [[1, 2, 3, 4]], [4], [[3, 1, 2, 3, PAD]]),
    "only the last is wrong": ([[1, 2, 3, 9]], [[1, 2, 3, 4, 5]], [5], [[4, 1, 2, 3, 4, PAD]]),
    "a match after a miss does not count": (
        [[1, 9, 3]],
        [[1, 2, 3, 4]],
        [4],
        [[2, 1, 2, PAD, PAD]],
    ),
    "padding is never accepted": ([[1, 2, 3]], [[1, 2, 3, 4]], [2], [[2, 1, 2, PAD, PAD]]),
    "a row of one in a wide block": ([[1, 2]], [[1, 2, 3]], [1], [[1, 1, PAD, PAD]]),
    "one token repeated": ([[5, 5]], [[5, 5, 5]], [3], [[3, 5, 5, 5]]),
    "token zero": ([[0, 0]], [[0, 0, 0]], [2], [[2, 0, 0, PAD]]),
    "rows do not touch each other": (
        [[1, 2], [3, 9], [9, 6]],
        [[1, 2, 8], [3, 4, 8], [5, 6, 8]],
        [3, 3, 3],
        [[3, 1, 2, 8], [2, 3, 4, PAD], [1, 5, PAD, PAD]],
    ),
}


@pytest.mark.parametrize(("drafts", "choices", "lengths", "expected"), CASES.values(), ids=CASES)
def test_table(drafts, choices, lengths, expected):
    committed = scan.acceptance_scan(*arrays(drafts, choices, lengths))
    assert committed.dtype == mx.int32
    assert committed.tolist() == expected
    assert by_hand(drafts, choices, lengths) == expected


@given(blocks())
@settings(max_examples=100, deadline=None)
def test_reference_equals_the_loop(block):
    assert scan.acceptance_scan_reference(*arrays(*block)).tolist() == by_hand(*block)


@pytest.mark.parametrize("width", [1, 2, 16])
def test_compiled_equals_uncompiled(width):
    compiled = mx.compile(scan.acceptance_scan)
    for seed in range(8):
        key = mx.random.key(seed)
        choices = mx.random.randint(0, 2, (5, width), dtype=mx.int32, key=key)
        drafts = mx.random.randint(0, 2, (5, width - 1), dtype=mx.int32)
        lengths = mx.random.randint(1, width + 1, (5,), dtype=mx.int32, key=key)
        expected = scan.acceptance_scan(drafts, choices, lengths)
        assert mx.array_equal(compiled(drafts, choices, lengths), expected)


@needs_gxx
@pytest.mark.parametrize("language", ["metal", "cuda"])
@given(block=blocks(min_width=2), seed=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_simulated_kernel_equals_the_loop(language, block, seed):
    kernel = simulated(language, seed)
    assert scan.launch(kernel, *arrays(*block)).tolist() == by_hand(*block)


@needs_gxx
@pytest.mark.parametrize("language", ["metal", "cuda"])
@pytest.mark.parametrize("width", [2, 31, 32, 33, 34, 64, 65, 66])
def test_simulated_kernel_at_the_edges_of_a_simdgroup(language, width):
    """Every accepted length in one batch, one row each, the last one without any mismatch."""
    choices = [[10 + slot for slot in range(width)]] * width
    drafts = [[t if s != row else 0 for s, t in enumerate(choices[0][:-1])] for row in range(width)]
    committed = scan.launch(simulated(language), *arrays(drafts, choices, [width] * width))
    assert committed.tolist() == by_hand(drafts, choices, [width] * width)
    assert [row[0] for row in committed.tolist()] == list(range(1, width + 1))


@needs_gxx
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("count = i + 1;", "count = i;"),
        ("i + 1 < limit", "i < limit"),
        ("i += 32", "i += 33"),
        ("count = metal::simd_min(count);", ""),
        ("row * (width - 1)", "row * width"),
    ],
)
def test_a_wrong_metal_source_is_seen(right, wrong):
    source = scan.METAL_SOURCE.replace(right, wrong)
    assert source != scan.METAL_SOURCE
    kernel = simulator.metal_kernel("wrong", scan.INPUTS, scan.OUTPUTS, source)
    drafts, choices = [[1] * 20 + [2] * 19, [2] * 39, [1] * 39], [[1] * 40] * 3
    lengths = [35, 40, 40]
    try:
        committed = scan.launch(kernel, *arrays(drafts, choices, lengths)).tolist()
    except simulator.SimulationError:
        return
    assert committed != by_hand(drafts, choices, lengths)


def test_a_cpu_default_device_means_the_plain_path(monkeypatch):
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        assert default_backend() is Backend.PLAIN
    finally:
        mx.set_default_device(before)


@pytest.mark.skipif(mx.metal.is_available(), reason="this machine runs the kernel itself")
def test_the_metal_kernel_builds_but_does_not_run_without_metal():
    block = arrays([[1, 2]], [[1, 2, 3]], [3])
    assert built(scan.SOURCES, Backend.METAL) is built(scan.SOURCES, Backend.METAL)
    with pytest.raises(RuntimeError, match="No Metal back-end"):
        scan.acceptance_scan(*block, backend=Backend.METAL)


@pytest.mark.skipif(mx.cuda.is_available(), reason="this machine runs the kernel itself")
def test_the_cuda_kernel_does_not_build_without_cuda():
    block = arrays([[1, 2]], [[1, 2, 3]], [3])
    with pytest.raises(RuntimeError, match="No CUDA back-end"):
        scan.acceptance_scan(*block, backend=Backend.CUDA)


@pytest.mark.skipif(
    mx.metal.is_available() or mx.cuda.is_available(), reason="this machine has a GPU"
)
def test_dispatch_keeps_the_kernels_from_a_machine_without_gpu():
    assert default_backend() is Backend.PLAIN
    block = arrays([[1, 2]], [[1, 2, 3]], [3])
    assert scan.acceptance_scan(*block).tolist() == [[3, 1, 2, 3]]


def test_a_block_without_drafts_never_reaches_a_kernel():
    block = arrays([[], []], [[4], [5]], [1, 1])
    for backend in Backend:
        assert scan.acceptance_scan(*block, backend=backend).tolist() == [[1, 4], [1, 5]]


def device_equals_reference(backend):
    for width in (2, 5, 16, 33, 40):
        for seed in range(20):
            keys = mx.random.split(mx.random.key(seed), 3)
            choices = mx.random.randint(0, 2, (7, width), dtype=mx.int32, key=keys[0])
            wrong = mx.random.uniform(shape=(7, width - 1), key=keys[1]) < 0.1
            drafts = choices[:, :-1] + wrong.astype(mx.int32)
            lengths = mx.random.randint(1, width + 1, (7,), dtype=mx.int32, key=keys[2])
            expected = scan.acceptance_scan_reference(drafts, choices, lengths)
            assert mx.array_equal(
                scan.acceptance_scan(drafts, choices, lengths, backend=backend), expected
            )


@pytest.mark.metal
@pytest.mark.skipif(not mx.metal.is_available(), reason="needs an Apple GPU")
def test_metal_equals_reference():
    device_equals_reference(Backend.METAL)


@pytest.mark.cuda
@pytest.mark.skipif(not mx.cuda.is_available(), reason="needs MLX's CUDA build and an NVIDIA GPU")
def test_cuda_equals_reference():
    device_equals_reference(Backend.CUDA)
