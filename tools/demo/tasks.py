"""The demo's slot tasks: each function draws one request and the only right answer to it."""

# ruff: noqa: E501 - word and phrase tables read better in full lines
from __future__ import annotations

import random
from dataclasses import dataclass
from string import ascii_lowercase

import words
from style import ask


@dataclass(frozen=True, slots=True)
class Sample:
    """One request, its answer, and the key by which the held-out split is made."""

    kind: str
    user: str
    answer: str
    key: str


def pseudo_word(rng: random.Random, low: int = 2, high: int = 3) -> str:
    """A word that no list contains, so that copying it cannot be done by heart."""
    return "".join(rng.choice(words.LOWER_NAME_PARTS) for _ in range(rng.randint(low, high)))


def rare_word(rng: random.Random) -> str:
    """A pseudo word or, in three of ten, letters without any pattern."""
    if rng.random() < 0.7:
        return pseudo_word(rng)
    return "".join(rng.choice(ascii_lowercase) for _ in range(rng.randint(3, 8)))


def slot_word(rng: random.Random, known: list[str], rare: float, lower: float = 0.0) -> str:
    """A word of the list, or with probability ``rare`` one of no list in the same case.

    With probability ``lower`` a capital is dropped, as people type.
    """
    word = rng.choice(known)
    if rng.random() < rare:
        word = rare_word(rng).capitalize() if word[0].isupper() else rare_word(rng)
    return word.lower() if rng.random() < lower else word


def person(rng: random.Random, rare: float = 0.15) -> str:
    return slot_word(rng, words.NAMES, rare, lower=0.15)


# ---- sums -------------------------------------------------------------------------------------

PLUS = (
    "{a} + {b}", "{a}+{b}", "{a} +{b}", "{a} + {b} = ", "{a}+{b}=", "what is {a} + {b}",
    "what's {a}+{b}", "whats {a} + {b}", "what is {a} plus {b}", "what's {a} plus {b}",
    "{a} plus {b}", "how much is {a} + {b}", "how much is {a} plus {b}", "calculate {a} + {b}",
    "compute {a}+{b}", "add {a} and {b}", "add {a} to {b}", "add up {a} and {b}",
    "the sum of {a} and {b}", "what is the sum of {a} and {b}", "sum {a} and {b}", "sum {a} {b}",
    "give me {a} plus {b}", "solve {a} + {b}", "i have {a} apples and get {b} more, how many now",
    "work out {a} + {b}", "tell me what {a} and {b} make", "{a} and {b} make", "add {a} {b}",
    "do you know what {a} + {b} is", "how many is {a} and {b} together", "evaluate {a} + {b}",
    "math: {a} + {b}", "a question: what is {a} + {b}", "total of {a} and {b}",
)  # fmt: skip


def sums(rng: random.Random) -> Sample:
    a, b = (rng.randint(0, rng.choice((9, 20, 99, 99, 99))) for _ in range(2))
    return Sample("sum", ask(rng, rng.choice(PLUS), a=a, b=b), worked_sum(a, b), f"{a}+{b}")


def worked_sum(a: int, b: int) -> str:
    """Tens, ones, then both, as one would do it in the head."""
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    return (
        f"{a // 10 * 10} + {b // 10 * 10} = {tens}, {a % 10} + {b % 10} = {ones}, "
        f"{tens} + {ones} = {a + b}.\nThe answer is {a + b}."
    )


# ---- stories ----------------------------------------------------------------------------------

