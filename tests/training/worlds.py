"""Tiny drafters of every architecture with loud random weights, and their dense reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.layered import LayeredTarget
from dflash_serve.adapters.loading import make_drafter, make_target
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import clean_caches
from dflash_serve.training.step.blocks import Blocks
from dflash_serve.training.step.train_step import StepBatch
from tests.training.conftest import TARGET_CONFIG
from tests.training.dense_reference import F64, Clean, DenseStep, Drawn, Weights

VOCAB, MASK_ID, BLOCK, WINDOW = 61, 60, 6, 8
FULL, SLIDING = "full_attention", "sliding_attention"
TARGET: dict[str, Any] = {**TARGET_CONFIG, "tie_word_embeddings": False}
_SELECTING = {"conv_kernel_size": 2, "conv_group_size": 4, "selector_rank": 5, "selector_top_k": 7}
_SLIDING = {"layer_types": [SLIDING, SLIDING], "sliding_window": WINDOW}
DRAFTERS: dict[str, dict[str, Any]] = {
    "v1": {},
    "sliding": _SLIDING,
    "sliding, not causal": _SLIDING | {"is_causal": False},
    "mixed": {"layer_types": [SLIDING, FULL], "sliding_window": WINDOW},
    "scaled": {
        "dflash_config": {
            "input_embedding_scale": 3.0,
            "output_multiplier": 0.5,
            "final_logit_softcapping": 4.0,
        }
    },
    "dflash2": {"architectures": ["DFlash2DraftModel"], "dflash_config": _SELECTING},
    "dflash2 sliding": _SLIDING
    | {
        "architectures": ["DFlash2DraftModel"],
        "dflash_config": _SELECTING | {"conv_kernel_size": 3},
        "is_causal": False,
    },
}
"""Name -> what differs from a DFlash v1 drafter of two full layers."""


@dataclass(frozen=True)
class World:
    """A target, a drafter for it and the reference that knows both of their tensors."""

    target: LayeredTarget
    drafter: DFlashDrafter
    dense: DenseStep

    @property
    def weights(self) -> Weights:
        """The drafter's tensors by their stored names, in float64."""
        flat: list[tuple[str, mx.array]] = tree_flatten(self.drafter.model.parameters())
        return {name: value.astype(F64) for name, value in flat}

    def clean(self, example: Example) -> Clean:
        """The sequence with the target's features of it."""
        tokens = mx.array(example.tokens)[None]
        caches = clean_caches(self.target.cache_specs, *tokens.shape)
        captured = self.target.forward(tokens, caches, self.drafter.target_layer_ids)
        assert captured.taps is not None
        mask = [bool(x) for x in example.loss_mask]
        return Clean(example.tokens.tolist(), mask, captured.taps[0], captured.hidden[0])


def make_world(name: str = "v1", seed: int = 2) -> World:
    """Deterministic; computed on the CPU, where the reference has float64."""
    mx.random.seed(1)
    target = make_target(TARGET)
    mx.eval(target.parameters())
    mx.random.seed(seed)
    drafter = make_drafter(drafter_config(name), target)
    loud = [(key, _loud(value)) for key, value in tree_flatten(drafter.model.parameters())]
    drafter.model.update(tree_unflatten(loud))
    mx.eval(drafter.model.parameters())
    head = target.logits(mx.eye(TARGET["hidden_size"])).T
    table = target.embed(mx.arange(VOCAB))
    return World(target, drafter, DenseStep(drafter.config, table, head))


def drafter_config(name: str) -> dict[str, Any]:
    changes = DRAFTERS[name]
    shared = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    config = {key: TARGET[key] for key in (*shared, "head_dim", "vocab_size", "rope_theta")}
    inner = {"mask_token_id": MASK_ID, "target_layer_ids": [0, 2]}
    return {
        **config,
        "architectures": ["DFlashDraftModel"],
        "block_size": BLOCK,
        "num_hidden_layers": 2,
        "num_target_layers": TARGET["num_hidden_layers"],
        **changes,
        "dflash_config": inner | changes.get("dflash_config", {}),
    }


def _loud(value: mx.array) -> mx.array:
    """No tensor is zero, one or alike in all places, so that a wrong or missing one shows."""
    if value.ndim == 1:
        return 1.0 + 0.2 * mx.random.normal(value.shape)
    return 1.5 * value + 0.1 * mx.random.normal(value.shape)


def sequences() -> list[Example]:
    """30, 22 and 9 random tokens; the first holds two answers with a question between them."""
    rng = np.random.default_rng(3)
    made = []
    for length, prompt in ((30, 3), (22, 4), (9, 5)):
        mask = np.arange(length) >= prompt
        if length == 30:
            mask[14:16] = False
        made.append(Example(rng.integers(0, 50, length).astype(np.int32), mask))
    return made


DRAWN: list[list[Drawn]] = [
    # contexts shorter than the window, as long, longer; over the question; over the end
    [Drawn(3), Drawn(8), Drawn(12), Drawn(21), Drawn(27)],
    [Drawn(4), Drawn(6), Drawn(8), Drawn(19), Drawn(0, keep=False)],
    [Drawn(6), *[Drawn(0, keep=False)] * 4],
]


def step_batch(cleans: Sequence[Clean], blocks: Blocks, length: int) -> StepBatch:
    """The trainer's batch of these sequences, padded to ``length`` with what nobody may see."""

    def padded(rows: Sequence[mx.array]) -> mx.array:
        return mx.stack(
            [mx.pad(x, [(0, length - x.shape[0]), (0, 0)], constant_values=7.0) for x in rows]
        )

    return StepBatch(
        padded([clean.taps for clean in cleans]),
        padded([clean.final for clean in cleans if clean.final is not None]),
        mx.array(blocks.anchors),
        mx.array(blocks.labels),
        mx.array(blocks.weights),
        mx.array(blocks.visible),
    )
