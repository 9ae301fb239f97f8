"""What answers were made from: fingerprints, how two origins differ, and one in words.

An origin is the first line of an answer file, as a mapping. Reads files only.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from dflash_serve.measure.errors import DataError

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True)
class Part:
    """How many answers of a file are of one origin."""

    origin: Mapping[str, Any]
    answers: int


def tokenizer_fingerprint(directory: Path) -> str:
    """Changes when token ids, the chat template or the stop tokens may do."""
    digest = hashlib.sha256()
    for name in _TOKENIZER_FILES:
        path = directory / name
        if path.exists():
            digest.update(f"{name} {path.stat().st_size}".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def vocabulary_fingerprint(directory: Path) -> str:
    """Changes when a token id names another token, whatever the files look like. "" without one.

    Raises:
        DataError: the file cannot be read.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        return ""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise DataError(f"{path} cannot be read: {error}") from error
    names = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


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


def describe_parts(parts: Sequence[Part], target: str | None = None) -> str:
    """``1200 greedy answers of the target, ...; 300 responses that came with the prompts, ...``."""
    counts: dict[str, int] = {}
    for part in parts:
        words = describe(part.origin, target)
        counts[words] = counts.get(words, 0) + part.answers
    return "; ".join(f"{count} {words}" for words, count in counts.items())


def check_origins(files: Mapping[Path, Sequence[Part]], target: str, directory: Path) -> list[str]:
    """What a user should know of the answers that one run reads, as sentences; mostly none.

    ``target`` is the fingerprint of the target in ``directory``.

    Raises:
        DataError: token ids of another tokenizer, which mean other text.
    """
    own = {
        "vocabulary": vocabulary_fingerprint(directory),
        "target": target,
        "tokenizer": tokenizer_fingerprint(directory),
    }
    notes = []
    for path, parts in files.items():
        if others := _others(parts, "vocabulary", own):
            raise DataError(f"{path}: {others}: their token ids mean another text here")
        if others := _others(parts, "target", own):
            notes.append(f"{path}: {others}: the drafter learns what this target may not say")
        elif others := _others(parts, "tokenizer", own):
            notes.append(f"{path}: {others}: the chat template or the stop tokens are not the same")
    if len({describe(part.origin) for parts in files.values() for part in parts}) > 1:
        notes += [f"{path} holds {describe_parts(parts, target)}" for path, parts in files.items()]
    return notes


def _others(parts: Sequence[Part], key: str, own: Mapping[str, str]) -> str:
    """``50 of 150 answers are of another target (1a2b, here 3c4d)``; empty if there are none."""
    others = [part for part in parts if part.origin.get(key, own[key]) != own[key]]
    if not others or not own[key]:
        return ""
    count, total = (sum(part.answers for part in some) for some in (others, parts))
    found = ", ".join(dict.fromkeys(str(part.origin[key]) for part in others))
    return f"{count} of {total} answers are of another {key} ({found}, here {own[key]})"


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
    if "structured" in origin:
        yield "some of them under a JSON schema"


def _template(origin: Mapping[str, Any]) -> Iterator[str]:
    told = origin.get("chat_template_kwargs")
    if isinstance(told, Mapping) and told:
        yield "chat template with " + " ".join(f"{name}={_shown(told[name])}" for name in told)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
