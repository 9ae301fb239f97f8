"""What crosses the engine's border: requests in, chunks out. Plain Python values only.

Knows nothing of text, HTTP or arrays.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


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
class LogitRules:
    """What is done to logits before a token is chosen, position by position.

    ``bias``: (token id, added value), at most one entry per token. ``presence`` is subtracted once
    from each token generated so far, ``frequency`` once per occurrence (OpenAI). ``repetition``
    divides positive and multiplies negative logits of tokens in the prompt or generated so far
    (Keskar et al., 2019, CTRL, section 4.1); 1 switches it off. ``min_tokens``: stop tokens
    cannot be chosen before that many tokens were generated. Order: bias, repetition, frequency and
    presence. Tokens drafted before a position count as generated there.
    """

    bias: tuple[tuple[int, float], ...] = ()
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    min_tokens: int = 0

    @property
    def counts(self) -> bool:
        """Whether tokens that stand before a position matter."""
        return self.presence != 0.0 or self.frequency != 0.0 or self.repetition != 1.0

    @property
    def neutral(self) -> bool:
        return not self.bias and not self.counts and self.min_tokens == 0


@dataclass(frozen=True, slots=True)
class ThinkingRule:
    """How reasoning is delimited in token ids, for a grammar that begins after it and a budget.

    ``open`` and ``close`` are the marker token sequences; ``open`` empty: the model writes none.
    ``begun``: the prompt ends inside the reasoning already. ``budget``: tokens of reasoning after
    which ``close`` is forced; None is no limit. Without ``begun`` and without an ``open`` marker
    as the first tokens there is no reasoning.
    """

    close: tuple[int, ...]
    open: tuple[int, ...] = ()
    begun: bool = False
    budget: int | None = None

    def __post_init__(self) -> None:
        if not self.close:
            raise ValueError("a thinking rule needs a closing marker")


class TokenGrammar(Protocol):
    """A compiled grammar. ``source`` identifies it; `engine.grammar` makes and reads it."""

    @property
    def source(self) -> str: ...


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request: token ids in, at most ``max_tokens`` token ids out.

    ``id`` is unique among live requests. ``stop_tokens`` end the request; a stop token is counted
    in the usage but never emitted. Requests of one ``group`` share its turn in the queue (the
    choices of one HTTP request); empty means a group of its own. ``logprobs``: None for none, else
    how many of the most likely tokens to report beside each chosen one; ``prompt_logprobs`` the
    same for the prompt's own tokens. ``grammar``: the text obeys it from its first token on, or
    from the end of the reasoning that ``thinking`` delimits.
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop_tokens: frozenset[int] = frozenset()
    group: str = ""
    rules: LogitRules = field(default_factory=LogitRules)
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: TokenGrammar | None = None
    thinking: ThinkingRule | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log-probability of one token, and the most likely tokens at its position.

    Of the model's own distribution: before bias, penalties, grammar and temperature. ``top`` is
    (token id, log-probability), most likely first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


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
    one that ended the request: counted, but not among the tokens. ``logprobs`` has one entry per
    token where the request asked for them, and one more for ``stop_token``. ``prompt_logprobs``
    comes once, on the first chunk, if asked for: entry i is prompt token i's, None for the first.
    """

    request_id: str
    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    usage: Usage | None = None
    error: str | None = None
    stop_token: int | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine: rows now, totals since the start.

    ``rounds`` counts each row's; in ``plain_rounds`` of them nothing was drafted.
    """

    running: int = 0
    waiting: int = 0
    slots: int = 0
    free_slots: int = 0
    finished_requests: int = 0
    generated_tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    plain_rounds: int = 0
