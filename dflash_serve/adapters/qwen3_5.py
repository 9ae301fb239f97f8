"""Qwen3.5 targets on mlx-lm's model code: GatedDeltaNet layers between full-attention layers.

The text model alone: weights of a vision tower or of multi-token prediction are skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import qwen3_5, qwen3_5_moe, qwen3_next
from mlx_lm.models.gated_delta import compute_g, gated_delta_update, normalize_qk

from dflash_serve.adapters.base import AdapterError, StateCache
from dflash_serve.adapters.cache_spec import AttentionSpec, LayerSpec, StateArray, StateSpec
from dflash_serve.adapters.layered import (
    LayeredTarget,
    activation_dtype,
    check_layer_types,
    last_inputs,
    replace_attention,
)
from dflash_serve.adapters.rotary import Rotary
from dflash_serve.adapters.row_attention import as_class
from dflash_serve.kernels.dispatch import Backend, default_backend, hand_written
from dflash_serve.kernels.gated_delta import SPAN, DeltaStates, DeltaTokens, fits, gated_delta_scan
from dflash_serve.kernels.gated_delta_replay import gated_delta_replay
from dflash_serve.kernels.gated_units import swiglu
from dflash_serve.kernels.rms_norm import rms_norm

_FULL, _LINEAR = "full_attention", "linear_attention"


@dataclass
class Args(qwen3_5.ModelArgs):
    """config.json, of a text model or with the text model's part in ``text_config``.

    ``tie_word_embeddings`` may stand in either, ``rope_theta`` beside ``rope_parameters``.
    """

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> "Args":
        text = dict(params.get("text_config") or params)
        text.setdefault("tie_word_embeddings", params.get("tie_word_embeddings", False))
        if text.get("attn_output_gate") is False:
            raise AdapterError("target config: attn_output_gate is false, which is not supported")
        _check_layers(text)
        rope = {key: text[key] for key in ("rope_theta", "partial_rotary_factor") if key in text}
        text["rope_parameters"] = rope | (text.get("rope_parameters") or {})
        if not text["rope_parameters"].get("rope_theta"):
            raise AdapterError("target config: rope_theta is missing")
        return cls(model_type=params["model_type"], text_config=text)


def _check_layers(text: dict[str, Any]) -> None:
    """``layer_types`` must be what ``full_attention_interval`` says, which mlx-lm goes by."""
    types = text.get("layer_types")
    if types is None:
        return
    layers, interval = text["num_hidden_layers"], text.get("full_attention_interval", 4)
    check_layer_types(types, layers, (_FULL, _LINEAR))
    for index, kind in enumerate(types):
        wanted = _LINEAR if (index + 1) % interval else _FULL
        if kind != wanted:
            raise AdapterError(
                f"target config: layer {index} is of type {kind!r}, but full_attention_interval "
                f"{interval} makes it {wanted!r}"
            )


class GatedNorm(qwen3_next.Qwen3NextRMSNormGated):
    """mlx-lm's norm with a gate over our operations."""

    def __call__(self, hidden_states: mx.array, gate: mx.array | None = None) -> mx.array:
        if gate is None or hidden_states.dtype != mx.float32:
            return super().__call__(hidden_states, gate)
        normed = rms_norm(hidden_states, self.weight, self.eps)
        return swiglu(gate.astype(mx.float32), normed)


