"""A round's graph on a GPU: counts by hand, bytes of weights, no evaluation, and the command."""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.bench import cli
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.gpu_form import StandIns, gpu_form
from dflash_serve.bench.graph import RoundGraphs, graphs
from dflash_serve.bench.graph_cost import costs, total
from dflash_serve.bench.graph_rounds import (
    DRAFTER_WEIGHTS,
    WEIGHTS,
    Bits,
    RoundKind,
    ShapedPair,
    shaped_pair,
)
from dflash_serve.bench.graph_walk import Graph
from dflash_serve.bench.shape_configs import SHAPES, Shape
from dflash_serve.engine.plan import DecodeRow, PrefillRow, StepPlan
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import SamplingParams
from dflash_serve.kernels.dispatch import Backend, default_backend
from tests.bench.test_cli import run
from tests.tiny import tiny_pair

LAYERS, DRAFT_LAYERS, VOCAB, HIDDEN = 3, 2, 512, 128
WRITE = "ScatterAxis"
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "vocab_size": VOCAB,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
TINY = Shape(
    SHAPES["qwen3-8b"].target | SIZES | {"num_hidden_layers": LAYERS},
    SHAPES["qwen3-8b"].drafter
    | SIZES
    | {
        "num_hidden_layers": DRAFT_LAYERS,
        "num_target_layers": LAYERS,
        "layer_types": ["full_attention"] * DRAFT_LAYERS,
        "dflash_config": {"mask_token_id": VOCAB - 1, "target_layer_ids": [0, 1]},
    },
)


@cache
def walked(rows: int, block: int, drafter_bits: int = 16) -> tuple[ShapedPair, RoundGraphs]:
    stand_ins = StandIns()
    with gpu_form(stand_ins):
        pair = shaped_pair(TINY, Bits(4, drafter_bits), stand_ins.leaf)
        return pair, graphs(pair, RoundKind(rows, block, 100), stand_ins)


def kinds(found: RoundGraphs) -> Counter[str]:
    return Counter(node.kind for node in found.round.nodes)


def writes(graph: Graph) -> int:
    """Of keys or values into a row's cache."""
    return sum(node.kind == WRITE for node in graph.nodes)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_plain_round_has_the_operations_of_its_layers(rows: int) -> None:
    _, found = walked(rows, 1)
    counted = kinds(found)
    assert counted["QuantizedMatmul"] == 7 * LAYERS + 1  # q, k, v, o, gate, up, down; the head
    assert counted["RMSNorm"] == 4 * LAYERS + 1  # two of rows, of queries, of keys; the last
    assert counted["RoPE"] == 2 * LAYERS
    assert counted["ScaledDotProductAttention"] == rows * LAYERS
    assert writes(found.round) == rows * 2 * LAYERS
    assert counted["Matmul"] == counted["CustomKernel"] == 0
    assert not costs(found.settle, VOCAB)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_drafted_round_has_those_of_the_drafter_too(rows: int) -> None:
    _, found = walked(rows, 16)
    counted = kinds(found)
    assert counted["QuantizedMatmul"] == 7 * LAYERS + 2  # the head for drafts and for choices
    assert counted["Matmul"] == (7 + 2) * DRAFT_LAYERS + 1  # the block's, the context's, fc
    assert counted["ScaledDotProductAttention"] == rows * (LAYERS + DRAFT_LAYERS)
    assert counted["CustomKernel"] == 1
    assert writes(found.settle) == rows * 2 * DRAFT_LAYERS


def test_weights_are_read_once_and_the_embedding_by_its_rows() -> None:
    rows = 3
    pair, found = walked(rows, 1)
    read = total(found.costs(VOCAB)).reads[WEIGHTS]
    row_bytes = HIDDEN // 2 + 2 * 2 * HIDDEN // 64  # 4 bits; a scale and a bias for each 64
    assert read == pair.bytes[WEIGHTS] - VOCAB * row_bytes + rows * row_bytes


