"""Which weights become float32 on a CPU: what memory allows, what was asked, and what is said."""

import logging
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cpu_weights import (
    CpuWeights,
    Sizes,
    Widening,
    choose,
    group_memory,
    widens,
)
from dflash_serve.adapters.drafter_bits import quantised
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.kernels.native import native
from tests.adapters.quantised import write_quantised
from tests.adapters.test_drafter_bits import WIDE, wide
from tests.adapters.test_weights import in_dtype, put, refusal, rewrite, with_memory
from tests.tiny import DRAFTER, write_checkpoint

GIB = 1 << 30
AUTO, FLOAT32, STORED = CpuWeights


@pytest.mark.parametrize(
    ("stored", "extra", "available", "wide"),
    [
        (8 * GIB, 8 * GIB, 17 * GIB, True),
        (8 * GIB, 8 * GIB, 17 * GIB - 1, False),
        (8 * GIB, 0, 0, True),  # nothing to widen
        (100, 5, 0, True),  # norms of a quantised model
        (100, 6, 0, False),
    ],
)
def test_float32_needs_room(stored: int, extra: int, available: int, wide: bool) -> None:
    assert widens(stored, extra, available) == wide


@pytest.mark.parametrize(
    ("wanted", "half", "packed", "available", "expected"),
    [
        (AUTO, 0, 7, 9, Widening(half=True, quantised=True)),
        (AUTO, 0, 7, 8, Widening(half=True, quantised=False)),
        (AUTO, 1, 7, 9, Widening(half=True, quantised=False)),  # its 16-bit parts alone
        (AUTO, 1, 7, 2, Widening(half=False, quantised=False)),
        (AUTO, 1, 0, 3, Widening(half=True, quantised=False)),
        (FLOAT32, 0, 7, 9, Widening(half=True, quantised=True)),
        (STORED, 0, 7, 99, Widening(half=True, quantised=False)),
        (STORED, 1, 7, 3, Widening(half=True, quantised=False)),  # the dtype of activations
        (STORED, 1, 7, 2, Widening(half=False, quantised=False)),
        (STORED, 1, 0, 99, Widening(half=False, quantised=False)),
    ],
)
def test_what_is_widened(
    monkeypatch: pytest.MonkeyPatch,
    wanted: CpuWeights,
    half: int,
    packed: int,
    available: int,
    expected: Widening,
) -> None:
    """Of a checkpoint of 1 GiB, with 1 GiB that stays free."""
    with_memory(monkeypatch, available * GIB)
    assert choose(wanted, Sizes(GIB, half * GIB, packed * GIB), "target x") == expected


def test_float32_that_does_not_fit_is_refused_with_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_quantised(tmp_path, 4)
    expanded: Any = load_target(directory, FLOAT32)
    size = sum(value.nbytes for _, value in tree_flatten(expanded.parameters()))
    with_memory(monkeypatch, GIB + size - 1)
    with pytest.raises(AdapterError) as refused:
        load_target(directory, FLOAT32)
    line = str(refused.value)
    assert "\n" not in line
    assert "--cpu-weights is float32" in line
    assert f"takes {size} bytes" in line
    assert f"{GIB + size - 1} are available" in line
    with_memory(monkeypatch, GIB + size)
    load_target(directory, FLOAT32)


def test_the_log_says_what_became_of_quantised_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dflash_serve")
    directory = write_quantised(tmp_path, 6)
    load_target(directory)
    assert f"target {directory}: quantised weights are float32 in memory: 0.00 GB" in caplog.text
    caplog.clear()
    with_memory(monkeypatch, GIB)
    load_target(directory)
    kept = f"target {directory} keeps its quantised weights"
    assert [r.levelname for r in caplog.records if kept in r.message] == ["WARNING"]
    caplog.clear()
    load_target(directory, STORED)
    assert [r.levelname for r in caplog.records if kept in r.message] == ["INFO"]


def test_a_control_group_may_leave_less_than_the_machine(tmp_path: Path) -> None:
    assert group_memory(tmp_path) is None
    files = {"max": "max\n", "current": "700\n", "stat": "anon 500\ninactive_file 150\nfile 200\n"}
    for name, text in files.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert group_memory(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert group_memory(tmp_path) == 450
    (tmp_path / "memory.max").write_text("100\n")
    assert group_memory(tmp_path) == 0


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_an_expanded_matrix_is_scale_times_number_plus_bias_in_float32(
    tmp_path: Path, dtype: mx.Dtype
) -> None:
    directory = in_dtype(write_quantised(tmp_path, 4), dtype)
    got: Any = load_target(directory, FLOAT32)
    name = "model.layers.1.mlp.up_proj"
    stored = dict(mx.load(str(directory / "model.safetensors")))
    words = np.array(stored[f"{name}.weight"])
    scales, biases = (
        np.array(stored[f"{name}.{part}"].astype(mx.float32))[..., None]
        for part in ("scales", "biases")
    )
    numbers = (words[..., None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 15
    grouped = numbers.reshape(*scales.shape[:-1], -1).astype(np.float32)
    want = (grouped * scales + biases).reshape(len(words), -1)
    found = np.array(dict(tree_flatten(got.parameters()))[f"{name}.weight"])
    # where the compiler fuses a multiplication and an addition, the product is not rounded
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-7)


def test_what_the_extension_multiplies_stays_as_stored_unless_float32_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """To the same bits."""
    caplog.set_level(logging.INFO, "dflash_serve")
    four = load_target(write_quantised(tmp_path / "4", 4))
    assert _quantised(four) == (native() is not None)
    assert ("quantised weights stay as stored: 0.00 GB" in caplog.text) == (native() is not None)
    assert not _quantised(load_target(write_quantised(tmp_path / "6", 6)))
    expanded = load_target(tmp_path / "4/quantised", FLOAT32)
    assert not _quantised(expanded)
    if native() is not None:
        hidden = mx.random.normal((3, four.hidden_size))
        assert mx.array_equal(four.logits(hidden), expanded.logits(hidden)).item()


def _quantised(target: Any) -> bool:
    return any(value.dtype == mx.uint32 for _, value in tree_flatten(target.parameters()))


@pytest.mark.parametrize("part", ["scales", "biases"])
def test_a_damaged_scale_is_refused_by_name_before_it_is_expanded(
    tmp_path: Path, part: str
) -> None:
    directory = write_quantised(tmp_path, 4)
    name = f"model.layers.2.self_attn.q_proj.{part}"

    file = directory / "model.safetensors"
    rewrite(file, put(name, (0, 0), float("nan")))
    refusal(lambda: load_target(directory, FLOAT32), file, f"{name} has 1 value(s)")


def test_a_drafter_stored_quantised_is_expanded_unless_its_bits_are_asked_for(
    tmp_path: Path,
) -> None:
    packed = quantised(wide(tmp_path), 4)
    stored = write_checkpoint(
        tmp_path / "stored",
        DRAFTER | WIDE | {"quantization": {"group_size": 64, "bits": 4}},
        dict(tree_flatten(packed.model.parameters())),
    )
    target = load_target(tmp_path / "target")
    kept = load_drafter(stored, target, FLOAT32, expand=False)
    assert any("scales" in module for module in kept.model.modules())
    plain = load_drafter(stored, target, FLOAT32)
    assert not any("scales" in module for module in plain.model.modules())
    fc: Any = kept.model.fc
    want = mx.dequantize(fc.weight, fc.scales, fc.biases, group_size=64, bits=4)
    assert mx.array_equal(plain.model.fc.weight, want).item()
