"""What a pair of models and its engine can be told, checked once. Knows nothing of HTTP."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dflash_serve.engine.config import SPARE_TOKENS
from dflash_serve.paths import name_fault, shown

SPECULATION = ("auto", "always", "off")
_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_BOUNDS: dict[str, tuple[float, float]] = {
    "max_batch": (1, 1024),
    "max_queue": (0, 1_000_000),
    "max_context": (0, 2**31 - 1),
    "block_size": (0, 1024),
    "prefill_chunk": (1, 2**20),
    "memory_limit": (0, 2**63 - 1),
    "max_stall_ms": (1, 600_000),
}
DRAFTER_BITS = (0, 4, 8)
CPU_WEIGHTS = ("auto", "float32", "stored")
_OF_A_DRAFTER: dict[str, tuple[str | int, ...]] = {
    "tree": ("default", "off"),
    "drafter_bits": (0,),
    "second_drafter": ("none",),
}
"""Options that only a drafter can follow, and the values that ask for nothing."""
_NEVER_EMPTY = ("target", "drafter", "second_drafter", "tool_parser", "reasoning_parser")
_NAMES = ("target", "drafter", "second_drafter")
"""Options that name directories."""


class OptionsError(ValueError):
    """An option with a value that cannot be. The message is one line for the user.

    It spells options as the command line does.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The options of a pair and of the engine that runs it, checked at construction.

    target: None is the embedded demo pair. drafter: ``auto``, ``none``, a path or a hub id.
    max_context and block_size: 0 takes the model's own. speculation: ``auto`` drafts as many tokens
    as pay in each round, ``always`` whole blocks whatever they cost, ``off`` none; a block_size
    that is given is kept to in every round. memory_limit: bytes, 0 for none.
    max_stall_ms: what a prompt's chunk and the round beside it may take, above 64 tokens.
    cpu_weights: on a CPU ``auto`` makes weights float32 where that is faster and memory has room,
    ``float32`` all of them, or refuses to start, ``stored`` keeps them as on disk.
    drafter_bits: 4 or 8 quantises the drafter at load, 0 leaves it as stored.
    second_drafter: a VP-drafter's path or hub id, ``auto`` or ``none``. tree: ``off``, ``auto`` or
    a number of nodes; ``default`` is auto with a second drafter and off without.
    seed: for requests without one; None draws a fresh one per request. tool_parser and
    reasoning_parser: ``auto`` takes what the chat template shows.
    """

    target: str | None = None
    drafter: str = "auto"
    max_batch: int = 8
    max_queue: int = 128
    max_context: int = 0
    block_size: int = 0
    speculation: str = "auto"
    cpu_weights: str = "auto"
    drafter_bits: int = 0
    second_drafter: str = "none"
    tree: str = "default"
    prefill_chunk: int = 512
    memory_limit: int = 0
    max_stall_ms: int = 250
    seed: int | None = None
    tool_parser: str = "auto"
    reasoning_parser: str = "auto"

    def __post_init__(self) -> None:
        check_values(self, _BOUNDS, _NEVER_EMPTY)
        check_names(self, _NAMES)
        check_one_of("speculation", self.speculation, SPECULATION)
        check_one_of("cpu_weights", self.cpu_weights, CPU_WEIGHTS)
        _check_drafting(self)
        if self.drafter_bits not in DRAFTER_BITS:
            allowed = ", ".join(map(str, DRAFTER_BITS))
            raise OptionsError(
                f"{option('drafter_bits')} is {self.drafter_bits}, but must be one of {allowed}"
            )
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise OptionsError(f"{option('seed')} is {self.seed}, but must fit 64 bits")

    @property
    def adaptive(self) -> bool:
        """Whether the engine chooses how much each round drafts."""
        return self.speculation == "auto" and not self.block_size


def _check_drafting(options: EngineOptions) -> None:
    """Refuse what asks for more than a drafter that is not there."""
    _check_tree(options.tree)
    if options.speculation == "off":
        reason = "--speculation off leaves no drafter"
        if options.block_size > 1:
            raise OptionsError(f"{option('block_size')} is {options.block_size}, but {reason}")
    elif options.drafter == "none":
        reason = "--drafter is none"
    else:
        return
    for name, neutral in _OF_A_DRAFTER.items():
        value = getattr(options, name)
        if value not in neutral:
            raise OptionsError(f"{option(name)} is {value}, but {reason}")


def _check_tree(tree: str) -> None:
    number = int(tree) if tree.isascii() and tree.isdigit() else 0
    if tree not in ("default", "auto", "off") and not 2 <= number <= SPARE_TOKENS:
        raise OptionsError(
            f"--tree is {tree!r}, but must be auto, off or a number of nodes from 2 to "
            f"{SPARE_TOKENS}"
        )


def option(name: str) -> str:
    """A field's name as the command line spells it."""
    return "--" + name.replace("_", "-")


def check_values(
    options: Any, bounds: Mapping[str, tuple[float, float]], never_empty: Sequence[str]
) -> None:
    """
    Raises:
        OptionsError: a field of ``options`` is out of its bounds, or an empty string.
    """
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if not low <= value <= high:
            raise OptionsError(f"{option(name)} is {value}, but must be {low} to {high}")
    for name in never_empty:
        if getattr(options, name) == "":
            raise OptionsError(f"{option(name)} is empty")


def check_names(options: Any, names: Sequence[str]) -> None:
    """
    Raises:
        OptionsError: a field of ``options`` is a path that no directory can have.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and (found := name_fault(value)):
            raise OptionsError(f"{option(name)} is {shown(value)}, but {found}")


def check_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """
    Raises:
        OptionsError: ``value`` is not allowed.
    """
    if value not in allowed:
        raise OptionsError(f"{option(name)} is {value!r}, but must be {' or '.join(allowed)}")


def parse_bytes(name: str, text: str) -> int:
    """``8GB``, ``512 MB``, ``1.5GiB`` or plain bytes."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise OptionsError(f"{option(name)} is {text!r}; write a size like 8GB, 512MB or 2GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_block_size(text: str) -> int:
    """``auto`` (0: what the drafter advises) or a number of tokens."""
    if text == "auto":
        return 0
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise OptionsError(f"--block-size is {text!r}, but must be auto or a number from 1")
    return int(text)