class RowDeltaNet(qwen3_5.GatedDeltaNet):
    """mlx-lm's GatedDeltaNet layer over a `StateCache`: its weights, its recurrence.

    Rows end at lengths of their own, and a forward's last tokens may be taken back.
    """

    def __call__(
        self, inputs: mx.array, mask: None = None, cache: StateCache | None = None
    ) -> mx.array:
        assert cache is not None
        rows, width, _ = inputs.shape
        window, _ = cache.state
        window = mx.concatenate([window, self.in_proj_qkv(inputs)], axis=1)  # [R, K - 1 + q, C]
        q, k, v = self._heads(nn.silu(self.conv1d(window)))
        out, recurrent_after = self._recur(q, k, v, inputs, cache)

        def advance(state: tuple[mx.array, ...], kept: mx.array) -> tuple[mx.array, ...]:
            return last_inputs(window, kept, self.conv_kernel_size - 1), recurrent_after(
                state[1], kept
            )

        cache.record(advance)
        z = self.in_proj_z(inputs).reshape(rows, width, self.num_v_heads, self.head_v_dim)
        return self.out_proj(self.norm(out, z).reshape(rows, width, -1))

    def _recur(
        self, q: mx.array, k: mx.array, v: mx.array, inputs: mx.array, cache: StateCache
    ) -> tuple[mx.array, Callable[[mx.array, mx.array], mx.array]]:
        """Outputs [R, q, Hv, Dv], and what gives the state after any number of kept tokens.

        On a CPU a small layer's states of all tokens are held, and the one that is kept is taken.
        """
        _, before = cache.state
        lengths, width = cache.lengths, inputs.shape[1]
        gates = (self.in_proj_a(inputs), self.in_proj_b(inputs), self.A_log, self.dt_bias)
        tokens = DeltaTokens(k, v, compute_g(gates[2], gates[0], gates[3]), mx.sigmoid(gates[1]))
        small = hand_written() and default_backend() is Backend.PLAIN and fits(before, width)
        if small and width <= SPAN:
            states = DeltaStates(tokens, before)
            return states.outputs(q), lambda _, kept: states.after(kept)
        if small:
            out, after = gated_delta_scan(q, tokens, before, lengths)
        else:
            out, after = gated_delta_update(q, k, v, *gates, before, cache.mask)

        def recurrent_after(state: mx.array, kept: mx.array) -> mx.array:
            if kept is lengths:  # as after a prompt's chunk: the forward's own last state
                return after
            if hand_written():
                return gated_delta_replay(tokens, state, kept)
            mask = mx.arange(width, dtype=mx.int32) < kept[:, None]
            return gated_delta_update(q, k, v, *gates, state, mask)[1]

        return out, recurrent_after

    def _heads(self, mixed: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """[R, q, C] -> queries, keys [R, q, Hk, Dk], normalised, and values [R, q, Hv, Dv]."""
        q, k, v = mx.split(mixed, [self.key_dim, 2 * self.key_dim], axis=-1)
        q, k = (x.reshape(*x.shape[:2], self.num_k_heads, self.head_k_dim) for x in (q, k))
        q, k = normalize_qk(q, k, inv_scale=self.head_k_dim**-0.5, eps=1e-6)
        return q, k, v.reshape(*v.shape[:2], self.num_v_heads, self.head_v_dim)

    def spec(self, dtype: mx.Dtype) -> StateSpec:
        window = StateArray((self.conv_kernel_size - 1, self.conv_dim), dtype)
        shape = (self.num_v_heads, self.head_v_dim, self.head_k_dim)
        return StateSpec((window, StateArray(shape, mx.float32)))


def _over_caches(model: qwen3_5.Model) -> None:
    """Give every layer of a new model the module that takes our caches."""
    args = model.language_model.args
    rotary = Rotary(
        int(args.head_dim * args.partial_rotary_factor),
        args.rope_theta,
        args.rope_scaling,
        args.max_position_embeddings,
    )
    for layer in model.model.layers:
        if layer.is_linear:
            layer.linear_attn = as_class(layer.linear_attn, RowDeltaNet)
        else:
            replace_attention(layer, rotary)


class RowModel(qwen3_5.Model):
    """mlx-lm's model with our caches and one rotary table for all layers."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        _over_caches(self)


class RowMoeModel(qwen3_5_moe.Model):
    """The same with experts, which differ in how their weights are stored."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        _over_caches(self)


class Qwen35Target(LayeredTarget):
    """A `TargetAdapter` with three recurrent layers to each that attends to all tokens."""

    model_classes = (RowModel, Args)
    faster_classes = MappingProxyType({qwen3_next.Qwen3NextRMSNormGated: GatedNorm})

    def __init__(self, model: RowModel) -> None:
        text = model.language_model
        dtype = activation_dtype(text)
        attention = AttentionSpec(text.args.num_key_value_heads, text.args.head_dim, dtype)
        specs: list[LayerSpec] = [
            layer.linear_attn.spec(dtype) if layer.is_linear else attention
            for layer in text.model.layers
        ]
        super().__init__(text, specs)


class Qwen35MoeTarget(Qwen35Target):
    """The mixture-of-experts form."""

    model_classes = (RowMoeModel, Args)
