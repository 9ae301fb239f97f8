"""The CPU matmul under MLX: right results, one order of summation per output, and its switch."""

import ctypes
import hashlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_serve.kernels import cpu_blas
from dflash_serve.kernels.cores import usable_cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is loaded elsewhere")

ROW_MAJOR, COLUMN_MAJOR = 101, 102
PLAIN, TRANSPOSED, CONJUGATED = 111, 112, 113
ISAS = ("neon", "generic") if platform.machine() == "aarch64" else ("avx512", "avx2", "generic")
FORMS = list(itertools.product((False, True), repeat=2))


class Blas:
    """A private copy of the library, so that its settings are not those MLX works with here."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.dflash_blas_isa.restype = ctypes.c_char_p

    @property
    def isa(self) -> str:
        return self.library.dflash_blas_isa().decode()

    def select(self, isa: str) -> bool:
        return bool(self.library.dflash_blas_select(isa.encode()))

    def set_threads(self, count: int) -> int:
        return self.library.dflash_blas_set_threads(count)

    def sgemm(self, a, b, c, *, alpha=1.0, beta=0.0, ta=False, tb=False, order=ROW_MAJOR):
        """c = alpha op(a) op(b) + beta c in place; arrays are views whose long stride is the ld."""
        m, n = c.shape
        k = a.shape[0] if ta else a.shape[1]
        lda, ldb, ldc = (_leading(x, order) for x in (a, b, c))
        self.library.cblas_sgemm(
            order,
            TRANSPOSED if ta else PLAIN,
            TRANSPOSED if tb else PLAIN,
            *(m, n, k),
            ctypes.c_float(alpha),
            *(ctypes.c_void_p(a.ctypes.data), lda, ctypes.c_void_p(b.ctypes.data), ldb),
            ctypes.c_float(beta),
            *(ctypes.c_void_p(c.ctypes.data), ldc),
        )

    def product(self, a, b, **options):
        m = a.shape[1] if options.get("ta") else a.shape[0]
        n = b.shape[0] if options.get("tb") else b.shape[1]
        c = np.full((m, n), np.nan, np.float32)
        self.sgemm(a, b, c, **options)
        return c


def _leading(x: np.ndarray, order: int) -> int:
    return max(x.strides[0 if order == ROW_MAJOR else 1] // x.itemsize, 1)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Blas:
    return private_copy(tmp_path_factory.mktemp("blas"))


def private_copy(folder: Path) -> Blas:
    return Blas(Path(shutil.copy(cpu_blas.LIBRARY, folder / "copy.so")))


@pytest.fixture(params=ISAS)
def blas(library: Blas, request: pytest.FixtureRequest) -> Iterator[Blas]:
    best = library.isa
    if not library.select(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield library
    library.select(best)
    library.set_threads(1)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def padded(values: np.ndarray, extra: int, order: int = ROW_MAJOR) -> np.ndarray:
    """A view of `values` inside a wider buffer of NaN: any element outside it poisons a result."""
    rows, columns = values.shape
    if order == COLUMN_MAJOR:
        return padded(values.T, extra).T
    buffer = np.full((rows + 1, columns + extra), np.nan, np.float32)
    buffer[:rows, :columns] = values
    return buffer[:rows, :columns]


def assert_close(c, a, b, alpha=1.0, beta=0.0, old=None) -> None:
    """Within the rounding error that any order of summation may have."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    want = alpha * (a @ b)
    room = abs(alpha) * (np.abs(a) @ np.abs(b))
    if beta:
        want = want + beta * old
        room = room + abs(beta * old)
    assert c.shape == want.shape
    assert (np.abs(c - want) <= (a.shape[1] + 4) * 2.0**-24 * room + 1e-30).all()