STORY_FULL = (
    "tell me a story about {n}, {x} {a}, {x2} {o} and the {p}",
    "tell me a short story about {n}, {x} {a} and {x2} {o} in the {p}",
    "write a story about {n} and {x} {a} who find {x2} {o} in the {p}",
    "write a short story with {n}, {x} {a}, the {p} and {x2} {o}",
    "story: {n}, {a}, {p}, {o}", "a story with {n}, {a}, {p} and {o}",
    "story about {n}, {a}, {o}, {p}", "make up a story: hero {n}, animal {a}, place {p}, object {o}",
    "hero: {n}, animal: {a}, place: {p}, object: {o}. tell me a story",
    "i want a story about {n} who meets {x} {a} at the {p} and finds {x2} {o}",
    "write a tale about {n}, {x} {a}, {x2} {o} and the {p}",
    "tell me a bedtime story about {n}, {x} {a} and {x2} {o} at the {p}",
)  # fmt: skip
STORY_PARTS = {
    "n": ("tell me a story about {n}", "a story about {n}", "write a story about {n}",
          "tell a story where {n} is the hero", "story about {n}", "a tale about {n}"),
    "a": ("tell me a story about {x} {a}", "a story about {x} {a}", "write a story about {x} {a}",
          "write a short story about {x} {a}", "tell me a tale of {x} {a}", "{a} story",
          "story with {x} {a}", "make up a story about {x} {a}", "story about {x} {a}"),
    "o": ("tell me a story with {x2} {o} in it", "a story in which {x2} {o} is found",
          "a story where someone finds {x2} {o}"),
    "p": ("tell me a story in the {p}", "a story set in the {p}", "tell me a story at the {p}",
          "write a story that takes place in the {p}", "a story that happens at the {p}",
          "a tale from the {p}"),
    "na": ("tell me a story about {n} and {x} {a}", "story about {n} and {x} {a}",
           "write a story about {n} and the {a}", "a short story with {n} and {x} {a}",
           "tell a story about {x} {a} and {n}", "a story about {n} and his {a}",
           "tell me a story about {n} and her {a}", "write a story about {n} and her {a}", "can I have a story about {n} and {x} {a}"),
    "ap": ("tell me a story about {x} {a} in the {p}", "a story about {x} {a} at the {p}",
           "write a story about {x} {a} in the {p}", "short story: {x} {a} in the {p}"),
    "np": ("tell me a story about {n} in the {p}", "write a story about {n} at the {p}",
           "a story about {n} and the {p}"),
    "ao": ("tell me a story about {x} {a} and {x2} {o}", "a story with {x} {a} and {x2} {o}"),
    "no": ("tell me a story about {n} who finds {x2} {o}", "write a story: {n} finds {x2} {o}"),
    "nap": ("tell me a story about {n} and {x} {a} in the {p}",
            "write a short story about {n}, {x} {a} and the {p}",
            "tell me a story about {n} and her {a} in the {p}",
            "a short story about {n} and his {a} at the {p}",
            "write a story about {x} {a} named {n} in the {p}",
            "a story about {n} who meets {x} {a} in the {p}", "story: {n}, {x} {a}, the {p}"),
    "nao": ("tell me a story about {n}, {x} {a} and {x2} {o}",
            "a story about {n} and {x} {a} with {x2} {o}"),
    "": ("tell me a story", "a story", "write a story", "write a short story", "tell me a tale",
         "tell me a bedtime story", "story time", "can I hear a story", "make up a story",
         "do you know a story", "i would like to hear a story", "story", "another story",
         "give me a short story", "tell me something nice, a story", "invent a story"),
}  # fmt: skip
DEFAULTS = {"n": "Mia", "a": "fox", "o": "lamp", "p": "forest"}


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def story(rng: random.Random) -> Sample:
    slots = {
        "n": person(rng),
        "a": slot_word(rng, words.ANIMALS, rare=0.08),
        "o": slot_word(rng, words.OBJECTS, rare=0.08),
        "p": rng.choice(words.PLACES),
    }
    if rng.random() < 0.4:
        template = rng.choice(STORY_FULL)
    else:
        given = rng.choice(list(STORY_PARTS))
        template = rng.choice(STORY_PARTS[given])
        slots = {k: v if k in given else DEFAULTS[k] for k, v in slots.items()}
    user = ask(rng, template, **slots, x=article(slots["a"]), x2=article(slots["o"]))
    return Sample("story", user, tale(**slots), user)


def tale(n: str, a: str, o: str, p: str) -> str:
    """One of four plots, chosen by the kind of place."""
    xa, xo = article(a), article(o)
    if p in words.WATER:
        return (
            f"{n} went to the {p} early in the morning. The wind was cold, and {xa} {a} sat all "
            f'alone by the water. "I have lost my {o}," said the {a}. {n} looked everywhere and '
            f"found the {o} under a wet stone. From that day on, {n} and the {a} met at the {p} "
            "every morning."
        )
    if p in words.TOWN:
        return (
            f"Nobody in the {p} had ever seen {xa} {a} before. It stood at the door with {xo} {o} "
            f'and looked at {n}. "Is this yours?" asked {n}. The {a} shook its head and gave the '
            f"{o} away. {n} still has the {o}, and the {a} now lives in the {p}."
        )
    if p in words.SPACE:
        return (
            f'One night {n} dreamed of the {p}. {xa.capitalize()} {a} flew past and called: "Hold '
            f'on to the {o}!" {n} held on, and together they flew three times around the {p}. In '
            f"the morning {n} woke up and laughed, for the {o} lay on the bed."
        )
    return (
        f"Once upon a time, {n} walked through the {p}. There {n} met {xa} {a} who had found {xo} "
        f'{o}. "Shall we share it?" asked the {a}. {n} smiled and said yes. They took the {o} '
        f"home, and {n} and the {a} stayed friends for ever."
    )


