"""Limits of one engine. Nothing else: no paths, no names, no policy state."""

from dataclasses import dataclass

SPARE_TOKENS = 64
"""The most tokens that a round may verify of a tree: what caches of every kind can roll back."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Bounds checked at construction.

    max_batch: rows that decode together. max_queue: requests that may wait. max_context: tokens
    of one request, prompt and completion. prefill_chunk: prompt tokens (rows x padded length)
    processed between two rounds. block_size: tokens verified per row and round, the anchor
    included; 1 is plain decoding. adaptive: rounds may be narrower than that, down to plain ones,
    by what they cost and what is accepted. memory_limit: bytes of cache the rows may take, 0 for
    none. tree_nodes: the kinds of round to choose among, by the tokens that are verified per row of
    a tree, the anchor included; 0 is a chain. max_stall: seconds that a prefill chunk and the round
    beside it may take together; chunks are cut to it, though not below 64 tokens.
    """

    max_batch: int = 8
    max_queue: int = 128
    max_context: int = 4096
    prefill_chunk: int = 512
    block_size: int = 1
    adaptive: bool = False
    memory_limit: int = 0
    max_stall: float = 0.25
    tree_nodes: tuple[int, ...] = (0,)

    @property
    def round_tokens(self) -> int:
        """Places beyond the tokens that a row keeps which a round may write in its caches."""
        return max(self.block_size, SPARE_TOKENS if any(self.tree_nodes) else 0)

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_context", "prefill_chunk", "block_size"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        for name in ("max_queue", "memory_limit"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name} is {value}, but must not be negative")
        for nodes in self.tree_nodes:
            if nodes and not 2 <= nodes <= SPARE_TOKENS:
                raise ValueError(f"tree_nodes is {nodes}, but must be 2 to {SPARE_TOKENS}, or 0")
        if not self.tree_nodes:
            raise ValueError("tree_nodes names no kind of round")
        if not self.max_stall > 0:
            raise ValueError(f"max_stall is {self.max_stall}, but must be above 0")