@pytest.mark.parametrize(("ta", "tb"), FORMS)
def test_matches_float64_in_every_form(blas: Blas, ta: bool, tb: bool) -> None:
    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(
        shape=st.tuples(st.integers(0, 40), st.integers(0, 140), st.integers(0, 70)),
        extra=st.tuples(*[st.integers(0, 5)] * 3),
        scales=st.tuples(st.sampled_from([1.0, 0.0, -1.5]), st.sampled_from([0.0, 1.0, 0.25])),
        order=st.sampled_from([ROW_MAJOR, COLUMN_MAJOR]),
        seed=st.integers(0, 2**31),
    )
    def check(shape, extra, scales, order, seed) -> None:
        (m, n, k), (alpha, beta) = shape, scales
        a, b, old = normal(seed, m, k), normal(seed + 1, k, n), normal(seed + 2, m, n)
        in_a = padded(a.T if ta else a, extra[0], order)
        in_b = padded(b.T if tb else b, extra[1], order)
        c = padded(old if beta else np.full_like(old, np.nan), extra[2], order)
        blas.sgemm(in_a, in_b, c, alpha=alpha, beta=beta, ta=ta, tb=tb, order=order)
        assert_close(c, a, b, alpha, beta, old)
        assert np.isnan(c.base).sum() == c.base.size - c.size

    check()


@pytest.mark.parametrize(("ta", "tb"), FORMS)
@pytest.mark.parametrize("shape", [(301, 37, 1101), (97, 133, 515), (13, 70, 2049), (99, 41, 4100)])
def test_matches_float64_across_blocks(blas: Blas, shape, ta: bool, tb: bool) -> None:
    m, n, k = shape
    a, b, old = normal(1, m, k), normal(2, k, n), normal(3, m, n)
    in_a, in_b = np.ascontiguousarray(a.T if ta else a), np.ascontiguousarray(b.T if tb else b)
    c = old.copy()
    blas.sgemm(in_a, in_b, c, alpha=0.5, beta=-2.0, ta=ta, tb=tb)
    assert_close(c, a, b, 0.5, -2.0, old)


@pytest.mark.parametrize(("ta", "tb"), FORMS)
def test_a_row_never_depends_on_the_rows_beside_it(blas: Blas, ta: bool, tb: bool) -> None:
    for n, k in [(64, 64), (67, 29), (5, 1030), (130, 517), (33, 2300), (299, 103)]:
        a, b = normal(n, 300, k), normal(k, *((n, k) if tb else (k, n)))
        alone = np.concatenate(
            [
                blas.product(
                    np.ascontiguousarray(row[None].T if ta else row[None]), b, ta=ta, tb=tb
                )
                for row in a
            ]
        )
        for rows in (2, 3, 5, 6, 7, 8, 13, 16, 25, 31, 33, 64, 97, 255, 300):
            some = np.ascontiguousarray(a[:rows].T if ta else a[:rows])
            together = blas.product(some, b, ta=ta, tb=tb)
            assert together.tobytes() == alone[:rows].tobytes(), (rows, n, k)


def test_masked_keys_behind_the_end_change_nothing(blas: Blas) -> None:
    for rows, columns, keys in [(1, 64, 37), (8, 64, 300), (40, 72, 257), (16, 128, 511)]:
        weights, values = np.abs(normal(1, rows, keys)), normal(2, keys, columns)
        exact = blas.product(weights, values)
        for more in (1, 3, 16, 250):
            wide = np.concatenate([weights, np.zeros((rows, more), np.float32)], axis=1)
            garbage = 1e30 * normal(3, more, columns)
            assert (
                blas.product(wide, np.concatenate([values, garbage])).tobytes() == exact.tobytes()
            )


@pytest.mark.parametrize(("ta", "tb"), FORMS)
def test_columns_do_not_depend_on_their_neighbours(blas: Blas, ta: bool, tb: bool) -> None:
    a, b = normal(1, *((150, 20) if ta else (20, 150))), normal(2, 150, 203)
    whole = blas.product(a, np.ascontiguousarray(b.T) if tb else b, ta=ta, tb=tb)
    for first, last in [(0, 1), (1, 18), (63, 128), (200, 203)]:
        part = np.ascontiguousarray(b[:, first:last])
        part = np.ascontiguousarray(part.T) if tb else part
        assert blas.product(a, part, ta=ta, tb=tb).tobytes() == whole[:, first:last].tobytes()


