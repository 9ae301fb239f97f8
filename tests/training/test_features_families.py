"""Features of every family's targets are what serving's forwards leave behind."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.loading import load_target
from dflash_serve.training.features.store import target_features
from tests.adapters.caches import EngineRows
from tests.adapters.feeding import feed
from tests.tiny import MISTRAL, QWEN3_5, TARGET, WINDOW, write_target
from tests.tiny_gemma import GEMMA4_SMALL


@pytest.mark.parametrize(
    "base",
    [TARGET, MISTRAL, QWEN3_5, GEMMA4_SMALL],
    ids=["qwen3", "mistral", "qwen3_5", "gemma4 small"],
)
def test_features_are_those_of_a_prompt_in_chunks(tmp_path: Path, base: dict[str, Any]) -> None:
    """Sequences of unlike length in one padded batch, against the engine's caches one by one."""
    target = load_target(write_target(tmp_path, base=base))
    rng, longest = np.random.default_rng(1), 2 * WINDOW + 5
    texts = [rng.integers(0, 96, length).tolist() for length in (longest, 9)]
    padded = mx.array([text + [0] * (longest - len(text)) for text in texts])
    made = target_features(target, padded, (0, 2), final=True)
    assert made.final is not None
    for row, text in enumerate(texts):
        rows, taps, final = EngineRows(target.cache_specs, 1), [], []
        for start in range(0, len(text), 16):
            captured = feed(target, rows, [text[start : start + 16]], (0, 2))
            taps.append(captured.taps)
            final.append(captured.hidden)
        for mine, served in ((made.taps, taps), (made.final, final)):
            want = mx.concatenate(served, axis=1)[0]
            assert mx.allclose(mine[row, : len(text)], want, atol=1e-4).item()
