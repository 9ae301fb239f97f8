"""Drafters of every kind, and rounds of drafting to put them through, for z-lab's two backends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from mlx_lm.models.qwen3 import Model, ModelArgs
from numpy.typing import NDArray

from dflash_serve.adapters.base import LayerCache
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import load_drafter, make_drafter
from dflash_serve.adapters.qwen3 import Args, Qwen3Target, RowModel
from dflash_serve.training.drafter.initialise import DrafterShape, drafter_config
from tests.adapters.caches import EngineRows
from tests.tiny import TARGET
from tests.training.files import export_drafter

Array = NDArray[np.float32]

BLOCK, WINDOW, MASK = 6, 12, 95
FEATURES = 3 * TARGET["hidden_size"]
_SHAPE: dict[str, Any] = {"layers": 3, "block_size": BLOCK, "target_layer_ids": (0, 1, 2)}
_SLIDING: dict[str, Any] = {**_SHAPE, "sliding_window": WINDOW}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
_SCALED = {
    "mask_token_id": MASK,
    "target_layer_ids": [0, 1, 2],
    "input_embedding_scale": 3.0,
    "output_multiplier": 0.5,
    "final_logit_softcapping": 4.0,
}
DFLASH2 = "DFlash 2"
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": (_SHAPE, {}),
    "full, causal": ({**_SHAPE, "causal": True}, {}),
    "sliding": (_SLIDING, {}),
    "sliding, not causal": ({**_SLIDING, "causal": False}, {}),
    "mixed": (_SLIDING, {"layer_types": _MIXED}),
    "yarn": (_SHAPE, {"rope_scaling": _YARN}),
    "scaled": (_SHAPE, {"dflash_config": _SCALED}),
    DFLASH2: ({**_SLIDING, "causal": False, "selector_rank": 8, "selector_top_k": 5}, {}),
}
"""Name -> (shape, changes of its config.json)."""

ROUNDS = (9, 3, 2, 5, 4, 6, 2)
"""Context rows that are new in each round; longer than the window from the second on."""

TOLERANCE = 2e-4
"""Of logits of size 10, in float32: ten times the largest difference that was seen, 2.5e-5."""


class Drafting(Protocol):
    """One drafter over one cache."""

    def round(self, taps: Array, anchor: int) -> tuple[Array, list[int]]:
        """Logits [BLOCK - 1, V] and proposals after ``taps`` [n, K * H] more context rows."""
        ...


def tiny_target() -> tuple[Model, Qwen3Target]:
    """One random model, plain and as an adapter."""
    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(TARGET))
    model.update(grown(model.parameters()))
    mx.eval(model.parameters())
    ours = RowModel(Args.from_dict(TARGET))
    ours.update(model.parameters())
    return model, Qwen3Target(ours)


def exported(kind: str, target: Qwen3Target, directory: Path) -> DFlashDrafter:
    """A random drafter, and what is exported of it in ``directory``, as float32."""
    shape, changes = KINDS[kind]
    config = drafter_config(TARGET, DrafterShape(MASK, **shape)) | changes
    mx.random.seed(1)
    drafter = make_drafter(config, target)
    drafter.model.update(grown(drafter.model.parameters()))
    export_drafter(directory, config, drafter.model)
    return drafter


def loaded(directory: Path, target: Qwen3Target) -> DFlashDrafter:
    drafter = load_drafter(directory, target)
    assert isinstance(drafter, DFlashDrafter)
    return drafter


def grown(parameters: Any) -> Any:
    """Weights so large that masks, positions and norms all matter; tables and kernels not zero."""

    def grow(value: mx.array) -> mx.array:
        if value.ndim == 1:
            return 0.5 + mx.random.uniform(shape=value.shape)
        return 3.0 * value + 0.1 * mx.random.normal(value.shape)

    return tree_map(grow, parameters)


class Ours:
    """Our drafter over our cache."""

    def __init__(self, drafter: DFlashDrafter) -> None:
        self._drafter = drafter
        self._rows = EngineRows(drafter.cache_specs, 1)

    def round(self, taps: Array, anchor: int) -> tuple[Array, list[int]]:
        tokens = mx.array([anchor])

        def append(views: list[LayerCache]) -> None:
            self._drafter.append_context(mx.array(taps)[None], views)

        def draft(views: list[LayerCache]) -> tuple[mx.array, mx.array]:
            rows = self._drafter.block_rows(tokens, BLOCK, views)
            return self._drafter.logits(rows), self._drafter.read(rows, tokens).chain()

        self._rows.run([len(taps)], len(taps), append)
        logits, chosen = self._rows.run([BLOCK], BLOCK, draft, keep=[0])
        return np.array(logits[0]), chosen[0].tolist()


def assert_same(ours: Drafting, theirs: Drafting, rounds: Sequence[int] = ROUNDS) -> bool:
    """Same logits and proposals in every round; whether one was not simply the best logit."""
    rng, chosen_otherwise = np.random.default_rng(5), False
    for rows in rounds:
        taps = rng.normal(size=(rows, FEATURES)).astype(np.float32)
        anchor = int(rng.integers(0, MASK))
        logits, proposals = ours.round(taps, anchor)
        their_logits, their_proposals = theirs.round(taps, anchor)
        np.testing.assert_allclose(logits, their_logits, atol=TOLERANCE, rtol=0)
        assert proposals == their_proposals
        chosen_otherwise |= proposals != logits.argmax(-1).tolist()
    return chosen_otherwise