@pytest.mark.parametrize(("ta", "tb"), FORMS)
def test_threads_give_the_same_bits(blas: Blas, ta: bool, tb: bool) -> None:
    for m, n, k in [(1, 3000, 1000), (33, 700, 513), (200, 330, 260), (97, 40, 2100)]:
        a, b = normal(1, *((k, m) if ta else (m, k))), normal(2, *((n, k) if tb else (k, n)))
        blas.set_threads(1)
        alone = blas.product(a, b, ta=ta, tb=tb)
        for threads in (2, 3, 7):
            assert blas.set_threads(threads) == threads
            for _ in range(5):
                assert blas.product(a, b, ta=ta, tb=tb).tobytes() == alone.tobytes()


@pytest.mark.parametrize("tb", [False, True])
def test_fused_instruction_sets_agree_bit_for_bit(library: Blas, tb: bool) -> None:
    best, results = library.isa, []
    for isa in ("avx512", "avx2", "neon"):
        if library.select(isa):
            for rows in (45, 110):
                a, b = normal(1, rows, 777), normal(2, *((131, 777) if tb else (777, 131)))
                results.append(library.product(a, b, tb=tb, alpha=0.3)[:45].tobytes())
    library.select(best)
    assert len(set(results)) <= 1


@pytest.mark.parametrize("tb", [False, True])
def test_infinities_and_nans_stay_in_their_row_and_column(blas: Blas, tb: bool) -> None:
    a, b = normal(1, 9, 19), normal(2, 19, 21)
    a[3, 18], a[5, 2], b[7, 11] = np.inf, np.nan, -np.inf
    c = blas.product(a, np.ascontiguousarray(b.T) if tb else b, tb=tb)
    finite = np.ones(c.shape, bool)
    finite[[3, 5], :], finite[:, 11] = False, False
    assert np.isfinite(c[finite]).all()
    assert not np.isfinite(c[~finite]).any()
    assert np.isnan(c[5]).all()
    assert (np.isinf(c[3]) == (np.arange(21) != 11)).sum() >= 20


def test_a_scale_of_zero_reads_no_operand(blas: Blas) -> None:
    c = np.full((3, 4), np.nan, np.float32)
    poison = np.full((4, 4), np.nan, np.float32)
    blas.sgemm(poison[:3], poison, c, alpha=0.0, beta=0.0)
    assert (c == 0).all()
    blas.sgemm(poison[:3, :0], poison[:0], c, beta=0.5)
    assert (c == 0).all()


@pytest.mark.parametrize(("kind", "dtype"), [("d", np.float64), ("c", np.complex64)])
def test_double_and_complex_match_numpy(library: Blas, kind: str, dtype: type) -> None:
    gemm = getattr(library.library, f"cblas_{kind}gemm")
    codes = (PLAIN, TRANSPOSED, CONJUGATED)
    for ta, tb, (m, n, k) in itertools.product(
        codes, codes, [(5, 37, 21), (1, 3, 0), (16, 16, 70)]
    ):
        a, b, c = (normal(1, *s) for s in ((m, k), (k, n), (m, n)))
        if kind == "c":
            a, b, c = (x + 1j * normal(2, *x.shape) for x in (a, b, c))
        a, b, c = (np.ascontiguousarray(x, dtype) for x in (a, b, c))
        forms = {PLAIN: lambda x: x, TRANSPOSED: np.transpose, CONJUGATED: lambda x: x.conj().T}
        in_a, in_b = (np.ascontiguousarray(forms[t](x)) for t, x in ((ta, a), (tb, b)))
        alpha, beta = dtype(1.5), dtype(-0.5)
        want = alpha * (a @ b) + beta * c
        scales = [
            ctypes.c_double(x) if kind == "d" else np.array([x]).ctypes.data_as(ctypes.c_void_p)
            for x in (alpha, beta)
        ]
        places = [ctypes.c_void_p(x.ctypes.data) for x in (in_a, in_b, c)]
        leads = [max(x.shape[1], 1) for x in (in_a, in_b)]
        gemm(
            *(ROW_MAJOR, ta, tb, m, n, k, scales[0], places[0], leads[0]),
            *(places[1], leads[1], scales[1], places[2], n),
        )
        np.testing.assert_allclose(c, want, rtol=1e-4, atol=1e-4 if kind == "c" else 1e-12)


