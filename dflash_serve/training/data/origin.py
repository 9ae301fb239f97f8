"""What answers were made from: fingerprints, how two origins differ, and one in words.

An origin is the first line of an answer file, as a mapping. Reads files only.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_TEMPLATE_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def tokenizer_fingerprint(directory: Path) -> str:
    """Changes when token ids, the chat template or the stop tokens may do."""
    return _files_digest(directory, (*_VOCABULARY_FILES, *_TEMPLATE_FILES))


def vocabulary_fingerprint(directory: Path) -> str:
    """Changes when a token id may mean another text. Templates and stop tokens do not matter."""
    return _files_digest(directory, _VOCABULARY_FILES)


def file_digest(path: Path) -> str:
    """sha256 of one file, shortened."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def describe_changes(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """``target 1a2b (now 3c4d), max_new 128 (now 256)``; empty if nothing in ``wanted`` changed."""
    return ", ".join(
        f"{key} {_shown(found.get(key))} (now {_shown(value)})"
        for key, value in wanted.items()
        if found.get(key) != value
    )


def describe(origin: Mapping[str, Any], target: str | None = None) -> str:
    """An origin in words, to follow "trained on" or a number.

    ``greedy answers of the target to every turn, at most 512 tokens each, chat template
    with enable_thinking=false``. ``target``: fingerprint of the target that a reader will think
    of; answers of another one are called so. What an origin does not say is called unknown.
    """
    whose = "the target"
    if target is not None and origin.get("target") != target:
        whose = f"another target ({origin.get('target', 'unknown')})"
    return ", ".join([_answers(origin, whose), *_limits(origin), *_template(origin)])


def _answers(origin: Mapping[str, Any], whose: str) -> str:
    if origin.get("format") == "dflash-serve records":
        return f"answers of {whose} as it served them, sampled as each request asked"
    responses, sampling = origin.get("responses"), origin.get("sampling")
    if responses == "given":
        return "responses that came with the prompts, not generated anew"
    turns = {
        "all by the target": " to every turn",
        "last by the target": " to the last turn of each chat",
    }
    asked = turns.get(str(responses), "")
    if sampling == "greedy":
        return f"greedy answers of {whose}{asked}"
    if isinstance(sampling, Mapping):
        values = ", ".join(f"{name} {value}" for name, value in sampling.items())
        return f"answers of {whose}{asked}, sampled with {values}"
    return f"answers of {whose}{asked}, greedy or sampled is unknown"


def _limits(origin: Mapping[str, Any]) -> Iterator[str]:
    if "max_new" in origin:
        yield f"at most {origin['max_new']} tokens each"


def _template(origin: Mapping[str, Any]) -> Iterator[str]:
    told = origin.get("chat_template_kwargs")
    if isinstance(told, Mapping) and told:
        yield "chat template with " + " ".join(f"{name}={_shown(told[name])}" for name in told)


def _files_digest(directory: Path, names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in names:
        path = directory / name
        if path.exists():
            digest.update(f"{name} {path.stat().st_size}".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
