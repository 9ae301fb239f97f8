"""The scheduler against hand-made and random results: no device, no threads."""

from dataclasses import replace
from typing import Any

import pytest

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.errors import RequestError
from dflash_serve.engine.plan import Chosen, StepPlan, StepResult
from dflash_serve.engine.scheduler import Scheduler, check_request
from dflash_serve.engine.types import EngineRequest, FinishReason, TokenChunk, TokenLogprob
from tests.engine.results import step_result

STOP = 9


def config(**changes: Any) -> EngineConfig:
    defaults: dict[str, Any] = {
        "max_batch": 4,
        "max_queue": 8,
        "max_context": 64,
        "prefill_chunk": 8,
        "block_size": 4,
    }
    return EngineConfig(**defaults | changes)


def scheduler(**changes: Any) -> Scheduler:
    """One row of n tokens takes n bytes."""
    ticks = iter(range(1_000_000))
    return Scheduler(config(**changes), lambda: float(next(ticks)), lambda tokens: tokens)


def request(name: str, prompt: int = 3, max_tokens: int = 10) -> EngineRequest:
    return EngineRequest(name, tuple(range(prompt)), max_tokens, stop_tokens=frozenset({STOP}))


def step(made: Scheduler, committed: dict[str, tuple[int, ...]]) -> list[TokenChunk]:
    """One step: every first token is 1; decode rows commit what their request's name says."""
    plan = made.plan()
    assert plan is not None
    names = {row.row: name for row, name in zip(plan.decode, committed, strict=True)}
    return made.commit(
        plan,
        step_result(
            tuple(1 for _ in plan.prefill), tuple(committed[names[r.row]] for r in plan.decode)
        ),
    )


@pytest.mark.parametrize(
    ("drafted_block", "committed", "emitted", "accepted", "finish"),
    [
        (4, (5, 6, 7, 8), (5, 6, 7, 8), 3, None),
        (4, (5,), (5,), 0, None),
        (4, (5, STOP, 7, 8), (5,), 2, FinishReason.STOP),
        (4, (STOP, 6), (), 1, FinishReason.STOP),
        (4, (5, 6, STOP), (5, 6), 2, FinishReason.STOP),
    ],
)
def test_a_round_commits_counts_and_clips(
    drafted_block: int,
    committed: tuple[int, ...],
    emitted: tuple[int, ...],
    accepted: int,
    finish: FinishReason | None,
) -> None:
    made = scheduler()
    made.add(request("a"))
    step(made, {})
    (chunk,) = step(made, {"a": committed})
    assert (chunk.tokens, chunk.finish) == (emitted, finish)
    stats = made.stats()
    assert (stats.rounds, stats.drafted, stats.accepted) == (1, drafted_block - 1, accepted)
    assert stats.free_slots == (4 if finish else 3)
    # the terminal chunk's usage counts the round that ended the request
    assert chunk.usage is None or chunk.usage.accepted == accepted


def test_max_tokens_bounds_the_block_and_ends_the_request() -> None:
    made = scheduler()
    made.add(request("a", max_tokens=3))
    step(made, {})
    plan = made.plan()
    assert plan is not None
    assert [row.block for row in plan.decode] == [2]
    (chunk,) = made.commit(plan, step_result((), ((5, 6),)))
    assert chunk.finish is FinishReason.LENGTH
    assert chunk.tokens == (5, 6)
    assert chunk.usage is not None
    assert chunk.usage.completion_tokens == 3


def test_the_context_end_is_a_length_finish() -> None:
    made = scheduler(max_context=5)
    made.add(request("a", prompt=3, max_tokens=50))
    step(made, {})
    (chunk,) = step(made, {"a": (5,)})
    assert chunk.finish is FinishReason.LENGTH


def test_a_first_token_that_stops_never_decodes() -> None:
    made = scheduler()
    made.add(request("a"))
    plan = made.plan()
    assert plan is not None
    (chunk,) = made.commit(plan, step_result((STOP,), ()))
    assert (chunk.tokens, chunk.finish) == ((), FinishReason.STOP)
    assert made.plan() == StepPlan(closed=(plan.prefill[0].row,)), "its caches are freed"
    assert made.idle


