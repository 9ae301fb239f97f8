"""The mutable state of one request inside the engine. Owned by the scheduler."""

from dataclasses import dataclass, field

from dflash_serve.engine.plan import RowSpec
from dflash_serve.engine.types import EngineRequest, FinishReason, TokenLogprob, Usage


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way: the tokens known of it, how many its caches hold, counters, clocks.

    Prompt and ``generated`` are the known tokens, ``held`` counts those in the caches of its row.
    A prefill chunk closes the gap between the two, a round extends both.

    ``limit`` is the number of tokens it may generate: max_tokens, cut at the context's end.
    ``row`` is a number that no other sequence has, -1 without a row. ``reserved``: bytes that its
    caches may come to take. ``passed``: requests that were admitted in its turn because it did not
    fit. [``missed_from``, ``missed_to``) are the tokens in the target's caches that a drafter
    swapped in since has no context of; ``drafts``: whether it can come to have it.
    Clock readings are seconds; 0.0 means not yet.
    """

    request: EngineRequest
    limit: int
    submitted_at: float
    row: int = -1
    reserved: int = 0
    passed: int = 0
    held: int = 0
    generated: list[int] = field(default_factory=list)
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    missed_from: int = 0
    missed_to: int = 0
    drafts: bool = True
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    admitted_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    finish: FinishReason | None = None

    @property
    def known(self) -> int:
        """Tokens of prompt and completion so far."""
        return len(self.request.prompt) + len(self.generated)

    @property
    def longest(self) -> int:
        """Tokens that prompt and completion may come to have."""
        return len(self.request.prompt) + self.limit

    @property
    def decoding(self) -> bool:
        """Whether its caches hold all but the last generated token, which is the next anchor."""
        return bool(self.generated) and self.held == self.known - 1

    @property
    def due(self) -> range:
        """Tokens to run a forward over before it drafts: missed ones first, then the gap."""
        if self.missed:
            return range(self.missed_from, self.missed_to)
        return range(0) if self.decoding else range(self.held, self.known)

    @property
    def remaining(self) -> int:
        """Tokens that may still be generated."""
        return self.limit - len(self.generated)

    @property
    def longest_block(self) -> int:
        """Tokens that a round can verify of it, the anchor included.

        A block of b tokens commits at most b, so b > remaining would be wasted work and, at the
        context's end, writes past the cache. Drafting needs the drafter's context of all tokens;
        until then the block is 1.
        """
        return max(1, self.remaining) if self.drafts and not self.missed else 1

    @property
    def group(self) -> str:
        """Sequences of one group share its turn."""
        return self.request.group or self.request.id

    @property
    def spec(self) -> RowSpec | None:
        """What the runner has to know beside sampling; None if nothing."""
        request = self.request
        prompt_logprobs = None if self.generated else request.prompt_logprobs  # reported already
        if (
            request.rules.neutral
            and request.logprobs is None
            and prompt_logprobs is None
            and request.grammar is None
            and (request.thinking is None or request.thinking.budget is None)
        ):
            return None
        return RowSpec(
            request.rules,
            request.stop_tokens,
            request.logprobs,
            prompt_logprobs,
            request.grammar,
            request.thinking,
        )

    @property
    def constrained(self) -> bool:
        """Whether the runner may have to cut its drafts: a round with it has chains."""
        spec = self.spec
        return spec is not None and not (spec.grammar is None and spec.thinking is None)

    @property
    def missed(self) -> int:
        """Tokens still to be shown to the drafter."""
        return self.missed_to - self.missed_from

    def tokens(self, start: int, end: int) -> tuple[int, ...]:
        """Tokens [start, end) of prompt and completion."""
        prompt = self.request.prompt
        before = prompt[start:end]
        return before + tuple(
            self.generated[max(0, start - len(prompt)) : max(0, end - len(prompt))]
        )

    def hold(self, tokens: int) -> None:
        """Its caches hold ``tokens`` more.

        While older ones are missed, so are these: a drafter's context is complete only if its last
        tokens were written last, since a sliding window's cache drops what was written first.
        """
        self.held += tokens
        if self.missed:
            self.missed_to = self.held

    def restart(self, row: int) -> None:
        """Begin again as ``row``, whose caches hold nothing: what is known is prefilled anew."""
        self.row = row
        self.held = self.missed_from = self.missed_to = 0
        self.drafts = True
        if not self.generated:
            self.prompt_logprobs.clear()

    def commit(self, tokens: tuple[int, ...], now: float) -> tuple[int, ...]:
        """Take chosen tokens up to the first stop token or the limit; return those to emit.

        Sets ``finish`` when the sequence ends. A stop token is counted but not emitted.
        """
        if not self.generated:
            self.first_token_at = now
        self.last_token_at = now
        for count, token in enumerate(tokens):
            self.generated.append(token)
            if token in self.request.stop_tokens:
                self.finish = FinishReason.STOP
                return tokens[:count]
            if self.remaining == 0:
                self.finish = FinishReason.LENGTH
                return tokens[: count + 1]
        return tokens

    def usage(self) -> Usage:
        """Counters so far."""
        started = self.first_token_at
        return Usage(
            prompt_tokens=len(self.request.prompt),
            completion_tokens=len(self.generated),
            rounds=self.rounds,
            drafted=self.drafted,
            accepted=self.accepted,
            queue_time=max(0.0, self.admitted_at - self.submitted_at),
            time_to_first_token=started - self.submitted_at if started else 0.0,
            decode_time=self.last_token_at - started if started else 0.0,
        )
