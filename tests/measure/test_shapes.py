"""Rows of every shape become messages, and what is said of bad ones."""

from typing import Any

import pytest

from dflash_serve.measure.errors import RowError
from dflash_serve.measure.shapes import parse_chat

SYSTEM, USER, ANSWER = (
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "q", "response": "a"}, [USER, ANSWER]),
        ({"prompt": "q", "completion": "a"}, [USER, ANSWER]),
        ({"prompt": "q"}, [USER]),
        ({"prompt": [SYSTEM, USER], "completion": [ANSWER]}, [SYSTEM, USER, ANSWER]),
        ({"instruction": "q", "input": "", "output": "a"}, [USER, ANSWER]),
        (
            {"instruction": "q", "input": "x", "output": "a"},
            [{"role": "user", "content": "q\n\nx"}, ANSWER],
        ),
        ({"messages": [SYSTEM, USER, ANSWER, USER]}, [SYSTEM, USER, ANSWER, USER]),
        ({"messages": [{"role": "developer", "content": "s"}, USER]}, [SYSTEM, USER]),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]},
            [USER],
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                    {"from": "tool", "value": "t"},
                ]
            },
            [SYSTEM, USER, ANSWER, {"role": "tool", "content": "t"}],
        ),
        ({"system": "s", "conversations": [{"from": "human", "value": "q"}]}, [SYSTEM, USER]),
    ],
)
def test_every_shape_becomes_messages(row: Any, messages: list[Any]) -> None:
    chat = parse_chat({"kind": "k", **row})
    assert chat.kind == "k"
    assert list(chat.messages) == messages


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([USER], "no known shape"),
        ({"text": "q"}, "no known shape"),
        ({"prompt": 3}, "no known shape"),
        ({"messages": [{"content": "q"}]}, "no known shape"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "no known shape"),
        ({"messages": [{"role": "alien", "content": "q"}]}, "unknown role"),
        ({"conversations": [{"from": "alien", "value": "q"}]}, "unknown role"),
        ({"messages": []}, "empty"),
        ({"prompt": " \n"}, "empty"),
        ({"messages": [ANSWER, USER]}, "the chat begins with the assistant"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "content other than text",
        ),
        ({"messages": [USER], "tools": [{"type": "function"}]}, "tools are not supported"),
    ],
)
def test_a_bad_row_has_a_reason(row: Any, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_chat(row)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "row",
    [
        {"input": "q", "output": "a"},
        {"question": "q", "answer": "a"},
        {"question": "q", "response": "a", "system_prompt": ""},
        {"instruction": "q", "response": "a", "context": ""},
        {"query": "q", "response": "a", "original_question": "other"},
        {"problem": "q", "answer": "a"},
        {"problem": "q", "solution": "a", "answer": "the bare result"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": [ANSWER]},
        {"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER]},
        {"prompt": "q", "messages": [USER, ANSWER]},
        {"prompt": "q", "question": "q", "answer": None, "completion": "a"},
    ],
)
def test_the_usual_columns_are_a_question_and_its_answer(row: Any) -> None:
    assert list(parse_chat(row).messages) == [USER, ANSWER]


def test_columns_beside_the_question_are_read() -> None:
    row = {"system_prompt": "s", "instruction": "q", "context": "x", "response": "a"}
    asked = {"role": "user", "content": "q\n\nx"}
    assert list(parse_chat(row).messages) == [SYSTEM, asked, ANSWER]
    assert list(parse_chat({"system": "s", "messages": [SYSTEM, USER]}).messages) == [SYSTEM, USER]


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ({"prompt": "q", "question": "r", "answer": "a"}, "prompt and question"),
        ({"input": "q", "output": "a", "problem": "r"}, "problem and input"),
        ({"prompt": "q", "response": "a", "completion": "b"}, "response and completion"),
        ({"messages": [USER], "conversations": [{"from": "human"}]}, "messages and conversations"),
        ({"system": "s", "system_prompt": "t", "prompt": "q"}, "system and system_prompt"),
        ({"system": "t", "messages": [SYSTEM, USER]}, "system and a system message"),
        ({"prompt": "r", "chosen": [USER, ANSWER]}, "chosen begins otherwise than prompt"),
    ],
)
def test_a_row_that_can_be_read_in_two_ways_is_refused(row: Any, detail: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_chat(row)
    assert (caught.value.reason, caught.value.detail) == ("read in two ways", detail)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "answer": {"text": ["a"]}}, "answer is no text"),
        ({"instruction": "q", "input": 3, "output": "a"}, "instruction or input is no text"),
        ({"instruction": "q", "output": "a", "history": [["r", "b"]]}, "history"),
        ({"prompt": "", "response": "a"}, "a user message without text"),
        ({"system": 3, "prompt": "q"}, "system is no text"),
    ],
)
def test_a_row_is_read_whole_or_refused(row: Any, message: str) -> None:
    with pytest.raises(RowError, match=message):
        parse_chat(row)