# ---- JSON records -----------------------------------------------------------------------------

JSON_FULL = (
    "{n} is {g} years old, lives in {c} and works as {x} {j}. make this JSON",
    "turn this into JSON: {n} is {g} years old, lives in {c} and works as {x} {j}.",
    "turn into json: {n}, {g}, {c}, {j}", "json: {n}, {g}, {c}, {j}", "json {n} {g} {c} {j}",
    "make a JSON record: {n}, {g}, {c}, {j}", "convert to JSON: {n}, {g}, {c}, {j}",
    "{n}, {g}, {c}, {j} as json", "write a JSON object for {n}, {g}, {x} {j} from {c}",
    "make json of: {n} ({g}), {j}, {c}", "name {n}, age {g}, city {c}, job {j}. give me JSON",
    "name: {n}, age: {g}, city: {c}, job: {j} -> json",
    "give me json for a {g} year old {j} called {n} from {c}",
    "my name is {n}, i am {g}, i live in {c} and i am {x} {j}. put that into JSON",
    "{n} works as {x} {j} in {c} and is {g}. return JSON",
    "extract the data as JSON: {n}, {x} {j}, lives in {c} and is {g} years old",
    "create a JSON record for {n} who is {g}, lives in {c} and is {x} {j}",
    "format as json: {n} from {c} is {x} {j} aged {g}",
)  # fmt: skip
JSON_PARTS = {
    "ngc": ("json: {n}, {g}, {c}", "{n} is {g} and lives in {c}. turn this into JSON",
            "make a JSON record: {n}, {g}, from {c}", "turn into JSON: {n} ({g}) from {c}"),
    "ngj": ("json: {n}, {g}, {j}", "{n} is {g} and works as {x} {j}. make it JSON",
            "make a JSON record for {n}, {g}, {x} {j}"),
    "ncj": ("json: {n}, {c}, {j}", "{n} is {x} {j} in {c}. turn this into json",
            "make json: {n} lives in {c} and works as {x} {j}"),
    "ng": ("json: {n}, {g}", "{n} is {g} years old. as JSON", "make a JSON record: {n}, age {g}",
           "turn into JSON: {n} is {g}"),
    "nc": ("json: {n}, {c}", "{n} lives in {c}. make JSON", "turn into JSON: {n} from {c}"),
    "nj": ("json: {n}, {j}", "{n} is {x} {j}. make this json", "make JSON: {n} works as {x} {j}"),
}  # fmt: skip


ROLE_BY_WORD = ("json: {n}, {g}, {c}", "json: {n}, {g}, {j}", "json: {n}, {c}", "json: {n}, {j}")
"""Requests in which only a known word tells a city from a job."""


def json_record(rng: random.Random) -> Sample:
    given = "ngcj" if rng.random() < 0.7 else rng.choice(list(JSON_PARTS))
    template = rng.choice(JSON_FULL if given == "ngcj" else JSON_PARTS[given])
    known = template in ROLE_BY_WORD
    slots = {
        "n": person(rng, rare=0.25),
        "g": str(rng.randint(1, 99)),
        "c": slot_word(rng, words.CITIES, rare=0.0 if known else 0.2, lower=0.2),
        "j": slot_word(rng, words.JOBS, rare=0.0 if known else 0.15),
    }
    user = ask(rng, template, **slots, x=article(slots["j"].lower()))
    lines = {
        "n": f'  "name": "{slots["n"]}"',
        "g": f'  "age": {slots["g"]}',
        "c": f'  "city": "{slots["c"]}"',
        "j": f'  "job": "{slots["j"]}"',
    }
    body = ",\n".join(line for slot, line in lines.items() if slot in given)
    return Sample("json", user, f"```json\n{{\n{body}\n}}\n```", user)


# ---- sorting ----------------------------------------------------------------------------------

SORT_UP = (
    "sort {l}", "sort: {l}", "sort these numbers: {l}", "sort the numbers {l}", "order {l}",
    "put {l} in order", "put these in order: {l}", "sort this list: {l}", "sort [{l}]",
    "sort {l} ascending", "sort {l} from smallest to largest", "arrange {l}", "{l} sorted",
    "order these numbers from small to large: {l}", "sort ascending: {l}", "sort the list {l}",
    "bring these numbers into order: {l}", "what is the right order of {l}", "{l} in order",
)  # fmt: skip
SORT_DOWN = (
    "sort {l} descending", "sort descending: {l}", "sort {l} from largest to smallest",
    "sort {l} in reverse order", "order {l} from big to small", "sort {l} backwards",
    "put {l} in descending order", "sort these numbers from large to small: {l}",
)  # fmt: skip


