"""Chats become exact token sequences: what is asked, and which tokens the loss counts."""

from pathlib import Path
from typing import Any

import pytest

import dflash_serve
from dflash_serve.adapters.checkpoint import stop_token_ids
from dflash_serve.measure.errors import RowError
from dflash_serve.measure.shapes import Chat, parse_chat
from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.training.data.answers import Answer
from dflash_serve.training.data.dialogue import Dialogue, Rules
from tests.training.chat_target import PLAIN, THINKING, ids, words, write_chat_target

DEMO = Path(dflash_serve.__file__).parent / "demo" / "target"


def rules(directory: Path, template: str = PLAIN, **changes: Any) -> Rules:
    tokenizer = ChatTokenizer.load(write_chat_target(directory, template))
    settings = {"template_kwargs": {}, "max_length": 100, "min_loss_tokens": 1, **changes}
    return Rules(tokenizer, stop_tokens=frozenset([1]), **settings)


def chat(*contents: str) -> Chat:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)]
    return parse_chat({"messages": messages})


def marked(answer: Answer) -> str:
    """The sequence as words, the loss in brackets."""
    parts, before = [], 0
    for start, end in answer.spans:
        parts += [words(answer.tokens[before:start]), f"[{words(answer.tokens[start:end])}]"]
        before = end
    return " ".join([*parts, words(answer.tokens[before:])]).strip()


def talk(dialogue: Dialogue, *replies: str) -> list[str]:
    """Answer with ``replies``; the prompts that came before each."""
    asked = []
    for reply in replies:
        prompt = dialogue.next_prompt()
        assert prompt is not None
        asked.append(words(prompt))
        tokens = tuple(ids(reply))
        dialogue.take(tokens, stopped=tokens[-1] == 1)
    return asked


def test_given_answers_are_all_counted_without_scaffolding(tmp_path: Path) -> None:
    dialogue = Dialogue(0, chat("a b", "c d", "e", "f"), rules(tmp_path, keep=True))
    assert dialogue.next_prompt() is None
    (answer,) = dialogue.answers()
    assert marked(answer) == (
        "<|im_start|> user a b <|im_end|> <|im_start|> assistant [c d <|im_end|>]"
        " <|im_start|> user e <|im_end|> <|im_start|> assistant [f <|im_end|>]"
    )
    mask = answer.example().loss_mask
    assert mask.tolist() == [False] * 7 + [True] * 3 + [False] * 6 + [True] * 2
    assert answer.loss_tokens == dialogue.loss_tokens == 5


def test_the_demo_template_token_by_token() -> None:
    tokenizer = ChatTokenizer.load(DEMO)
    made = Rules(tokenizer, {}, stop_token_ids(DEMO), 512, 1, keep=True)
    text = "Hello<|im_end|>!"  # a control token as text stays text and ends nothing
    (answer,) = Dialogue(0, chat("hi", text, "ok", "Bye"), made).answers()
    encode = tokenizer.backend.encode
    start, end = encode("<|im_start|>").ids, encode("<|im_end|>").ids
    line = encode("\n").ids
    (first, second) = answer.spans
    before = [*start, *encode("user").ids, *line, *encode("hi").ids, *end, *line, *start]
    assert answer.tokens[: first[0]].tolist() == [*before, *encode("assistant").ids, *line]
    spelled = answer.tokens[first[0] : first[1] - 1].tolist()
    assert tokenizer.backend.decode(spelled) == text
    assert end[0] not in spelled
    assert answer.tokens[first[1] - 1] == end[0]
    assert answer.tokens[second[0] : second[1]].tolist() == [*encode("Bye").ids, *end]
    assert second[1] == len(answer.tokens)


def test_fresh_answers_take_the_place_of_given_ones(tmp_path: Path) -> None:
    dialogue = Dialogue(3, chat("a", "given", "b"), rules(tmp_path))
    asked = talk(dialogue, "c d <|im_end|>", "e <|im_end|>")
    assert asked[1] == (
        "<|im_start|> user a <|im_end|> <|im_start|> assistant c d <|im_end|>"
        " <|im_start|> user b <|im_end|> <|im_start|> assistant"
    )
    assert dialogue.next_prompt() is None
    (answer,) = dialogue.answers()
    assert marked(answer) == (
        "<|im_start|> user a <|im_end|> <|im_start|> assistant [c d <|im_end|>]"
        " <|im_start|> user b <|im_end|> <|im_start|> assistant [e <|im_end|>]"
    )
    assert answer.row == 3
    turns = answer.turns()
    assert [int(turn.loss_mask.argmax()) for turn in turns] == [6, 15]
    assert [turn.length for turn in turns] == [9, 17]
    assert [int(turn.loss_mask.sum()) for turn in turns] == [3, 2]


