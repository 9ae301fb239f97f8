"""Log-probabilities of given tokens and of the most likely ones, over whole vocabularies.

On a CPU by NumPy, whose exponential is vectorised where MLX's CPU build calls a scalar one; the
logits are read in place. Elsewhere in MLX's own operations, which are also the reference.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from dflash_serve.kernels.dispatch import Backend, default_backend

_SPAN = 64
"""Logits whose maximum stands for them: the k best lie in the k spans of the largest maxima."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probabilities of N positions, on the host.

    chosen [N] float32; ids [N, k] int32 and values [N, k] float32 of the most likely tokens, the
    likeliest first, the lower id first among equals.
    """

    chosen: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]


def token_logprobs(
    logits: mx.array, tokens: npt.NDArray[np.int32], top: int, backend: Backend | None = None
) -> TokenLogprobs:
    """``logits`` [N, V] of any float dtype, ``tokens`` [N], 0 <= ``top`` <= V.

    A row's figures do not depend on its neighbours.
    """
    backend = backend or default_backend()
    logits = logits.astype(mx.float32)
    if backend is not Backend.PLAIN:
        return token_logprobs_reference(logits, tokens, top)
    rows: npt.NDArray[np.float32] = np.asarray(logits)
    parts = [_one_row(row, int(token), top) for row, token in zip(rows, tokens, strict=True)]
    return TokenLogprobs(
        np.array([part[0] for part in parts], dtype=np.float32),
        np.array([part[1] for part in parts], dtype=np.int32).reshape(len(rows), top),
        np.array([part[2] for part in parts], dtype=np.float32).reshape(len(rows), top),
    )


def token_logprobs_reference(
    logits: mx.array, tokens: npt.NDArray[np.int32], top: int
) -> TokenLogprobs:
    """``token_logprobs`` in MLX's operations; sorts the vocabulary."""
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, mx.array(tokens)[:, None], axis=-1)[:, 0]
    ids = mx.argsort(-logprobs, axis=-1)[:, :top]
    values = mx.take_along_axis(logprobs, ids, axis=-1)
    mx.eval(chosen, ids, values)
    return TokenLogprobs(
        np.array(chosen), np.array(ids).astype(np.int32), np.array(values, dtype=np.float32)
    )


def _one_row(
    row: npt.NDArray[np.float32], token: int, top: int
) -> tuple[np.float32, npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    highest = row.max()
    norm = highest + np.float32(np.log(np.exp(row - highest).sum(dtype=np.float64)))
    ids = _largest(row, top)
    return row[token] - norm, ids, row[ids] - norm


def _largest(row: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Ids of the ``count`` largest values, largest first, the lower id first among equals."""
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    width = len(row) // _SPAN
    spans = row[: width * _SPAN].reshape(_SPAN, width).max(axis=0)  # span i: i, i + width, ...
    if count >= width:
        candidates = np.arange(len(row))
    else:
        # no value outside spans that reach the count-th largest maximum can be among the largest
        bound = np.partition(spans, -count)[-count]
        inside = np.flatnonzero(spans >= bound)[:, None] + width * np.arange(_SPAN)
        candidates = np.concatenate([inside.ravel(), np.arange(width * _SPAN, len(row))])
    order = np.lexsort((candidates, -row[candidates]))
    best: npt.NDArray[np.int64] = candidates[order[:count]]
    return best
