"""Trains the demo's byte-level BPE tokenizer on the corpus and saves it in Hugging Face layout.

python tools/demo/tokenizer.py --vocab 1024 --seed 5 --out dflash_serve/demo/target
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import words
from corpus import conversations
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>")
MAX_LENGTH = 2048
JOINED_WORDS = 200
"""How many common words take the blank before them into their token."""
# Digits stand alone, and so does a blank before a digit or a word. Copying a name, a number or a
# rare word is then copying tokens, whatever stood before it: in `lives in eldel` and in `"eldel"`
# the word has the same tokens. Words that are common and never copied are joined with their blank.
PATTERN = (
    r" (?:{joined})(?!\p{{L}})"
    r"| ?[^\s\p{{L}}\p{{N}}]+ (?=[\p{{L}}\p{{N}}])"
    r"| (?=[\p{{L}}\p{{N}}])"
    r"|\p{{N}}"
    r"|\p{{L}}\p{{Ll}}*"
    r"| ?[^\s\p{{L}}\p{{N}}]+"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
COPIED = frozenset(
    word.lower()
    for table in (
        words.NAMES,
        words.CITIES,
        words.JOBS,
        words.ANIMALS,
        words.OBJECTS,
        words.PLACES,
    )
    for word in table
)
"""Words that requests give and answers repeat."""
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- set role = {'developer': 'system', 'tool': 'user'}.get(message.role, message.role) %}"
    "{%- if message.content is string %}{%- set content = message.content %}"
    "{%- elif message.content %}"
    "{%- set content = message.content | selectattr('text', 'defined') | map(attribute='text')"
    " | join('') %}"
    "{%- else %}{%- set content = '' %}{%- endif %}"
    "{{- '<|im_start|>' + role + '\\n' + content | trim + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def train(vocab: int, seed: int, amount: int) -> Tokenizer:
    joined = "|".join(common_words(seed, amount))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN.format(joined=joined)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed, amount), trainer)
    return tokenizer


def common_words(seed: int, amount: int) -> list[str]:
    """The most common lower-case words behind a blank that no answer copies, sorted."""
    counts: Counter[str] = Counter()
    for text in _texts(seed, amount):
        counts.update(re.findall(r"(?<= )[a-z]+(?![A-Za-z])", text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return sorted([word for word in ranked if word not in COPIED][:JOINED_WORDS])


def _texts(seed: int, amount: int) -> Iterator[str]:
    for messages in itertools.islice(conversations(seed), amount):
        for message in messages:
            yield f"{message['role']}\n{message['content']}"


def save(tokenizer: Tokenizer, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "mask_token": "<|mask|>",
        "additional_special_tokens": ["<|im_start|>"],
        **special,
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    special_map = special | {"mask_token": "<|mask|>"}
    (out / "special_tokens_map.json").write_text(json.dumps(special_map, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--dialogues", type=int, default=40_000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    save(train(args.vocab, args.seed, args.dialogues), args.out)


if __name__ == "__main__":
    main()
