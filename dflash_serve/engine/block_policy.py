"""How many tokens to verify for a row in the next round. Pure Python, no device."""

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.sequence import Sequence

CPU_VERIFY_TOKENS = 64
"""Rows x block beyond which drafting stops paying on a CPU, where every verified row costs."""


def choose_block(sequence: Sequence, rows: int, config: EngineConfig) -> int:
    """The block for ``sequence`` in a round of ``rows``: the anchor and its drafts.

    A block of b tokens commits at most b, so b > remaining would be wasted work and, at the
    context's end, writes past the cache. ``config.verify_tokens`` is shared by all rows. Drafting
    needs the drafter's context of all tokens; until then the block is 1.
    """
    if sequence.missed or not sequence.drafts:
        return 1
    block = config.block_size
    if config.verify_tokens:
        room = max(1, config.verify_tokens // rows)
        block = min(block, 1 << (room.bit_length() - 1))  # a width that is traced anyway
    return max(1, min(block, sequence.remaining))
