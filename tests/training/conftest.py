"""A tiny random target, drafters for it and sequences: enough for exact checks in milliseconds."""

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import make_target
from dflash_serve.adapters.qwen3 import Qwen3Target
from dflash_serve.training.data.example import Example
from dflash_serve.training.drafter.initialise import DrafterShape, drafter_config, new_drafter
from dflash_serve.training.evaluate import job
from dflash_serve.training.run import curves, sweep

TARGET_CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "vocab_size": 61,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
}
MASK_ID = 60


@pytest.fixture
def rendered() -> None:
    """Asked for by a test that looks at a picture."""


@pytest.fixture(autouse=True)
def without_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not rendered: that takes longer than all else that a short run does."""
    if "rendered" not in request.fixturenames:
        for module in (curves, job, sweep):
            monkeypatch.setattr(module, "save_figure", lambda figure, path: None)


@pytest.fixture
def op_by_op() -> Iterator[None]:
    """Nothing compiled, which costs more than all the rest; on the CPU, where float64 exists."""
    mx.disable_compile()
    with mx.stream(mx.cpu):
        yield
    mx.enable_compile()


@pytest.fixture
def target() -> Qwen3Target:
    mx.random.seed(1)
    made = make_target(TARGET_CONFIG)
    assert isinstance(made, Qwen3Target)
    mx.eval(made.parameters())
    return made


@pytest.fixture
def make_drafter(target: Qwen3Target) -> Callable[..., DFlashDrafter]:
    """Two layers, block 6, taps [0, 2]; keywords override the shape, ``config`` the JSON."""

    def make(config: dict[str, Any] | None = None, **shape: Any) -> DFlashDrafter:
        free = {"layers": 2, "block_size": 6, "target_layer_ids": (0, 2), **shape}
        raw = drafter_config(TARGET_CONFIG, DrafterShape(MASK_ID, **free)) | (config or {})
        drafter = new_drafter(raw, target, seed=2)
        # Norm weights away from 1, so that a swapped or missing norm shows.
        for module in _norms(drafter):
            module.weight = 1.0 + 0.2 * mx.random.normal(module.weight.shape)
        return drafter

    return make


def _norms(drafter: DFlashDrafter) -> list[Any]:
    return [m for name, m in drafter.model.named_modules() if name.endswith("norm")]


@pytest.fixture
def examples() -> list[Example]:
    """Sequences of 30, 22 and 9 random tokens after prompts of 10, 4 and 5."""
    rng = np.random.default_rng(3)
    made = []
    for length, prompt in ((30, 10), (22, 4), (9, 5)):
        tokens = rng.integers(0, 50, length).astype(np.int32)
        made.append(Example(tokens, np.arange(length) >= prompt))
    return made
