"""Drafters in 4 and 8 bits: quantised at load, or stored so."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.drafter_bits import quantised
from dflash_serve.adapters.loading import load_drafter
from tests.adapters.test_heads import HEADS, load
from tests.tiny import DFLASH2, DRAFTER, reconfigure, tiny_pair, write_checkpoint

WIDE = {"intermediate_size": 128}
"""Rows that groups of 64 divide; a tiny drafter's own 96 are not."""


def wide(directory: Path, **changes: object) -> DFlashDrafter:
    drafter = tiny_pair(directory, None, WIDE | changes)[1]
    assert isinstance(drafter, DFlashDrafter)
    return drafter


@pytest.mark.parametrize("kind", [{}, DFLASH2])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_matrix_is_quantised_and_the_source_stays(
    tmp_path: Path, bits: int, kind: dict[str, object]
) -> None:
    drafter = wide(tmp_path, **kind)
    before = dict(tree_flatten(drafter.model.parameters()))
    after = quantised(drafter, bits)
    assert not [m for _, m in after.model.named_modules() if isinstance(m, nn.Linear)]
    matrix = after.model.layers[0].mlp.down_proj
    assert (matrix.bits, matrix.group_size) == (bits, 64)
    table = mx.dequantize(matrix.weight, matrix.scales, matrix.biases, group_size=64, bits=bits)
    error = mx.abs(table - before["layers.0.mlp.down_proj.weight"]).max().item()
    assert 0 < error < (0.1 if bits == 4 else 0.01)
    now = dict(tree_flatten(drafter.model.parameters()))
    assert now.keys() == before.keys()
    assert after.dtype == drafter.dtype
    assert after.cache_specs == drafter.cache_specs


def test_rows_that_groups_do_not_divide_are_refused_by_name(tmp_path: Path) -> None:
    drafter = tiny_pair(tmp_path)[1]
    assert isinstance(drafter, DFlashDrafter)
    with pytest.raises(AdapterError, match=r"down_proj has rows of 96 weights, .* groups of 64"):
        quantised(drafter, 4)


def test_a_markov_head_too_narrow_for_a_group_is_refused(tmp_path: Path) -> None:
    drafter = load(tmp_path, HEADS["dspark"])
    with pytest.raises(AdapterError, match=r"drafter_bits is 8.*rows of"):
        quantised(drafter, 8)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_drafter_that_is_stored_quantised_loads_as_stored(tmp_path: Path, bits: int) -> None:
    target, drafter = tiny_pair(tmp_path, None, WIDE)
    assert isinstance(drafter, DFlashDrafter)
    after = quantised(drafter, bits)
    stored = write_checkpoint(
        tmp_path / "stored",
        DRAFTER | WIDE | {"quantization": {"group_size": 64, "bits": bits}},
        dict(tree_flatten(after.model.parameters())),
    )
    loaded = load_drafter(stored, target, expand=False)
    got = dict(tree_flatten(loaded.model.parameters()))
    for name, value in tree_flatten(after.model.parameters()):
        assert mx.array_equal(got[name], value).item(), name
    with pytest.raises(AdapterError, match=rf"drafter_bits is 4, .* stored in {bits} bits"):
        quantised(loaded, 4)


def test_a_quantisation_that_mlx_has_not_is_refused_with_its_figures(tmp_path: Path) -> None:
    target, _ = tiny_pair(tmp_path)
    reconfigure(tmp_path / "drafter", quantization={"group_size": 64, "bits": 7})
    with pytest.raises(AdapterError, match="bits 7, group_size 64"):
        load_drafter(tmp_path / "drafter", target)
    reconfigure(
        tmp_path / "drafter", quantization=None, quantization_config={"quant_method": "fp8"}
    )
    with pytest.raises(AdapterError, match=r"quantization_config is .*fp8"):
        load_drafter(tmp_path / "drafter", target)
