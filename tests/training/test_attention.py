from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import optimizers
from mlx.utils import tree_flatten

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.qwen3 import Qwen3Target
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import pad_tokens, target_features
from dflash_serve.training.step.attention import block_rows, context_keys_values
from dflash_serve.training.step.blocks import BlockRecipe, Blocks, make_blocks
from dflash_serve.training.step.objective import Objective
from dflash_serve.training.step.train_step import StepBatch, TrainStep

MakeDrafter = Callable[..., DFlashDrafter]
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "full causal": {"config": {"is_causal": True}},
    "sliding causal": {"sliding_window": 5},
    "sliding bidirectional": {"sliding_window": 5, "config": {"is_causal": False}},
    "mixed": {
        "sliding_window": 5,
        "config": {"layer_types": ["sliding_attention", "full_attention"]},
    },
}


def blocks_of(examples: list[Example], drafter: DFlashDrafter, count: int = 5) -> Blocks:
    rngs = [np.random.default_rng(row) for row in range(len(examples))]
    return make_blocks(examples, rngs, BlockRecipe(drafter.block_size, count, gamma=4.0))


def rows_at(drafter: DFlashDrafter, taps: mx.array, anchors: Any, tokens: Any) -> mx.array:
    """Rows [S, N, B, H] of blocks that begin with ``tokens`` [S, N]."""
    masks = mx.full((*np.shape(tokens), drafter.block_size - 1), drafter.config.mask_token_id)
    block = mx.concatenate([mx.array(tokens)[..., None], masks], axis=-1).astype(mx.int32)
    return block_rows(drafter, context_keys_values(drafter, taps), mx.array(anchors), block)


