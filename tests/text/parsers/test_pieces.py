"""However an answer is cut into pieces, and wherever it ends, its events are the same."""

import itertools
import json
import random
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_serve.text.parsers.base import CallArguments, Content, Markup, Reasoning
from dflash_serve.text.parsers.table import by_name, compose, names, reasoning_names
from tests.text.parsers.answers import TOOLS, calls, cut, parse
from tests.text.parsers.test_families import ANSWERS, NO_CALLS

MARKUPS = [by_name(name) for name in names()] + [
    compose(tools, reasoning)
    for tools, reasoning in itertools.product(("llama3", "json", "gemma3"), reasoning_names())
    if reasoning != "harmony"
]
LONG_KEY = "<|tool_call>call:clock{" + "k" * 250 + "<|tool_call>call:clock{}"
TEXTS = sorted({(name, answer) for name, answer, *_ in [*ANSWERS, *NO_CALLS]})
TEXTS += [("gemma4", LONG_KEY)]
TEXTS += [("hermes", "<think>" + answer) for name, answer, *_ in ANSWERS if name == "hermes"]
SCRAPS = (
    *sorted({mark for markup in MARKUPS for mark in (*markup.markers, *(markup.reasoning or ()))}),
    *("<function=get_weather>", "<function=clock>", "</function>", "<parameter=city>\n"),
    *("<parameter=days>", "\n</parameter>", "```tool_code\n", "```", "call:get_weather", "clock"),
    *("get_weather", '{"name": "clock"', '{"name": "get_weather", "arguments": ', '"arguments": '),
    *('"parameters"', "final", "analysis", "commentary to=functions.clock", '{"city": "x"}', "{}"),
    *("assistant", "null", "true", "12", '"', "\\", "\\u00", "{", "}", "[", "]", ",", ":", ";"),
    *("<", "|", ">", "(", ")", "=", "\n", " ", "é", "🙂", "text", "\x00", "x" * 300),
)
"""What answers are made of; joined at random they come near to calls and break."""


def random_cuts(text: str, rng: random.Random) -> list[str]:
    pieces = []
    while text:
        size = rng.choice((1, 1, 2, 3, 5, 17, 100))
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def assert_cuts_do_not_matter(
    markup: Markup, text: str, rng: random.Random, *, inside: bool = False
) -> None:
    whole = parse(markup, text, in_reasoning=inside)
    for pieces in (cut(text, 1), random_cuts(text, rng), ["", *cut(text, 4), ""]):
        assert parse(markup, pieces, in_reasoning=inside) == whole, (markup.name, pieces)


@pytest.mark.parametrize(("name", "answer"), TEXTS)
def test_every_truncation_is_parsed_alike_in_pieces_and_whole(name: str, answer: str) -> None:
    markup, rng = by_name(name), random.Random(answer)
    for end in range(min(len(answer), 400) + 1):
        assert_cuts_do_not_matter(markup, answer[:end], rng)


@pytest.mark.parametrize(("name", "answer"), TEXTS)
def test_every_border_between_two_pieces(name: str, answer: str) -> None:
    markup = by_name(name)
    whole = parse(markup, answer)
    for border in range(min(len(answer), 400) + 1):
        assert parse(markup, [answer[:border], answer[border:]]) == whole


@pytest.mark.parametrize("markup", MARKUPS, ids=lambda markup: markup.name)
def test_scraps_of_all_markups_in_any_order(markup: Markup) -> None:
    rng = random.Random(7)
    for _ in range(120):
        text = "".join(rng.choices(SCRAPS, k=rng.randint(1, 25)))
        assert_cuts_do_not_matter(markup, text, rng, inside=rng.random() < 0.2)


@pytest.mark.parametrize("markup", MARKUPS, ids=lambda markup: markup.name)
@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=200), seed=st.integers())
def test_any_text(markup: Markup, text: str, seed: int) -> None:
    assert_cuts_do_not_matter(markup, text, random.Random(seed))


@pytest.mark.parametrize("markup", MARKUPS, ids=lambda markup: markup.name)
@settings(max_examples=30, deadline=None)
@given(text=st.text(alphabet="abc .\n\té🙂", max_size=80))
def test_text_without_markup_is_not_changed(markup: Markup, text: str) -> None:
    assert parse(markup, cut(text, 3)) == ([Content(text)] if text else [])


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(SCRAPS)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=8) | st.sampled_from(SCRAPS), VALUES, max_size=4)
FORMS = {
    "hermes": ("<tool_call>\n%s\n</tool_call>", "\n"),
    "llama3": ("%s", "; "),
    "json": ("%s", "\n"),
    "mistral": ("[TOOL_CALLS][%s]", ""),
    "gemma3": ("```tool_code\n%s\n```", "\n"),
}


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=60, deadline=None)
@given(
    objects=st.lists(OBJECTS, min_size=1, max_size=3),
    seed=st.integers(),
    plain=st.booleans(),
    late=st.booleans(),
)
def test_json_calls_come_back(
    name: str, objects: list[dict[str, object]], seed: int, plain: bool, late: bool
) -> None:
    form, gap = FORMS[name]
    wanted = [("get_weather" if at % 2 else "clock", value) for at, value in enumerate(objects)]
    written = [
        json.dumps(
            {"arguments": value, "name": called} if late else {"name": called, "arguments": value},
            ensure_ascii=plain,
            indent=2 if seed % 3 == 0 else None,
        )
        for called, value in wanted
    ]
    text = gap.join(form % call for call in written)
    for pieces in ([text], random_cuts(text, random.Random(seed))):
        assert calls(parse(by_name(name), pieces)) == wanted


