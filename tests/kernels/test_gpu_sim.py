"""The GPU simulator itself: what it computes, and which mistakes it sees."""

import mlx.core as mx
import pytest

from tests.kernels.gpu_sim import simulator
from tests.kernels.gpu_sim.simulator import SimulationError

pytestmark = pytest.mark.skipif(
    simulator.compiler() is None, reason="the GPU simulator needs g++ on Linux"
)
SEEDS = range(6)


def run_metal(source, inputs=(), size=32, threads=32, *, seed=0, dtype=mx.int32, **call):
    names = [f"in{i}" for i in range(len(inputs))]
    kernel = simulator.metal_kernel("probe", names, ["out"], source, seed=seed)
    call = {"grid": (threads, 1, 1), "threadgroup": (threads, 1, 1)} | call
    return kernel(inputs=list(inputs), output_shapes=[(size,)], output_dtypes=[dtype], **call)[0]


def run_cuda(source, size=32, threads=32, *, seed=0):
    kernel = simulator.cuda_kernel("probe", [], ["out"], source, seed=seed)
    call = {"grid": (threads, 1, 1), "threadgroup": (threads, 1, 1)}
    return kernel(inputs=[], output_shapes=[(size,)], output_dtypes=[mx.int32], **call)[0]


def test_every_thread_of_a_ragged_grid_knows_its_place():
    source = """
        uint3 at = thread_position_in_grid;
        out[at.y * threads_per_grid.x + at.x] = int(threadgroup_position_in_grid.x * 1000
            + threadgroup_position_in_grid.y * 100 + thread_position_in_threadgroup.x);
    """
    out = run_metal(source, size=10, grid=(5, 2, 1), threadgroup=(3, 1, 1)).tolist()
    assert out == [0, 1, 2, 1000, 1001, 100, 101, 102, 1100, 1101]


def test_shape_strides_and_ndim_follow_the_input():
    source = """
        if (thread_position_in_grid.x == 0) {
            out[0] = in0_shape[1]; out[1] = int(in0_strides[0]); out[2] = in0_ndim;
        }
    """
    assert run_metal(source, [mx.zeros((4, 3, 5), dtype=mx.int32)], size=3).tolist() == [3, 15, 3]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_row_argmax_through_threadgroup_memory(dtype):
    source = """
        threadgroup float best[N / 32];
        threadgroup uint place[N / 32];
        uint i = thread_index_in_threadgroup;
        float top = simd_max(float(T(in0[i])));
        uint at = simd_min(float(in0[i]) == top ? i : N);
        if (thread_index_in_simdgroup == 0) {
            best[simdgroup_index_in_threadgroup] = top;
            place[simdgroup_index_in_threadgroup] = at;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (i == 0) {
            uint winner = 0;
            for (uint g = 1; g < N / 32; ++g) {
                if (best[g] > best[winner]) winner = g;
            }
            out[0] = int(place[winner]);
        }
    """
    x = mx.random.normal((256,), key=mx.random.key(3)).astype(dtype)
    for seed in SEEDS:
        template = [("T", dtype), ("N", 256)]
        out = run_metal(source, [x], size=1, threads=256, template=template, seed=seed)
        assert out.item() == mx.argmax(x).item()


def test_simd_operations():
    source = """
        int lane = int(thread_index_in_simdgroup);
        uint even = uint(simd_vote::vote_t(simd_ballot(lane % 2 == 0)));
        out[lane] = simd_sum(lane) + simd_prefix_exclusive_sum(lane) + simd_shuffle_xor(lane, 1)
            + simd_shuffle_down(lane, 4) + simd_shuffle_up(lane, 4) + simd_broadcast(lane, 7)
            + int(ctz(even << 1)) + int(simd_any(lane == 5)) + int(simd_all(lane == 5));
    """
    expected = [
        496 + i * (i - 1) // 2 + (i ^ 1) + (i + 4 if i < 28 else i) + (i - 4 if i > 3 else i) + 9
        for i in range(32)
    ]
    assert run_metal(source).tolist() == expected


def test_lanes_that_returned_take_no_part():
    source = """
        if (thread_index_in_simdgroup >= 20) { return; }
        out[thread_index_in_simdgroup] = simd_sum(1);
    """
    assert run_metal(source, init_value=-1).tolist() == [20] * 20 + [-1] * 12