def test_only_the_last_turn_with_earlier_ones_as_given(tmp_path: Path) -> None:
    dialogue = Dialogue(0, chat("a", "i j", "b", "old"), rules(tmp_path, turns="last"))
    assert "assistant i j <|im_end|>" in talk(dialogue, "c <|im_end|>")[0]
    (answer,) = dialogue.answers()
    assert marked(answer).endswith("assistant [c <|im_end|>]")
    assert len(answer.spans) == 1


def test_a_template_that_leaves_out_thinking_gives_a_sequence_per_turn(tmp_path: Path) -> None:
    """The second prompt is not the first one and its answer: both stay exact, apart."""
    dialogue = Dialogue(0, chat("a", "", "b"), rules(tmp_path, THINKING))
    asked = talk(dialogue, "<think> h </think> c <|im_end|>", "d <|im_end|>")
    assert asked[1].startswith("<|im_start|> user a <|im_end|> <|im_start|> assistant c <|im_end|>")
    assert [marked(answer) for answer in dialogue.answers()] == [
        "<|im_start|> user a <|im_end|> <|im_start|> assistant [<think> h </think> c <|im_end|>]",
        f"{asked[1]} [d <|im_end|>]",
    ]


def test_the_thinking_mode_is_part_of_the_prompt_and_not_of_the_loss(tmp_path: Path) -> None:
    off = rules(tmp_path, THINKING, template_kwargs={"enable_thinking": False})
    dialogue = Dialogue(0, chat("a"), off)
    talk(dialogue, "c <|im_end|>")
    (answer,) = dialogue.answers()
    assert marked(answer).endswith("assistant <think> </think> [c <|im_end|>]")


def test_given_answers_that_the_template_renders_otherwise_are_refused(tmp_path: Path) -> None:
    off = rules(tmp_path, THINKING, template_kwargs={"enable_thinking": False}, keep=True)
    with pytest.raises(RowError, match="renders an answer otherwise than its prompt"):
        Dialogue(0, chat("a", "b"), off)


@pytest.mark.parametrize(
    ("contents", "changes", "reason"),
    [
        (("a",), {"keep": True}, "no answer to keep"),
        (("a", " "), {"keep": True}, "empty"),
        (("a", "b"), {"keep": True, "min_loss_tokens": 3}, "too few loss tokens"),
        (("a", "b " * 99), {"keep": True}, "too long"),
        (("a " * 99,), {}, "prompt too long"),
        (("a " * 50,), {"min_loss_tokens": 46}, "prompt too long"),
    ],
)
def test_a_chat_that_cannot_be_used(
    contents: tuple[str, ...], changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(RowError) as caught:
        Dialogue(0, chat(*contents), rules(tmp_path, **changes))
    assert caught.value.reason == reason


def test_a_template_without_a_needed_role_refuses_the_row(tmp_path: Path) -> None:
    system = parse_chat({"messages": [{"role": "system", "content": "x"}, *chat("a").messages]})
    with pytest.raises(RowError, match="the template refuses it: no system"):
        Dialogue(0, system, rules(tmp_path, THINKING))


def test_a_template_without_the_stop_token_refuses_given_answers(tmp_path: Path) -> None:
    open_ended = PLAIN.replace("{{ m.content }} <|im_end|>", "{{ m.content }}")
    with pytest.raises(RowError, match="ends no answer with a stop token"):
        Dialogue(0, chat("a", "b"), rules(tmp_path, open_ended, keep=True))


def test_an_answer_without_end_ends_the_chat(tmp_path: Path) -> None:
    dialogue = Dialogue(0, chat("a", "x", "b"), rules(tmp_path))
    talk(dialogue, "c c c")
    assert dialogue.next_prompt() is None
    assert dialogue.cut_short is not None
    assert dialogue.cut_short.reason == "an answer reached its limit without a stop token"
    assert marked(dialogue.answers()[0]).endswith("assistant [c c c]")


def test_a_chat_that_grows_too_long_keeps_what_it_has(tmp_path: Path) -> None:
    dialogue = Dialogue(0, chat("a", "x", "b"), rules(tmp_path, max_length=12))
    talk(dialogue, "c <|im_end|>")
    assert dialogue.next_prompt() is None
    assert dialogue.cut_short is not None
    assert dialogue.cut_short.reason == "prompt too long"
    assert len(dialogue.answers()) == 1


def test_an_answer_that_a_tool_answers_stays_as_given(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "i"},
        {"role": "tool", "content": "j"},
        {"role": "assistant", "content": "x"},
    ]
    dialogue = Dialogue(0, parse_chat({"messages": messages}), rules(tmp_path))
    (asked,) = talk(dialogue, "c <|im_end|>")
    assert "assistant i <|im_end|> <|im_start|> tool j" in asked
    assert len(dialogue.answers()[0].spans) == 1
