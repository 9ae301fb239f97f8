"""Limits of one engine. Nothing else: no paths, no names, no policy state."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Bounds checked at construction.

    max_batch: rows that decode together. max_queue: requests that may wait. max_context: tokens
    of one request, prompt and completion. prefill_chunk: prompt tokens (rows x padded length)
    processed between two rounds. block_size: tokens verified per row and round, the anchor
    included; 1 is plain decoding. verify_tokens: bound on rows x block in one round, 0 for none:
    where verification is compute-bound, more rows leave less room to draft. memory_limit: bytes
    of cache the rows may take, 0 for none. max_stall: seconds that a prefill chunk and the round
    beside it may take together; chunks are cut to it, though not below 64 tokens.
    """

    max_batch: int = 8
    max_queue: int = 128
    max_context: int = 4096
    prefill_chunk: int = 512
    block_size: int = 1
    verify_tokens: int = 0
    memory_limit: int = 0
    max_stall: float = 0.25

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_context", "prefill_chunk", "block_size"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        for name in ("max_queue", "verify_tokens", "memory_limit"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name} is {value}, but must not be negative")
        if not self.max_stall > 0:
            raise ValueError(f"max_stall is {self.max_stall}, but must be above 0")
