"""What a row's next tokens may be: a grammar, and reasoning before it, with its budget.

Masks for a whole draft are computed from the draft itself; nothing here touches the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from dflash_serve.engine.grammar import Grammar
from dflash_serve.engine.types import ThinkingRule

Words = npt.NDArray[np.uint32]
_ALL = 0xFFFFFFFF


class ConstraintError(Exception):
    """The row cannot go on; one line."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A draft as far as it may go: ``tokens`` [n - 1] to verify and the ``masks`` of n positions.

    masks [n, words] uint32, one bit per token of the vocabulary, the lowest bit first.
    """

    tokens: tuple[int, ...]
    masks: Words


class _Phase(Enum):
    START = "the model may open its reasoning"
    REASONING = "reasoning"
    GUIDED = "the grammar holds"
    FREE = "anything"


class Constraint:
    """One row's state. ``commit`` advances it, ``walk`` looks ahead and leaves it alone.

    Reasoning is delimited by ``thinking``; without it the grammar holds from the first token.
    """

    def __init__(
        self,
        grammar: Grammar | None,
        thinking: ThinkingRule | None,
        stop_tokens: frozenset[int],
        vocab_size: int,
    ) -> None:
        self._matcher: LLMatcher | None = grammar.start() if grammar else None
        self._thinking = thinking
        self._stops = stop_tokens
        self._words = -(-vocab_size // 32)
        self._recent: tuple[int, ...] = ()  # the last tokens, as many as a marker has
        self._reasoned = 0
        self._phase = self._after_reasoning
        if thinking is not None:
            may_open = _Phase.START if thinking.open else self._after_reasoning
            self._phase = _Phase.REASONING if thinking.begun else may_open

    @property
    def _after_reasoning(self) -> _Phase:
        return _Phase.FREE if self._matcher is None else _Phase.GUIDED

    def foresees(self, width: int) -> bool:
        """Whether the masks of the next ``width`` tokens do not depend on the draft.

        Tokens behind the point where reasoning begins or ends are dropped by `commit`.
        """
        if self._phase is _Phase.REASONING:
            return not self._forcing(width)
        return self._phase is _Phase.FREE or self._matcher is None

    def foreseen(self, width: int) -> Words | None:
        """Those masks [width, words]; None where every token is allowed.

        A row that must still obey its grammar cannot end inside its reasoning.
        """
        if self._phase is not _Phase.REASONING or self._matcher is None:
            return None
        masks = self._blank(width)
        for stop in self._stops:
            _forbid(masks, stop)
        return masks

    def walk(self, draft: Sequence[int]) -> Walk:
        """``draft`` cut where it leaves what is allowed; forced tokens take the draft's place.

        Raises:
            ConstraintError: the grammar has become too complex.
        """
        if self._phase is _Phase.GUIDED:
            return self._walk_grammar(draft)
        if self._phase is _Phase.REASONING:
            return self._walk_reasoning(draft)
        if self._phase is _Phase.START and self._matcher is not None:
            return self._walk_start()
        return Walk(tuple(draft), self._blank(len(draft) + 1))

    def commit(self, tokens: Sequence[int]) -> int:
        """Take chosen tokens; how many of them count: those up to where other rules begin."""
        for count, token in enumerate(tokens, 1):
            before = self._phase
            self._take(token)
            if self._phase not in (before, _Phase.FREE):
                return count
        return len(tokens)

    def _take(self, token: int) -> None:
        if self._phase is _Phase.GUIDED:
            self._consume(token)
            return
        if self._thinking is None or self._phase is _Phase.FREE:
            return
        rule = self._thinking
        self._recent = (*self._recent, token)[-max(len(rule.open), len(rule.close)) :]
        if self._phase is _Phase.START:
            self._begin(token, rule)
            return
        self._reasoned += 1
        if self._recent[-len(rule.close) :] == rule.close:
            self._phase = self._after_reasoning

    def _begin(self, token: int, rule: ThinkingRule) -> None:
        """The answer's first tokens: the reasoning's opening marker, or the answer itself."""
        if self._recent == rule.open[: len(self._recent)]:
            if len(self._recent) == len(rule.open):
                self._phase, self._recent = _Phase.REASONING, ()
            return
        self._phase = self._after_reasoning
        if self._matcher is not None:
            self._consume(token)

    def _consume(self, token: int) -> None:
        assert self._matcher is not None
        if token in self._stops or self._matcher.is_stopped():
            return  # the row ends with it
        if not self._matcher.consume_token(token):
            raise ConstraintError(f"the grammar refused token {token}")

    def _walk_start(self) -> Walk:
        """The grammar's first tokens or the opening marker, one position at a time."""
        assert self._thinking is not None
        opened = len(self._recent)
        masks = self._blank(1)
        if opened:  # inside a marker of several tokens
            return Walk((), self._only(self._thinking.open[opened : opened + 1]))
        self._fill(masks[0])
        _allow(masks[0], self._thinking.open[0])
        return Walk((), masks)

    def _walk_reasoning(self, draft: Sequence[int]) -> Walk:
        """Anything up to the budget, then the closing marker; no stop token before a grammar."""
        assert self._thinking is not None
        budget = self._thinking.budget
        room = len(draft) + 1 if budget is None else budget - self._reasoned
        if room > 0:  # the marker is forced in the round behind the budget
            tokens = tuple(draft[: room - 1])
            masks = self.foreseen(len(tokens) + 1)
            return Walk(tokens, self._blank(len(tokens) + 1) if masks is None else masks)
        close = self._thinking.close
        begun = next(
            size
            for size in range(len(close) - 1, -1, -1)
            if size == 0 or self._recent[-size:] == close[:size]
        )
        rest = close[begun:][: len(draft) + 1]
        return Walk(tuple(rest[:-1]), self._only(rest))

    def _forcing(self, width: int) -> bool:
        """Whether the budget of reasoning ends within the next ``width`` tokens."""
        budget = None if self._thinking is None else self._thinking.budget
        return budget is not None and self._reasoned + width > budget

    def _walk_grammar(self, draft: Sequence[int]) -> Walk:
        assert self._matcher is not None
        width = len(draft) + 1
        masks = self._blank(width)
        tokens: list[int] = []
        forced: list[int] = []
        try:
            while True:
                mask = masks[len(tokens)]
                self._fill(mask)
                if len(tokens) == width - 1 or self._matcher.is_stopped():
                    break
                if not forced and not self._drafted(draft[len(tokens)], mask):
                    forced = self._matcher.compute_ff_tokens()
                token = forced.pop(0) if forced else draft[len(tokens)]
                if not self._drafted(token, mask) or not self._matcher.try_consume_tokens([token]):
                    break
                tokens.append(token)
        finally:
            if tokens:
                self._matcher.rollback(len(tokens))
        return Walk(tuple(tokens), masks[: len(tokens) + 1])

    def _drafted(self, token: int, mask: Words) -> bool:
        """Whether a token may stand in a draft: allowed, and not the text's end."""
        return token not in self._stops and _allowed(mask, token)

    def _fill(self, mask: Words) -> None:
        """The tokens that the grammar allows next; only stop tokens once it is complete."""
        assert self._matcher is not None
        if self._matcher.is_error():
            raise ConstraintError(" ".join(self._matcher.get_error().split())[:200])
        if self._matcher.is_stopped() and self._stops:
            mask[:] = 0
            for stop in self._stops:
                _allow(mask, stop)
            return
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)
        if self._matcher.is_error():
            raise ConstraintError(" ".join(self._matcher.get_error().split())[:200])
        mask[:] = bits[: len(mask)]

    def _blank(self, positions: int) -> Words:
        return np.full((positions, self._words), _ALL, dtype=np.uint32)

    def _only(self, tokens: Sequence[int]) -> Words:
        masks = np.zeros((len(tokens), self._words), dtype=np.uint32)
        for mask, token in zip(masks, tokens, strict=True):
            _allow(mask, token)
        return masks


def _allow(mask: Words, token: int) -> None:
    mask[token // 32] |= np.uint32(1 << (token % 32))


def _forbid(masks: Words, token: int) -> None:
    masks[:, token // 32] &= np.uint32(_ALL ^ (1 << (token % 32)))


def _allowed(mask: Words, token: int) -> bool:
    return bool(int(mask[token // 32]) >> (token % 32) & 1)
