"""Weights on their way into a model: read once, little memory, nothing that is no number."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.adapters.weights import open_weights
from tests.adapters.dense import DenseRows
from tests.adapters.feeding import PROMPT, feed
from tests.adapters.quantised import write_quantised
from tests.tiny import QWEN3_5, QWEN3_5_MOE, write_drafter, write_target

Weights = dict[str, mx.array]
GIB = 1 << 30
Q = "layers.1.self_attn.q_proj.weight"


def rewrite(path: Path, change: Callable[[Weights], object]) -> None:
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    change(weights)
    mx.save_safetensors(str(path), weights)


def in_dtype(directory: Path, dtype: mx.Dtype) -> Path:
    """A checkpoint's floating tensors in another dtype."""

    def change(weights: Weights) -> None:
        for name, value in weights.items():
            if mx.issubdtype(value.dtype, mx.floating):
                weights[name] = value.astype(dtype)

    rewrite(directory / "model.safetensors", change)
    return directory


def split(directory: Path) -> list[Path]:
    """Two shards without an index; the second half of the names, sorted, is in the second."""
    whole = directory / "model.safetensors"
    weights = dict(mx.load(str(whole)))
    mx.eval(weights)
    names = sorted(weights)
    half = len(names) // 2
    paths = [directory / "model-1.safetensors", directory / "model-2.safetensors"]
    for path, held in zip(paths, (names[:half], names[half:]), strict=True):
        mx.save_safetensors(str(path), {name: weights[name] for name in held})
    whole.unlink()
    return paths


def refusal(load: Callable[[], object], *named: object) -> None:
    with pytest.raises(AdapterError) as refused:
        load()
    message = str(refused.value)
    assert "\n" not in message
    for part in named:
        assert str(part) in message, message


NO_NUMBERS = [float("nan"), float("inf"), float("-inf")]
DTYPES = [mx.float32, mx.float16, mx.bfloat16]


def put(name: str, at: tuple[int, ...], value: float) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        weights[name][at] = value

    return change


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_value_that_is_no_number_is_refused_with_file_and_tensor(
    tmp_path: Path, dtype: mx.Dtype, value: float
) -> None:
    target = in_dtype(write_target(tmp_path / "target"), dtype)
    drafter = in_dtype(write_drafter(tmp_path / "drafter"), dtype)
    loaded = load_target(target)
    for directory, name, load in (
        (target, f"model.{Q}", lambda: load_target(target)),
        (drafter, Q, lambda: load_drafter(drafter, loaded)),
    ):
        file = directory / "model.safetensors"
        rewrite(file, put(name, (-1, -1), value))
        refusal(load, file, name, "1 value(s) of 4096 that are NaN or infinite")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_largest_numbers_are_numbers(tmp_path: Path, dtype: mx.Dtype) -> None:
    directory = in_dtype(write_target(tmp_path), dtype)
    limits = mx.finfo(dtype)
    for value in (float(limits.max), float(limits.min)):
        rewrite(directory / "model.safetensors", put(f"model.{Q}", (0, 0), value))
        load_target(directory)


def test_the_shard_is_named_and_a_scale_counts(tmp_path: Path) -> None:
    directory = write_quantised(tmp_path, 4)
    first, second = split(directory)
    rewrite(second, put("model.norm.weight", (3,), float("nan")))
    refusal(lambda: load_target(directory), second, "model.norm.weight has 1 value(s) of 64")
    rewrite(second, put("model.norm.weight", (3,), 1.0))
    name = "model.layers.0.mlp.up_proj.scales"
    rewrite(first, put(name, (slice(0, 2), 0), float("inf")))
    refusal(lambda: load_target(directory), first, f"{name} has 2 value(s)")


def test_a_tensor_that_the_model_calls_otherwise_is_known_by_its_file(tmp_path: Path) -> None:
    directory = write_target(tmp_path, base=QWEN3_5)
    name = "model.language_model.layers.3.mlp.up_proj.weight"
    file = directory / "model.safetensors"
    rewrite(file, put(name, (0, 0), float("nan")))
    refusal(lambda: load_target(directory), file, "layers.3.mlp.up_proj.weight has 1")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    first, second = split(write_target(tmp_path))
    rewrite(second, lambda weights: weights.update({"model.embed_tokens.weight": mx.zeros(2)}))
    refusal(lambda: load_target(tmp_path), "model.embed_tokens.weight", first, second)


def test_an_index_is_held_to_what_it_says(tmp_path: Path) -> None:
    """A tensor must be where the index places it; files that it does not name are not read."""
    write_target(tmp_path)
    first, second = split(tmp_path)
    placed = dict.fromkeys(mx.load(str(first)), first.name)
    placed |= dict.fromkeys(mx.load(str(second)), second.name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    mx.save_safetensors(str(tmp_path / "model-old.safetensors"), {"model.x": mx.zeros(2)})
    load_target(tmp_path)
    moved = placed | {"model.norm.weight": first.name}
    index.write_text(json.dumps({"weight_map": moved}))
    refusal(lambda: load_target(tmp_path), first, "lacks 1 tensor(s)", "model.norm.weight")


def test_the_file_of_an_unexpected_or_misshapen_tensor_is_named(tmp_path: Path) -> None:
    write_target(tmp_path)
    _, second = split(tmp_path)
    rewrite(second, lambda weights: weights.update({"model.x.weight": mx.zeros(2)}))
    refusal(lambda: load_target(tmp_path), second, "1 unexpected tensor(s), first model.x.weight")

    def misshape(weights: Weights) -> None:
        del weights["model.x.weight"]
        weights["model.norm.weight"] = mx.zeros(65)

    rewrite(second, misshape)
    refusal(lambda: load_target(tmp_path), second, "model.norm.weight", "[65]", "[64]")


def with_memory(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=available))