def run_python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("DFLASH_")}
    root = str(Path(cpu_blas.__file__).parents[2])
    env = env | {"PYTHONPATH": root} | environ
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)


MLX_PRODUCTS = """
import sys, hashlib, json
import dflash_serve
from dflash_serve.kernels import cpu_blas
from dflash_serve.kernels.cores import usable_cores
import mlx.core as mx, numpy as np
rng = np.random.default_rng(5)
a, w, v = (rng.standard_normal(s, dtype=np.float32) for s in ((21, 333), (77, 333), (333, 64)))
with mx.stream(mx.cpu):
    x, w, v = mx.array(a), mx.array(w), mx.array(v)
    products = [x @ w.T, x @ v, x[:1] @ w.T]
status = cpu_blas.status()
digests = [hashlib.sha256(np.array(p).tobytes()).hexdigest() for p in products]
print(json.dumps({"state": status.state.name, "isa": status.isa, "threads": status.threads,
                  "digests": digests}))
"""


def test_mlx_computes_with_this_library_and_off_turns_it_off(library: Blas) -> None:
    rng = np.random.default_rng(5)
    a, w, v = (rng.standard_normal(s, dtype=np.float32) for s in ((21, 333), (77, 333), (333, 64)))
    products = (
        library.product(a, w, tb=True),
        library.product(a, v),
        library.product(a[:1], w, tb=True),
    )
    want = [hashlib.sha256(p.tobytes()).hexdigest() for p in products]

    for threads, expected in (("1", 1), ("auto", min(usable_cores(), 64))):
        on = json.loads(run_python(MLX_PRODUCTS, DFLASH_BLAS_THREADS=threads).stdout)
        assert on == {"state": "LOADED", "isa": library.isa, "threads": expected, "digests": want}
    off = run_python(MLX_PRODUCTS, DFLASH_CPU_BLAS="off")
    assert off.stderr == ""
    stock = json.loads(off.stdout)
    assert stock["state"] == "OFF"
    assert all(ours != theirs for ours, theirs in zip(want, stock["digests"], strict=True))


def test_a_lower_instruction_set_can_be_forced() -> None:
    forced = json.loads(run_python(MLX_PRODUCTS, DFLASH_CPU_BLAS="generic").stdout)
    assert (forced["state"], forced["isa"]) == ("LOADED", "generic")


STATUS = """
import dflash_serve
from dflash_serve.kernels import cpu_blas
from dflash_serve.kernels.cores import usable_cores
cpu_blas.preload()
status = cpu_blas.status()
print(status.state.name, status.reason)
"""


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"DFLASH_CPU_BLAS": "fast"}, "DFLASH_CPU_BLAS='fast' is none of off, auto"),
        ({"DFLASH_BLAS_THREADS": "0"}, "DFLASH_BLAS_THREADS='0' is neither auto nor a number"),
        ({"DFLASH_BLAS_THREADS": "two"}, "DFLASH_BLAS_THREADS='two' is neither auto nor a"),
    ],
)
def test_a_bad_switch_falls_back_with_one_warning(environ: dict[str, str], reason: str) -> None:
    done = run_python(STATUS, **environ)
    assert done.stdout.startswith(f"UNAVAILABLE {reason}")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_more_threads_than_cores_are_capped_and_said_once() -> None:
    cores = min(usable_cores(), 64)
    code = STATUS + "cpu_blas.preload()\nprint(cpu_blas.status().threads)"
    done = run_python(code, DFLASH_BLAS_THREADS=str(10**6))
    assert done.stdout.splitlines()[-1] == str(cores)
    assert done.stderr.splitlines() == [
        f"DFLASH_BLAS_THREADS=1000000: capped at the {cores} usable cores"
    ]


