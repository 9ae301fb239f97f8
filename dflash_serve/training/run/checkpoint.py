"""Checkpoints of a run on disk: each is whole or absent, and the newest few are kept.

Knows arrays and facts by name; what they mean is the trainer's.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from dflash_serve.atomic_files import flush
from dflash_serve.measure.errors import DataError

_FORMAT = 2
_ARRAYS, _FACTS = "arrays.safetensors", "facts.json"


class CheckpointError(DataError):
    """A checkpoint that cannot be written or continued; one line."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State after ``step`` steps. ``facts`` is plain JSON."""

    step: int
    arrays: dict[str, mx.array]
    facts: dict[str, Any]


class CheckpointStore:
    """Folders ``step-00000500`` under ``directory``; owner of their comings and goings."""

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self._directory, self._keep = directory, keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write beside, flush to the disk, rename; then drop the oldest.

        Raises:
            CheckpointError: the disk is full or refuses; what was there before is untouched.
        """
        final = self._directory / f"step-{checkpoint.step:08d}"
        if final.exists():  # the same steps give the same state
            return final
        scratch = self._directory / f".{final.name}.part"
        for left in self._directory.glob(".step-*.part"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            scratch.mkdir(parents=True)
            with (scratch / _ARRAYS).open("wb") as file:
                mx.save_safetensors(file, checkpoint.arrays)
            facts = {"format": _FORMAT, **checkpoint.facts}
            (scratch / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
            flush(scratch / _ARRAYS, scratch / _FACTS, scratch)
            os.replace(scratch, final)
            flush(self._directory)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint of step {checkpoint.step} cannot be written to {self._directory}"
                f" ({error}); {self._last_whole()}"
            ) from error
        for old in self.folders()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint, or None where there is none.

        Raises:
            CheckpointError: it is of another format or damaged.
        """
        folders = self.folders()
        if not folders:
            return None
        try:
            facts = json.loads((folders[-1] / _FACTS).read_text(encoding="utf-8"))
            if facts.pop("format") != _FORMAT:
                raise ValueError("it is of another version")
            arrays = mx.load(str(folders[-1] / _ARRAYS))
            mx.eval(arrays)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{folders[-1]} cannot be read: {error}") from error
        assert isinstance(arrays, dict)
        return Checkpoint(int(folders[-1].name.removeprefix("step-")), arrays, facts)

    def folders(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(self._directory.glob("step-*"))

    def _last_whole(self) -> str:
        folders = self.folders()
        return f"the one before is whole: {folders[-1]}" if folders else "there is none before it"
