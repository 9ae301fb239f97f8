"""Token choice against plain Python: the reference, the CPU's primitive, both kernels simulated."""

import ctypes
import functools
import math
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.kernels import cpu_blas
from dflash_serve.kernels import token_choice as choice
from dflash_serve.kernels.dispatch import Backend
from dflash_serve.kernels.native import native
from dflash_serve.kernels.token_choice import Drafted, Draw, token_choice
from tests.kernels.gpu_sim import simulator

Form = Callable[[mx.array, Draw], mx.array]
Settings = tuple[float, float, int, float]  # temperature, top_p, top_k, min_p
needs_native = pytest.mark.skipif(
    native() is None, reason="the CPU library is off or was not built"
)
needs_gxx = pytest.mark.skipif(
    simulator.compiler() is None, reason="the GPU simulator needs g++ on Linux"
)


def plain(logits: mx.array, draw: Draw | None) -> mx.array:
    return token_choice(logits, draw, backend=Backend.PLAIN)


@functools.cache
def simulated(language: str) -> Form:
    make = simulator.metal_kernel if language == "metal" else simulator.cuda_kernel
    source = choice.METAL_SOURCE if language == "metal" else choice.CUDA_SOURCE
    kernel = make("choice", choice.INPUTS, choice.OUTPUTS, source)
    return lambda logits, draw: choice.launch(kernel, logits, draw)


def by_hand(logits: np.ndarray, settings: Settings) -> np.ndarray:
    """Probabilities [V], in float64, one token at a time."""
    temperature, top_p, top_k, min_p = settings
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    weights = [math.exp((float(x) - float(logits[order[0]])) / temperature) for x in logits]
    counted = order[: top_k or None]
    total, mass, kept = sum(weights[i] for i in counted), 0.0, []
    for i in counted:
        if kept and (top_p < 1.0 and mass >= top_p * total):
            break
        kept.append(i)
        mass += weights[i]
    least = min(logits[i] for i in kept)
    kept = [i for i in order if logits[i] >= least and weights[i] >= min_p]
    shares = np.zeros(len(logits))
    shares[kept] = [weights[i] for i in kept]
    return shares / shares.sum()


def drawn_by_hand(shares: np.ndarray, key: np.ndarray) -> int:
    """Of probabilities [V]: a span of 256 by the first word, a token in it by the second."""
    spans = [shares[at : at + 256] for at in range(0, len(shares), 256)]
    first, second = (int(word) / 2**32 for word in key)
    span = int(np.searchsorted(np.cumsum([s.sum() for s in spans]), first, side="right"))
    inside = np.cumsum(spans[span])
    return 256 * span + int(np.searchsorted(inside, second * inside[-1], side="right"))


def arrays(settings: Settings, keys: np.ndarray) -> Draw:
    """One row of as many positions as ``keys`` [n, 2]."""
    return Draw(mx.array([settings], dtype=mx.float32), mx.array(keys[None].astype(np.uint32)))


def grid(count: int, rng: np.random.Generator) -> np.ndarray:
    """Keys of ``count`` positions, each word once in every part of its range."""
    middles = ((np.arange(count) + 0.5) * 2**32 / count).astype(np.uint64)
    return np.stack([rng.permutation(middles), middles], axis=1)


SETTINGS: dict[str, Settings] = {
    "temperature": (1.0, 1.0, 0, 0.0),
    "cold": (0.05, 1.0, 0, 0.0),
    "top-k": (1.3, 1.0, 7, 0.0),
    "top-k of one": (2.0, 1.0, 1, 0.0),
    "top-k of more than there are": (0.7, 1.0, 5000, 0.0),
    "top-k of more than there are spans": (5.0, 1.0, 100, 0.0),
    "top-p": (1.0, 0.8, 0, 0.0),
    "top-p of all but little": (3.0, 0.999, 0, 0.0),
    "top-p of next to nothing": (1.0, 1e-6, 0, 0.0),
    "min-p": (1.0, 1.0, 0, 0.2),
    "min-p of one": (1.0, 1.0, 0, 1.0),
    "usual": (0.7, 0.8, 20, 0.0),
    "all": (1.5, 0.9, 30, 0.02),
}


