"""dflash-train data: the options."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dflash_serve.training.cli.common import Target, guarded


class _Turns(StrEnum):
    ALL = "all"
    LAST = "last"


def data(
    *,
    target: Target,
    prompts: Annotated[
        str,
        typer.Option(
            help="JSON lines, JSON, parquet or CSV, a directory of them, or a hub id: rows with "
            "messages, conversations (ShareGPT), or prompt and response."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Answer file; continued if it exists.")],
    split: Annotated[str | None, typer.Option(help="Of a hub id; default: train.")] = None,
    config_name: Annotated[str | None, typer.Option(help="Configuration of a hub id.")] = None,
    drafter: Annotated[str | None, typer.Option(help="Drafter: same answers, sooner.")] = None,
    thinking: Annotated[
        str | None,
        typer.Option(
            help="on, off, or a level (low, high): as the server will be asked. Training and "
            "serving must agree. Default: the template's own."
        ),
    ] = None,
    chat_template_kwargs: Annotated[
        str | None, typer.Option(help="JSON object for the template, as in a request.")
    ] = None,
    keep_responses: Annotated[
        bool,
        typer.Option(
            "--keep-responses",
            help="Train on the given answers. Much worse than the target's own (the default).",
        ),
    ] = False,
    turns: Annotated[
        _Turns, typer.Option(help="Answers asked for: all, or the last after given ones.")
    ] = _Turns.ALL,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="0 is off.")] = 0,
    seed: Annotated[int, typer.Option(help="Each row and turn draws from its own.")] = 0,
    max_new: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Most tokens of a chat; default: the target's context."),
    ] = None,
    min_loss_tokens: Annotated[
        int,
        typer.Option(
            min=1, help="Rows with fewer answer tokens are bad; the recipe's: two blocks."
        ),
    ] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Chats answered together.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Any bad row is an error.")] = False,
) -> None:
    """Let the target answer prompts: what a drafter learns from. Every bad row is reported."""
    from dflash_serve.engine.types import SamplingParams
    from dflash_serve.training.commands import data as commands

    def job() -> None:
        commands.make_data(
            commands.DataJob(
                target=target,
                prompts=prompts,
                out=out,
                split=split,
                config_name=config_name,
                drafter=drafter,
                max_new=max_new,
                max_length=max_length,
                batch=batch,
                limit=limit,
                thinking=thinking,
                template_kwargs=chat_template_kwargs,
                keep=keep_responses,
                turns=turns.value,
                min_loss_tokens=min_loss_tokens,
                strict=strict,
                sampling=SamplingParams(temperature, top_p, top_k, seed=seed),
            )
        )

    guarded(job)
