"""mlx-lm's own model of a checkpoint, run by mlx-lm's own code."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import stream_generate
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import load_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast


class Upstream:
    """One row. ``window``: of all layers, where mlx-lm leaves out what the config says.

    Its rotating caches add keys up in another order than that of positions, so `residuals` and
    `logits` have all keys in caches that do not rotate; the masks are mlx-lm's in both.
    """

    def __init__(self, directory: Path, window: int | None = None) -> None:
        self._window = window
        self._model, _ = load_upstream(directory)
        self._text = getattr(self._model, "language_model", self._model).model
        self._after: list[mx.array] = []
        self._text.layers = [_Watched(layer, self._after) for layer in self._text.layers]
        self._caches = [
            self._kept(KVCache() if isinstance(cache, RotatingKVCache) else cache)
            for cache in make_prompt_cache(self._model)
        ]

    def residuals(self, tokens: list[int]) -> list[mx.array]:
        """The residual stream [1, q, H] after each layer, and last after the final norm."""
        self._after.clear()
        normed = self._text(mx.array([tokens]), cache=self._caches)
        return [*self._after, normed]

    def logits(self, tokens: list[int]) -> mx.array:
        """Logits [1, q, V] after more tokens."""
        logits: mx.array = self._model(mx.array([tokens]), cache=self._caches)
        return logits

    def generate(self, prompt: list[int], count: int, vocab: int) -> list[int]:
        """The text that ``stream_generate`` gives after a prompt, with caches of its own making."""
        caches = [self._kept(cache) for cache in make_prompt_cache(self._model)]
        answer = stream_generate(
            self._model, _numbers(vocab), prompt, max_tokens=count, prompt_cache=caches
        )
        return [response.token for response in answer]

    def _kept(self, cache: Any) -> Any:
        return cache if self._window is None else _Windowed(self._window)


class _Watched(nn.Module):
    """A layer whose output is noted."""

    def __init__(self, layer: nn.Module, after: list[mx.array]) -> None:
        super().__init__()
        self.layer = layer
        self._note = after.append

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self.layer(*args, **kwargs)
        self._note(out[0] if isinstance(out, tuple) else out)
        return out

    def __getattr__(self, name: str) -> Any:
        inner = self.get("layer")
        return super().__getattr__(name) if inner is None or name in self else getattr(inner, name)


class _Windowed(KVCache):
    """A cache whose mask has a window that the model does not ask for."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self._window = window

    def make_mask(self, *args: Any, **kwargs: Any) -> Any:
        return super().make_mask(*args, **kwargs | {"window_size": self._window})


def _numbers(vocab: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are numbers, none of which ends a text."""
    words = {str(token): token for token in range(vocab)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="0")))


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