def kinds_of_logits(size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    normal = rng.normal(0, 2, size)
    masked = np.where(rng.random(size) < 0.9, -np.inf, normal)
    masked[size // 2] = 0.5
    banned = np.where(rng.random(size) < 0.5, -1e30, normal)
    only = np.full(size, -np.inf)
    only[size - 1] = -1e30
    found = {
        "normal": normal,
        "flat": rng.normal(0, 0.05, size),
        "ties": np.round(normal),
        "equal": np.full(size, 3.5),
        "masked": masked,
        "banned": banned,
        "one banned token left": only,
        "far from zero": 1e4 + 8 * np.round(normal, 2),
        "signed zeros": np.where(rng.random(size) < 0.5, -0.0, 0.0),
    }
    return {name: logits.astype(np.float32) for name, logits in found.items()}


def check(form: Form, settings: Settings, size: int, positions: int) -> None:
    rng = np.random.default_rng(size)
    for name, logits in kinds_of_logits(size, rng).items():
        keys = grid(positions, rng)
        rows = mx.broadcast_to(mx.array(logits), (1, positions, size))
        tokens: list[int] = form(rows, arrays(settings, keys))[0].tolist()  # type: ignore[assignment]
        shares = by_hand(logits, settings)
        wanted = [drawn_by_hand(shares, key) for key in keys]
        assert tokens == wanted, name


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_reference_draws_by_the_distribution_function(settings: Settings) -> None:
    for size in (1, 40, 700):
        check(plain, settings, size, 8)


@needs_native
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_cpu_draws_by_the_distribution_function(settings: Settings) -> None:
    for size in (1, 15, 40, 256, 700, 3001):
        check(token_choice, settings, size, 8)


@needs_gxx
@pytest.mark.parametrize("language", ["metal", "cuda"])
@pytest.mark.parametrize("name", ["usual", "top-p", "all"])
def test_simulated_kernels_draw_by_the_distribution_function(language: str, name: str) -> None:
    rng = np.random.default_rng(3)
    kinds = kinds_of_logits(300, rng)
    for kind in ("normal", "ties", "masked", "far from zero"):
        keys = grid(1, rng)
        tokens = simulated(language)(
            mx.array(kinds[kind][None, None]), arrays(SETTINGS[name], keys)
        )
        assert tokens.item() == drawn_by_hand(by_hand(kinds[kind], SETTINGS[name]), keys[0])


def special_rows() -> np.ndarray:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(6, 40)).astype(np.float32)
    rows[1, 7] = np.nan
    rows[2, 9] = np.inf
    rows[3] = -np.inf
    rows[4, 3] = rows[4, 30] = 9.0
    rows[5, 20] = rows[5, 39] = np.nan
    return rows


FORMS = [
    "plain",
    pytest.param("native", marks=needs_native),
    pytest.param("metal", marks=needs_gxx),
    pytest.param("cuda", marks=needs_gxx),
]


@pytest.mark.parametrize("form", FORMS)
def test_what_cannot_be_drawn_is_what_argmax_takes(form: str) -> None:
    """Temperature 0, and rows whose greatest logit is not finite: none of them loops or fails."""
    rows = special_rows()
    settings = mx.array([[0.0, 0.8, 20, 0.1], [0.7, 0.8, 20, 0.1]], dtype=mx.float32)
    logits = mx.array(np.stack([rows, rows]))
    draw = Draw(settings, mx.full((2, 6, 2), 0xFFFFFFFF, dtype=mx.uint32))
    run = {"plain": plain, "native": token_choice}.get(form) or simulated(form)
    tokens = run(logits, draw)
    wanted: list[int] = mx.argmax(logits[0], axis=-1).tolist()  # type: ignore[assignment]
    assert tokens[0].tolist() == wanted
    certain = [1, 2, 3, 5]
    assert [tokens[1, at].item() for at in certain] == [wanted[at] for at in certain]


@needs_native
@pytest.mark.parametrize("size", [1, 16, 17, 255, 257, 5000])
def test_the_greatest_is_that_of_argmax(size: int) -> None:
    rng = np.random.default_rng(size)
    rows = np.round(rng.normal(0, 1.5, (3, 9, size))).astype(np.float32)
    rows[0, 0, size // 2] = rows[0, 1, size - 1] = np.nan
    rows[0, 2] = -np.inf
    assert mx.array_equal(token_choice(mx.array(rows)), mx.argmax(mx.array(rows), axis=-1))


@needs_native
def test_the_cpu_and_the_reference_draw_the_same_tokens() -> None:
    """From logits of all sizes, each row with its own settings."""
    rng = np.random.default_rng(5)
    for size in (300, 2000):
        rows = list(SETTINGS.values())
        logits = mx.array(rng.normal(0, 3, (len(rows), 4, size)).astype(np.float32))
        keys = rng.integers(0, 2**32, (len(rows), 4, 2), dtype=np.uint64).astype(np.uint32)
        draw = Draw(mx.array(rows, dtype=mx.float32), mx.array(keys))
        assert mx.array_equal(token_choice(logits, draw), plain(logits, draw))


@pytest.mark.parametrize("run", [plain, pytest.param(token_choice, marks=needs_native)])
def test_a_position_does_not_depend_on_its_neighbours(run: Form) -> None:
    rng = np.random.default_rng(6)
    logits = mx.array(rng.normal(0, 2, (3, 5, 900)).astype(np.float32))
    settings = mx.array([(0.9, 1, 0, 0), (1.2, 0.9, 0, 0), (0.7, 0.8, 20, 0)], dtype=mx.float32)
    keys = mx.array(rng.integers(0, 2**32, (3, 5, 2), dtype=np.uint64).astype(np.uint32))
    together = run(logits, Draw(settings, keys))
    for row in range(3):
        for at in range(5):
            here = (slice(row, row + 1), slice(at, at + 1))
            alone = run(logits[here], Draw(settings[row : row + 1], keys[here], row > 0))
            assert alone.item() == together[row, at].item()


@needs_native
@pytest.mark.parametrize("sampled", [False, True])
def test_positions_that_no_round_can_use_are_not_chosen(sampled: bool) -> None:
    rng = np.random.default_rng(7)
    logits = mx.array(rng.normal(0, 2, (4, 6, 50)).astype(np.float32))
    keys = mx.array(rng.integers(0, 2**32, (4, 6, 2), dtype=np.uint64).astype(np.uint32))
    draw = Draw(mx.array([(0.7, 0.8, 20, 0)] * 4, dtype=mx.float32), keys) if sampled else None
    everywhere = token_choice(logits, draw)
    drafts = everywhere[:, :5] + mx.array([[0] * 5, [1, 0, 0, 0, 0], [0, 0, 1, 0, 1], [0] * 5])
    lengths = mx.array([6, 6, 5, 3], dtype=mx.int32)
    tokens = token_choice(logits, draw, Drafted(drafts, lengths))
    for row, used in enumerate((6, 1, 3, 3)):
        assert tokens[row, :used].tolist() == everywhere[row, :used].tolist()
        assert set(tokens[row, used:].tolist()) <= {-1}  # type: ignore[arg-type]


@pytest.fixture
def library() -> Iterator[ctypes.CDLL]:
    """The loaded CPU library, put back as it was."""
    loaded = ctypes.CDLL(str(cpu_blas.LIBRARY))
    loaded.dflash_blas_isa.restype = ctypes.c_char_p
    before = cpu_blas.status()
    yield loaded
    loaded.dflash_blas_select((before.isa or "").encode())
    loaded.dflash_blas_set_threads(before.threads or 1)


@needs_native
def test_instruction_sets_draw_the_same_tokens(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(10)
    rows = list(SETTINGS.values())
    logits = mx.array(rng.normal(0, 3, (len(rows), 4, 1000)).astype(np.float32))
    keys = rng.integers(0, 2**32, (len(rows), 4, 2), dtype=np.uint64).astype(np.uint32)
    draw = Draw(mx.array(rows, dtype=mx.float32), mx.array(keys))
    wanted = token_choice(logits, draw).tolist()
    for isa in cpu_blas.ISAS:
        if library.dflash_blas_select(isa.encode()):
            assert token_choice(logits, draw).tolist() == wanted, isa


@needs_native
def test_threads_draw_the_same_tokens(library: ctypes.CDLL) -> None:
    logits = mx.random.normal((3, 8, 90_000), key=mx.random.key(11))  # enough to be shared out
    rng = np.random.default_rng(11)
    keys = mx.array(rng.integers(0, 2**32, (3, 8, 2), dtype=np.uint64).astype(np.uint32))
    draw = Draw(mx.array([(0.7, 0.8, 20, 0)] * 3, dtype=mx.float32), keys)
    found = []
    for threads in (1, 3):
        library.dflash_blas_set_threads(threads)
        tokens = token_choice(logits, draw)
        drafts = tokens[:, :7] + (mx.arange(7) == mx.array([[2], [9], [0]]))
        lengths = mx.array([8, 8, 8], dtype=mx.int32)
        cut = token_choice(logits, draw, Drafted(drafts.astype(mx.int32), lengths))
        found.append((tokens.tolist(), cut.tolist()))
    assert found[0] == found[1]


@needs_native
def test_half_precision_logits_are_chosen_from_as_they_are() -> None:
    logits = mx.random.normal((2, 3, 700), key=mx.random.key(8)).astype(mx.bfloat16)
    draw = Draw(
        mx.array([(1.0, 0.9, 0, 0)] * 2, dtype=mx.float32), mx.full((2, 3, 2), 2**31, mx.uint32)
    )
    assert mx.array_equal(token_choice(logits, draw), plain(logits, draw))


@needs_gxx
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sums[j] >= goal", "sums[j] > goal * 0.5f"),
        ("8) / 16777216.0f", "8) / 33554432.0f"),
        ("chosen[0] = span", "chosen[0] = 0"),
    ],
)
def test_a_wrong_metal_source_is_seen(right: str, wrong: str) -> None:
    source = choice.METAL_SOURCE.replace(right, wrong)
    assert source != choice.METAL_SOURCE
    kernel = simulator.metal_kernel("wrong", choice.INPUTS, choice.OUTPUTS, source)
    rng = np.random.default_rng(9)
    logits = np.linspace(0, 1, 300, dtype=np.float32)
    keys = grid(2, rng)
    rows = mx.broadcast_to(mx.array(logits), (1, 2, 300))
    settings = (1.0, 1.0, 8, 0.0)
    tokens = choice.launch(kernel, rows, arrays(settings, keys))[0].tolist()
    shares = by_hand(logits, settings)
    assert tokens != [drawn_by_hand(shares, key) for key in keys]


def device_draws_by_the_distribution_function(backend: Backend) -> None:
    def form(logits: mx.array, draw: Draw) -> mx.array:
        return token_choice(logits, draw, backend=backend)

    for settings in SETTINGS.values():
        check(form, settings, 700, 8)


@pytest.mark.metal
@pytest.mark.skipif(not mx.metal.is_available(), reason="needs an Apple GPU")
def test_metal_draws_by_the_distribution_function() -> None:
    device_draws_by_the_distribution_function(Backend.METAL)


@pytest.mark.cuda
@pytest.mark.skipif(not mx.cuda.is_available(), reason="needs MLX's CUDA build and an NVIDIA GPU")
def test_cuda_draws_by_the_distribution_function() -> None:
    device_draws_by_the_distribution_function(Backend.CUDA)
