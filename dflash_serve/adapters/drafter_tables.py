"""What a drafter may store beside its network: an embedding, a head, and a reduced vocabulary.

All of them are the target's in z-lab's layout. Nothing that is stored is dropped unseen: a copy of
the target's is left out, what differs from it is the drafter's own.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from dflash_serve.adapters.base import AdapterError, TargetAdapter

_SAMPLED = 16
"""Rows of an embedding, and columns of a head, that are compared with the target's."""
_SAME = 0.95
"""Cosine from which two tables are one: 4-bit weights are at 0.995 of their originals, 2-bit ones
at 0.91, other tables near 0."""


def own_tables(
    stored: Mapping[str, mx.array], target: TargetAdapter, reduced: int, what: str
) -> tuple[bool, bool]:
    """Whether the stored embedding and the stored head are the drafter's own.

    A head of ``reduced`` logits, where that is not 0, always is.

    Raises:
        AdapterError: a table does not have the target's sizes.
    """
    width, vocab = target.hidden_size, target.vocab_size
    embedding, head = (stored.get(name) for name in ("embed_tokens.weight", "lm_head.weight"))
    for name, table, rows in (
        ("embed_tokens.weight", embedding, vocab),
        ("lm_head.weight", head, reduced or vocab),
    ):
        if table is not None and table.shape != (rows, width):
            raise AdapterError(
                f"{what}: {name} has shape {list(table.shape)}, but its config and its target say "
                f"{[rows, width]}"
            )
    own_embedding = embedding is not None and not _same_embedding(embedding, target)
    own_head = reduced > 0 or (head is not None and not _same_head(head, target))
    return own_embedding, own_head


def target_ids(stored: Mapping[str, mx.array], reduced: int, vocab: int, what: str) -> mx.array:
    """The target's token of each of ``reduced`` logits, int32, from speculators' d2t and t2d.

    d2t[i] is what is added to i; t2d tells which of ``vocab`` tokens are meant, and may be missing.

    Raises:
        AdapterError: a table is missing, of a wrong length or range, or they contradict each other.
    """
    if "d2t" not in stored:
        raise AdapterError(f"{what} lacks d2t, but its draft_vocab_size is {reduced}")
    _check_length(f"{what}: d2t", stored["d2t"], reduced, "draft_vocab_size")
    ids = mx.arange(reduced, dtype=mx.int64) + stored["d2t"].astype(mx.int64)
    lowest, highest = _whole(ids.min()), _whole(ids.max())
    if lowest < 0 or highest >= vocab:
        wrong = lowest if lowest < 0 else highest
        raise AdapterError(f"{what}: d2t gives token {wrong}, but the vocabulary has {vocab}")
    meant = mx.zeros(vocab, dtype=mx.bool_)
    meant[ids] = True
    count = _whole(meant.sum())
    if count != reduced:
        raise AdapterError(f"{what}: d2t gives {count} different tokens for {reduced} logits")
    if "t2d" in stored:
        _check_length(f"{what}: t2d", stored["t2d"], vocab, "vocab_size")
        given = stored["t2d"].astype(mx.bool_)
        if not mx.array_equal(given, meant).item():
            token = _whole(mx.argmax(given != meant))
            raise AdapterError(
                f"{what}: t2d and d2t contradict each other: t2d has {_whole(given.sum())} "
                f"tokens, d2t {count}, first difference at token {token}"
            )
    return ids.astype(mx.int32)


def offsets(ids: mx.array) -> mx.array:
    """The d2t of `target_ids`."""
    return ids.astype(mx.int64) - mx.arange(len(ids), dtype=mx.int64)


def check_whole(stored: Mapping[str, mx.array], vocab: int, what: str) -> None:
    """Refuse a mapping that is not the identity where the config has no reduced vocabulary."""
    for name, same in (("d2t", 0), ("t2d", 1)):
        table = stored.get(name)
        if table is not None and (table.shape != (vocab,) or (table != same).any().item()):
            raise AdapterError(
                f"{what} has a {name} of shape {list(table.shape)} that maps tokens to others, but "
                f"its config has no draft_vocab_size below vocab_size {vocab}"
            )


def _check_length(what: str, table: mx.array, wanted: int, key: str) -> None:
    if table.shape != (wanted,):
        raise AdapterError(f"{what} has shape {list(table.shape)}, but {key} is {wanted}")


def _same_embedding(stored: mx.array, target: TargetAdapter) -> bool:
    step = max(1, target.vocab_size // _SAMPLED)
    tokens = mx.arange(0, target.vocab_size, step, dtype=mx.int32)[:_SAMPLED]
    return _cosine(stored[tokens], target.embed(tokens)) >= _SAME


def _same_head(stored: mx.array, target: TargetAdapter) -> bool:
    width = stored.shape[1]
    units = mx.eye(width, dtype=target.dtype)[: min(_SAMPLED, width)]
    return _cosine(stored[:, : len(units)].T, target.head(units)) >= _SAME


def _cosine(one: mx.array, other: mx.array) -> float:
    one, other = one.astype(mx.float32), other.astype(mx.float32)
    lengths = mx.sqrt((one * one).sum() * (other * other).sum())
    cosine: Any = ((one * other).sum() / mx.maximum(lengths, 1e-30)).item()
    return float(cosine)


def _whole(scalar: mx.array) -> int:
    value: Any = scalar.item()
    return int(value)