def test_a_long_prompt_is_prefilled_in_chunks_between_rounds() -> None:
    made = scheduler()
    made.add(request("short", prompt=2))
    step(made, {})
    made.add(request("long", prompt=20))
    widths = []
    for _ in range(3):
        plan = made.plan()
        assert plan is not None
        assert len(plan.decode) == 1, "a running row decodes in every step"
        widths += [(row.start, len(row.tokens), row.last) for row in plan.prefill]
        made.commit(plan, step_result(tuple(1 for _ in plan.prefill), ((2,),)))
    assert widths == [(0, 8, False), (8, 8, False), (16, 4, True)]


def test_short_prompts_share_a_prefill_chunk_within_its_budget() -> None:
    made = scheduler()
    for name, prompt in (("a", 3), ("b", 4), ("c", 4)):
        made.add(request(name, prompt=prompt))
    plan = made.plan()
    assert plan is not None
    assert [(row.row, len(row.tokens)) for row in plan.prefill] == [(0, 3), (1, 4)]


def test_memory_bounds_what_runs_together() -> None:
    made = scheduler(max_context=14, memory_limit=2 * (4 + 10 + 4))
    for name in "abc":
        made.add(request(name, prompt=4, max_tokens=10))
    step(made, {})
    assert (made.stats().running, made.stats().waiting) == (2, 1)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "words"),
    [(0, 5, "no tokens"), (64, 5, "64"), (3, 0, "max_tokens is 0")],
)
def test_what_can_never_run_is_refused(prompt: int, max_tokens: int, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_request(request("a", prompt, max_tokens), config())


def test_choices_of_one_request_share_its_turn() -> None:
    """Eight requests of sixteen choices each do not hold up a short one that comes last."""
    made = scheduler(max_batch=8)
    for group in range(8):
        for choice in range(16):
            one = replace(request(f"{group}-{choice}", max_tokens=3), group=str(group))
            made.add(one)
    made.add(request("short", max_tokens=1))
    order: list[str] = []
    while not made.idle:
        plan = made.plan()
        assert plan is not None
        committed = [(5,) for _ in plan.decode]
        chunks = made.commit(plan, step_result([1] * len(plan.prefill), committed))
        order += [chunk.request_id for chunk in chunks if chunk.finish is not None]
    assert len(order) == 8 * 16 + 1
    assert order.index("short") <= 16, "each of the others had one turn before it and one after"


def test_a_waiting_choice_can_be_aborted() -> None:
    made = scheduler(max_batch=1)
    for choice in range(3):
        made.add(replace(request(f"a-{choice}"), group="a"))
    made.plan()
    (chunk,) = made.abort("a-1")
    assert chunk.finish is FinishReason.ABORTED
    assert made.abort("a-1") == []
    assert made.stats().waiting == 1


def test_only_rows_that_ask_for_something_are_opened_and_closed() -> None:
    made = scheduler()
    made.add(request("plain"))
    made.add(replace(request("asks", max_tokens=2), logprobs=2))
    plan = made.plan()
    assert plan is not None
    (opened,) = plan.opened
    assert opened.spec.logprobs == 2
    assert [row.row for row in plan.prefill][1] == opened.row
    made.commit(plan, step_result([1, 1]))
    step(made, {"plain": (5,), "asks": (5,)})
    after = made.plan()
    assert after is not None
    assert after.closed == (opened.row,)
    assert after.opened == ()


def test_a_row_that_fails_ends_alone() -> None:
    made = scheduler()
    made.add(request("a"))
    made.add(request("b"))
    step(made, {})
    plan = made.plan()
    assert plan is not None
    failed = StepResult(decode=(Chosen((), failure="the grammar is too complex"), Chosen((5,))))
    first, second = made.commit(plan, failed)
    assert (first.finish, first.error) == (FinishReason.ERROR, "the grammar is too complex")
    assert (second.tokens, second.finish) == ((5,), None)
    assert made.stats().running == 1


def test_closed_rows_are_those_that_a_plan_had() -> None:
    made = scheduler(max_batch=3)
    for name in ("long", "short", "other", "waits"):
        made.add(request(name, prompt=8 if name == "long" else 2))
    plan = made.plan()  # the short ones first: the long row is admitted, and not planned yet
    assert plan is not None
    short, other = (row.row for row in plan.prefill)
    made.commit(plan, step_result((1, STOP)))
    for name in ("long", "short", "waits"):
        (chunk,) = made.abort(name)
        assert chunk.finish is FinishReason.ABORTED
    assert made.plan() == StepPlan(closed=(other, short))
    assert made.plan() is None


def test_a_failed_step_ends_its_rows_and_the_others_begin_again() -> None:
    made = scheduler()
    for name, prompt in (("a", 2), ("b", 2), ("c", 20)):
        made.add(replace(request(name, prompt=prompt), logprobs=0))
    step(made, {})
    plan = made.plan()
    assert plan is not None
    before = [row.row for row in plan.prefill]
    assert len(before) == 1
    made.commit(plan, step_result((1,), ((5, 6), (7,))))
    plan = made.plan()
    assert plan is not None
    a, b = plan.decode
    ended = made.recover(replace(plan, decode=(a,), prefill=()), "it broke")
    assert [(c.request_id, c.finish, c.error) for c in ended] == [
        ("a", FinishReason.ERROR, "it broke")
    ]
    after = made.plan()
    assert after is not None
    assert (after.closed, after.decode) == ((), ()), "a runner that was reset knows no row"
    (opened,) = after.opened
    assert opened.generated == (1, 7)
    (again,) = after.prefill
    assert again.row not in (a.row, b.row, *before)
    assert (again.start, again.tokens, again.last) == (0, (0, 1, 1, 7), True)
    (chunk,) = made.commit(after, step_result((8,)))
    assert (chunk.request_id, chunk.tokens) == ("b", (8,))
    plan = made.plan()
    assert plan is not None
    assert [(row.row, row.length, row.anchor) for row in plan.decode] == [(again.row, 4, 8)]
    assert [(row.start, len(row.tokens)) for row in plan.prefill] == [(0, 8)], "c from its start"


def test_a_runner_that_was_reset_is_told_nothing_of_rows_before() -> None:
    made = scheduler()
    for name in "ab":
        made.add(request(name))
    step(made, {})
    made.abort("a")
    assert made.recover(StepPlan(), "reset on demand") == []
    plan = made.plan()
    assert plan is not None
    assert plan.closed == ()
    assert [row.start for row in plan.prefill] == [0]


def test_log_probabilities_of_a_prompt_come_once_though_it_is_read_twice() -> None:
    made = scheduler()
    made.add(replace(request("a", prompt=12), prompt_logprobs=0))
    entries = tuple(TokenLogprob(token, -1.0) for token in range(1, 12))
    for fails in (True, False):
        first = made.plan()
        assert first is not None
        made.commit(first, StepResult(prefill=(Chosen((1,), prompt_logprobs=entries[:8]),)))
        second = made.plan()
        assert second is not None
        if fails:
            assert made.recover(StepPlan(), "it broke") == []
    (chunk,) = made.commit(second, StepResult(prefill=(Chosen((1,), prompt_logprobs=entries[8:]),)))
    assert chunk.prompt_logprobs == (None, *entries)
    made.recover(StepPlan(), "it broke again")
    plan = made.plan()
    assert plan is not None
    assert plan.opened == (), "nothing else was asked for"


def test_rows_that_a_new_drafter_can_never_know_decode_plainly_to_the_end() -> None:
    made = scheduler()
    made.add(request("old", max_tokens=50))
    step(made, {})
    made.draft_anew(4, lambda tokens: tokens, shows_context=False)
    made.add(request("new", max_tokens=50))
    plan = made.plan()
    assert plan is not None
    made.commit(plan, step_result((1,), ((5,),)))
    plan = made.plan()
    assert plan is not None
    assert plan.context == ()
    assert [row.block for row in plan.decode] == [1, 4]


def test_rows_that_a_dearer_drafter_leaves_no_room_for_are_put_aside_and_go_on_later() -> None:
    made = scheduler(max_context=20, memory_limit=100)
    for name in ("a", "b", "c"):
        made.add(replace(request(name, max_tokens=12), logprobs=0))
    step(made, {})
    step(made, {"a": (5,), "b": (6,)})
    freed = made.make_room(4, lambda tokens: 3 * tokens)  # 57 bytes a row
    assert freed == StepPlan(closed=(2, 1)), "the newest first"
    made.draft_anew(4, lambda tokens: 3 * tokens)
    made.add(request("late"))
    assert (made.stats().running, made.stats().waiting) == (1, 3)
    made.abort("a")
    plan = made.plan()
    assert plan is not None
    assert [(row.tokens, row.last) for row in plan.prefill] == [((0, 1, 2, 1, 6), True)]
    assert [row.generated for row in plan.opened] == [(1, 6)]
    (chunk,) = made.commit(plan, step_result((8,)))
    assert (chunk.request_id, chunk.tokens) == ("b", (8,))
    made.abort("b")
    plan = made.plan()
    assert plan is not None
    assert [row.tokens for row in plan.prefill] == [(0, 1, 2, 1)], "before what never ran"


def test_no_row_is_put_aside_for_a_drafter_that_costs_no_more() -> None:
    made = scheduler(max_context=20, memory_limit=100)
    for name in "ab":
        made.add(request(name, max_tokens=12))
    step(made, {})
    assert made.make_room(4, lambda tokens: 2 * tokens) is None
    made.abort("a")
    assert made.make_room(4, lambda tokens: 2 * tokens) == StepPlan(closed=(0,))
    assert made.stats().running == 1


def test_a_limit_below_one_row_of_the_longest_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"limit is 67 bytes.* of 64 tokens take 68"):
        scheduler(memory_limit=67)


