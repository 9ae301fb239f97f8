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
    "llama": "dflash_serve.adapters.mistral:MistralTarget",
    "ministral3": "dflash_serve.adapters.mistral3:MinistralTarget",
    "mistral": "dflash_serve.adapters.mistral:MistralTarget",
    "mistral3": "dflash_serve.adapters.mistral3:Mistral3Target",
    "qwen3": "dflash_serve.adapters.qwen3:Qwen3Target",
    "qwen3_5": "dflash_serve.adapters.qwen3_5:Qwen35Target",
    "qwen3_5_text": "dflash_serve.adapters.qwen3_5:Qwen35Target",
    "qwen3_5_moe": "dflash_serve.adapters.qwen3_5:Qwen35MoeTarget",
    "qwen3_5_moe_text": "dflash_serve.adapters.qwen3_5:Qwen35MoeTarget",
}
"""``model_type`` of a target's config.json -> adapter."""

DRAFTERS = {
    "DFlashDraftModel": "dflash_serve.adapters.dflash:DFlashDrafter",
    "DFlash2DraftModel": "dflash_serve.adapters.dflash2:DFlash2Drafter",
    "DSparkDraftModel": "dflash_serve.adapters.dspark:DSparkDrafter",
}
"""First entry of ``architectures`` in a drafter's config.json -> adapter."""


def find(table: dict[str, str], key: str, what: str) -> Any:
    """The class behind ``key``; imported on demand.

    Raises:
        AdapterError: nothing serves ``key``; the message lists what could be served.
    """
    if key not in table:
        raise AdapterError(f"{what} {key!r} is not supported (supported: {', '.join(table)})")
    module, name = table[key].split(":")
    return getattr(import_module(module), name)
