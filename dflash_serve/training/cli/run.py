"""dflash-train run: the options."""

from pathlib import Path
from typing import Annotated

import typer

from dflash_serve.training.cli.common import Target, guarded


def run(
    *,
    target: Target,
    data: Annotated[Path, typer.Option(help="Answer file of `dflash-train data`.")],
    out: Annotated[Path, typer.Option(help="Folder for the best drafter, log and plot.")],
    heldout: Annotated[Path | None, typer.Option(help="Answer file to measure on.")] = None,
    start: Annotated[
        str | None, typer.Option(help="Drafter to start from; its shape stays.")
    ] = None,
    copy_target: Annotated[
        bool, typer.Option(help="Begin with copies of target layers, not random ones.")
    ] = True,
    layers: Annotated[int, typer.Option(min=1)] = 5,
    block_size: Annotated[int, typer.Option(min=2)] = 16,
    target_layers: Annotated[
        str | None, typer.Option(help="Tapped layers, as in 1,3,5; default: the published spread.")
    ] = None,
    intermediate: Annotated[int | None, typer.Option(help="Default: the target's.")] = None,
    window: Annotated[int | None, typer.Option(help="Sliding window of all layers.")] = None,
    mask_token: Annotated[int | None, typer.Option(help="Id of the mask token.")] = None,
    steps: Annotated[int | None, typer.Option(min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="Instead of --steps.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per step.")] = 8,
    anchors: Annotated[int, typer.Option(min=1, help="Blocks per sequence.")] = 16,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 6e-4,
    muon: Annotated[
        bool, typer.Option(help="Muon for matrices instead of AdamW; wants --lr near 0.01.")
    ] = False,
    gamma: Annotated[float, typer.Option(help="Decay of slot weights; 7 at 16, 4 at 8.")] = 7.0,
    measure_every: Annotated[int, typer.Option(min=1)] = 250,
    measure_block: Annotated[int | None, typer.Option(help="Default: the block size.")] = None,
    dtype: Annotated[str, typer.Option(help="On disk: float16, bfloat16, float32.")] = "float16",
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train a drafter; the best one by tokens per round is kept in --out."""
    from dflash_serve.training.commands import run as commands
    from dflash_serve.training.export import DrafterShape
    from dflash_serve.training.schedule import Horizon
    from dflash_serve.training.trainer import TrainOptions

    def job() -> None:
        taps = tuple(int(part) for part in target_layers.split(",")) if target_layers else None
        mask = commands.mask_token_id(target, mask_token)
        shape = DrafterShape(mask, layers, block_size, taps, intermediate, window)
        options = TrainOptions(
            Horizon(steps, minutes),
            batch=batch,
            anchors=anchors,
            gamma=gamma,
            peak_rate=lr,
            measure_every=measure_every,
            seed=seed,
            muon=muon,
        )
        commands.train(
            commands.TrainJob(
                target,
                data,
                out,
                shape,
                options,
                heldout,
                start,
                copy_target,
                measure_block,
                dtype,
            )
        )

    guarded(job)
