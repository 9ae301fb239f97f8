"""The families that `test_conformance` and `test_family_conformance` hold to what all must keep.

A new adapter joins both by one row of `FAMILIES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.adapters.quantised import write_quantised
from tests.tiny import (
    MINISTRAL3,
    MISTRAL,
    MISTRAL3,
    QWEN3_5,
    QWEN3_5_MOE,
    WINDOW,
    write_target,
)
from tests.tiny_gemma import (
    GEMMA3,
    GEMMA3_TEXT,
    GEMMA4,
    GEMMA4_MOE,
    GEMMA4_SMALL,
    GEMMA4_UNIFIED,
)
from tests.tiny_models import COHERE2, GPT_OSS, LFM2, LFM2_MOE, QWEN3_MOE


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of checkpoint.

    write: puts a tiny one of random weights into the directory given, and returns that directory.
    Its vocabulary has 96 tokens, it has at least 4 layers, and those that slide have a window of
    `tests.tiny.WINDOW` tokens.
    left_out: the window of all layers, where mlx-lm's model runs without it. alike: it differs from
    another family only in how its weights are stored, so that the longer tests take a part of it.
    """

    write: Callable[[Path], Path]
    left_out: int | None = None
    alike: bool = False


FAMILIES: dict[str, Family] = {
    "qwen3": Family(write_target),
    "qwen3, 4 bit": Family(partial(write_quantised, bits=4), alike=True),
    "mistral": Family(partial(write_target, base=MISTRAL), WINDOW),
    "mistral, 4 bit": Family(partial(write_quantised, bits=4, base=MISTRAL), WINDOW, alike=True),
    "llama": Family(partial(write_target, base=MISTRAL, model_type="llama")),
    "mistral3": Family(partial(write_target, base=MISTRAL3), WINDOW, alike=True),
    "ministral3": Family(partial(write_target, base=MINISTRAL3)),
    "qwen3_5": Family(partial(write_target, base=QWEN3_5)),
    "qwen3_5, 4 bit": Family(partial(write_quantised, bits=4, base=QWEN3_5), alike=True),
    "qwen3_5 text": Family(partial(write_target, base=QWEN3_5["text_config"]), alike=True),
    "qwen3_5_moe": Family(partial(write_target, base=QWEN3_5_MOE)),
    "qwen3_5_moe, 4 bit": Family(partial(write_quantised, bits=4, base=QWEN3_5_MOE), alike=True),
    "qwen3_moe": Family(partial(write_target, base=QWEN3_MOE)),
    "qwen3_moe, 4 bit": Family(partial(write_quantised, bits=4, base=QWEN3_MOE), alike=True),
    "gpt_oss, mxfp4": Family(partial(write_target, base=GPT_OSS)),
    "generic: cohere2": Family(partial(write_target, base=COHERE2)),
    "lfm2": Family(partial(write_target, base=LFM2)),
    "lfm2_moe, 8 bit": Family(partial(write_quantised, bits=8, base=LFM2_MOE)),
    "gemma3": Family(partial(write_target, base=GEMMA3)),
    "gemma3 text, 4 bit": Family(partial(write_quantised, bits=4, base=GEMMA3_TEXT)),
    "gemma4": Family(partial(write_target, base=GEMMA4)),
    "gemma4 unified, 8 bit": Family(partial(write_quantised, bits=8, base=GEMMA4_UNIFIED)),
    "gemma4 moe, 4 bit": Family(partial(write_quantised, bits=4, base=GEMMA4_MOE)),
    "gemma4 small": Family(partial(write_target, base=GEMMA4_SMALL)),
}
