"""Drafts change no token of a quantised target, in whatever form its weights are on a CPU."""

from pathlib import Path

import mlx.core as mx
import pytest

from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.loading import load_drafter, load_target
from tests.adapters.quantised import Mode, write_in_mode
from tests.engine.test_exactness import generate, requests
from tests.tiny import write_drafter

FORMS = {
    "stored, MLX's product": (CpuWeights.STORED, False),
    "stored, own product": (CpuWeights.STORED, True),
    "expanded": (CpuWeights.FLOAT32, True),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_in_mode(tmp_path_factory.mktemp("quantised"), Mode(32, 4))


@pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="quantised weights stay so on GPUs"
)
@pytest.mark.parametrize("form", FORMS)
def test_drafts_change_no_token(tmp_path: Path, directory: Path, form: str) -> None:
    weights, own = FORMS[form]
    target = load_target(directory, weights, own_products=own)
    drafter = load_drafter(write_drafter(tmp_path / "drafter"), target)
    plain, _, _ = generate((target, None), requests(8, 3), block=1, batch=1, compiled=False)
    texts, _, stats = generate((target, drafter), requests(8, 3), block=6, batch=3)
    assert texts == plain
    assert stats.drafted > 0
