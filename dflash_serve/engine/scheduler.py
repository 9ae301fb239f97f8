"""Which rows run next, and what becomes of their results. Ints only: no tensors, no threads.

Owns the waiting queue and every `Sequence`.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count

from dflash_serve.engine.admission import Admission
from dflash_serve.engine.block_policy import Choice, RoundOutcome, RowLimit, RowOutcome
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint
from dflash_serve.engine.errors import RequestError
from dflash_serve.engine.plan import (
    Chosen,
    ContextRow,
    DecodeRow,
    OpenedRow,
    PrefillRow,
    RowBytes,
    StepPlan,
    StepResult,
)
from dflash_serve.engine.policies import make_policy
from dflash_serve.engine.prefill_policy import ChunkBudget, PrefillTurns
from dflash_serve.engine.sequence import Sequence
from dflash_serve.engine.types import (
    EngineRequest,
    EngineStats,
    FinishReason,
    TokenChunk,
    TokenLogprob,
)


def _no_bytes(tokens: int) -> int:
    return 0


class Scheduler:
    """Continuous batching: rows join and leave between any two steps.

    ``_rows`` has every admitted sequence by its row's number, in the order of admission.
    ``row_bytes`` is what a row's caches take, for admission under ``config.memory_limit``, which it
    may share: ``elsewhere`` gives what other schedulers have ``reserved`` of it. ``costs``: rounds
    that were measured; without them blocks are as long as they can be.

    Raises:
        ValueError: one row of ``config.max_context`` tokens does not fit the memory limit.
    """

    def __init__(
        self,
        config: EngineConfig,
        clock: Callable[[], float],
        row_bytes: RowBytes = _no_bytes,
        elsewhere: Callable[[], int] = lambda: 0,
        costs: Iterable[CostPoint] = (),
    ) -> None:
        self._config = config
        self._clock = clock
        self._waiting = Admission(config, row_bytes, elsewhere)
        self._turns = PrefillTurns()
        self._chunks = ChunkBudget(config)
        self._policy = make_policy(config, costs)
        self._choice = Choice(1)  # of the step that was planned last
        self._rows: dict[int, Sequence] = {}
        self._closed: dict[int, int] = {}  # bytes of rows that ended and are not freed yet
        self._numbers = count()
        self._planned_at = 0.0
        self._finished = 0
        self._totals = [0, 0, 0, 0, 0]  # generated tokens, rounds, drafted, accepted, plain rounds

    @property
    def idle(self) -> bool:
        """Whether there is nothing to plan: no request, and no caches to free."""
        return not self._rows and not self._waiting and not self._closed

    @property
    def reserved(self) -> int:
        """Bytes that all rows may come to take, those that ended included until they are freed."""
        rows = sum(sequence.reserved for sequence in self._rows.values())
        return rows + sum(self._closed.values())

    def stats(self) -> EngineStats:
        generated, rounds, drafted, accepted, plain = self._totals
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
            plain_rounds=plain,
        )

    def add(self, request: EngineRequest) -> None:
        """Queue a request that `check_request` has passed."""
        limit = min(request.max_tokens, self._config.max_context - len(request.prompt))
        self._waiting.add(Sequence(request, limit, self._clock()))

    def abort(self, request_id: str) -> list[TokenChunk]:
        """End a request between two steps; its terminal chunk, or nothing if it is unknown."""
        sequence = self._waiting.remove(request_id) or next(
            (row for row in self._rows.values() if row.request.id == request_id), None
        )
        return [] if sequence is None else [self._end(sequence, FinishReason.ABORTED)]

    def recover(self, plan: StepPlan, message: str) -> list[TokenChunk]:
        """Go on after ``plan`` raised, with a runner that was reset and holds no row any more.

        Rows of the plan end with an error. The others begin again under new numbers, with a prefill
        of all that is known of them.
        """
        planned: list[ContextRow | PrefillRow | DecodeRow]
        planned = [*plan.context, *plan.prefill, *plan.decode]
        failed = {row.row for row in planned}
        rows, self._rows = self._rows, {}
        chunks = []
        for number, sequence in rows.items():
            self._policy.forget(number)
            if number in failed:
                chunks.append(self._end(sequence, FinishReason.ERROR, message))
            else:
                sequence.restart(next(self._numbers))
                self._rows[sequence.row] = sequence
        self._closed.clear()
        return chunks

    def make_room(self, block_size: int, row_bytes: RowBytes) -> StepPlan | None:
        """Put the newest rows aside until the others fit at the cost of ``row_bytes``.

        For a drafter that is about to take over. A row that is put aside waits once more, and goes
        on with a prefill of all that is known of it. Returns a step that frees caches and does
        nothing else, None where there are none to free.
        """
        more = replace(self._config, block_size=block_size).round_tokens
        costs = {number: row_bytes(row.longest + more) for number, row in self._rows.items()}
        over = sum(costs.values()) - self._waiting.room(())
        for number in reversed(costs):
            if over <= 0:
                break
            over -= costs[number]
            self._put_aside(self._rows[number])
        closed, self._closed = tuple(self._closed), {}
        return StepPlan(closed) if closed else None

    def draft_anew(
        self,
        block_size: int,
        row_bytes: RowBytes,
        costs: Iterable[CostPoint] = (),
        *,
        shows_context: bool = True,
    ) -> None:
        """Another drafter has taken over, knowing none of the tokens that rows hold.

        Rows decode plainly until the next plans have shown it all of theirs; to the end, if the
        runner cannot do that (``shows_context``). Rows that run stay; `make_room` comes before.

        Raises:
            ValueError: as the constructor. Nothing has changed then.
        """
        config = replace(self._config, block_size=block_size)
        self._waiting.reprice(config, row_bytes, self._rows.values())
        self._config = config
        self._policy = make_policy(config, costs)  # what its rounds commit is another matter
        for sequence in self._rows.values():
            sequence.missed_from = 0
            sequence.missed_to = sequence.held if block_size > 1 and shows_context else 0
            sequence.drafts = shows_context or not sequence.held

    def plan(self) -> StepPlan | None:
        """The next step; None when there is nothing to do."""
        self._admit()
        if not self._rows and not self._closed:
            return None
        self._planned_at = self._clock()
        closed, self._closed = tuple(self._closed), {}
        decoding = [row for row in self._rows.values() if row.decoding]
        swapped = any(row.missed for row in self._rows.values())
        budget = self._chunks.tokens(len(decoding), len(self._rows), swapped)
        picked, width = self._turns.pick(self._rows.values(), budget)
        shown = bool(picked) and picked[0].missed > 0
        self._choice = self._choose(decoding) if decoding else Choice(1)
        return StepPlan(
            closed,
            _opened(picked),
            tuple(_context_row(row, width) for row in picked) if shown else (),
            () if shown else tuple(_prefill_row(row, width) for row in picked),
            tuple(_decode_row(row, self._choice.width) for row in decoding),
            self._choice.nodes,
        )

    def commit(self, plan: StepPlan, result: StepResult) -> list[TokenChunk]:
        """Take a step's results: one chunk per row that has tokens or ends, prompts first."""
        now = self._clock()
        self._chunks.observe(now - self._planned_at, _padded_tokens(plan), len(plan.decode))
        if plan.decode:
            self._policy.observe(self._outcome(plan, result, now - self._planned_at))
        for shown in plan.context:
            self._rows[shown.row].missed_from += len(shown.tokens)
        chunks: list[TokenChunk] = []
        for row, chosen in zip(plan.prefill, result.prefill, strict=True):
            sequence = self._rows[row.row]
            sequence.hold(len(row.tokens))
            sequence.prompt_logprobs += chosen.prompt_logprobs
            if row.last:
                chunks.append(self._emit(sequence, chosen, now))
        for decode, chosen in zip(plan.decode, result.decode, strict=True):
            sequence = self._rows[decode.row]
            sequence.hold(len(chosen.tokens))
            self._count_round(sequence, decode, chosen, result.nodes)
            chunks.append(self._emit(sequence, chosen, now, drafts=len(chosen.tokens) - 1))
        for sequence in [row for row in self._rows.values() if row.finish is not None]:
            self._release(sequence)
        return chunks

    def _admit(self) -> None:
        while (sequence := self._waiting.take(self._rows.values())) is not None:
            sequence.admitted_at = sequence.admitted_at or self._clock()
            sequence.row = next(self._numbers)
            self._rows[sequence.row] = sequence

    def _choose(self, rows: list[Sequence]) -> Choice:
        limits = [RowLimit(row.row, row.longest_block) for row in rows]
        return self._policy.choose(limits, guided=any(row.constrained for row in rows))

    def _outcome(self, plan: StepPlan, result: StepResult, seconds: float) -> RoundOutcome:
        """A step's round. Its time counts if nothing else ran, and no graph for the first time."""
        alone = not (plan.prefill or plan.context or result.cold)
        return RoundOutcome(
            self._choice.width,
            tuple(
                RowOutcome(row.row, row.block, len(chosen.tokens))
                for row, chosen in zip(plan.decode, result.decode, strict=True)
            ),
            seconds if alone else None,
            result.nodes,
            guided=any(self._rows[row.row].constrained for row in plan.decode),
        )

    def _count_round(self, sequence: Sequence, row: DecodeRow, chosen: Chosen, nodes: int) -> None:
        committed = len(chosen.tokens)
        drafted = (nodes or row.block) - 1 if row.block > 1 else 0
        if chosen.failure is None and not 1 <= committed <= row.block:
            raise AssertionError(f"a round committed {committed} tokens of a block {row.block}")
        sequence.rounds += 1
        sequence.drafted += drafted
        self._totals[1] += 1
        self._totals[2] += drafted
        self._totals[4] += row.block == 1

    def _emit(self, sequence: Sequence, chosen: Chosen, now: float, drafts: int = 0) -> TokenChunk:
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

    def _end(
        self, sequence: Sequence, finish: FinishReason, error: str | None = None
    ) -> TokenChunk:
        """End a sequence between two steps."""
        sequence.finish = finish
        self._release(sequence)
        return self._terminal(sequence, error=error)

    def _release(self, sequence: Sequence) -> None:
        """Let a row go. The runner is told of it if a plan had it."""
        self._policy.forget(sequence.row)
        if self._rows.pop(sequence.row, None) is not None and sequence.held:
            self._closed[sequence.row] = sequence.reserved

    def _put_aside(self, sequence: Sequence) -> None:
        """Take a row's caches away. It is the next to get a row again."""
        self._release(sequence)
        sequence.restart(-1)
        self._waiting.put_back(sequence)