def gemma_text(value: object) -> str:
    """A value as Gemma 4's template writes it."""
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{gemma_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(gemma_text, value)) + "]"
    return json.dumps(value)


PLAIN = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30)
WORDS = st.text(alphabet="abc_XYZ019-", min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(
    value=st.dictionaries(
        WORDS,
        st.recursive(
            PLAIN.filter(lambda text: '<|"|>' not in text + '<|"|') | st.integers() | st.none(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
            max_leaves=6,
        ),
    ),
    seed=st.integers(),
)
def test_gemma_calls_come_back(value: dict[str, object], seed: int) -> None:
    text = f"<|tool_call>call:clock{gemma_text(value)}<tool_call|>"
    for pieces in ([text], random_cuts(text, random.Random(seed))):
        assert calls(parse(by_name("gemma4"), pieces)) == [("clock", value)]


@settings(max_examples=100, deadline=None)
@given(city=PLAIN, days=st.integers(), flags=st.lists(st.booleans()), seed=st.integers())
def test_xml_calls_come_back(city: str, days: int, flags: list[bool], seed: int) -> None:
    value = {"city": city, "days": days, "flags": flags}
    parameters = "".join(
        f"<parameter={key}>\n{one if isinstance(one, str) else json.dumps(one)}\n</parameter>\n"
        for key, one in value.items()
    )
    text = f"<tool_call>\n<function=get_weather>\n{parameters}</function>\n</tool_call>"
    for pieces in ([text], random_cuts(text, random.Random(seed))):
        assert calls(parse(by_name("qwen_xml"), pieces)) == [("get_weather", value)]


def work(markup: Markup, text: str, size: int) -> int:
    """Function calls and resumed generators that parsing ``text`` takes."""
    count = 0

    def step(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    pieces = cut(text, size)
    parser = markup.parser(TOOLS, in_reasoning=False)
    before = sys.getprofile()
    sys.setprofile(step)
    try:
        for piece in pieces:
            parser.push(piece)
        parser.flush()
    finally:
        sys.setprofile(before)
    return count


def long_answers(count: int) -> Iterator[tuple[str, str]]:
    yield "hermes", "word and < word\n" * count
    yield "hermes", "<think>" + "reason </ " * count
    yield "hermes", "<think>" + '<tool_call>{"name": "clock", "arguments": {}}</tool_call>' * count
    yield "hermes", "<think>" + '<tool_call>{"name": "clock", "arguments": ' * count
    yield "hermes", " " * 16 * count
    yield "hermes", "<tool_call>" * count
    yield "hermes", '<tool_call>{"name": "clock", "arguments": {"a": "' + "<tool_call> é\\n" * count
    yield "hermes", '<tool_call>{"arguments": {"a": [' + "1, " * count
    yield "hermes", '<tool_call>{"name": "clock", "arguments": {}}</tool_call>\n' * (count // 4)
    yield "qwen_xml", "<function=get_weather><parameter=city>" + "a\n</par" * count
    yield "qwen_xml", "<function=get_weather><parameter=flags>" + "true, " * count
    yield "mistral", "[TOOL_CALLS]" + "x[TOOL" * count
    yield "gemma4", "<|tool_call>call:clock{a:[" + '<|"|>b<|"|>,' * count
    yield "gemma3", "```tool_code\n" + "clock()\n" * count
    yield "json", '{"name": ' * count
    yield "harmony", "<|channel|>analysis<|message|>a<|end|><|start|>assistant" * (count // 4)
    yield "harmony", "<|start|>" + "x" * 8 * count


@pytest.mark.parametrize("which", range(len(list(long_answers(1)))))
def test_the_work_grows_with_the_text_and_no_faster(which: int) -> None:
    (name, short), (_, long) = list(long_answers(200))[which], list(long_answers(800))[which]
    for size in (4, len(long)):
        once, fourfold = work(by_name(name), short, size), work(by_name(name), long, size)
        assert fourfold <= 4.5 * once + 200


def test_events_of_one_push_are_joined() -> None:
    parser = by_name("hermes").parser(TOOLS, in_reasoning=False)
    events = parser.push('<tool_call>{"name": "clock", "arguments": {"a": [1, {"b": "c"}]}}')
    assert [type(event) for event in events].count(CallArguments) == 1
    parser = by_name("hermes").parser(TOOLS, in_reasoning=True)
    assert parser.push("a b < c") == [Reasoning("a b < c")]
