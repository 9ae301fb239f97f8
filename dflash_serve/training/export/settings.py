"""Settings of `dflash-train` adapt, convert and export: the sources of their options."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dflash_serve.training.run.schedule import Horizon, Schedule
from dflash_serve.training.run.settings import DtypeName, Layers
from dflash_serve.training.settings import Name, Positional, Settings

_OUT = "Folder to write; what is there stays until the end."
_RUNTIME_BLOCK = "Block that you advise for serving."

_MINUTES = 3.0
_ADAMW_RATE, _MUON_RATE = 1e-3, 6e-3


class AdaptSettings(Settings):
    """Records of a server, the drafter that served them, and how it is fine-tuned."""

    target: Name = Field(description="Target: a directory or a hub id.")
    drafter: Name = Field(description="Drafter to begin with: the one that served.")
    records: Path = Field(description="Directory that dflash-serve --record filled.")
    out: Path = Field(description="Where the new drafter goes, if it is better.")
    replay: Path | None = Field(
        None, description="Answer file of the old domain, so that it is not forgotten."
    )
    replay_share: float = Field(0.5, gt=0, lt=1, description="Share of training answers from it.")
    replay_tolerance: float = Field(
        0.05, ge=0, lt=1, description="Loss of tokens per round on the replay that is allowed."
    )
    minutes: float | None = Field(
        None, gt=0, le=1e6, description=f"Length; {_MINUTES:.0f} if none."
    )
    steps: int | None = Field(None, ge=1, description="Instead of --minutes.")
    lr: float | None = Field(
        None,
        gt=0,
        description=f"Peak learning rate; {_ADAMW_RATE}, with --muon {_MUON_RATE}.",
    )
    batch: int = Field(8, ge=1, description="Sequences per step.")
    anchors: int = Field(16, ge=1, le=2**16, description="Blocks per sequence.")
    gamma: float | None = Field(
        None, ge=0.01, description="Decay of slot weights; follows the block if not given."
    )
    muon: bool = Field(False, description="Muon for matrices: more progress per step.")
    measure_every: int = Field(25, ge=1, description="Steps.")
    seed: int = Field(0, ge=0, lt=2**63, description="Of blocks, batches and the replay.")

    @property
    def horizon(self) -> Horizon:
        lengths = (self.steps, self.minutes)
        return Horizon(minutes=_MINUTES) if lengths == (None, None) else Horizon(*lengths)

    @property
    def course(self) -> Schedule:
        """Learning rate over the run."""
        return Schedule(self.lr or (_MUON_RATE if self.muon else _ADAMW_RATE))

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.minutes is not None:
            raise ValueError(
                f"--steps {self.steps} and --minutes {self.minutes:g} are two lengths: give one"
            )
        return self


class ConvertSettings(Settings):
    """A drafter of another trainer, the target that it is for, and what its config lacks."""

    source: Annotated[Name, Positional()] = Field(description="A file, a directory or a hub id.")
    target: Name = Field(description="Target: a directory or a hub id.")
    out: Path = Field(description=_OUT)
    kind: Literal["z-lab", "torchspec", "specforge", "speculators"] | None = Field(
        None, alias="from", description="The trainer that wrote it; by look if not given."
    )
    config: Path | None = Field(
        None, description="The drafter's config.json, if not beside the weights."
    )
    dtype: DtypeName | None = Field(
        None, description="Of the written weights; as stored if not given."
    )
    block_size: int | None = Field(
        None, ge=2, description="As trained, where the config does not say: 16."
    )
    runtime_block_size: int | None = Field(None, ge=2, description=_RUNTIME_BLOCK)
    target_layers: Layers = Field(None, description="Tapped layers, as in 1,9,17,25,33.")
    mask_token: int | None = Field(None, ge=0, description="Id of the mask token.")


class ExportSettings(Settings):
    """What a run trained, how it is written, and where it is uploaded."""

    source: Annotated[Path, Positional()] = Field(
        description="A run's folder, its last/, or a checkpoint."
    )
    out: Path = Field(description=_OUT)
    dtype: DtypeName = Field("bfloat16", description="Of the written weights.")
    runtime_block_size: int | None = Field(None, ge=2, description=_RUNTIME_BLOCK)
    target: Name | None = Field(
        None, description="The target's name, for the model card only; the run's if not given."
    )
    hf_repo: str | None = Field(
        None, description="OWNER/NAME on the Hugging Face hub to upload the folder to."
    )
    public: bool = Field(False, description="Let everyone read a new --hf-repo.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.public and self.hf_repo is None:
            raise ValueError("--public has no effect without --hf-repo")
        return self
