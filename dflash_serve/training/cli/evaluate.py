"""dflash-train eval: the options."""

from pathlib import Path
from typing import Annotated

import typer

from dflash_serve.training.cli.common import guarded


def evaluate(
    *,
    target: Annotated[str | None, typer.Option(help="Target: a directory or a hub id.")] = None,
    drafter: Annotated[str | None, typer.Option(help="Drafter: a directory or a hub id.")] = None,
    url: Annotated[str | None, typer.Option(help="Instead: an OpenAI-compatible server.")] = None,
    model: Annotated[str | None, typer.Option(help="Model on --url; default: its first.")] = None,
    plain_url: Annotated[
        str | None, typer.Option(help="The same model without speculation, for speedups.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="For --url and --plain-url.")] = None,
    datasets: Annotated[str | None, typer.Option(help="As in gsm8k,mt-bench.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Data sets in their published files; default: the hub.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help='JSON lines {"kind": ..., "messages": [...]}.')
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Per data set; default: the protocol's.")
    ] = None,
    shuffle: Annotated[
        str, typer.Option(help="random-42, datasets-0 (the older protocol) or none.")
    ] = "random-42",
    block_size: Annotated[int | None, typer.Option(min=2, help="Default: as trained.")] = None,
    max_new: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 2048,
    temperature: Annotated[float, typer.Option()] = 0.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="0: all tokens.")] = 0,
    seed: Annotated[int, typer.Option(help="Of sampled answers.")] = 0,
    thinking: Annotated[str, typer.Option(help="off, on, default or a level.")] = "off",
    batch: Annotated[int, typer.Option(min=1, help="Conversations at once; protocol: 1.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once on --url.")] = 1,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds, on --url.")] = 600.0,
    out: Annotated[Path, typer.Option(help="Folder of results; continued if it exists.")],
) -> None:
    """Measure tokens per round and speedups of a drafter by z-lab's protocol."""
    from dflash_serve.training.commands import evaluate as commands
    from dflash_serve.training.data import DataError

    def job() -> int:
        names = tuple(part.strip() for part in datasets.split(",")) if datasets else ()
        questions = commands.Questions(names, data_dir, prompts, samples, shuffle)
        decoding = commands.Decoding(max_new, temperature, top_p, top_k, seed, thinking)
        subject: commands.LocalJob | commands.RemoteJob
        if url is not None and target is None and drafter is None:
            subject = commands.RemoteJob(url, model, plain_url, api_key, concurrency, timeout)
        elif url is None and target is not None and drafter is not None:
            if plain_url is not None:
                raise DataError("--plain-url goes with --url; plain decoding is always measured")
            subject = commands.LocalJob(target, drafter, block_size, batch)
        else:
            raise DataError("give --target and --drafter, or --url alone")
        return commands.evaluate(questions, decoding, subject, out)

    guarded(job)
