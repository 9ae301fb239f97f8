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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")
    ] = False,
    start: Annotated[
        str | None, typer.Option(help="Drafter to start from; its shape stays.")
    ] = None,
    copy_target: Annotated[
        bool, typer.Option(help="Begin with copies of target layers, not random ones.")
    ] = True,
    architecture: Annotated[str, typer.Option(help="v1 or dflash2.")] = "v1",
    training_mode: Annotated[str, typer.Option(help="dflash or vp_drafter.")] = "dflash",
    prefix_weight_base: Annotated[
        float, typer.Option(help="vp_drafter: i slots are visible as often as base ** i.")
    ] = 0.9,
    layers: Annotated[int, typer.Option(min=1)] = 5,
    block_size: Annotated[int, typer.Option(min=2)] = 16,
    target_layers: Annotated[
        str | None, typer.Option(help="Tapped layers, as in 1,3,5; default: the published spread.")
    ] = None,
    intermediate: Annotated[int | None, typer.Option(min=1, help="Default: the target's.")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Sliding window of all layers.")] = None,
    causal: Annotated[
        bool | None, typer.Option(help="In the block; default: in sliding layers only.")
    ] = None,
    selector_rank: Annotated[int, typer.Option(min=1, help="dflash2.")] = 256,
    selector_top_k: Annotated[int, typer.Option(min=1, help="dflash2: candidates.")] = 16,
    conv_kernel: Annotated[int, typer.Option(min=1, help="dflash2: taps.")] = 2,
    conv_group: Annotated[int, typer.Option(min=1, help="dflash2: channels per group.")] = 16,
    mask_token: Annotated[int | None, typer.Option(help="Id of the mask token.")] = None,
    steps: Annotated[int | None, typer.Option(min=1)] = None,
    epochs: Annotated[float | None, typer.Option(help="Instead of --steps; published: 6.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Instead of --steps.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per step, in all.")] = 8,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Parts in which a process computes its share of them.")
    ] = 1,
    anchors: Annotated[
        int, typer.Option(min=1, help="Blocks per sequence; published: 512. They cost time only.")
    ] = 64,
    min_loss_tokens: Annotated[int, typer.Option(min=2, help="Answers below are left out.")] = 2,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Answers above are left out.")
    ] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 6e-4,
    min_lr: Annotated[float, typer.Option(help="At the end of the run.")] = 0.0,
    schedule: Annotated[str, typer.Option(help="cosine, or wsd: hold, then decay.")] = "cosine",
    warmup: Annotated[float, typer.Option(help="Share of the run.")] = 0.04,
    decay: Annotated[float, typer.Option(help="wsd: share of the run that decays.")] = 0.2,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = 1.0,
    muon: Annotated[
        bool, typer.Option(help="Muon for matrices instead of AdamW; wants --lr near 0.01.")
    ] = False,
    gamma: Annotated[float, typer.Option(help="Decay of slot weights; 7 at 16, 4 at 8.")] = 7.0,
    soft_label: Annotated[
        float, typer.Option(help="Share of the loss against the target's distribution, 0 to 1.")
    ] = 0.0,
    d_pace: Annotated[
        float | None, typer.Option(help="D-PACE's alpha, published 0.5; replaces --gamma.")
    ] = None,
    selector_alpha: Annotated[float, typer.Option(help="dflash2: selector's loss.")] = 1.0,
    compute_dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    group_rows: Annotated[
        int, typer.Option(min=1, help="Block rows computed together; more take more memory.")
    ] = 256,
    features: Annotated[
        str, typer.Option(help="memory, disk, or online: computed in each step.")
    ] = "memory",
    feature_gb: Annotated[float, typer.Option(help="Most that memory or disk keeps.")] = 6.0,
    feature_dir: Annotated[Path | None, typer.Option(help="Default: features in --out.")] = None,
    feature_dtype: Annotated[
        str, typer.Option(help="float16, or bfloat16 where activations exceed 65,504.")
    ] = "float16",
    measure_every: Annotated[int, typer.Option(min=1, help="Steps.")] = 250,
    measure_block: Annotated[
        int | None, typer.Option(min=2, help="Default: the block size.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="End after so many measurements without a best.")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps.")] = 500,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints kept.")] = 2,
    dtype: Annotated[str, typer.Option(help="On disk: float16, bfloat16, float32.")] = "float16",
    wandb: Annotated[str | None, typer.Option(help="Weights & Biases project, if installed.")] = (
        None
    ),
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train a drafter; the best one by tokens per round is kept in --out."""
    settings = {**locals()}
    from dflash_serve.training.commands import run as commands

    guarded(lambda: commands.run(settings))
