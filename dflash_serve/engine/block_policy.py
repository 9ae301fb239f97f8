"""How many tokens to verify for a row in the next round. Pure Python, no device."""

from dflash_serve.engine.sequence import Sequence


def choose_block(sequence: Sequence, block_size: int) -> int:
    """The block for ``sequence``: the anchor and its drafts, never past what it may still emit.

    A block of b tokens commits at most b, so b > remaining would be wasted work and, at the
    context's end, writes past the cache.
    """
    return max(1, min(block_size, sequence.remaining))
