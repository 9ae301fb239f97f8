"""A self-test of a quantised drafter: does it draft as well as the one that it was made from?

Both draft along the target's own greedy text, in real rounds of a small engine. Some devices ruin
acceptance at 4 bits with 16-bit activations, and a drafter that is never right costs time.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dflash_serve.adapters.base import AdapterError, DraftAdapter, TargetAdapter
from dflash_serve.adapters.checkpoint import stop_token_ids
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, SamplingParams
from dflash_serve.text.errors import TemplateError
from dflash_serve.text.tokenizer import ChatTokenizer

_log = logging.getLogger("dflash_serve")
SHARE = 0.8
"""Of the accepted drafts per round that must be left. A sound quantisation loses a few percent,
which the few rounds of a test can make ten; a ruined one loses nine tenths."""
_QUESTIONS = (
    "What is 17 + 25?",
    "Write a Python function that adds two numbers.",
    "Tell me a story about a cat.",
    "Name three colours as JSON.",
)
_TOKENS = 32
"""Of each answer: a bound on the rounds, whatever the target."""
_LEAST = 10
"""Accepted drafts without which nothing can be said, as for a target that writes noise."""


@dataclass(frozen=True, slots=True)
class DrafterBits:
    """To how many bits a drafter is quantised, and the directory of the target it is tested on."""

    bits: int
    target: Path


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What rounds along the test's texts accepted."""

    accepted: int
    rounds: int

    @property
    def per_round(self) -> float:
        return self.accepted / self.rounds if self.rounds else 0.0


def check_quantised(
    target: TargetAdapter,
    before: DraftAdapter,
    after: DraftAdapter,
    block: int,
    wanted: DrafterBits,
) -> None:
    """Measure both drafters and log what they accept.

    Raises:
        AdapterError: after quantisation less than `SHARE` of the accepted drafts is left.
        ValueError: the target has no tokenizer that can be read.
    """
    bits, requests = wanted.bits, questions(wanted.target)
    first, second = (acceptance(target, drafter, block, requests) for drafter in (before, after))
    figures = (
        f"the drafter in {bits} bits has {second.per_round:.2f} accepted drafts a round in the "
        f"self-test, unquantised {first.per_round:.2f}"
    )
    if first.accepted < _LEAST:
        _log.warning("%s: too few to judge", figures)
    elif second.per_round < SHARE * first.per_round:
        raise AdapterError(f"{figures}: below {SHARE:.0%} of it, --drafter-bits {bits} is refused")
    else:
        _log.info("%s", figures)


def questions(target: Path) -> list[EngineRequest]:
    """What the target is asked: greedy answers of a bounded length.

    Raises:
        ValueError: the directory has no tokenizer that can be read.
    """
    tokenizer, stops = ChatTokenizer.load(target), stop_token_ids(target)
    greedy = SamplingParams()
    return [
        EngineRequest(str(row), _prompt(tokenizer, question), _TOKENS, greedy, stops)
        for row, question in enumerate(_QUESTIONS)
    ]


def _prompt(tokenizer: ChatTokenizer, question: str) -> tuple[int, ...]:
    try:
        return tokenizer.encode_chat([{"role": "user", "content": question}], {})
    except TemplateError:
        return tokenizer.encode_raw(question)


def acceptance(
    target: TargetAdapter, drafter: DraftAdapter, block: int, requests: Sequence[EngineRequest]
) -> Acceptance:
    """Rounds of the drafter along the target's answers."""
    context = max(len(request.prompt) for request in requests) + _TOKENS
    config = EngineConfig(
        max_batch=len(requests), max_context=min(context, target.max_context), block_size=block
    )
    scheduler = Scheduler(config, time.monotonic)
    for request in requests:
        scheduler.add(request)
    runner = DeviceRunner(target, drafter, block, compiled=False)
    try:
        while not scheduler.idle:
            plan = scheduler.plan()
            if plan is not None:
                scheduler.commit(plan, runner.run(plan))
    finally:
        runner.close()
    stats = scheduler.stats()
    return Acceptance(stats.accepted, stats.rounds)