def test_a_drafter_of_4_bits_is_read_at_its_stored_size() -> None:
    wide, narrow = (walked(1, 16, bits) for bits in (16, 4))
    reads = [total(found.costs(VOCAB)).reads[DRAFTER_WEIGHTS] for _, found in (wide, narrow)]
    assert reads[0] / reads[1] == pytest.approx(16 / 4.5, rel=0.02)  # norms stay as they are
    assert wide[0].bytes[WEIGHTS] == narrow[0].bytes[WEIGHTS]


def test_products_count_two_operations_for_each_weight() -> None:
    _, found = walked(1, 1)
    flops = sum(cost.flops for cost in found.costs(VOCAB) if cost.node.kind == "QuantizedMatmul")
    inner = HIDDEN * (4 + 2 + 2 + 4) * 64 + 3 * HIDDEN * 256
    assert flops == 2 * (LAYERS * inner + VOCAB * HIDDEN)


@pytest.mark.parametrize(("rows", "block"), [(1, 1), (1, 16), (3, 16)])
def test_no_round_copies_a_cache_nor_anything_of_one_row(rows: int, block: int) -> None:
    _, found = walked(rows, block)
    spent = [cost for cost in found.costs(VOCAB) if cost.node.kind == WRITE]
    assert spent
    assert not any(cost.copies for cost in spent)
    assert not any(cost.launches > 1 for cost in spent)
    assert rows > 1 or total(found.costs(VOCAB)).copies == 0


def test_the_gpu_form_ends() -> None:
    def state() -> tuple[Any, ...]:
        fast = mx.fast
        attention = fast.scaled_dot_product_attention
        return mx.default_device, mx.dequantize, fast.rope, fast.rms_norm, attention

    def stopped() -> None:
        with gpu_form(StandIns()):
            assert default_backend() is Backend.METAL
            raise BenchError("stop")

    before = state()
    with pytest.raises(BenchError):
        stopped()
    assert state() == before
    assert default_backend() is Backend.PLAIN


def test_the_engine_waits_for_the_device_once_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = DeviceRunner(*tiny_pair(tmp_path), 4)
    sampling = SamplingParams()
    runner.run(StepPlan(prefill=(PrefillRow(0, 0, (1, 2, 3), True, sampling),)))
    evaluate, waits = mx.eval, []
    monkeypatch.setattr(mx, "eval", lambda *arrays: (waits.append(1), evaluate(*arrays)))
    runner.run(StepPlan(decode=(DecodeRow(0, 3, 5, 4, sampling),)))
    assert len(waits) == 1
    runner.close()


def test_the_command_counts_an_8b_pair_without_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "graph.json"
    argv = ["graph", "--rows", "1", "--block-size", "8", "--repeats", "1", "--out", str(out)]
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    code, shown, _ = run(cli.main, argv, monkeypatch, capsys)
    assert not code
    assert mx.get_peak_memory() - before < 8 << 20
    assert "M4 Max, 1" in shown
    found = json.loads(out.read_text())
    rounds = found["results"]["rounds"]
    assert [row["name"] for row in rounds] == [
        "plain",
        "block 8",
        "plain sampled",
        "block 8 sampled",
    ]
    assert rounds[0]["weights_bytes"][WEIGHTS] > 4_000_000_000
    assert rounds[1]["bytes"] > rounds[0]["bytes"] > 4_000_000_000
    for greedy, sampled in zip(rounds[:2], rounds[2:], strict=True):
        assert sampled["read"]["logits"] > greedy["read"]["logits"]
        assert sampled["read"]["weights"] == greedy["read"]["weights"]
    assert {row["part"] for row in found["results"]["machines"]} >= {"M1", "H200"}
    assert out.with_suffix(".png").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--shape", "gpt-9"], "--shape gpt-9"),
        (["--bits", "7"], "--bits is 7"),
        (["--drafter-bits", "0"], "--drafter-bits is 0"),
        (["--block-size", "32"], "--block-size is 32"),
        (["--tau", "17"], "--tau is 17"),
        (["--tau", "0"], "--tau is 0"),
        (["--shape", "llama-3.1-8b"], "--tau"),
        (["--shape", "qwen3.5-9b", "--tau", "5"], "recurrent"),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    code, _, err = run(cli.main, ["graph", *argv], monkeypatch, capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
