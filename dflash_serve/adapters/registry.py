"""Which class serves which checkpoint. A new family or drafter is one line here."""

from importlib import import_module
from typing import Any

from dflash_serve.adapters.base import AdapterError

TARGETS = {
    "gemma3": "dflash_serve.adapters.gemma3:Gemma3Target",
    "gemma3_text": "dflash_serve.adapters.gemma3:Gemma3TextTarget",
    "gemma4": "dflash_serve.adapters.gemma4:Gemma4Target",
    "gemma4_text": "dflash_serve.adapters.gemma4:Gemma4TextTarget",
    "gemma4_unified": "dflash_serve.adapters.gemma4:Gemma4Target",
    "gemma4_unified_text": "dflash_serve.adapters.gemma4:Gemma4TextTarget",
    "gpt_oss": "dflash_serve.adapters.gpt_oss:GptOssTarget",
    "lfm2": "dflash_serve.adapters.lfm2:Lfm2Target",
    "lfm2_moe": "dflash_serve.adapters.lfm2:Lfm2MoeTarget",
    "llama": "dflash_serve.adapters.mistral:MistralTarget",
    "ministral": "dflash_serve.adapters.mistral:MistralTarget",
    "ministral3": "dflash_serve.adapters.mistral3:MinistralTarget",
    "mistral": "dflash_serve.adapters.mistral:MistralTarget",
    "mistral3": "dflash_serve.adapters.mistral3:Mistral3Target",
    "qwen3": "dflash_serve.adapters.qwen3:Qwen3Target",
    "qwen3_5": "dflash_serve.adapters.qwen3_5:Qwen35Target",
    "qwen3_5_text": "dflash_serve.adapters.qwen3_5:Qwen35Target",
    "qwen3_5_moe": "dflash_serve.adapters.qwen3_5:Qwen35MoeTarget",
    "qwen3_5_moe_text": "dflash_serve.adapters.qwen3_5:Qwen35MoeTarget",
    "qwen3_moe": "dflash_serve.adapters.qwen3_moe:Qwen3MoeTarget",
}
"""``model_type`` of a target's config.json -> adapter."""

DRAFTERS = {
    "DFlashDraftModel": "dflash_serve.adapters.dflash:DFlashDrafter",
    "DFlash2DraftModel": "dflash_serve.adapters.dflash2:DFlash2Drafter",
    "DSparkDraftModel": "dflash_serve.adapters.dspark:DSparkDrafter",
}
"""First entry of ``architectures`` in a drafter's config.json -> adapter."""


def find_target(model_type: str) -> Any:
    """The class that serves targets of a model type: a family's own, or the generic one.

    Raises:
        AdapterError: neither the table nor mlx-lm has ``model_type``.
    """
    found = None
    if model_type not in TARGETS:
        generic = import_module("dflash_serve.adapters.generic")
        found = generic.find_generic(model_type)
    return found or find(TARGETS, model_type, "target model_type")


def find(table: dict[str, str], key: str, what: str) -> Any:
    """The class behind ``key``; imported on demand.

    Raises:
        AdapterError: nothing serves ``key``; the message lists what could be served.
    """
    if key not in table:
        raise AdapterError(f"{what} {key!r:.80} is not supported (supported: {', '.join(table)})")
    module, name = table[key].split(":")
    return getattr(import_module(module), name)
