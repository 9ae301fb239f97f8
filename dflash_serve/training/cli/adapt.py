"""dflash-train adapt: the options."""

from pathlib import Path
from typing import Annotated

import typer

from dflash_serve.training.cli.common import Target, guarded


def adapt(
    *,
    target: Target,
    drafter: Annotated[str, typer.Option(help="Drafter to begin with: the one that served.")],
    records: Annotated[Path, typer.Option(help="Directory that dflash-serve --record filled.")],
    out: Annotated[Path, typer.Option(help="Where the new drafter goes, if it is better.")],
    replay: Annotated[
        Path | None,
        typer.Option(help="Answer file of the old domain, so that it is not forgotten."),
    ] = None,
    replay_share: Annotated[
        float, typer.Option(help="Share of the training that is replay.")
    ] = 0.5,
    minutes: Annotated[
        float | None, typer.Option(help="Length of the training; 3 if none.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of --minutes.")] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per step.")] = 8,
    anchors: Annotated[int, typer.Option(min=1, help="Blocks per sequence.")] = 16,
    gamma: Annotated[float, typer.Option(help="Decay of slot weights; 7 at 16, 4 at 8.")] = 4.0,
    muon: Annotated[bool, typer.Option(help="Muon for matrices; wants --lr near 0.005.")] = False,
    measure_every: Annotated[int, typer.Option(min=1)] = 25,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Fine-tune a drafter on recorded requests; written only if better on held-out ones.

    Exit code 1 says that it was not better and that nothing was written.
    """
    from dflash_serve.training.commands import adapt as commands
    from dflash_serve.training.run.schedule import Horizon, Schedule
    from dflash_serve.training.run.trainer import TrainOptions

    def job() -> int:
        length = Horizon(steps, 3.0 if minutes is None and steps is None else minutes)
        options = TrainOptions(
            length,
            Schedule(lr),
            batch=batch,
            anchors=anchors,
            gamma=gamma,
            measure_every=measure_every,
            seed=seed,
            muon=muon,
        )
        asked = commands.AdaptJob(target, drafter, records, out, options, replay, replay_share)
        return commands.adapt(asked)

    guarded(job)
