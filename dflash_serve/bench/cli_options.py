"""Options that several commands of `dflash-bench` share, and what they end with."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dflash_serve.bench.errors import BenchError

_DEMO_PAIR = "Directory or hub id; without it, the embedded demo pair."
Target = Annotated[str | None, typer.Option(help=_DEMO_PAIR)]
Drafter = Annotated[str, typer.Option(help="auto, none, random (weights), a directory or hub id.")]
RandomTarget = Annotated[
    str | None,
    typer.Option(
        help="Random weights: qwen3-100m, qwen3-22m, qwen3-tiny, mistral-tiny (sliding window), "
        "qwen3_5-tiny (recurrent layers) or a config.json."
    ),
]
DraftLayers = Annotated[
    int, typer.Option(min=0, help="Layers of a random drafter; 0 scales the published shape.")
]
SecondDrafter = Annotated[
    str, typer.Option(help="A VP-drafter for trees: none, auto, directory or hub id.")
]
PromptFile = Annotated[
    Path | None, typer.Option(help="JSONL with messages or prompt per line, and kind.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of weights, prompts, samples, events.")]
Out = Annotated[Path | None, typer.Option(help="JSON file to write; the plot goes beside it.")]
Save = Annotated[bool, typer.Option("--save", help="Write to docs/results/.")]


def numbers(option: str, text: str, least: int = 1) -> tuple[int, ...]:
    """``1,3,8`` as integers, each at least ``least``.

    Raises:
        BenchError: naming the option and what it was given.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) >= least for part in parts):
        raise BenchError(f"{option} is {text!r}, but must be numbers from {least}, like 1,3,8")
    return tuple(dict.fromkeys(int(part) for part in parts))


def choice(
    target: str | None,
    drafter: str,
    random_target: str | None,
    draft_layers: int,
    blocks: tuple[int, ...],
    seed: int,
) -> Any:
    """The `PairChoice` of a command's options."""
    from dflash_serve.bench.pair import PairChoice

    if random_target is not None and (target is not None or drafter != "auto"):
        raise BenchError("--random-target excludes --target and --drafter")
    trained = max(blocks, default=16)
    return PairChoice(target, drafter, random_target, draft_layers, trained, seed)


def finish(result: Any, report: Any, out: Path | None, save: bool) -> int:
    """Show the tables, write the files; 1 if a check failed."""
    from dflash_serve.bench.report import Destination, show, write

    show(*report.tables(result))
    path = write(result, Destination(out, save), lambda: report.plot(result))
    if path is not None:
        print(f"written to {path}")
    for failure in result.failures:
        print(f"dflash-bench: FAILED: {failure}", file=sys.stderr)
    return 1 if result.failures else 0
