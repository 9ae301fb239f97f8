"""What a run is made of, as plain facts: a checkpoint may only be continued by the same.

Fingerprints of files and the values of options; reads files, knows no arrays.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dflash_serve.adapters.checkpoint import fingerprint
from dflash_serve.training.data.origin import describe_changes, file_digest, tokenizer_fingerprint
from dflash_serve.training.run.checkpoint import CheckpointError
from dflash_serve.training.run.trainer import TrainOptions

_FREE = ("measure_every", "checkpoint_every", "patience", "accumulate", "group_rows")
"""Options that do not change what is learnt, so a resumed run may be given others."""

_LENGTH = ("horizon.steps", "horizon.minutes", "horizon.epochs")

_TUNABLE = ("schedule.peak", "schedule.minimum", "clip")
"""Options that a resumed run may be given anew, to get past a loss that exploded."""


def identity(
    target: Path,
    data: dict[str, Path | None],
    config: dict[str, Any],
    options: TrainOptions,
    rest: dict[str, Any],
) -> dict[str, Any]:
    """``data`` are files by role; ``config`` is the drafter's; ``rest`` are further facts."""
    firm = _flat("", asdict(options))
    files = {role: file_digest(path) if path else "none" for role, path in data.items()}
    return {
        "target": fingerprint(target),
        "tokenizer": tokenizer_fingerprint(target),
        **files,
        **_flat("drafter.", config),
        **{name: value for name, value in firm.items() if name not in _FREE},
        **rest,
    }


def check_same_run(kept: dict[str, Any], given: dict[str, Any], *, may_grow: bool) -> str:
    """What has been tuned since the checkpoint was written, in words; empty if nothing.

    ``may_grow`` says whether the run may be made longer.

    Raises:
        CheckpointError: naming everything that must be as it was, with both values.
    """
    names = dict.fromkeys([*kept, *given])
    tunable = (*_TUNABLE, *_LENGTH) if may_grow else _TUNABLE
    firm = {name: given.get(name) for name in names if name not in tunable}
    changed = describe_changes(kept, firm)
    if changed:
        longer = any(kept.get(name) != firm.get(name) for name in _LENGTH if name in firm)
        hint = "; only --schedule wsd can be made longer, while it holds its peak rate"
        raise CheckpointError(
            f"this run cannot be resumed: it was made with {changed}{hint if longer else ''}"
        )
    return describe_changes(kept, {name: given[name] for name in tunable if name in given})


def _flat(prefix: str, value: dict[str, Any]) -> dict[str, Any]:
    """Nested facts under dotted names, as JSON would give them back."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(f"{prefix}{name}.", inner)
        else:
            flat[prefix + name] = list(inner) if isinstance(inner, tuple) else inner
    return flat