def test_mlx_imported_first_falls_back_with_one_warning() -> None:
    done = run_python("import mlx.core\n" + STATUS)
    assert done.stdout == "UNAVAILABLE mlx.core was imported before dflash_serve\n"
    assert done.stderr.count("\n") == 1


def test_a_package_built_without_a_compiler_falls_back_with_one_warning(tmp_path: Path) -> None:
    source = Path(cpu_blas.__file__).parents[1]
    package = tmp_path / "dflash_serve"
    shutil.copytree(source / "kernels", package / "kernels", ignore=shutil.ignore_patterns("*.so"))
    for name in ("__init__.py", "version.py"):
        shutil.copy(source / name, package / name)
    done = run_python(STATUS, PYTHONPATH=str(tmp_path))
    assert done.stdout.startswith("UNAVAILABLE libdflash_blas.so was not built")
    assert done.stderr.count("\n") == 1


def callback(function: Callable[[int], None]) -> Callable[..., None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(lambda _, index: function(index))


def test_a_caller_never_waits_for_a_thread_that_has_not_begun(tmp_path: Path) -> None:
    blas = private_copy(tmp_path)
    blas.set_threads(2)
    begun, release, computed = threading.Barrier(3), threading.Event(), []

    def block(_index: int) -> None:
        begun.wait(60)
        release.wait(60)

    blocked, free = callback(block), callback(computed.append)
    first = threading.Thread(target=blas.library.dflash_pool_run, args=(2, blocked, None))
    first.start()
    begun.wait(60)  # the only worker and the first caller are both inside a part
    try:
        blas.library.dflash_pool_run(5, free, None)
        assert computed == [0, 1, 2, 3, 4]
    finally:
        release.set()
        first.join()


def test_every_part_runs_once_for_callers_at_once_and_inside_a_part(library: Blas) -> None:
    library.set_threads(3)
    counts = [0] * 4
    lock = threading.Lock()

    def run(caller: int) -> None:
        def count(_index: int) -> None:
            with lock:
                counts[caller] += 1

        inner = callback(count)
        outer = callback(lambda _index: library.library.dflash_pool_run(3, inner, None))
        for _ in range(20):
            library.library.dflash_pool_run(5, outer, None)

    callers = [threading.Thread(target=run, args=(caller,)) for caller in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    library.set_threads(1)
    assert counts == [20 * 5 * 3] * 4


def test_every_part_runs_once_whether_workers_are_awake_or_asleep(library: Blas) -> None:
    library.set_threads(3)
    counts = [0] * 6
    part = callback(lambda index: counts.__setitem__(index, counts[index] + 1))
    for job in range(60):
        library.library.dflash_pool_run(len(counts), part, None)
        threading.Event().wait((job % 4) * 1e-4)  # workers stay awake for less than most of these
    library.set_threads(1)
    assert counts == [60] * len(counts)


def test_products_of_callers_at_once_are_those_of_one(library: Blas) -> None:
    library.set_threads(3)
    a, b = normal(1, 130, 300), normal(2, 400, 300)
    alone = library.product(a, b, tb=True).tobytes()
    with ThreadPoolExecutor(4) as callers:
        results = [callers.submit(library.product, a, b, tb=True) for _ in range(40)]
        assert {result.result().tobytes() for result in results} == {alone}
    library.set_threads(1)


FORK = """
import ctypes, os, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
library.dflash_blas_set_threads(3)
a, b = np.ones((64, 512), np.float32), np.ones((2048, 512), np.float32)
def product():
    c = np.zeros((64, 2048), np.float32)
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (a, b, c)]
    library.cblas_sgemm(101, 111, 112, 64, 2048, 512, ctypes.c_float(1), pointers[0], 512,
                        pointers[1], 512, ctypes.c_float(0), pointers[2], 2048)
    return bool((c == 512).all())
assert product()
child = os.fork()
if child == 0:
    os._exit(0 if product() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert product()
"""


def test_threads_survive_a_fork() -> None:
    run_python(f"import sys; sys.argv = ['', {str(cpu_blas.LIBRARY)!r}]\n" + FORK)
