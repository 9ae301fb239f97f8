"""What crosses the engine's border: requests in, chunks out. Plain Python values only.

Knows nothing of text, HTTP or arrays.
"""

from dataclasses import dataclass, field
from enum import Enum


class FinishReason(Enum):
    """Why a request ended."""

    STOP = "stop"
    """A stop token was generated."""
    LENGTH = "length"
    """``max_tokens`` or the context's end was reached."""
    ABORTED = "aborted"
    """The client gave up, or the engine shut down before the request was done."""
    ERROR = "error"
    """The engine failed; ``TokenChunk.error`` says how."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the target's token is chosen at each position. All defaults are resolved.

    ``temperature`` 0 is greedy and ignores the rest. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0
    switch that filter off. ``seed`` is any 64-bit integer: together with a token's position in
    the sequence it fixes that token's random draw.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request: token ids in, at most ``max_tokens`` token ids out.

    ``id`` is unique among live requests. ``stop_tokens`` end the request; a stop token is counted
    in the usage but never emitted.
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop_tokens: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost. Times are seconds of the engine's own clock.

    ``completion_tokens`` counts every generated token, a final stop token included.
    ``rounds`` is the number of verify passes; each commits at least one token. ``drafted`` counts
    proposals sent to verification, ``accepted`` those that the target agreed with and that were
    committed.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    queue_time: float = 0.0
    time_to_first_token: float = 0.0
    decode_time: float = 0.0

    @property
    def tokens_per_round(self) -> float:
        """Committed tokens per verify pass, the bonus token included (the field's tau)."""
        return (self.completion_tokens - 1) / self.rounds if self.rounds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second after the first one."""
        return (self.completion_tokens - 1) / self.decode_time if self.decode_time > 0 else 0.0


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Tokens of one request from one step. Exactly one chunk per request has ``finish`` set.

    ``usage`` is set on the terminal chunk. ``tokens`` may be empty on it. ``stop_token`` is the
    one that ended the request: counted, but not among the tokens.
    """

    request_id: str
    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    usage: Usage | None = None
    error: str | None = None
    stop_token: int | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine: rows now, totals since the start."""

    running: int = 0
    waiting: int = 0
    slots: int = 0
    free_slots: int = 0
    finished_requests: int = 0
    generated_tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
