"""dflash-train data: prompts in, the target's own answers out, resumable, every bad row named."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import read_config, resolve, stop_token_ids
from dflash_serve.adapters.target_config import text_config
from dflash_serve.atomic_files import replace_json
from dflash_serve.compose.directories import target_directory
from dflash_serve.compose.loading import load_pair
from dflash_serve.engine.types import SamplingParams
from dflash_serve.measure.shapes import parse_chat
from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.training.commands.show import progress_bar
from dflash_serve.training.data import (
    AnswerFile,
    DataError,
    fingerprint,
    stream_answers,
    tokenizer_fingerprint,
)
from dflash_serve.training.data.dialogue import Dialogue, Rules, Turns
from dflash_serve.training.data.errors import RowError
from dflash_serve.training.data.generate import Finished, GenerateSettings, generate
from dflash_serve.training.data.rows import Source, open_source
from dflash_serve.training.data.summary import Costs, Faults, Summary, Totals


@dataclass(frozen=True, slots=True)
class DataJob:
    """The options of the command, as given."""

    target: str
    prompts: str
    out: Path
    split: str | None = None
    config_name: str | None = None
    drafter: str | None = None
    max_new: int = 512
    max_length: int | None = None
    batch: int = 16
    limit: int | None = None
    thinking: str | None = None
    template_kwargs: str | None = None
    keep: bool = False
    turns: Turns = "all"
    min_loss_tokens: int = 2
    strict: bool = False
    sampling: SamplingParams = field(default_factory=SamplingParams)


def make_data(job: DataJob) -> None:
    """Answer the rows that the file does not hold yet, then say what became of every row.

    Raises:
        DataError: nothing is usable, the file has another origin, or with ``strict`` any bad row.
    """
    console, directory = Console(), target_directory(job.target)
    source = open_source(job.prompts, job.split, job.config_name)
    rules = _rules(job, directory)
    faults = Faults()
    usable = sum(1 for _ in _dialogues(source, rules, job.limit, faults))
    _check(job, usable, faults)
    costs = Costs()
    with closing(AnswerFile(job.out, _origin(job, directory, source, rules))) as file:
        if len(file.done) < usable:
            todo = (
                dialogue
                for dialogue in _dialogues(source, rules, job.limit, Faults())
                if dialogue.row not in file.done
            )
            finished = _finished(job, directory, rules, todo)
            costs = _fill(file, finished, usable, console)
    totals = Totals(rules.stop_tokens)
    for answer in stream_answers(job.out):
        totals.add(answer)
    for row, tokens in totals.longest.items():
        if tokens < rules.min_loss_tokens:  # only now that the answers are made
            faults.add(source.place(row), RowError("too few loss tokens", str(tokens)))
    summary = Summary(faults, totals, costs, bool(job.drafter))
    console.print(summary.table())
    replace_json(job.out.with_name(job.out.name + ".summary.json"), summary.as_json())
    _check(job, summary.usable, faults)


def _fill(
    file: AnswerFile, finished: Iterator[Finished[Dialogue]], usable: int, console: Console
) -> Costs:
    """Append rows as they are done."""
    costs = Costs()
    with progress_bar(console) as progress:
        task = progress.add_task("answers", total=usable, completed=len(file.done))
        for done in finished:
            file.append(done.talk.answers())
            costs.add(done.usages, done.talk.cut_short)
            speed = f"{costs.tokens_per_second:.0f} tok/s" if costs.tokens else ""
            progress.update(task, advance=1, description=f"answers {speed}")
    return costs


def _dialogues(
    source: Source, rules: Rules, limit: int | None, faults: Faults
) -> Iterator[Dialogue]:
    """The usable rows in order; the others are counted in ``faults``."""
    for raw in source.rows(limit):
        faults.rows += 1
        try:
            if raw.fault is not None:
                raise raw.fault
            yield Dialogue(raw.row, raw.place, parse_chat(raw.value), rules)
        except RowError as error:
            faults.add(raw.place, error)


def _finished(
    job: DataJob, directory: Path, rules: Rules, todo: Iterator[Dialogue]
) -> Iterator[Finished[Dialogue]]:
    if rules.keep:
        return (Finished(dialogue, ()) for dialogue in todo)
    target, drafter = load_pair(directory, resolve(job.drafter) if job.drafter else None)
    settings = GenerateSettings(
        rules.stop_tokens, job.max_new, rules.max_length, job.batch, job.sampling
    )
    return generate(target, drafter, todo, settings)


def _rules(job: DataJob, directory: Path) -> Rules:
    try:
        tokenizer = ChatTokenizer.load(directory)
    except ValueError as error:
        raise AdapterError(str(error)) from error
    own = int(text_config(read_config(directory)).get("max_position_embeddings") or 0)
    if job.max_length and own and job.max_length > own:
        raise DataError(f"--max-length is {job.max_length}, but the target's context is {own}")
    stops = stop_token_ids(directory)
    if not stops:
        raise DataError(f"{directory} names no eos_token_id: no answer would ever end")
    return Rules(
        tokenizer,
        _template_kwargs(job, tokenizer),
        stops,
        job.max_length or own,
        job.min_loss_tokens,
        job.keep,
        job.turns,
    )


def _template_kwargs(job: DataJob, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """What the template is told, as ``chat_template_kwargs`` of a request would."""
    try:
        kwargs = json.loads(job.template_kwargs or "{}")
    except ValueError as error:
        raise DataError(f"--chat-template-kwargs is no JSON: {error}") from error
    if not isinstance(kwargs, dict):
        raise DataError("--chat-template-kwargs is no JSON object")
    if job.thinking in ("on", "off"):
        kwargs = {"enable_thinking": job.thinking == "on"} | kwargs
    elif job.thinking:
        kwargs = {"reasoning_effort": job.thinking} | kwargs
    for name in kwargs:
        if not tokenizer.template_reads(name):
            raise DataError(f"the chat template of {job.target} does not read {name}")
    return kwargs


def _origin(job: DataJob, directory: Path, source: Source, rules: Rules) -> dict[str, Any]:
    """What answers depend on. A drafter is not part of it, and nor is the batch."""
    sampling = job.sampling
    made = {"responses": "given"} if rules.keep else {
        "responses": f"{job.turns} by the target",
        "max_new": job.max_new,
        "sampling": "greedy" if sampling.greedy else {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
        },
    }  # fmt: skip
    return {
        "target": fingerprint(directory),
        "tokenizer": tokenizer_fingerprint(directory),
        "prompts": source.digest,
        "chat_template_kwargs": dict(rules.template_kwargs),
        **made,
        "max_length": rules.max_length,
        "min_loss_tokens": rules.min_loss_tokens,
    }


def _check(job: DataJob, usable: int, faults: Faults) -> None:
    if not faults.rows:
        raise DataError(f"{job.prompts} holds no rows")
    if not usable:
        raise DataError(f"{job.prompts}: no row is usable: {faults}")
    if job.strict and faults:
        raise DataError(f"{job.prompts}: {faults}")
