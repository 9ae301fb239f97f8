"""Names of targets and drafters -> directories. The only place that reads the table of pairs."""

from pathlib import Path

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import CONFIG, resolve
from dflash_serve.adapters.loading import check_files
from dflash_serve.adapters.pairs import find_pair
from dflash_serve.compose.options import EngineOptions, OptionsError

DEMO = Path(__file__).parent.parent / "demo"
"""The embedded pair: ``target``, ``drafter`` and ``heldout.jsonl``."""
DEMO_NAME = "dflash-demo"
REFUSALS = (AdapterError, OptionsError, ValueError, OSError)
"""What names, checkpoints and options that cannot be used raise; each is one line for the user."""


def checkpoints(options: EngineOptions) -> tuple[Path, Path | None]:
    """Directories of target and drafter; None without speculation.

    Raises:
        AdapterError: a name that leads nowhere, or no published drafter for the target.
    """
    return target_directory(options.target), drafter_directory(options)


def checked_checkpoints(options: EngineOptions) -> tuple[Path, Path | None]:
    """`checkpoints` of which everything has been checked but the weights' values.

    Raises:
        AdapterError: as above, or a checkpoint is damaged, cannot be served, or does not fit.
    """
    target, drafter = checkpoints(options)
    check_files(target, drafter)
    return target, drafter


def target_directory(name: str | None, *, config_only: bool = False) -> Path:
    """A directory, a hub id or the short name of a published pair; None is the demo target.

    Of a hub id ``config_only`` gets nothing but config.json.

    Raises:
        AdapterError: the name leads nowhere.
    """
    if name is None:
        return DEMO / "target"
    pair = find_pair(name)
    short = pair is not None and "/" not in name and not Path(name).exists()
    wanted = pair.target if pair is not None and short else name
    return resolve(wanted, (CONFIG,)) if config_only else resolve(wanted)


def drafter_directory(options: EngineOptions) -> Path | None:
    """Where the drafter is, None for plain decoding.

    Raises:
        AdapterError: the name leads nowhere, or no published drafter for the target.
    """
    if options.drafter == "none" or options.speculation == "off":
        return None
    if options.drafter != "auto":
        return resolve(options.drafter)
    if options.target is None:
        return DEMO / "drafter"
    pair = find_pair(options.target)
    if pair is None:
        raise AdapterError(
            f"no published drafter is known for {options.target} (--list-pairs shows them): give "
            "--drafter PATH-or-ID, or --drafter none for plain decoding"
        )
    return resolve(pair.drafter)
