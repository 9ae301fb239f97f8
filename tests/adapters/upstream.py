"""mlx-lm's own model of a checkpoint, over mlx-lm's own caches."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.base import create_attention_mask, create_ssm_mask
from mlx_lm.models.cache import ArraysCache, KVCache
from mlx_lm.utils import load_model


class Upstream:
    """One row. Where mlx-lm leaves a Mistral's window out, its mask is given the window here."""

    def __init__(self, directory: Path) -> None:
        model, config = load_upstream(directory)
        self._model = getattr(model, "language_model", model)
        text = config.get("text_config", config)
        self._window = text.get("sliding_window") if text["model_type"] != "llama" else None
        self._caches: list[Any] = [
            ArraysCache(size=2) if getattr(layer, "is_linear", False) else KVCache()
            for layer in self._model.model.layers
        ]

    def residuals(self, tokens: list[int]) -> list[mx.array]:
        """The residual stream [1, q, H] after each layer, and last after the final norm."""
        inner = self._model.model
        hidden = inner.embed_tokens(mx.array([tokens]))
        found = []
        for layer, cache in zip(inner.layers, self._caches, strict=True):
            if isinstance(cache, ArraysCache):
                mask = create_ssm_mask(hidden, cache)
            else:
                mask = create_attention_mask(hidden, cache, window_size=self._window)
            hidden = layer(hidden, mask=mask, cache=cache)
            found.append(hidden)
        return [*found, inner.norm(hidden)]

    def logits(self, tokens: list[int]) -> mx.array:
        """Logits [1, q, V] after more tokens."""
        hidden = self.residuals(tokens)[-1]
        if self._model.args.tie_word_embeddings:
            return self._model.model.embed_tokens.as_linear(hidden)
        return self._model.lm_head(hidden)


def load_upstream(directory: Path) -> tuple[Any, dict[str, Any]]:
    """The model and its config, where mlx-lm's reading of a config is not that of transformers.

    A Mistral ties its embeddings only where its config says so, its rotation may be described by
    ``rope_parameters``, and a text model may stand alone.
    """
    config = json.loads((directory / "config.json").read_text())
    changes: dict[str, Any] = {}
    if config["model_type"] in ("mistral", "llama"):
        rope = config.get("rope_parameters") or config
        changes["rope_theta"] = rope["rope_theta"]
        changes["tie_word_embeddings"] = config.get("tie_word_embeddings", False)
    if config["model_type"] == "qwen3_5_text":
        changes["model_type"] = "qwen3_5"
    return load_model(directory, model_config=changes)
