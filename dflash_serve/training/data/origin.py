"""Fingerprints of what data was made from, and how two origins differ. Reads files only."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def tokenizer_fingerprint(directory: Path) -> str:
    """Changes when token ids, the chat template or the stop tokens may do."""
    digest = hashlib.sha256()
    for name in _TOKENIZER_FILES:
        path = directory / name
        if path.exists():
            digest.update(f"{name} {path.stat().st_size}".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


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


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
