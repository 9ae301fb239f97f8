"""Published targets and drafters: what ``--target Qwen3-8B --drafter auto`` means.

Known from the publishers' lists of models and model cards; no download was tried. ``named``: the
hub id was seen in full; the others follow the publisher's pattern, z-lab/TARGET-DFlash. Which
family a target of the newest generations belongs to follows its predecessor. Imports no MLX.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

DFLASH, DFLASH2, JETSPEC, DSPARK = "DFlash", "DFlash 2", "JetSpec", "DSpark"


@dataclass(frozen=True, slots=True)
class Pair:
    """Hub ids of a target and of a drafter that was trained for it.

    ``family``: the target's model_type, None if no adapter here serves it. ``block``: tokens of a
    block as trained, the anchor included, None where it is not known.
    """

    target: str
    drafter: str
    family: str | None
    kind: str = DFLASH
    block: int | None = None
    named: bool = True

    @property
    def served(self) -> bool:
        return self.family is not None


def _pattern(target: str, family: str | None, block: int | None = None) -> Pair:
    base = target.rpartition("/")[2]
    return Pair(target, f"z-lab/{base}-DFlash", family, block=block, named=False)


PAIRS = (
    Pair("Qwen/Qwen3-4B", "z-lab/Qwen3-4B-DFlash-b16", "qwen3", block=16),
    Pair("Qwen/Qwen3-4B", "deepseek-ai/dspark_qwen3_4b_block7", "qwen3", DSPARK, 8),
    Pair("Qwen/Qwen3-8B", "z-lab/Qwen3-8B-DFlash-b16", "qwen3", block=16),
    Pair("Qwen/Qwen3-8B", "JetSpec/jetspec-qwen3-8b", "qwen3", JETSPEC),
    Pair("Qwen/Qwen3-8B", "deepseek-ai/dspark_qwen3_8b_block7", "qwen3", DSPARK, 8),
    Pair("Qwen/Qwen3-14B", "deepseek-ai/dspark_qwen3_14b_block7", "qwen3", DSPARK, 8),
    Pair(
        "Qwen/Qwen3-Coder-30B-A3B-Instruct",
        "z-lab/Qwen3-Coder-30B-A3B-DFlash",
        "qwen3_moe",
        block=16,
    ),
    Pair("Qwen/Qwen3-30B-A3B", "JetSpec/jetspec-qwen3-30b-a3b", "qwen3_moe", JETSPEC),
    _pattern("Qwen/Qwen3-Coder-Next", None),
    _pattern("Qwen/Qwen3.5-4B", "qwen3_5", 16),
    _pattern("Qwen/Qwen3.5-9B", "qwen3_5"),
    _pattern("Qwen/Qwen3.5-27B", "qwen3_5"),
    _pattern("Qwen/Qwen3.5-35B-A3B", "qwen3_5_moe"),
    _pattern("Qwen/Qwen3.5-122B-A10B", "qwen3_5_moe"),
    _pattern("Qwen/Qwen3.5-397B-A17B", "qwen3_5_moe"),
    Pair("Qwen/Qwen3.6-27B", "z-lab/Qwen3.6-27B-DFlash", "qwen3_5"),
    _pattern("Qwen/Qwen3.6-35B-A3B", "qwen3_5_moe"),
    Pair("Qwen/Qwen3.6-35B-A3B", "JetSpec/jetspec-Qwen3.6-35B-A3B", "qwen3_5_moe", JETSPEC),
    Pair("Qwen/Qwen3.8-27B", "z-lab/Qwen3.8-27B-DFlash2", "qwen3_5", DFLASH2, 8),
    _pattern("google/gemma-4-12B-it", "gemma4"),
    Pair("google/gemma-4-12B-it", "deepseek-ai/dspark_gemma4_12b_block7", "gemma4", DSPARK, 8),
    Pair("google/gemma-4-31B-it", "z-lab/gemma-4-31B-it-DFlash", "gemma4"),
    _pattern("google/gemma-4-26B-A4B-it", "gemma4"),
    Pair("google/gemma-4-26B-A4B-it", "JetSpec/jetspec-gemma4-26B-A4B0-it", "gemma4", JETSPEC),
    Pair(
        "meta-llama/Llama-3.1-8B-Instruct",
        "z-lab/LLaMA3.1-8B-Instruct-DFlash-UltraChat",
        "llama",
        block=10,
    ),
    Pair("openai/gpt-oss-20b", "z-lab/gpt-oss-20b-DFlash", "gpt_oss", block=10),
    Pair("openai/gpt-oss-20b", "JetSpec/jetspec-gpt-oss-20b", "gpt_oss", JETSPEC),
    Pair("openai/gpt-oss-120b", "z-lab/gpt-oss-120b-DFlash", "gpt_oss", block=10),
    _pattern("MiniMaxAI/MiniMax-M2.5", None),
    _pattern("MiniMaxAI/MiniMax-M2.7", None),
    _pattern("moonshotai/Kimi-K2.5", None, 16),
    Pair("moonshotai/Kimi-K2.6", "z-lab/Kimi-K2.6-DFlash", None, block=16),
    _pattern("moonshotai/Kimi-K2.7-Code", None, 16),
    _pattern("zai-org/GLM-5.1", None),
    Pair("zai-org/GLM-5.3-Flash", "z-lab/GLM-5.3-Flash-DFlash2", None, DFLASH2, 8),
    Pair("Muse-Glimmer-30B", "z-lab/Muse-Glimmer-30B-DFlash2", None, DFLASH2, 8),
    Pair("stepfun-ai/Step-3.7-Flash", "JetSpec/jetspec-Step-3.7-Flash", None, JETSPEC),
    _pattern("nvidia/Alpamayo-R1-10B", None),
)
"""One line per published drafter; of several for a target, the one to prefer comes first."""

_RENAMED = {"meta-llama-3.1-8b-instruct": "llama-3.1-8b-instruct"}
"""Lower-case base names that publishers of conversions use for others."""

_VARIANT = re.compile(
    r"-(\d+-?bit|bf16|fp16|fp8|mlx|dwq(-\d+)?|awq|gptq|mxfp[48]|nvfp4|q\d|g\d+|affine|hi)$"
)
"""An ending of a conversion's name, which says how it is stored and not what it is."""


def find_pair(name: str) -> Pair | None:
    """The pair to prefer for a short name, a hub id or a path."""
    return next(find_pairs(name), None)


def find_pairs(name: str) -> Iterator[Pair]:
    """All pairs of a target, by preference; its conversions share its drafters."""
    base = base_name(name)
    return (pair for pair in PAIRS if base == base_name(pair.target))


def base_name(name: str) -> str:
    """A target's lower-case name without its owner and without what says how it is stored."""
    base = name.rstrip("/").rsplit("/", 1)[-1].lower()
    while (shorter := _VARIANT.sub("", base)) != base:
        base = shorter
    return _RENAMED.get(base, base)
