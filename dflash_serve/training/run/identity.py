"""What a run is made of, as plain facts: a checkpoint may only be continued by the same.

Fingerprints of files and the values of options; reads files, knows no arrays.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dflash_serve.adapters.checkpoint import fingerprint
from dflash_serve.training.data import (
    describe_changes,
    file_digest,
    tokenizer_fingerprint,
)
from dflash_serve.training.run.checkpoint import CheckpointError
from dflash_serve.training.run.trainer import TrainOptions

_FREE = ("measure_every", "checkpoint_every", "patience", "accumulate", "group_rows")
"""Options that do not change what is learnt, so a resumed run may be given others."""

_TUNABLE = ("schedule.peak", "schedule.minimum", "clip")
"""Options that a resumed run may be given anew, to get past a loss that exploded."""


def identity(
    target: Path, data: dict[str, Path | None], config: dict[str, Any], rest: dict[str, Any]
) -> dict[str, Any]:
    """``data`` are files by role; ``config`` is the drafter's; ``rest`` are further facts."""
    files = {role: file_digest(path) if path else "none" for role, path in data.items()}
    return {
        "target": fingerprint(target),
        "tokenizer": tokenizer_fingerprint(target),
        **files,
        **_flat("drafter.", config),
        **rest,
    }


def option_facts(options: TrainOptions) -> dict[str, Any]:
    facts = _flat("", asdict(options))
    return {name: value for name, value in facts.items() if name not in _FREE}


def check_same_run(kept: dict[str, Any], given: dict[str, Any]) -> str:
    """What has been tuned since the checkpoint was written, in words; empty if nothing.

    Raises:
        CheckpointError: naming everything that must be as it was, with both values.
    """
    names = dict.fromkeys([*kept, *given])
    firm = [name for name in names if name not in _TUNABLE]
    changed = describe_changes(kept, {name: given.get(name) for name in firm})
    if changed:
        raise CheckpointError(f"this run cannot be resumed: it was made with {changed}")
    return describe_changes(kept, {name: given[name] for name in _TUNABLE if name in given})


def _flat(prefix: str, value: dict[str, Any]) -> dict[str, Any]:
    """Nested facts under dotted names, as JSON would give them back."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(f"{prefix}{name}.", inner)
        else:
            flat[prefix + name] = list(inner) if isinstance(inner, tuple) else inner
    return flat
