"""DSpark: the DFlash network with a Markov bias on its logits and a head that tells acceptance.

Follows the published DSpark checkpoints (arXiv 2607.05147); parameter names are theirs.
"""

import mlx.core as mx
import mlx.nn as nn

from dflash_serve.adapters.base import Draft
from dflash_serve.adapters.dflash import (
    DFlashDrafter,
    DFlashModel,
    as_target,
    likeliest,
    top_probability,
)
from dflash_serve.adapters.dflash_config import DFlashConfig
from dflash_serve.kernels.argmax import argmax


class MarkovHead(nn.Module):
    """A low-rank bias on a slot's logits by the token before it."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.logits, bias=False)

    def __call__(self, before: mx.array) -> mx.array:
        """Tokens [...] -> biases [..., V]."""
        return self.markov_w2(self.markov_w1(before))


class ConfidenceHead(nn.Module):
    """How likely a slot's token is to be accepted if those before it are."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        markov = config.markov_rank if config.confidence_with_markov else 0
        self.proj = nn.Linear(config.hidden_size + markov, 1)

    def __call__(self, features: mx.array) -> mx.array:
        """[..., H], or [..., H + r] with the Markov embedding of the token before -> [...]."""
        return mx.sigmoid(self.proj(features)[..., 0].astype(mx.float32))


class DSparkModel(DFlashModel):
    """The stored weights: DFlash's, and those of the heads that the config has."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__(config)
        if config.markov_rank:
            self.markov_head = MarkovHead(config)
        if config.confidence_head:
            self.confidence_head = ConfidenceHead(config)


class MarkovDraft:
    """A `Draft` whose slots' logits are biased by the token before them.

    rows [R, q, H] after the final norm, logits [R, q, V] without bias, anchors [R].
    """

    def __init__(
        self, drafter: "DSparkDrafter", rows: mx.array, logits: mx.array, anchors: mx.array
    ) -> None:
        self._config, self._model = drafter.config, drafter.model
        self._target_ids = drafter.target_ids
        self._rows = rows
        self._logits = logits
        self._anchors = anchors
        self._walk: tuple[mx.array, mx.array] | None = None

    def chain(self) -> mx.array:
        return self._walked()[0]

    def children(self, slot: int, before: mx.array, count: int) -> tuple[mx.array, mx.array]:
        ids, scores = likeliest(self._biased(slot, before), count)
        return as_target(ids, self._target_ids), scores

    def confidences(self) -> mx.array:
        tokens, probabilities = self._walked()
        if not self._config.confidence_head:
            return probabilities
        features = self._rows
        if self._config.confidence_with_markov:
            before = mx.concatenate([self._anchors[:, None], tokens[:, :-1]], axis=1)
            embedded = self._model.markov_head.markov_w1(before)
            features = mx.concatenate([features, embedded.astype(features.dtype)], axis=-1)
        return self._model.confidence_head(features)

    def _biased(self, slot: int, before: mx.array) -> mx.array:
        """Logits [R, N, V] of ``slot`` after ``before`` [R, N]."""
        logits = self._logits[:, None, slot]
        if not self._config.markov_rank:
            return mx.broadcast_to(logits, (*before.shape, logits.shape[-1]))
        return logits + self._model.markov_head(before)

    def _walked(self) -> tuple[mx.array, mx.array]:
        """Tokens [R, q] int32 chosen left to right, and their probabilities float32."""
        if self._walk is None:
            chosen, sure, before = [], [], self._anchors[:, None]
            for slot in range(self._rows.shape[1]):
                logits = self._biased(slot, before)
                before = as_target(argmax(logits), self._target_ids)
                chosen.append(before)
                sure.append(top_probability(logits))
            self._walk = mx.concatenate(chosen, axis=1), mx.concatenate(sure, axis=1)
        return self._walk


class DSparkDrafter(DFlashDrafter):
    """A `DraftAdapter` whose slots are chosen left to right, each biased by the token before."""

    model_class = DSparkModel

    def read(self, rows: mx.array, anchors: mx.array) -> Draft:
        return MarkovDraft(self, rows, self.logits(rows), anchors)
