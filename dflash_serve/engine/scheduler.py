"""Which rows run next, and what becomes of their results. Ints only: no tensors, no threads.

Owns the waiting queue, the slots and every `Sequence`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile

from dflash_serve.engine.block_policy import choose_block
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.errors import RequestError
from dflash_serve.engine.plan import (
    ContextRow,
    DecodeRow,
    Move,
    PrefillRow,
    StepPlan,
    StepResult,
)
from dflash_serve.engine.sequence import Sequence
from dflash_serve.engine.types import EngineRequest, EngineStats, FinishReason, TokenChunk


class Scheduler:
    """Continuous batching over dense slots: ``_rows[i]`` is the sequence in slot i.

    Rows [0, _decoding) decode, the rest prefill. ``bytes_per_token`` is what one token of one
    row takes in all caches, for admission under ``config.memory_limit``.
    """

    def __init__(
        self, config: EngineConfig, clock: Callable[[], float], bytes_per_token: int = 0
    ) -> None:
        self._config = config
        self._clock = clock
        self._bytes_per_token = bytes_per_token
        self._waiting: deque[Sequence] = deque()
        self._rows: list[Sequence] = []
        self._decoding = 0
        self._moves: list[Move] = []
        self._finished = 0
        self._totals = [0, 0, 0, 0]  # generated tokens, rounds, drafted, accepted

    @property
    def idle(self) -> bool:
        return not self._rows and not self._waiting

    def stats(self) -> EngineStats:
        generated, rounds, drafted, accepted = self._totals
        return EngineStats(
            running=len(self._rows),
            waiting=len(self._waiting),
            slots=self._config.max_batch,
            free_slots=self._config.max_batch - len(self._rows),
            finished_requests=self._finished,
            generated_tokens=generated,
            rounds=rounds,
            drafted=drafted,
            accepted=accepted,
        )

    def add(self, request: EngineRequest) -> None:
        """Queue a request that `check_request` has passed."""
        limit = min(request.max_tokens, self._config.max_context - len(request.prompt))
        self._waiting.append(Sequence(request, limit, self._clock()))

    def abort(self, request_id: str) -> list[TokenChunk]:
        """End a request between two steps; its terminal chunk, or nothing if it is unknown."""
        for sequence in self._waiting:
            if sequence.request.id == request_id:
                self._waiting.remove(sequence)
                sequence.finish = FinishReason.ABORTED
                return [self._terminal(sequence, ())]
        for slot, sequence in enumerate(self._rows):
            if sequence.request.id == request_id:
                sequence.finish = FinishReason.ABORTED
                self._release(slot)
                return [self._terminal(sequence, ())]
        return []

    def fail_all(self, message: str) -> list[TokenChunk]:
        """End every request with an error; used once, when the device has failed."""
        live = [*self._rows, *self._waiting]
        self._rows.clear()
        self._waiting.clear()
        self._decoding = 0
        for sequence in live:
            sequence.finish = FinishReason.ERROR
        return [self._terminal(sequence, (), message) for sequence in live]

    def draft_anew(self, block_size: int, bytes_per_token: int) -> None:
        """Another drafter has taken over, knowing none of the tokens that rows hold.

        Rows decode plainly until the next plans have shown it all of theirs.
        """
        self._config = replace(self._config, block_size=block_size)
        self._bytes_per_token = bytes_per_token
        for sequence in self._rows:
            sequence.missed_from = 0
            sequence.missed_to = sequence.length if block_size > 1 else 0

    def plan(self) -> StepPlan | None:
        """The next step, or None when nothing can run."""
        self._admit()
        if not self._rows:
            return None
        moves, self._moves = tuple(self._moves), []
        context = self._plan_context()
        prefill = () if context else self._plan_prefill()
        return StepPlan(moves, context, prefill, self._plan_decode())

    def commit(self, plan: StepPlan, result: StepResult) -> list[TokenChunk]:
        """Take a step's results: one chunk per row that has tokens or ends."""
        now = self._clock()
        for shown in plan.context:
            self._rows[shown.slot].missed_from += len(shown.tokens)
        chunks: list[TokenChunk] = []
        ready: list[Sequence] = []
        for row, token in zip(plan.prefill, result.first_tokens, strict=True):
            sequence = self._rows[row.slot]
            sequence.prefilled += len(row.tokens)
            if row.last:
                chunks.append(self._emit(sequence, (token,), now))
                ready.append(sequence)
        for decode, tokens in zip(plan.decode, result.committed, strict=True):
            sequence = self._rows[decode.slot]
            self._count_round(sequence, decode, tokens)
            chunks.append(self._emit(sequence, tokens, now, drafts=len(tokens) - 1))
        for sequence in ready:
            self._promote(sequence)
        for slot in reversed(range(len(self._rows))):
            if self._rows[slot].finish is not None:
                self._release(slot)
        return chunks

    def _admit(self) -> None:
        while self._waiting and len(self._rows) < self._config.max_batch:
            if not self._fits([*self._rows, self._waiting[0]]):
                return
            sequence = self._waiting.popleft()
            sequence.admitted_at = self._clock()
            self._rows.append(sequence)

    def _fits(self, rows: list[Sequence]) -> bool:
        limit = self._config.memory_limit
        if not limit or len(rows) == 1:
            return True
        longest = max(sequence.reserved for sequence in rows)
        return len(rows) * longest * self._bytes_per_token <= limit

    def _plan_context(self) -> tuple[ContextRow, ...]:
        """The first rows next to each other that the drafter has not seen whole; mostly none."""
        missed = [sequence.missed for sequence in self._rows]
        first = next((slot for slot, amount in enumerate(missed) if amount), len(missed))
        amounts = list(takewhile(bool, missed[first:]))
        picked, width = self._chunk(amounts)
        rows = []
        for slot, sequence in enumerate(self._rows[first : first + picked], start=first):
            start = sequence.missed_from
            end = min(start + width, sequence.missed_to)
            rows.append(ContextRow(slot, start, sequence.tokens(start, end)))
        return tuple(rows)

    def _plan_prefill(self) -> tuple[PrefillRow, ...]:
        """The first prefilling rows."""
        candidates = self._rows[self._decoding :]
        picked, width = self._chunk([sequence.prompt_remaining for sequence in candidates])
        rows = []
        for slot, sequence in enumerate(candidates[:picked], start=self._decoding):
            start, prompt = sequence.prefilled, sequence.request.prompt
            tokens = prompt[start : start + width]
            last = start + len(tokens) == len(prompt)
            rows.append(PrefillRow(slot, start, tokens, last, sequence.request.sampling))
        return tuple(rows)

    def _chunk(self, wanted: list[int]) -> tuple[int, int]:
        """How many of the first rows go together, ``wanted`` tokens each, and how many columns.

        Rows padded to the widest fit ``prefill_chunk`` tokens.
        """
        budget = self._config.prefill_chunk
        picked, width = 0, 0
        for amount in wanted:
            wider = max(width, min(amount, budget))
            if picked and (picked + 1) * wider > budget:
                break
            picked, width = picked + 1, wider
        return picked, width

    def _plan_decode(self) -> tuple[DecodeRow, ...]:
        return tuple(
            DecodeRow(
                slot,
                sequence.length,
                sequence.generated[-1],
                choose_block(sequence, self._decoding, self._config),
                sequence.request.sampling,
            )
            for slot, sequence in enumerate(self._rows[: self._decoding])
        )

    def _count_round(self, sequence: Sequence, row: DecodeRow, tokens: tuple[int, ...]) -> None:
        if not 1 <= len(tokens) <= row.block:
            raise AssertionError(f"a round committed {len(tokens)} tokens of a block {row.block}")
        sequence.rounds += 1
        sequence.drafted += row.block - 1
        self._totals[1] += 1
        self._totals[2] += row.block - 1

    def _emit(
        self, sequence: Sequence, tokens: tuple[int, ...], now: float, drafts: int = 0
    ) -> TokenChunk:
        """Commit ``tokens``, the first ``drafts`` of which were accepted drafts, and count them."""
        before = len(sequence.generated)
        kept = sequence.commit(tokens, now)
        generated = len(sequence.generated) - before
        accepted = min(generated, drafts)
        sequence.accepted += accepted
        self._totals[0] += generated
        self._totals[3] += accepted
        if sequence.finish is None:
            return TokenChunk(sequence.request.id, kept)
        return self._terminal(sequence, kept)

    def _terminal(
        self, sequence: Sequence, tokens: tuple[int, ...], error: str | None = None
    ) -> TokenChunk:
        self._finished += 1
        stopped = sequence.finish is FinishReason.STOP
        return TokenChunk(
            sequence.request.id,
            tokens,
            sequence.finish,
            sequence.usage(),
            error,
            sequence.generated[-1] if stopped else None,
        )

    def _promote(self, sequence: Sequence) -> None:
        """A prefilled row becomes the last decoding one."""
        slot = self._rows.index(sequence)
        target = self._decoding
        if slot != target:
            self._rows[slot], self._rows[target] = self._rows[target], sequence
            self._moves.append(Move(slot, target, swap=True))
        self._decoding += 1

    def _release(self, slot: int) -> None:
        """Free a slot and keep both ranges dense: the last row of each moves into the gap."""
        if slot < self._decoding:
            self._decoding -= 1
            slot = self._move(self._decoding, slot)
        self._move(len(self._rows) - 1, slot)
        self._rows.pop()

    def _move(self, source: int, target: int) -> int:
        if source != target:
            self._rows[target] = self._rows[source]
            self._moves.append(Move(source, target))
        return source


def check_request(request: EngineRequest, config: EngineConfig) -> None:
    """Refuse what can never be served, before any work.

    Raises:
        RequestError: naming the value and the limit.
    """
    prompt = len(request.prompt)
    if prompt == 0:
        raise RequestError("the prompt has no tokens", "messages")
    if prompt >= config.max_context:
        raise RequestError(
            f"the prompt has {prompt} tokens, but the model's context holds "
            f"{config.max_context} tokens, prompt and completion together",
            "messages",
        )
    if request.max_tokens < 1:
        raise RequestError(
            f"max_tokens is {request.max_tokens}, but must be at least 1", "max_tokens"
        )
