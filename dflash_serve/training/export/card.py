"""The README.md beside a drafter: what it is, what it fits, what was measured.

Says nothing but what the config and the given figures say.
"""

from dataclasses import dataclass
from typing import Any

from dflash_serve.adapters.dflash_config import parse_dflash_config


@dataclass(frozen=True, slots=True)
class Measured:
    """Tokens per round on answers held out of the training, after ``step`` steps.

    Of a VP-drafter: those behind the visible prefixes that it was given.
    """

    step: int
    tokens_per_round: float


def model_card(
    name: str, config: dict[str, Any], target: str | None, measured: Measured | None
) -> str:
    """Markdown with the hub's front matter; ``config`` is complete (see `layout.full_config`).

    ``target`` is a hub id or a path; only a hub id becomes the card's base model.
    """
    parsed, inner = parse_dflash_config(config), config["dflash_config"]
    kind = "DFlash 2 drafter" if parsed.selector_rank else "DFlash drafter"
    prefixed = inner.get("training_mode") == "vp_drafter"
    if prefixed:
        kind = f"VP-drafter (prefix weight base {inner.get('prefix_weight_base')})"
    windows = {window for window in parsed.layer_windows if window is not None}
    rows = {
        "made for": target or f"a target of {parsed.num_target_layers} layers",
        "target's hidden size, vocabulary": f"{parsed.hidden_size}, {parsed.vocab_size}",
        "layers": f"{parsed.num_layers}, {_windowed(parsed.layer_windows, windows)}",
        "tapped target layers": ", ".join(map(str, parsed.target_layer_ids)),
        "block": f"{parsed.block_size} as trained, {parsed.runtime_block_size} advised",
        "mask token": str(parsed.mask_token_id),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""{_front_matter(target)}
# {name}

A {kind}: it proposes blocks of tokens that its target verifies. The text is the target's own.

| | |
| --- | --- |
{table}

## Measured
{_sentence(measured, prefixed)}

## Use
```
dflash-serve --target {target or "TARGET"} --drafter {name}
```
"""


def _windowed(layers: tuple[int | None, ...], windows: set[int]) -> str:
    if not windows:
        return "full attention"
    sliding = sum(window is not None for window in layers)
    return f"{sliding} of them with a sliding window of {max(windows)}"


def _sentence(measured: Measured | None, prefixed: bool) -> str:
    if measured is None:
        return "Nothing yet."
    what = "tokens per round (the target's own token included), greedy"
    if prefixed:
        what = "tokens per round behind a visible prefix"
    return (
        f"{measured.tokens_per_round:.2f} {what}, on answers held out of the training, after "
        f"{measured.step} steps."
    )


def _front_matter(target: str | None) -> str:
    hub_id = target is not None and target.count("/") == 1 and not target.startswith((".", "/"))
    base = f"base_model: {target}\n" if hub_id else ""
    return f"---\n{base}tags:\n- dflash\n- speculative-decoding\n---"