def test_warp_operations_of_cuda():
    source = """
        __shared__ int seen[64];
        int lane = threadIdx.x % 32;
        unsigned odd = __ballot_sync(0xffffffffu, lane % 2);
        seen[threadIdx.x] = __shfl_sync(0xffffffffu, lane, 3) + __ffs(odd) + __popc(odd)
            + __any_sync(0xffffffffu, lane == 1) + __all_sync(0xffffffffu, lane == 1);
        __syncthreads();
        out[threadIdx.x] = seen[63 - threadIdx.x] + __shfl_down_sync(0xffffffffu, lane, 1);
    """
    expected = [3 + 2 + 16 + 1 + min(i % 32 + 1, 31) for i in range(64)]
    assert run_cuda(source, size=64, threads=64).tolist() == expected


def test_unwritten_output_is_marked():
    assert set(run_metal("if (thread_position_in_grid.x == 0) out[0] = 0;").tolist()) == {
        0,
        0x5A5A5A5A,
    }


NEIGHBOUR = """
    threadgroup int shared[64];
    int i = int(thread_index_in_threadgroup);
    shared[i] = i;
    BARRIER
    out[i] = shared[63 - i];
"""


def neighbour_results(barrier):
    source = NEIGHBOUR.replace("BARRIER", barrier)
    return [run_metal(source, size=64, threads=64, seed=seed).tolist() for seed in SEEDS]


def test_a_missing_barrier_shows_under_some_order_of_the_threads():
    right = [63 - i for i in range(64)]
    barrier = "threadgroup_barrier(mem_flags::mem_threadgroup);"
    assert all(result == right for result in neighbour_results(barrier))
    assert any(result != right for result in neighbour_results(""))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "if (thread_index_in_threadgroup < 40) "
            "threadgroup_barrier(mem_flags::mem_threadgroup); out[0] = 0;",
            "threadgroup_barrier at line 1 reached by only 40 of 64 threads",
        ),
        (
            "if (thread_index_in_threadgroup < 40) { out[0] = 0; return; } "
            "threadgroup_barrier(mem_flags::mem_none);",
            "threadgroup_barrier at line 1 reached by only 24 of 64 threads",
        ),
        (
            "if (thread_index_in_simdgroup < 8) { out[0] = simd_sum(1);\n} else {\n"
            "out[0] = simd_sum(2); }",
            "simd_sum at line [13] reached by only",
        ),
        ("out[thread_index_in_threadgroup + 1] = 0;", "index 64 of 64"),
        ("out[int(thread_index_in_threadgroup) - 1] = 0;", "index -1 of 64"),
        (
            "if (thread_index_in_simdgroup == 3) return; out[0] = simd_broadcast(1, 3);",
            "inactive lane 3",
        ),
        ("out[0] = no_such_name;", "no_such_name"),
    ],
    ids=[
        "partial barrier",
        "barrier after a return",
        "parted simdgroup",
        "past the end",
        "before the start",
        "inactive lane",
        "does not compile",
    ],
)
def test_misuse_of_metal_is_refused(source, reason):
    with pytest.raises(SimulationError, match=reason):
        run_metal(source, size=64, threads=64)


def test_a_moved_argument_is_still_checked():
    source = "auto p = in0 + 4; p += 3; out += 1; out[0] = p[0]; if (BAD) p[1];"
    assert run_metal(source.replace("BAD", "false"), [mx.arange(8)], size=2).tolist()[1] == 7
    with pytest.raises(SimulationError, match="index 8 of 8"):
        run_metal(source.replace("BAD", "true"), [mx.arange(8)], size=2)


def test_a_small_input_has_no_device_pointer():
    source = "const device int* p = in0 + 1; out[thread_position_in_grid.x] = p[0];"
    assert run_metal(source, [mx.arange(8)]).tolist() == [1] * 32
    with pytest.raises(SimulationError, match=r"cannot convert.*View<const int, false>"):
        run_metal(source, [mx.arange(7)])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "if (threadIdx.x < 9) __syncthreads();",
            "__syncthreads at line 1 reached by only 9 of 32",
        ),
        (
            "if (threadIdx.x < 9) out[0] = __ballot_sync(0xffffffffu, 1);",
            "__ballot_sync at line 1 reached by only 9 of 32",
        ),
        ("out[0] = __ballot_sync(0xffu, 1);", "outside its mask"),
    ],
    ids=["partial barrier", "mask names an absent lane", "caller outside the mask"],
)
def test_misuse_of_cuda_is_refused(source, reason):
    with pytest.raises(SimulationError, match=reason):
        run_cuda(source)


def test_a_mask_lets_part_of_a_warp_meet():
    source = "if (threadIdx.x < 9) out[threadIdx.x] = int(__ballot_sync(0x1ffu, threadIdx.x > 4));"
    assert run_cuda(source).tolist()[:9] == [0b111100000] * 9
