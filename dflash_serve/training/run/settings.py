"""The settings of a run: what `dflash-train run` and the rows of a sweep's table may say.

Plain values, checked against each other. Knows no MLX, reads no files.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dflash_serve.training.run.schedule import DEFAULT_LENGTH, Horizon, Kind, Schedule, Style
from dflash_serve.training.settings import Name, Settings, option_name
from dflash_serve.training.step.objective import DFLASH, DPACE, LossType, Objective

DtypeName = Literal["float16", "bfloat16", "float32"]
ADAMW_RATE, MUON_RATE = 6e-4, 0.01

_SHAPE = (
    "copy_target", "architecture", "layers", "block_size", "target_layers", "intermediate",
    "window", "causal", "selector_rank", "selector_top_k", "conv_kernel", "conv_group",
    "mask_token",
)  # fmt: skip
"""Options that make a new drafter."""

_ONLY_WITH = {
    "prefix_weight_base": ("training_mode", "vp_drafter"),
    "selector_rank": ("architecture", "dflash2"),
    "selector_top_k": ("architecture", "dflash2"),
    "selector_alpha": ("architecture", "dflash2"),
    "conv_kernel": ("architecture", "dflash2"),
    "conv_group": ("architecture", "dflash2"),
    "decay": ("schedule", "wsd"),
    "decay_style": ("schedule", "wsd"),
    "feature_dir": ("features", "disk"),
}
"""Options that do nothing unless another one has a certain value."""


def _listed(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


def _once(value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    twice = [layer for layer in value or () if (value or ()).count(layer) > 1]
    if twice:
        raise ValueError(f"should name layer {twice[0]} once")
    return value


Layers = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...] | None, BeforeValidator(_listed), AfterValidator(_once)
]


class RunSettings(Settings):
    """One run, by the names of its options."""

    target: Name = Field(description="Target: a directory or a hub id.")
    data: Path = Field(description="Answer file of `dflash-train data`.")
    out: Path = Field(description="Folder for the best drafter, log and plot.")
    heldout: Path | None = Field(
        None,
        description="Answer file to choose the best drafter by (one half of its conversations) and "
        "to report its worth on (the other). Default: conversations held back from --data.",
    )
    resume: bool = Field(False, description="Go on from the newest checkpoint in --out.")
    start: Name | None = Field(None, description="Drafter to start from; its shape stays.")
    copy_target: bool = Field(
        True, description="Begin with copies of target layers, not random ones."
    )
    architecture: Literal["v1", "dflash2"] = Field("v1", description="Of a new drafter.")
    training_mode: Literal["dflash", "vp_drafter"] = Field(
        "dflash", description="With --start, the drafter's own mode unless given."
    )
    prefix_weight_base: float = Field(
        0.9, ge=0.01, le=100, description="vp_drafter: prefix length i has the weight base ** i."
    )
    layers: int = Field(5, ge=1, le=256, description="Of the drafter.")
    block_size: int = Field(16, ge=2, le=1024, description="Tokens of a block, its first included.")
    target_layers: Layers = Field(
        None, description="Tapped layers, as in 1,3,5; default: the published spread."
    )
    intermediate: int | None = Field(None, ge=1, le=2**24, description="Default: the target's.")
    window: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Sliding window of all layers."
    )
    causal: bool | None = Field(None, description="In the block; default: in sliding layers only.")
    selector_rank: int = Field(256, ge=1, le=2**16, description="dflash2.")
    selector_top_k: int = Field(16, ge=1, le=2**16, description="dflash2: candidates.")
    conv_kernel: int = Field(2, ge=1, le=1024, description="dflash2: taps.")
    conv_group: int = Field(16, ge=1, le=2**16, description="dflash2: channels per group.")
    mask_token: int | None = Field(None, ge=0, description="Id of the mask token.")

    steps: int | None = Field(None, ge=1, description="Length of the run.")
    epochs: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description=f"Instead of --steps. If no length is given: {DEFAULT_LENGTH}.",
    )
    minutes: float | None = Field(None, gt=0, le=1e6, description="Instead of --steps.")
    batch: int = Field(8, ge=1, description="Sequences per step, in all.")
    accumulate: int = Field(
        1, ge=1, description="Parts in which a process computes its share of them."
    )
    anchors: int = Field(
        64, ge=1, le=2**16, description="Blocks per sequence; published: 512. They cost time only."
    )
    min_loss_tokens: int = Field(2, ge=2, description="Answers below are left out.")
    max_length: int | None = Field(None, ge=2, description="Answers above are left out.")
    lr: float | None = Field(
        None,
        gt=0,
        description=f"Peak learning rate; default: {ADAMW_RATE:g}, with --muon {MUON_RATE:g}.",
    )
    min_lr: float = Field(0.0, ge=0, description="At the end of the run.")
    schedule: Kind = Field("cosine", description="wsd holds the peak, then decays.")
    warmup: float = Field(0.04, ge=0, lt=1, description="Share of the run.")
    decay: float = Field(0.2, ge=0.001, le=1, description="wsd: share of the run that decays.")
    decay_style: Style = Field("cosine", description="wsd: form of the decay.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    weight_decay: float = Field(
        0.0, ge=0, description="The published recipe's; some other trainers' best runs had 0.01."
    )
    muon: bool = Field(False, description="Muon for matrices, AdamW for the rest.")
    gamma: float | None = Field(
        None,
        ge=0.01,
        description="Decay of slot weights; default by block: 7 at 16, 5 at 10, 4 at 8.",
    )
    soft_label: float = Field(
        0.0, ge=0, le=1, description="Share of the loss against the target's distribution."
    )
    loss_type: LossType = Field(
        DFLASH, description="Slot weights that decay by gamma, or one of D-PACE's forms."
    )
    d_pace: float | None = Field(
        None, ge=0, le=1, description="D-PACE's alpha, published 0.5; means --loss-type dpace."
    )
    selector_alpha: float = Field(1.0, ge=0, description="dflash2: weight of the selector's loss.")
    compute_dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of the step.")
    group_rows: int = Field(
        512, ge=1, le=2**20, description="Block rows computed together; more take more memory."
    )
    features: Literal["memory", "disk", "online"] = Field(
        "memory", description="Where the target's features are kept; online: computed in each step."
    )
    feature_gb: float = Field(6.0, ge=0, le=1e6, description="Most that memory or disk keeps.")
    feature_dir: Path | None = Field(None, description="Default: features in --out.")
    feature_dtype: Literal["float16", "bfloat16"] = Field(
        "float16", description="bfloat16 where activations exceed 65,504."
    )
    measure_every: int | None = Field(
        None, ge=1, description="Steps; default: 20 times a run, at least 10 steps and at most 500."
    )
    measure_block: int | None = Field(None, ge=2, description="Default: the block size.")
    patience: int | None = Field(
        None, ge=1, description="End after so many measurements without a best."
    )
    checkpoint_every: int = Field(500, ge=1, description="Steps.")
    keep: int = Field(2, ge=1, description="Checkpoints kept.")
    dtype: DtypeName = Field("float16", description="Of the drafter on disk.")
    wandb: str | None = Field(None, description="Weights & Biases project, if installed.")
    seed: int = Field(0, ge=0, lt=2**63, description="Of weights, batches and blocks.")

    def given(self, name: str) -> bool:
        """Whether the option was set by the user."""
        return name in self.model_fields_set and getattr(self, name) is not None

    def horizon(self, per_epoch: int) -> Horizon:
        """Length of a run of which one epoch takes so many steps."""
        return self._given_length or Horizon.default(per_epoch)

    def describe_length(self, per_epoch: int) -> str:
        """`horizon` in words, and where it is from if none was given."""
        words = self.horizon(per_epoch).describe(per_epoch)
        return words if self._given_length else f"{words} (no length is given: {DEFAULT_LENGTH})"

    @property
    def _given_length(self) -> Horizon | None:
        lengths = (self.steps, self.minutes, self.epochs)
        return None if lengths == (None, None, None) else Horizon(*lengths)

    @property
    def course(self) -> Schedule:
        """Learning rate over the run."""
        peak = self.lr or (MUON_RATE if self.muon else ADAMW_RATE)
        return Schedule(peak, self.schedule, self.warmup, self.decay, self.min_lr, self.decay_style)

    @property
    def objective(self) -> Objective:
        loss_type = (
            DPACE if self.d_pace is not None and self.loss_type == DFLASH else self.loss_type
        )
        alpha = 0.5 if self.d_pace is None else self.d_pace
        return Objective(self.soft_label, loss_type, alpha, self.selector_alpha)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse what contradicts itself and what would have no effect."""
        if sum(length is not None for length in (self.steps, self.epochs, self.minutes)) > 1:
            raise ValueError("give only one of --steps, --epochs and --minutes")
        _ = self.course  # checks the rates and shares
        for name, (other, value) in _ONLY_WITH.items():
            of_start = self.start is not None and other in ("architecture", "training_mode")
            if self.given(name) and getattr(self, other) != value and not of_start:
                raise ValueError(
                    f"{option_name(name)} {getattr(self, name)} has no effect without "
                    f"{option_name(other)} {value}"
                )
        if self.batch % self.accumulate:
            raise ValueError(
                f"--batch {self.batch} cannot be computed in --accumulate {self.accumulate} parts"
            )
        if self.features == "online" and self.given("feature_gb"):
            raise ValueError(f"--feature-gb {self.feature_gb} has no effect with --features online")
        self._check_loss()
        self._check_start()
        return self

    def _check_loss(self) -> None:
        if self.given("d_pace") and self.given("loss_type") and self.loss_type == DFLASH:
            raise ValueError(f"--d-pace {self.d_pace} has no effect with --loss-type {DFLASH}")
        if self.given("gamma") and self.objective.loss_type != DFLASH:
            raise ValueError(f"--gamma {self.gamma} has no effect: D-PACE's weights replace it")
        if self.training_mode == "vp_drafter" and self.given("measure_block"):
            raise ValueError(
                f"--measure-block {self.measure_block} has no effect with --training-mode "
                "vp_drafter, which is measured by visible prefix"
            )

    def _check_start(self) -> None:
        for name in _SHAPE:
            if self.start is not None and self.given(name):
                raise ValueError(
                    f"{option_name(name)} {getattr(self, name)} cannot go with --start "
                    f"{self.start}: that drafter has a shape"
                )
        if self.start is None and self.training_mode == "vp_drafter" and self.block_size < 3:
            raise ValueError(f"a VP-drafter needs --block-size 3 or more, not {self.block_size}")


class PlanSettings(RunSettings):
    """Settings of `dflash-train plan`: those of `run`, and how much there is to learn from."""

    data: Path | None = Field(  # type: ignore[assignment]  # a plan needs none
        None, description="Answer file, if it is there: its own numbers are taken."
    )
    out: Path = Field(Path("drafter"), description="Folder of the run, whose disk is looked at.")
    answers: int = Field(
        5000, ge=1, description="Answers of the file; without --heldout some are held back."
    )
    length: int = Field(512, ge=2, description="Mean tokens of a prompt with its answer.")
    answer_length: int | None = Field(
        None, ge=1, description="Mean tokens of an answer; default: three quarters of --length."
    )
    answer_batch: int = Field(16, ge=1, description="Chats answered together: --batch of `data`.")
    measure: bool = Field(
        True, description="Measure this machine for some seconds; without, no hours are told."
    )
    json_: bool = Field(False, alias="json", description="Print JSON instead of tables.")
