"""Which rows run next, and what becomes of their results. Ints only: no tensors, no threads.

Owns the waiting queue, the slots and every `Sequence`.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, takewhile

from dflash_serve.engine.block_policy import choose_block
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.errors import RequestError
from dflash_serve.engine.plan import (
    Chosen,
    ContextRow,
    DecodeRow,
    Move,
    OpenedRow,
    PrefillRow,
    StepPlan,
    StepResult,
)
from dflash_serve.engine.sequence import Sequence
from dflash_serve.engine.types import (
    EngineRequest,
    EngineStats,
    FinishReason,
    TokenChunk,
    TokenLogprob,
)


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
        self._waiting = _Waiting()
        self._rows: list[Sequence] = []
        self._decoding = 0
        self._serial = count()
        self._moves: list[Move] = []
        self._opened: list[OpenedRow] = []
        self._closed: list[int] = []
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
        self._waiting.add(Sequence(request, limit, self._clock(), next(self._serial)))

    def abort(self, request_id: str) -> list[TokenChunk]:
        """End a request between two steps; its terminal chunk, or nothing if it is unknown."""
        waiting = self._waiting.remove(request_id)
        if waiting is not None:
            waiting.finish = FinishReason.ABORTED
            return [self._terminal(waiting)]
        for slot, sequence in enumerate(self._rows):
            if sequence.request.id == request_id:
                sequence.finish = FinishReason.ABORTED
                self._release(slot)
                return [self._terminal(sequence)]
        return []

    def fail_all(self, message: str) -> list[TokenChunk]:
        """End every request with an error; used once, when the device has failed."""
        live = [*self._rows, *self._waiting]
        self._rows.clear()
        self._waiting = _Waiting()
        self._decoding = 0
        for sequence in live:
            sequence.finish = FinishReason.ERROR
        return [self._terminal(sequence, error=message) for sequence in live]

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
        opened, self._opened = tuple(self._opened), []
        closed, self._closed = tuple(self._closed), []
        context = self._plan_context()
        prefill = () if context else self._plan_prefill()
        return StepPlan(closed, opened, moves, context, prefill, self._plan_decode())

    def commit(self, plan: StepPlan, result: StepResult) -> list[TokenChunk]:
        """Take a step's results: one chunk per row that has tokens or ends."""
        now = self._clock()
        for shown in plan.context:
            self._rows[shown.slot].missed_from += len(shown.tokens)
        chunks: list[TokenChunk] = []
        ready: list[Sequence] = []
        for row, chosen in zip(plan.prefill, result.prefill, strict=True):
            sequence = self._rows[row.slot]
            sequence.prefilled += len(row.tokens)
            sequence.prompt_logprobs += chosen.prompt_logprobs
            if row.last:
                chunks.append(self._emit(sequence, chosen, now))
                ready.append(sequence)
        for decode, chosen in zip(plan.decode, result.decode, strict=True):
            sequence = self._rows[decode.slot]
            self._count_round(sequence, decode, chosen)
            chunks.append(self._emit(sequence, chosen, now, drafts=len(chosen.tokens) - 1))
        for sequence in ready:
            self._promote(sequence)
        for slot in reversed(range(len(self._rows))):
            if self._rows[slot].finish is not None:
                self._release(slot)
        return chunks

    def _admit(self) -> None:
        while self._waiting and len(self._rows) < self._config.max_batch:
            sequence = self._waiting.first(Counter(row.group for row in self._rows))
            if not self._fits([*self._rows, sequence]):
                return
            self._waiting.take(sequence.group)
            sequence.admitted_at = self._clock()
            self._rows.append(sequence)
            if (spec := sequence.spec) is not None:
                self._opened.append(OpenedRow(sequence.row, spec))

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
            end = start + len(tokens)
            last = end == len(prompt)
            following = -1 if last else prompt[end]
            sampling = sequence.request.sampling
            rows.append(PrefillRow(slot, start, tokens, last, sampling, sequence.row, following))
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
                sequence.row,
            )
            for slot, sequence in enumerate(self._rows[: self._decoding])
        )

    def _count_round(self, sequence: Sequence, row: DecodeRow, chosen: Chosen) -> None:
        committed = len(chosen.tokens)
        if chosen.failure is None and not 1 <= committed <= row.block:
            raise AssertionError(f"a round committed {committed} tokens of a block {row.block}")
        sequence.rounds += 1
        sequence.drafted += row.block - 1
        self._totals[1] += 1
        self._totals[2] += row.block - 1

    def _emit(
        self, sequence: Sequence, chosen: Chosen, now: float, drafts: int = 0
    ) -> TokenChunk:
        """Commit what was chosen, the first ``drafts`` of it accepted drafts, and count it."""
        if chosen.failure is not None:
            sequence.finish = FinishReason.ERROR
            return self._terminal(sequence, error=chosen.failure)
        first = not sequence.generated
        before = len(sequence.generated)
        kept = sequence.commit(chosen.tokens, now)
        generated = len(sequence.generated) - before
        accepted = min(generated, drafts)
        sequence.accepted += accepted
        self._totals[0] += generated
        self._totals[3] += accepted
        logprobs = chosen.logprobs[:generated]
        chunk = (
            TokenChunk(sequence.request.id, kept, logprobs=logprobs)
            if sequence.finish is None
            else self._terminal(sequence, kept, logprobs)
        )
        if first and sequence.request.prompt_logprobs is not None:
            return replace(chunk, prompt_logprobs=(None, *sequence.prompt_logprobs))
        return chunk

    def _terminal(
        self,
        sequence: Sequence,
        tokens: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
        error: str | None = None,
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
            logprobs,
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
        if self._rows[slot].spec is not None:
            self._closed.append(self._rows[slot].row)
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


class _Waiting:
    """Sequences that wait for a slot. Groups take turns: no group waits for all of another."""

    def __init__(self) -> None:
        self._groups: dict[str, deque[Sequence]] = {}  # none is empty; the next in turn first

    def __iter__(self) -> Iterator[Sequence]:
        for group in self._groups.values():
            yield from group

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, sequence: Sequence) -> None:
        self._groups.setdefault(sequence.group, deque()).append(sequence)

    def first(self, running: Counter[str]) -> Sequence:
        """The oldest sequence of the group that has the fewest ``running`` rows, in turn."""
        return self._groups[min(self._groups, key=lambda group: running[group])][0]

    def take(self, name: str) -> None:
        """The oldest sequence of a group leaves; the group's next turn comes after the others'."""
        group = self._groups.pop(name)
        group.popleft()
        if group:
            self._groups[name] = group

    def remove(self, request_id: str) -> Sequence | None:
        """Take a sequence out; None if it is not waiting."""
        for name, group in self._groups.items():
            for sequence in group:
                if sequence.request.id == request_id:
                    group.remove(sequence)
                    if not group:
                        del self._groups[name]
                    return sequence
        return None


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
