"""The README.md beside a drafter: what it is and fits, what it learned from, what was measured.

Says nothing but what the config, the run's folder and the given figures say.
"""

import re
from pathlib import Path
from typing import Any

from dflash_serve.adapters.dflash_config import DFlashConfig, parse_dflash_config
from dflash_serve.training.run.record import Worth

_MEANING = """

Tokens per round: the mean over responses of each one's mean tokens per verify pass, the target's
own token included. Pooled: all tokens over all verify passes. Drafts were compared with answers
that are known."""
_INTERVAL = " Interval: of that mean, by a bootstrap that draws whole conversations."
_MEANING_VP = """

Tokens per round behind a visible prefix: the mean over the lengths of that prefix."""


def model_card(
    name: str,
    config: dict[str, Any],
    target: str | None,
    worth: Worth | None = None,
    trained_on: str | None = None,
) -> str:
    """Markdown with the hub's front matter; ``config`` is complete (see `layout.full_config`).

    ``target`` is a hub id, which becomes the card's base model, or a path, of which the card has
    the folder's name. ``trained_on`` is in words, see `data.origin.describe`.
    """
    parsed = parse_dflash_config(config)
    hub_id = target if target is not None and _is_hub_id(target) else None
    made_for = hub_id or (Path(target).name if target else None)
    return f"""{_front_matter(hub_id)}
# {name}

A {_kind(parsed)}: it proposes blocks of tokens that its target verifies. The text stays the
target's own.

{_table(parsed, made_for)}

## Trained on
{_sentence(trained_on) if trained_on else "Not known."}

## Measured
{_measured(parsed, worth)}

## Use
```
dflash-serve --target {hub_id or "TARGET"} --drafter {name}
```
"""


def _is_hub_id(target: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", target) is not None and not Path(target).exists()


def _kind(config: DFlashConfig) -> str:
    if config.prefix_weight_base:
        return f"VP-drafter (prefix weight base {config.prefix_weight_base})"
    return "DFlash 2 drafter" if config.selector_rank else "DFlash drafter"


def _table(config: DFlashConfig, made_for: str | None) -> str:
    rows = {
        "made for": made_for or f"a target of {config.num_target_layers} layers",
        "target's hidden size, vocabulary": f"{config.hidden_size}, {config.vocab_size}",
        "layers": f"{config.num_layers}, {_windowed(config.layer_windows)}",
        "tapped target layers": ", ".join(map(str, config.target_layer_ids)),
        "block": f"{config.block_size} as trained, {config.runtime_block_size} advised",
        "mask token": str(config.mask_token_id),
    }
    if tables := _tables(config):
        rows["tables of its own"] = f"{tables}; readers of z-lab's layout alone do not expect them"
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _tables(config: DFlashConfig) -> str:
    own = ["an embedding"] if config.own_embedding else []
    own += [f"a head of {config.logits} logits"] if config.own_head else []
    own += ["the tokens of its reduced vocabulary (d2t)"] if config.draft_vocab_size else []
    return ", ".join(own)


def _windowed(layers: tuple[int | None, ...]) -> str:
    windows = [window for window in layers if window is not None]
    if not windows:
        return "full attention"
    return f"{len(windows)} of them with a sliding window of {max(windows)}"


def _measured(config: DFlashConfig, worth: Worth | None) -> str:
    if worth is None:
        return "Nothing yet."
    figure, meaning = worth.figures(), _MEANING
    if worth.tokens_per_round_interval is not None:
        meaning += _INTERVAL
    if config.prefix_weight_base:
        figure, meaning = f"{figure} behind a visible prefix", _MEANING_VP
    return f"{figure}, on {worth.on}, after {worth.step} steps.{meaning}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _front_matter(hub_id: str | None) -> str:
    base = f"base_model: {hub_id}\n" if hub_id else ""
    return f"---\n{base}tags:\n- dflash\n- speculative-decoding\n---"
