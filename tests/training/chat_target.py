"""A random target whose tokens are words, with chat templates: expectations can be read."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3 import Model, ModelArgs
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.training.conftest import TARGET_CONFIG

WORDS = [
    "<|im_start|>", "<|im_end|>", "<|mask|>", "system", "user", "assistant", "tool",
    "<think>", "</think>", *"abcdefghij",
]  # fmt: skip
PLAIN = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)
THINKING = (
    "{% for m in messages %}"
    "{% if m.role not in ('user', 'assistant') %}{{ raise_exception('no ' + m.role) }}{% endif %}"
    "{% set text = m.content.split('</think>')[-1] if m.role == 'assistant' and not loop.last"
    " else m.content %}"
    "<|im_start|> {{ m.role }} {{ text }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant"
    "{% if enable_thinking is defined and not enable_thinking %} <think> </think>{% endif %}"
    "{% endif %}"
)
"""Leaves out earlier thinking, and writes an empty one where thinking is off."""
CONFIG: dict[str, Any] = {
    **TARGET_CONFIG,
    "num_hidden_layers": 3,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 256,
    "eos_token_id": 1,
}


def write_chat_target(directory: Path, template: str = PLAIN, seed: int = 13) -> Path:
    """config.json, weights, tokenizer and template. Most answers of seed 13 come to an end."""
    directory.mkdir(parents=True, exist_ok=True)
    mx.random.seed(seed)
    weights = dict(tree_flatten(Model(ModelArgs.from_dict(CONFIG)).parameters()))
    weights = {name: 3.0 * value if value.ndim > 1 else value for name, value in weights.items()}
    mx.save_safetensors(str(directory / "model.safetensors"), weights, {"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(CONFIG))
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(directory / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (directory / "tokenizer_config.json").write_text(
        json.dumps({**said, "chat_template": template})
    )
    return directory


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def words(tokens: Any) -> str:
    return " ".join(WORDS[token] for token in tokens)


def write_rows(path: Path, rows: list[Any]) -> Path:
    """JSON lines; a row that is text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path
