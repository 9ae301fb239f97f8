"""Commands of `dflash-bench` about the block policy: arguments -> options -> one measurement."""

from pathlib import Path
from typing import Annotated

import typer

from dflash_serve.bench.cli_options import (
    Drafter,
    Out,
    PromptFile,
    RandomTarget,
    Save,
    Seed,
    Target,
    choice,
    finish,
    numbers,
)


def sweep(
    *,
    target: Target = None,
    drafter: Drafter = "auto",
    random_target: RandomTarget = None,
    prompt_file: PromptFile = None,
    prompts: Annotated[int, typer.Option(min=1, help="Requests per run.")] = 24,
    batch: Annotated[str, typer.Option(help="Rows that decode together.")] = "1,4,8",
    sets: Annotated[str, typer.Option(help="Of easy, mixed, useless.")] = "easy,mixed,useless",
    max_tokens: Annotated[int, typer.Option(min=2, help="Per request.")] = 128,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    seed: Seed = 0,
    out: Out = None,
    save: Save = False,
) -> int:
    """The engine's choice of blocks against every fixed one and plain, in turns; 1 if it loses."""
    from dflash_serve.bench import sweep_report
    from dflash_serve.bench.sweep import SweepOptions, run_sweep

    options = SweepOptions(
        pair=choice(target, drafter, random_target, 0, (), seed),
        prompt_file=prompt_file,
        prompts=prompts,
        batches=numbers("--batch", batch),
        sets=tuple(sets.split(",")),
        max_tokens=max_tokens,
        repeats=repeats,
        seed=seed,
    )
    return finish(run_sweep(options), sweep_report, out, save)


def policy(
    *,
    rows: Annotated[str, typer.Option(help="Rows that decode together.")] = "1,8,16,32",
    recording: Annotated[
        list[Path] | None, typer.Option(help="File of `record`; without it, the demo pair's.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Of a made-up request.")] = 256,
    turns: Annotated[int, typer.Option(min=1, help="Requests of each row.")] = 4,
    jitter: Annotated[float, typer.Option(min=0.0, help="Of observed times, as log sigma.")] = 0.05,
    slow: Annotated[float, typer.Option(min=1.0, help="Factor of slow phases.")] = 1.5,
    seed: Seed = 0,
    out: Out = None,
    save: Save = False,
) -> int:
    """Replay acceptance traces on machines' cost tables: the policy against fixed blocks."""
    from dflash_serve.bench import policy_report
    from dflash_serve.bench.policy import PolicyOptions, run_policy

    options = PolicyOptions(
        rows=numbers("--rows", rows),
        recordings=tuple(recording or ()),
        tokens=tokens,
        turns=turns,
        jitter=jitter,
        slow=slow,
        seed=seed,
    )
    return finish(run_policy(options), policy_report, out, save)


def record(
    path: Annotated[Path, typer.Argument(help="JSON file to write, for `policy --recording`.")],
    *,
    target: Target = None,
    drafter: Drafter = "auto",
    prompt_file: PromptFile = None,
    prompts: Annotated[int, typer.Option(min=1, help="Recorded, of all kinds.")] = 66,
    max_tokens: Annotated[int, typer.Option(min=2, help="Per request.")] = 256,
    seed: Seed = 0,
) -> int:
    """Record a pair's acceptance at every token, and what its rounds cost on this machine."""
    from dflash_serve.bench.policy_record import RecordOptions, run_record

    pair = choice(target, drafter, None, 0, (), seed)
    run_record(path, RecordOptions(pair, prompt_file, prompts, max_tokens, seed))
    print(f"written to {path}")
    return 0