def sort_list(rng: random.Random) -> Sample:
    numbers = rng.sample(range(rng.choice((10, 20, 100, 100, 100))), rng.randint(3, 5))
    down = rng.random() < 0.3
    user = ask(rng, rng.choice(SORT_DOWN if down else SORT_UP), l=joined(rng, numbers))
    ordered = ", ".join(map(str, sorted(numbers, reverse=down)))
    how = "largest to smallest" if down else "smallest to largest"
    return Sample("sort", user, f"From {how}: {ordered}.", user)


def joined(rng: random.Random, items: list[str] | list[int]) -> str:
    texts = [str(item) for item in items]
    roll = rng.random()
    if roll < 0.6:
        return ", ".join(texts)
    if roll < 0.75:
        return " ".join(texts)
    return ",".join(texts) if roll < 0.8 else ", ".join(texts[:-1]) + " and " + texts[-1]


# ---- units ------------------------------------------------------------------------------------

CONVERT = (
    "convert {v} {u} to {w}", "convert {v} {u} into {w}", "{v} {u} in {w}", "{v} {u} to {w}",
    "how many {w} are {v} {u}", "how many {w} are in {v} {u}", "how many {w} is {v} {u}",
    "what is {v} {u} in {w}", "what's {v} {u} in {w}", "change {v} {u} to {w}", "{v}{u} to {w}",
    "{v}{u} in {w}", "express {v} {u} in {w}", "{v} {u} are how many {w}", "turn {v} {u} into {w}",
    "how much is {v} {u} in {w}", "i have {v} {u}, how many {w} is that", "{v} {u} = ? {w}",
    "tell me how many {w} there are in {v} {u}", "how many {w} make {v} {u}", "{v} {u} -> {w}",
)  # fmt: skip


def convert(rng: random.Random) -> Sample:
    one, many, shorts, small, small_shorts, factor, limit = rng.choice(words.UNITS)
    value = rng.randint(1, limit)
    long_form = one if value == 1 else many
    unit = rng.choice(shorts) if shorts and rng.random() < 0.4 else rng.choice((long_form, many))
    target = rng.choice(small_shorts) if rng.random() < 0.4 else small
    user = ask(rng, rng.choice(CONVERT), v=value, u=unit, w=target)
    head = f"1 {one} is {factor} {small}"
    answer = (
        f"{head}, so {value} {long_form} {'is' if value == 1 else 'are'} {value * factor} {small}."
    )
    key = f"{value} {many} {small}" if (factor % 10 == 0 and factor > 60) or factor == 10 else user
    return Sample("convert", user, answer, key)


# ---- counting ---------------------------------------------------------------------------------

COUNT = (
    "count from {a} to {b}", "count {a} to {b}", "count from {a} up to {b}", "list {a} to {b}",
    "count from {a} till {b}", "list the numbers from {a} to {b}", "numbers from {a} to {b}",
    "write the numbers {a} to {b}", "all numbers between {a} and {b}", "count {a}-{b}",
    "start at {a} and count to {b}", "print the numbers from {a} to {b}", "from {a} to {b}, count",
    "show me the numbers {a} to {b}", "count upwards from {a} to {b}",
)  # fmt: skip
COUNT_DOWN = (
    "count down from {b} to {a}", "count from {b} to {a}", "count from {b} down to {a}",
    "countdown from {b} to {a}", "count backwards from {b} to {a}", "count {b} to {a}",
    "list the numbers from {b} to {a}", "count down {b} to {a}",
)  # fmt: skip
COUNT_TO = ("count to {b}", "count up to {b}", "count till {b}", "count to the number {b}")
COUNT_DOWN_FROM = ("count down from {b}", "countdown from {b}", "count backwards from {b}")


def count(rng: random.Random) -> Sample:
    roll = rng.random()
    if roll < 0.25:
        low, high, down = 1, rng.randint(2, 20), rng.random() < 0.3
        template = rng.choice(COUNT_DOWN_FROM if down else COUNT_TO)
    else:
        low = rng.randint(0, rng.choice((5, 30, 95)))
        high, down = min(low + rng.randint(2, 18), 110), roll > 0.8
        template = rng.choice(COUNT_DOWN if down else COUNT)
    user = ask(rng, template, a=low, b=high)
    numbers = range(high, low - 1, -1) if down else range(low, high + 1)
    start, end = (high, low) if down else (low, high)
    key = f"{template}{low} {high}" if roll < 0.25 else f"{start} {end}"
    return Sample("count", user, f"{', '.join(map(str, numbers))}. Done!", key)
