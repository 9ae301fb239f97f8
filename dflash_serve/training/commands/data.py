"""dflash-train data: the target's own answers to prompts, resumable."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from transformers import AutoTokenizer

from dflash_serve.adapters.base import DraftAdapter
from dflash_serve.adapters.checkpoint import resolve
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.engine.types import Usage
from dflash_serve.training.commands.show import progress_bar
from dflash_serve.training.data import (
    Answer,
    AnswerFile,
    Prompt,
    file_digest,
    fingerprint,
    read_prompts,
)
from dflash_serve.training.generate import generate


@dataclass(frozen=True, slots=True)
class DataJob:
    target: str
    prompts: Path
    out: Path
    drafter: str | None
    max_new: int
    batch: int
    limit: int | None


def make_data(job: DataJob) -> None:
    """Answer the prompts that the file does not hold yet; longest prompts first."""
    console, directory = Console(), resolve(job.target)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompts = {prompt.row: prompt for prompt in read_prompts(job.prompts, tokenizer)[: job.limit]}
    target = load_target(directory)
    drafter = load_drafter(resolve(job.drafter), target) if job.drafter else None
    origin = {"target": fingerprint(directory), "prompts": file_digest(job.prompts)}
    file = AnswerFile(job.out, {**origin, "max_new": job.max_new})
    todo = {row: prompt.tokens for row, prompt in prompts.items() if row not in file.done}
    produced = generate(
        target,
        drafter,
        todo,
        stop_token=tokenizer.eos_token_id,
        max_new=job.max_new,
        batch=job.batch,
    )
    totals: list[Usage] = []
    with progress_bar(console) as progress:
        task = progress.add_task("answers", total=len(prompts), completed=len(file.done))
        for made in produced:
            file.append(_answer(prompts[made.index], made.tokens))
            totals.append(made.usage)
            progress.advance(task)
    file.close()
    console.print(_summary(totals, drafter))


def _answer(prompt: Prompt, tokens: tuple[int, ...]) -> Answer:
    return Answer(prompt.row, prompt.kind, prompt.tokens, tokens)


def _summary(totals: list[Usage], drafter: DraftAdapter | None) -> str:
    tokens = sum(usage.completion_tokens for usage in totals)
    rounds = max(1, sum(usage.rounds for usage in totals))
    line = f"{len(totals)} answers, {tokens} tokens"
    return f"{line}, {(tokens - len(totals)) / rounds:.2f} per round" if drafter else line