def dtypes(target: Any) -> set[mx.Dtype]:
    return {value.dtype for _, value in tree_flatten(target.parameters())}


def test_without_room_16_bit_weights_stay_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dflash_serve")
    target = in_dtype(write_target(tmp_path / "t"), mx.bfloat16)
    drafter = in_dtype(write_drafter(tmp_path / "d"), mx.bfloat16)
    with_memory(monkeypatch, GIB)
    kept = load_target(target)
    assert dtypes(kept) == {mx.bfloat16}
    assert kept.dtype == mx.bfloat16
    assert f"target {target} keeps its 16-bit weights" in caplog.text
    with_memory(monkeypatch, 2 * GIB)
    caplog.clear()
    wide = load_target(target)
    assert dtypes(wide) == {mx.float32}
    assert f"target {target} loaded: " in caplog.text
    assert "keeps" not in caplog.text
    with_memory(monkeypatch, GIB)
    assert load_drafter(drafter, wide).dtype == mx.bfloat16
    assert f"drafter {drafter} keeps its 16-bit weights" in caplog.text
    rows = feed(kept, DenseRows(kept.cache_specs, 1), [PROMPT]).hidden
    assert mx.isfinite(rows).all().item()


@pytest.mark.parametrize("base", [{}, {"base": QWEN3_5}, {"base": QWEN3_5_MOE}], ids=str)
def test_scales_stay_small_and_compute_the_same(tmp_path: Path, base: dict[str, Any]) -> None:
    """16-bit scales in memory, float32 activations, the bits of float32 scales."""
    small = in_dtype(write_quantised(tmp_path, 4, **base), mx.bfloat16)
    target = load_target(small, CpuWeights.STORED)
    parameters = dict(tree_flatten(target.parameters()))
    scales = {name: value.dtype for name, value in parameters.items() if name.endswith(".scales")}
    assert scales.pop("model.embed_tokens.scales") == mx.float32
    assert set(scales.values()) == {mx.bfloat16}
    assert target.dtype == mx.float32
    halved = feed(target, DenseRows(target.cache_specs, 1), [PROMPT]).hidden
    wide = load_target(in_dtype(small, mx.float32), CpuWeights.STORED)
    full = feed(wide, DenseRows(wide.cache_specs, 1), [PROMPT]).hidden
    assert halved.dtype == mx.float32
    assert mx.array_equal(target.logits(halved), wide.logits(full)).item()


LARGE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 8192}


def loading_costs(directory: Path, weights: CpuWeights = CpuWeights.AUTO) -> tuple[float, float]:
    """Peak memory over that of the loaded weights, and the largest tensor in the same measure."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    target: Any = load_target(directory, weights)
    peak = mx.get_peak_memory() - before
    sizes = [value.nbytes for _, value in tree_flatten(target.parameters())]
    return peak / sum(sizes), max(sizes) / sum(sizes)


def test_no_more_than_one_tensor_exists_in_two_dtypes(tmp_path: Path) -> None:
    directory = in_dtype(write_target(tmp_path, **LARGE), mx.bfloat16)
    peak, largest = loading_costs(directory)
    assert peak <= 1 + 0.6 * largest + 0.01
    assert 1 + largest < 1.5, "with half of the weights in one tensor this says nothing"


DEEP = LARGE | {"vocab_size": 2048, "num_hidden_layers": 8}


def test_a_quantised_target_takes_little_more_than_its_files(tmp_path: Path) -> None:
    directory = in_dtype(write_quantised(tmp_path, 4, **DEEP), mx.bfloat16)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    target = load_target(directory, CpuWeights.STORED)
    peak = mx.get_peak_memory() - before
    assert peak <= 1.15 * (directory / "model.safetensors").stat().st_size
    assert target.num_layers == 8


@pytest.mark.parametrize("bits", [4, 8])
def test_no_more_than_one_matrix_exists_quantised_and_expanded(tmp_path: Path, bits: int) -> None:
    directory = in_dtype(write_quantised(tmp_path, bits, **DEEP), mx.bfloat16)
    peak, largest = loading_costs(directory, CpuWeights.FLOAT32)
    assert peak <= 1 + 1.5 * largest
    assert largest < 0.1, "with much of the weights in one tensor this says nothing"


@pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux counts in /proc")
def test_every_shard_is_read_once(tmp_path: Path) -> None:
    directory = write_target(tmp_path, **LARGE)
    size = sum(path.stat().st_size for path in split(directory))
    before = _bytes_read()
    load_target(directory)
    assert 1.0 <= (_bytes_read() - before) / size < 1.1


def _bytes_read() -> int:
    fields = Path("/proc/self/io").read_text().splitlines()
    return int(fields[0].removeprefix("rchar: "))


def test_opening_reads_no_tensors(tmp_path: Path) -> None:
    directory = write_target(tmp_path)
    mx.clear_cache()
    before = mx.get_active_memory()
    weights = open_weights(directory)
    assert mx.get_active_memory() == before
    assert set(weights.files.values()) == {directory / "model.safetensors"}