def test_bytes_reserved_are_those_of_running_rows() -> None:
    made = scheduler(max_batch=1)
    made.add(request("a", prompt=3, max_tokens=10))
    made.add(request("b", prompt=3, max_tokens=10))
    assert made.reserved == 0
    step(made, {})
    assert made.reserved == 3 + 10 + 4


def test_logprobs_end_where_the_tokens_do() -> None:
    made = scheduler()
    made.add(replace(request("a"), logprobs=0))
    step(made, {})
    plan = made.plan()
    assert plan is not None
    entries = tuple(TokenLogprob(token, -0.5) for token in (5, STOP, 7))
    chosen = Chosen((5, STOP, 7), entries)
    (chunk,) = made.commit(plan, StepResult(decode=(chosen,)))
    assert chunk.tokens == (5,)
    assert chunk.logprobs == entries[:2]


class AnyText:
    """Stands for a compiled grammar, which only a runner looks into."""

    source = "any text"


def test_a_round_with_a_constrained_row_is_planned_and_counted_as_chains() -> None:
    made = scheduler(tree_nodes=(8,))
    made.add(request("free"))
    made.add(replace(request("guided"), grammar=AnyText()))
    step(made, {})
    plan = made.plan()
    assert plan is not None
    assert (len(plan.decode), plan.nodes) == (2, 0)
    made.commit(plan, step_result((), [(5,), (5,)]))
    assert made.stats().drafted == 2 * 3
    made.abort("guided")
    alone = made.plan()
    assert alone is not None
    assert alone.nodes == 8


