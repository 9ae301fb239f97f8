"""Settings of `dflash-train convert` and `dflash-train export`: the sources of their options."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dflash_serve.training.run.settings import DtypeName, Layers
from dflash_serve.training.settings import Positional, Settings

_OUT = "Folder to write; what is there stays until the end."
_RUNTIME_BLOCK = "Block that you advise for serving."


class ConvertSettings(Settings):
    """A drafter of another trainer, the target that it is for, and what its config lacks."""

    source: Annotated[str, Positional()] = Field(description="A file, a directory or a hub id.")
    target: str = Field(description="Target: a directory or a hub id.")
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
    target: str | None = Field(
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
