"""DFlash 2: the DFlash network with dynamic convolutions in the block and a candidate selector.

Follows z-lab's published DFlash 2 checkpoints; parameter names are theirs.
"""

from collections.abc import Callable
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from dflash_serve.adapters.base import Draft
from dflash_serve.adapters.dflash import (
    Attend,
    DFlashDrafter,
    DFlashModel,
    DraftLayer,
    likeliest,
    top_probability,
)
from dflash_serve.adapters.dflash_config import DFlashConfig
from dflash_serve.adapters.rotary import Rotary
from dflash_serve.kernels.block_conv import convolve
from dflash_serve.kernels.selection import Candidates, Rescoring, top, walk


class BlockConv(nn.Module):
    """Causal convolutions along a block's rows, before and after a sublayer.

    Each channel has a base kernel of its own, to which every row adds one of its own per group of
    channels. Rows before the block's first are zero.
    """

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        hidden, taps = config.hidden_size, config.conv_kernel_size
        self._groups = hidden // config.conv_group_size
        first = mx.concatenate([mx.ones((2, 1, hidden)), mx.zeros((2, taps - 1, hidden))], axis=1)
        self.base_kernel = first  # [2, taps, H]: the identity
        self.kernel_projection = nn.Linear(hidden, 2 * taps * self._groups, bias=False)
        self.kernel_projection.weight = mx.zeros_like(self.kernel_projection.weight)

    def __call__(self, x: mx.array, sublayer: Callable[[mx.array], mx.array]) -> mx.array:
        """Normed block rows [R, q, H] -> the convolved sublayer's output [R, q, H]."""
        _, taps, _ = self.base_kernel.shape
        own = self.kernel_projection(x).reshape(*x.shape[:2], 2, taps, self._groups)
        inner = sublayer(convolve(x, self.base_kernel, own, 0))
        return convolve(inner, self.base_kernel, own, 1)


class DFlash2Layer(DraftLayer):
    """A draft layer whose attention and MLP sit between convolutions along the block."""

    def __init__(self, config: DFlashConfig, rotary: Rotary) -> None:
        super().__init__(config, rotary)
        self.attention_conv = BlockConv(config)
        self.mlp_conv = BlockConv(config)

    def __call__(self, x: mx.array, attend: Attend) -> mx.array:
        x = x + self.attention_conv(self.input_layernorm(x), partial(attend, self.self_attn))
        return x + self.mlp_conv(self.post_attention_layernorm(x), self.mlp)


class CandidateSelector(nn.Module):
    """Rescores each slot's best tokens by the token before: low-rank, gated by the slot's row."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        vocab, rank = config.vocab_size, config.selector_rank
        self._top_k = config.selector_top_k
        # predecessors start at zero: at first the selector leaves the order as it is
        self.predecessor_codebook = mx.zeros((vocab, rank))
        self.successor_codebook = mx.random.normal((vocab, rank)) * rank**-0.5
        self.hidden_projection = nn.Linear(config.hidden_size, rank, bias=False)

    def candidates(self, logits: mx.array) -> Candidates:
        """The highest of logits [..., V], in no order."""
        return top(logits, self._top_k)

    def scores(
        self, rows: mx.array, previous: mx.array, candidates: mx.array, unary: mx.array
    ) -> mx.array:
        """Rows [..., H], tokens before [...], candidate ids and logits [..., C] -> [..., C]."""
        gate = self.hidden_projection(rows) * self.predecessor_codebook[previous]  # [..., r]
        return unary + (self.successor_codebook[candidates] @ gate[..., None])[..., 0]


class SelectedDraft:
    """A `Draft` whose slots' candidates are rescored by the token before them.

    rows [R, q, H] after the final norm, logits [R, q, V], anchors [R].
    """

    def __init__(
        self, selector: CandidateSelector, rows: mx.array, logits: mx.array, anchors: mx.array
    ) -> None:
        self._anchors = anchors
        self._candidates = selector.candidates(logits)
        self._rescoring = Rescoring(
            selector.hidden_projection(rows),
            selector.predecessor_codebook,
            selector.successor_codebook,
        )
        self._walked: tuple[mx.array, mx.array] | None = None

    def chain(self) -> mx.array:
        return self._walk()[0]

    def confidences(self) -> mx.array:
        return top_probability(self._walk()[1])

    def _walk(self) -> tuple[mx.array, mx.array]:
        """Tokens [R, q] int32 chosen left to right, and the scores [R, q, C] that chose them."""
        if self._walked is None:
            self._walked = walk(self._anchors, self._candidates, self._rescoring)
        return self._walked

    def children(self, slot: int, before: mx.array, count: int) -> tuple[mx.array, mx.array]:
        scores = self._scores(slot, before)
        at, log_probabilities = likeliest(scores, count)
        candidates = mx.broadcast_to(self._candidates.ids[:, slot, None], scores.shape)
        return mx.take_along_axis(candidates, at, axis=-1), log_probabilities

    def _scores(self, slot: int, before: mx.array) -> mx.array:
        """Scores [R, N, C] of the candidates of ``slot`` after ``before`` [R, N]."""
        ids, logits = (part[:, slot] for part in self._candidates)
        gates, predecessors, successors = self._rescoring
        columns = successors[ids].swapaxes(-1, -2)  # [R, r, C]
        return logits[:, None] + (gates[:, slot, None] * predecessors[before]) @ columns


class DFlash2Model(DFlashModel):
    """The stored weights: 15 tensors per layer, fc, hidden_norm, norm, and the selector's three."""

    layer_class = DFlash2Layer

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__(config)
        self.candidate_selector = CandidateSelector(config)


class DFlash2Drafter(DFlashDrafter):
    """A `DraftAdapter` whose slots are chosen left to right, each knowing the token before it."""

    model_class = DFlash2Model

    def read(self, rows: mx.array, anchors: mx.array) -> Draft:
        return SelectedDraft(self.model.candidate_selector, rows, self.logits(rows), anchors)
