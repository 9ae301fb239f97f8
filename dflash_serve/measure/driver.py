"""The engine's step in a loop on the calling thread, told round by round. Knows no text."""

from collections.abc import Iterator
from dataclasses import dataclass

from dflash_serve.engine.plan import Runner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import FinishReason, TokenChunk


@dataclass(frozen=True, slots=True)
class Round:
    """One verify pass of one request.

    ``proposed`` drafts were verified, ``accepted`` of them kept; ``committed`` tokens came of it,
    the bonus token and a final stop token included. A round that ends at a stop token among its
    drafts has no bonus token: ``committed`` equals ``accepted``, and later drafts were not judged.
    """

    proposed: int
    accepted: int
    committed: int


def drive(scheduler: Scheduler, runner: Runner) -> Iterator[tuple[TokenChunk, Round | None]]:
    """Step until nothing is left; every chunk with its round, None for a prompt's own token."""
    while not scheduler.idle:
        plan = scheduler.plan()
        if plan is None:
            continue
        result = runner.run(plan)
        chunks = scheduler.commit(plan, result)
        firsts = len(chunks) - len(plan.decode)  # commit tells prompts first, then every round
        for chunk in chunks[:firsts]:
            yield chunk, None
        for row, chosen, chunk in zip(plan.decode, result.decode, chunks[firsts:], strict=True):
            committed = len(chunk.tokens) + (chunk.finish is FinishReason.STOP)
            yield chunk, Round(row.block - 1, min(committed, len(chosen.tokens) - 1), committed)