def _opened(picked: list[Sequence]) -> tuple[OpenedRow, ...]:
    """Rows that begin in a chunk of ``picked`` and have a spec."""
    return tuple(
        OpenedRow(row.row, spec, tuple(row.generated))
        for row in picked
        if not row.held and (spec := row.spec) is not None
    )


def _decode_row(sequence: Sequence, width: int) -> DecodeRow:
    return DecodeRow(
        sequence.row,
        sequence.held,
        sequence.generated[-1],
        min(width, sequence.longest_block),
        sequence.request.sampling,
    )


def _context_row(sequence: Sequence, width: int) -> ContextRow:
    due = sequence.due[:width]
    return ContextRow(sequence.row, due.start, sequence.tokens(due.start, due.stop))


def _prefill_row(sequence: Sequence, width: int) -> PrefillRow:
    due = sequence.due[:width]
    last = due.stop == sequence.known
    (following,) = (-1,) if last else sequence.tokens(due.stop, due.stop + 1)
    return PrefillRow(
        sequence.row,
        due.start,
        sequence.tokens(due.start, due.stop),
        last,
        sequence.request.sampling,
        following,
    )


def _padded_tokens(plan: StepPlan) -> int:
    """Rows x padded length of the step's chunk."""
    rows = plan.context or plan.prefill
    return len(rows) * max((len(row.tokens) for row in rows), default=0)


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