def logits_at(drafter: DFlashDrafter, taps: mx.array, blocks: Blocks) -> np.ndarray:
    rows = rows_at(drafter, taps, blocks.anchors, blocks.labels[:, :, 0])
    return np.array(drafter.logits(rows[:, :, 1:]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_block_equals_itself_alone(
    variant: str, make_drafter: MakeDrafter, target: Qwen3Target, examples: list[Example]
) -> None:
    drafter = make_drafter(**VARIANTS[variant])
    blocks = blocks_of(examples, drafter)
    taps = target_features(
        target, mx.array(pad_tokens(examples, 32)), drafter.target_layer_ids
    ).taps
    logits = logits_at(drafter, taps, blocks)
    for s, n in np.argwhere(blocks.keep):
        alone = dense_block_logits(
            drafter, taps[s], int(blocks.anchors[s, n]), int(blocks.labels[s, n, 0]), 6
        )
        np.testing.assert_allclose(logits[s, n], np.array(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_at_or_after_the_anchor_leaks_into_its_block(
    variant: str, make_drafter: MakeDrafter, target: Qwen3Target, examples: list[Example]
) -> None:
    """The anchor's own token enters by its embedding; its feature, and all later ones, do not."""
    drafter = make_drafter(**VARIANTS[variant])
    example, anchor = examples[0], 15
    tokens = example.tokens.copy()
    tokens[anchor + 1 :] = 7
    layers = drafter.target_layer_ids
    clean = target_features(target, mx.array(example.tokens)[None], layers).taps
    other = target_features(target, mx.array(tokens)[None], layers).taps
    other[:, anchor] = 100.0
    token = [[int(example.tokens[anchor])]]

    def outputs(taps: mx.array) -> np.ndarray:
        return np.array(rows_at(drafter, taps, [[anchor]], token))

    np.testing.assert_array_equal(outputs(clean), outputs(other))
    other[:, anchor - 1] = 100.0
    assert not np.array_equal(outputs(clean), outputs(other))


def test_blocks_do_not_see_each_other(
    make_drafter: MakeDrafter, target: Qwen3Target, examples: list[Example]
) -> None:
    drafter = make_drafter()
    taps = target_features(
        target, mx.array(examples[0].tokens)[None], drafter.target_layer_ids
    ).taps

    def outputs(second: int) -> np.ndarray:
        return np.array(rows_at(drafter, taps, [[12, second, 20]], [[3, second, 4]]))

    one, two = outputs(13), outputs(17)
    np.testing.assert_array_equal(one[:, [0, 2]], two[:, [0, 2]])
    assert not np.array_equal(one[:, 1], two[:, 1])


@pytest.mark.parametrize(("variant", "reaches"), [("full", True), ("sliding causal", False)])
def test_a_later_slot_reaches_an_earlier_one_only_without_causality(
    variant: str, reaches: bool, make_drafter: MakeDrafter, target: Qwen3Target
) -> None:
    """A longer block has more mask rows; slot 1 notices them exactly if it is bidirectional."""
    drafter = make_drafter(**VARIANTS[variant])
    taps = target_features(target, mx.arange(20)[None], drafter.target_layer_ids).taps
    context = context_keys_values(drafter, taps)

    def slot_1(width: int) -> np.ndarray:
        block = mx.array([[[9] + [drafter.config.mask_token_id] * (width - 1)]])
        return np.array(block_rows(drafter, context, mx.array([[9]]), block))[0, 0, 1]

    same = np.allclose(slot_1(3), slot_1(4), rtol=1e-5, atol=1e-6)
    assert same is not reaches


def test_a_filled_up_block_has_finite_outputs_and_no_gradient(
    make_drafter: MakeDrafter, target: Qwen3Target
) -> None:
    drafter = make_drafter()
    example = Example(np.arange(8, dtype=np.int32), np.zeros(8, dtype=bool))
    blocks = blocks_of([example], drafter)
    taps = target_features(target, mx.array(example.tokens)[None], drafter.target_layer_ids).taps
    assert np.isfinite(logits_at(drafter, taps, blocks)).all()
    step = TrainStep(drafter, Objective(), optimizers.SGD(0.1))
    arrays = (blocks.anchors, blocks.labels, blocks.weights, blocks.visible)
    sums, gradients = step.gradients(StepBatch(taps, None, *map(mx.array, arrays)))
    assert sums["loss"].item() == sums["blocks"].item() == 0.0
    assert all(not np.array(gradient).any() for _, gradient in tree_flatten(gradients))


# An independent reference: one block at a time, attention written out, no batching, no cache.


def dense_block_logits(
    drafter: DFlashDrafter, taps: mx.array, anchor: int, anchor_token: int, width: int
) -> mx.array:
    """One block over features [T, K * H] of its sequence -> logits [width - 1, V]."""
    config, model = drafter.config, drafter.model
    context = model.hidden_norm(taps[:anchor] @ model.fc.weight.T)
    x = drafter.embed_block(mx.array([anchor_token] + [config.mask_token_id] * (width - 1)))
    query = mx.arange(anchor, anchor + width)
    key = mx.arange(anchor + width)
    for index, layer in enumerate(model.layers):
        window, causal = config.layer_windows[index], config.layer_causal[index]
        distance = query[:, None] - key[None]
        visible = distance >= 0 if causal else distance > -width
        visible = visible | (key[None] < anchor)
        if window is not None:
            visible = visible & (distance < window)
        x = x + _attention(layer, layer.input_layernorm(x), context, visible, drafter)
        inner = layer.post_attention_layernorm(x)
        gate, up = inner @ layer.mlp.gate_proj.weight.T, inner @ layer.mlp.up_proj.weight.T
        x = x + (gate * mx.sigmoid(gate) * up) @ layer.mlp.down_proj.weight.T
    return drafter.logits(model.norm(x[1:]))


def _attention(
    layer: Any, rows: mx.array, context: mx.array, visible: mx.array, drafter: DFlashDrafter
) -> mx.array:
    config, attention = drafter.config, layer.self_attn
    dim, total = config.head_dim, context.shape[0] + rows.shape[0]
    both = mx.concatenate([context, rows])
    group = config.num_attention_heads // config.num_key_value_heads
    outs = []
    for head in range(config.num_attention_heads):
        kv = head // group
        q = rows @ attention.q_proj.weight[head * dim : (head + 1) * dim].T
        k = both @ attention.k_proj.weight[kv * dim : (kv + 1) * dim].T
        v = both @ attention.v_proj.weight[kv * dim : (kv + 1) * dim].T
        q = _rotate(attention.q_norm(q), total - rows.shape[0], config.rope_theta)
        k = _rotate(attention.k_norm(k), 0, config.rope_theta)
        scores = mx.where(visible, q @ k.T * dim**-0.5, -1e30)
        outs.append(mx.softmax(scores, axis=-1) @ v)
    return mx.concatenate(outs, axis=-1) @ attention.o_proj.weight.T


def _rotate(x: mx.array, start: int, theta: float) -> mx.array:
    """Rotate split halves of [n, hd] by position."""
    half = x.shape[1] // 2
    angle = mx.arange(start, start + x.shape[0])[:, None] * theta ** (-mx.arange(half) / half)
    a, b = x[:, :half], x[:, half:]
    cos, sin = mx.cos(angle), mx.sin(angle)
    return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)
