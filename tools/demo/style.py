"""Turns a request template into something a visitor might type: politeness, casing, typos, marks."""

# ruff: noqa: E501 - word and phrase tables read better in full lines
from __future__ import annotations

import random
import re

OPENERS = (
    "please ", "pls ", "can you ", "could you ", "can you please ", "could you please ", "hey, ",
    "hi, ", "hello, ", "hi! ", "would you ", "I want you to ", "i need you to ", "now ", "ok, ",
    "okay now ", "kindly ", "hey can you ", "hi there, please ", "good morning, ", "just ", "then ",
    "I would like you to ", "will you ", "let's see: ", "quick: ", "so ", "next, ", "go ahead and ",
)  # fmt: skip
CLOSERS = (
    " please", " pls", " for me", ", please", ", thanks", " thanks", " thank you", " now", " :)",
    " for me please", " quickly", ", ok", " if you can", " asap", " - thanks", " would be nice",
)  # fmt: skip
MARKS = ("", "", "", ".", ".", "?", "!", "...", " .", "??")
_SLOT = re.compile(r"(\{[a-z0-9_]+\})")


def ask(rng: random.Random, template: str, imperative: bool = True, **slots: object) -> str:
    """Fill template after noise on its wording; slot values themselves are never changed."""
    text = template
    if imperative and rng.random() < 0.3:
        text = rng.choice(OPENERS) + text
    if imperative and rng.random() < 0.2:
        text = text + rng.choice(CLOSERS)
    text = _case(rng, text)
    if rng.random() < 0.12:
        text = _typo(rng, text)
    return text.format(**slots) + _mark(rng, template)


def _case(rng: random.Random, text: str) -> str:
    roll = rng.random()
    if roll < 0.45:
        return text[:1].upper() + text[1:]
    if roll < 0.5:
        return _outside_slots(text, str.upper)
    return text if roll < 0.7 else _outside_slots(text, str.lower)


def _outside_slots(text: str, change: object) -> str:
    parts = _SLOT.split(text)
    return "".join(p if _SLOT.fullmatch(p) else change(p) for p in parts)  # type: ignore[operator]


def _typo(rng: random.Random, text: str) -> str:
    """Drop, double or swap one letter outside the slots."""
    letters = [m.start() for m in re.finditer(r"[a-z]", _SLOT.sub(lambda m: "#" * len(m[0]), text))]
    if len(letters) < 6:
        return text
    at = rng.choice(letters[1:-1])
    kind = rng.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1 or text[at + 1 : at + 2] in "{}":
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _mark(rng: random.Random, template: str) -> str:
    if template[-1] in ".?!:" and rng.random() < 0.7:
        return ""
    return rng.choice(MARKS)