def test_rounds_with_constrained_rows_say_nothing_of_chains_and_trees() -> None:
    made = scheduler(tree_nodes=(0, 8))
    made.add(replace(request("guided", max_tokens=30), grammar=AnyText()))
    step(made, {})
    for _ in range(12):
        step(made, {"guided": (5,)})
    made.abort("guided")
    made.add(request("free"))
    step(made, {})
    plan = made.plan()
    assert plan is not None
    assert plan.nodes == 0, "nothing is known yet: the first kind is tried"


def test_a_tree_counts_its_drafts_where_a_row_takes_any() -> None:
    made = scheduler(tree_nodes=(3,))
    made.add(request("a"))
    made.add(request("b", max_tokens=2))
    step(made, {})
    plan = made.plan()
    assert plan is not None
    assert ([row.block for row in plan.decode], plan.nodes) == ([4, 1], 3)
    made.commit(plan, replace(step_result((), [(5, 6, 7), (5,)]), nodes=3))
    assert (made.stats().drafted, made.stats().accepted) == (2, 2)


def test_another_drafter_begins_without_the_rates_of_the_last() -> None:
    made = scheduler(tree_nodes=(0, 8), max_context=400, block_size=2)
    made.add(request("a", max_tokens=300))
    step(made, {})
    kinds = []
    for _ in range(20):
        plan = made.plan()
        assert plan is not None
        kinds.append(plan.nodes)
        result = step_result((), [(5, 6) if plan.nodes else (5,)])
        made.commit(plan, replace(result, nodes=plan.nodes))
    assert kinds[-1] == 8
    made.draft_anew(2, lambda tokens: tokens)
    while (plan := made.plan()) is not None and plan.context:
        made.commit(plan, step_result((), [(5,)]))
    assert plan is not None
    assert plan.nodes == 0
