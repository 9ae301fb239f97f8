"""Prompts in, an answer file out: resumable, and every bad row is named."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from dflash_serve.adapters.checkpoint import fingerprint, read_config, resolve
from dflash_serve.adapters.target_config import text_config
from dflash_serve.atomic_files import replace_json
from dflash_serve.compose.cards import stop_tokens
from dflash_serve.compose.directories import target_directory
from dflash_serve.compose.loading import load_pair
from dflash_serve.measure.errors import DataError, RowError
from dflash_serve.measure.progress import progress_bar
from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.training.data.answers import AnswerFile, stream_answers
from dflash_serve.training.data.dialogue import Dialogue, Rules
from dflash_serve.training.data.generate import Answered, generate
from dflash_serve.training.data.origin import tokenizer_fingerprint, vocabulary_fingerprint
from dflash_serve.training.data.rows import Source, open_source
from dflash_serve.training.data.settings import DataSettings
from dflash_serve.training.data.summary import Costs, Faults, Summary, Totals
from dflash_serve.training.data.tokenizer import read_tokenizer, template_arguments


def make_answers(settings: DataSettings, console: Console) -> None:
    """Answer the rows that the file does not hold yet, then say what became of every row."""
    directory = target_directory(settings.target)
    source = open_source(settings.prompts, settings.split, settings.config_name)
    rules, faults = _rules(settings, directory), Faults()
    usable = sum(1 for _ in _dialogues(source, rules, settings.limit, faults))
    _check(settings, usable, faults)
    costs = Costs()
    with closing(AnswerFile(settings.out, _origin(settings, directory, source, rules))) as file:
        if len(file.done) < usable:
            rows = _dialogues(source, rules, settings.limit, Faults())
            todo = (dialogue for dialogue in rows if dialogue.row not in file.done)
            _fill(file, _finished(settings, directory, rules, todo), usable, costs, console)
    totals = Totals(rules.stop_tokens)
    for answer in stream_answers(settings.out):
        totals.add(answer)
    _find_short(source, settings, totals, faults)
    summary = Summary(faults, totals, costs, bool(settings.drafter))
    console.print(summary.table())
    replace_json(settings.out.with_name(f"{settings.out.name}.summary.json"), summary.as_json())
    _check(settings, summary.usable, faults)


def _dialogues(
    source: Source, rules: Rules, limit: int | None, faults: Faults
) -> Iterator[Dialogue]:
    """The usable rows in order; the others are counted in ``faults``."""
    for raw in source.rows(limit):
        faults.rows += 1
        try:
            yield Dialogue(raw.row, raw.chat(), rules)
        except RowError as error:
            faults.add(raw.place, error)


def _finished(
    settings: DataSettings, directory: Path, rules: Rules, todo: Iterator[Dialogue]
) -> Iterator[Answered]:
    if rules.keep:
        return (Answered(dialogue) for dialogue in todo)
    drafter = resolve(settings.drafter) if settings.drafter else None
    return generate(*load_pair(directory, drafter), todo, rules, settings)


def _fill(
    file: AnswerFile,
    finished: Iterator[Answered],
    usable: int,
    costs: Costs,
    console: Console,
) -> None:
    """Append rows as they are done."""
    with progress_bar(console) as progress:
        task = progress.add_task("answers", total=usable, completed=len(file.done))
        for done in finished:
            file.append(done.dialogue.answers())
            costs.add(done)
            speed = f"{costs.tokens_per_second:.0f} tok/s" if costs.tokens else ""
            progress.update(task, advance=1, description=f"answers {speed}")


def _find_short(source: Source, settings: DataSettings, totals: Totals, faults: Faults) -> None:
    """Add the rows whose answers are too short, which is known only when they are made."""
    least = settings.min_loss_tokens
    short = {row: tokens for row, tokens in totals.longest.items() if tokens < least}
    if short:
        for raw in source.rows(settings.limit):
            if raw.row in short:
                faults.add(raw.place, RowError("too few loss tokens", str(short[raw.row])))


def _rules(settings: DataSettings, directory: Path) -> Rules:
    tokenizer = read_tokenizer(directory)
    own = int(text_config(read_config(directory)).get("max_position_embeddings") or 0)
    if settings.max_length and own and settings.max_length > own:
        raise DataError(f"--max-length is {settings.max_length}, but the target's context is {own}")
    stops = stop_tokens(directory)
    if not stops:
        raise DataError(
            f"{directory} names no eos_token_id of its vocabulary: no answer would ever end"
        )
    return Rules(
        tokenizer,
        _template_kwargs(settings, tokenizer),
        stops,
        settings.max_length or own,
        settings.min_loss_tokens,
        settings.keep_responses,
        settings.turns,
    )


def _template_kwargs(settings: DataSettings, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """What the template is told, as ``chat_template_kwargs`` of a request would."""
    try:
        kwargs = json.loads(settings.chat_template_kwargs)
    except ValueError as error:
        raise DataError(f"--chat-template-kwargs is no JSON: {error}") from error
    if not isinstance(kwargs, dict):
        raise DataError("--chat-template-kwargs is no JSON object")
    for name in kwargs:
        if not tokenizer.template_reads(name):
            raise DataError(f"the chat template of {settings.target} does not read {name}")
    told = template_arguments(settings.thinking, tokenizer)
    if twice := {name for name in kwargs.keys() & told if kwargs[name] != told[name]}:
        raise DataError(
            f"--thinking is {settings.thinking!r}, but --chat-template-kwargs sets "
            + ", ".join(f"{name} to {kwargs[name]!r}" for name in sorted(twice))
        )
    return told | kwargs


def _origin(
    settings: DataSettings, directory: Path, source: Source, rules: Rules
) -> dict[str, Any]:
    """What answers depend on. A drafter is not part of it, and nor is the batch."""
    made: dict[str, Any] = {"responses": "given"}
    if not rules.keep:
        names = ("temperature", "top_p", "top_k", "seed")
        drawn = {name: getattr(settings, name) for name in names}
        made = {
            "responses": f"{settings.turns} by the target",
            "max_new": settings.max_new,
            "sampling": drawn if settings.temperature else "greedy",
        }
    return {
        "target": fingerprint(directory),
        "tokenizer": tokenizer_fingerprint(directory),
        "vocabulary": vocabulary_fingerprint(directory),
        "prompts": source.digest,
        "chat_template_kwargs": dict(rules.template_kwargs),
        **made,
        "max_length": rules.max_length,
        "min_loss_tokens": rules.min_loss_tokens,
    }


def _check(settings: DataSettings, usable: int, faults: Faults) -> None:
    if not faults.rows:
        raise DataError(f"{settings.prompts} holds no rows")
    if not usable:
        raise DataError(f"{settings.prompts}: no row is usable: {faults}")
    if settings.strict and faults:
        raise DataError(f"{settings.prompts}: {faults}")
