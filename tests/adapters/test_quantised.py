"""Every kind of quantisation that MLX runs here: mlx-lm's numbers, whatever the number of rows.

As stored, by MLX's products and by this package's, and expanded to float32.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.loading import load_target
from tests.adapters.caches import EngineRows
from tests.adapters.dense import DenseRows
from tests.adapters.feeding import PROMPT, feed
from tests.adapters.quantised import Mode, write_in_mode
from tests.adapters.upstream import Upstream
from tests.tiny import TARGET
from tests.tiny_models import GPT_OSS, LFM2, QWEN3_MOE

MIXED: dict[str, Any] = {
    "embed_tokens": False,
    "lm_head": {"group_size": 64, "bits": 8},
    "v_proj": {"group_size": 32, "bits": 6},
    "down_proj": {"group_size": 32, "bits": 8},
}
MODES = {
    "affine, 3 bit": Mode(32, 3),
    "affine, 8 bit": Mode(64, 8),
    "mixed": Mode(32, 4, parts=MIXED),
    "mxfp4": Mode(32, 4, "mxfp4"),
    "mxfp8": Mode(32, 8, "mxfp8"),
    "nvfp4": Mode(16, 4, "nvfp4"),
    "mxfp4 and affine": Mode(32, 4, "mxfp4", {"embed_tokens": {"group_size": 32, "bits": 8}}),
}
CASES: dict[str, tuple[dict[str, Any], Mode]] = {
    **{f"qwen3, {name}": (TARGET, mode) for name, mode in MODES.items()},
    "qwen3_moe, mixed": (QWEN3_MOE, MODES["mixed"]),
    "qwen3_moe, mxfp4": (QWEN3_MOE, MODES["mxfp4"]),
    "lfm2, mixed": (LFM2, MODES["mixed"]),
    "gpt_oss, its experts as published, the rest in 8 bit": (GPT_OSS, MODES["affine, 8 bit"]),
}


@pytest.fixture(scope="module", params=CASES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, mode = CASES[request.param]
    return write_in_mode(tmp_path_factory.mktemp("quantised"), mode, base=base)


@pytest.fixture(scope="module")
def stock(directory: Path) -> TargetAdapter:
    return load_target(directory, CpuWeights.STORED, own_products=False)


@pytest.fixture(scope="module")
def stored(directory: Path) -> TargetAdapter:
    return load_target(directory, CpuWeights.STORED)


@pytest.fixture(scope="module")
def expanded(directory: Path) -> TargetAdapter:
    return load_target(directory, CpuWeights.FLOAT32)


FORMS = ["stock", "stored", "expanded"]


@pytest.fixture(params=FORMS)
def target(
    request: pytest.FixtureRequest,
    stock: TargetAdapter,
    stored: TargetAdapter,
    expanded: TargetAdapter,
) -> TargetAdapter:
    return dict(zip(FORMS, (stock, stored, expanded), strict=True))[request.param]


def test_logits_are_those_of_mlx_lm(
    directory: Path, target: TargetAdapter, stock: TargetAdapter
) -> None:
    """Bit for bit by the same operations, and close to them by others."""
    theirs, rows = Upstream(directory), DenseRows(target.cache_specs, 1)
    for tokens in (PROMPT, [3], [5, 6, 7]):
        got = target.logits(feed(target, rows, [tokens]).hidden)
        assert got.dtype == mx.float32
        want = theirs.logits(tokens)
        if target is stock:
            assert mx.array_equal(got, want).item()
        assert mx.allclose(got, want, rtol=0, atol=2e-4).item()


def test_only_what_is_expanded_lacks_scales(stored: Any, expanded: Any) -> None:
    kept, plain = (dict(tree_flatten(one.parameters())) for one in (stored, expanded))
    assert {value.dtype for value in plain.values()} == {mx.float32}
    scaled = {name.removesuffix(".scales") for name in kept if name.endswith(".scales")}
    assert len(scaled) > 4
    for path in scaled:
        assert kept[f"{path}.weight"].dtype == mx.uint32
        assert plain[f"{path}.weight"].size > kept[f"{path}.weight"].size


def test_rows_of_a_batch_compute_what_they_do_alone(target: TargetAdapter) -> None:
    """Bit for bit, with many tokens, which experts are sorted for, and with few."""
    prompts = [PROMPT * 2, PROMPT[:3], PROMPT[9:30]]
    rows = EngineRows(target.cache_specs, len(prompts))
    feed(target, rows, prompts)
    together = target.logits(feed(target, rows, [[9, 10, 11]] * len(prompts)).hidden)
    for row, prompt in enumerate(prompts):
        alone = EngineRows(target.cache_specs, 1)
        feed(target, alone, [prompt])
        for column, token in enumerate((9, 10, 11)):
            single = target.logits(feed(target, alone, [[token]]).hidden)
            assert mx.array_equal(together[row, column], single[0, 0]).item()
