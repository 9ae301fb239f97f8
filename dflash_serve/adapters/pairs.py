"""Published target and drafter pairs: what ``--target Qwen3-8B --drafter auto`` means."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """Hub ids of a target and of the drafter that was trained for it."""

    target: str
    drafter: str


PAIRS = {
    "qwen3-4b": Pair("Qwen/Qwen3-4B", "z-lab/Qwen3-4B-DFlash-b16"),
    "qwen3-8b": Pair("Qwen/Qwen3-8B", "z-lab/Qwen3-8B-DFlash-b16"),
}
"""Lower-case base name of the target -> pair. One line per published drafter."""

_VARIANTS = ("-4bit", "-6bit", "-8bit", "-bf16", "-fp16", "-mlx", "-4bit-dwq")


def find_pair(name: str) -> Pair | None:
    """The pair for a short name, a hub id or a path; quantised variants share the drafter."""
    base = name.rstrip("/").rsplit("/", 1)[-1].lower()
    for suffix in sorted(_VARIANTS, key=len, reverse=True):
        base = base.removesuffix(suffix)
    return PAIRS.get(base)
