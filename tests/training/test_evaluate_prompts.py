"""Data sets in their published files, the exact text that they are asked with, and the order."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from dflash_serve.measure.errors import DataError
from dflash_serve.training.evaluate import sets
from dflash_serve.training.evaluate.prompts import Conversation, read_prompt_file, select

MATH = "Please reason step by step, and put your final answer within \\boxed{}."


def parquet(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(list(rows)).to_parquet(path)


def jsonl(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def turns(directory: Path, name: str) -> list[tuple[str, ...]]:
    assert sets.found_in(directory) == [name]
    return [one.turns for one in sets.from_directory(directory, name)]


def test_gsm8k(tmp_path: Path) -> None:
    rows = [{"question": "1 + 1?", "answer": "2 #### 2"}, {"question": "2 + 2?", "answer": "4"}]
    parquet(tmp_path / "gsm8k" / "main" / "test-00000-of-00001.parquet", *rows)
    parquet(tmp_path / "gsm8k" / "main" / "train-00000-of-00001.parquet", {"question": "no"})
    assert turns(tmp_path, "gsm8k") == [(f"1 + 1?\n{MATH}",), (f"2 + 2?\n{MATH}",)]


def test_math500(tmp_path: Path) -> None:
    jsonl(tmp_path / "MATH-500" / "test.jsonl", {"problem": "x^2 = 4", "answer": "2", "level": 1})
    assert turns(tmp_path, "math500") == [(f"x^2 = 4\n{MATH}",)]


@pytest.mark.parametrize(
    ("name", "folder", "row"),
    [
        ("aime24", "aime_2024", {"id": 60, "problem": "Find n.", "answer": "33", "year": "2024"}),
        ("aime25", "aime_2025", {"problem_idx": 1, "problem": "Find n.", "answer": 70}),
    ],
)
def test_aime(tmp_path: Path, name: str, folder: str, row: dict[str, Any]) -> None:
    parquet(tmp_path / folder / "data" / "train-00000-of-00001.parquet", row)
    assert turns(tmp_path, name) == [(f"Find n.\n{MATH}",)]


def test_humaneval(tmp_path: Path) -> None:
    row = {"task_id": "HumanEval/0", "prompt": 'def f():\n    """One."""\n', "entry_point": "f"}
    path = tmp_path / "openai_humaneval" / "openai_humaneval" / "test-00000-of-00001.parquet"
    parquet(path, row)
    expected = (
        "Write a solution to this problem that passes its tests:\n"
        '```python\ndef f():\n    """One."""\n\n```'
    )
    assert turns(tmp_path, "humaneval") == [(expected,)]


def test_mbpp(tmp_path: Path) -> None:
    row = {"task_id": 11, "prompt": "Write a function.", "code": "x", "test_list": ["assert f()"]}
    parquet(tmp_path / "mbpp" / "sanitized" / "test-00000-of-00001.parquet", row)
    assert turns(tmp_path, "mbpp") == [("Write a function.",)]


def test_livecodebench_reads_all_parts_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "code_generation_lite"
    with_starter = {"question_content": "Add.", "starter_code": "class S:", "private_test_cases": 1}
    jsonl(folder / "test.jsonl", with_starter)
    jsonl(folder / "test2.jsonl", {"question_content": "Sum stdin.", "starter_code": ""})
    first, second = (text for (text,) in turns(tmp_path, "livecodebench"))
    assert first == (
        "You are an expert Python programmer. Solve the problem below with a correct program that "
        "passes all of its tests.\n\n### Question:\nAdd.\n\n### Format: Complete the starter code "
        "below and return the whole program in one code block.\n```python\nclass S:\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )
    assert "### Question:\nSum stdin.\n\n### Format: Read the input from stdin" in second


def test_swe_bench(tmp_path: Path) -> None:
    row = {"repo": "a/b", "problem_statement": "It crashes.", "patch": "-", "base_commit": "c"}
    parquet(tmp_path / "SWE-bench_Lite" / "data" / "test-00000-of-00001.parquet", row)
    parquet(tmp_path / "SWE-bench_Lite" / "data" / "dev-00000-of-00001.parquet", row)
    expected = "Problem Statement:\nIt crashes.\n\nPlease fix this issue."
    assert turns(tmp_path, "swe-bench") == [(expected,)]


@pytest.mark.parametrize("column", ["prompt", "turns"])
def test_mt_bench_has_two_turns(tmp_path: Path, column: str) -> None:
    row = {column: ["Write a poem.", "Make it shorter."], "category": "writing"}
    jsonl(tmp_path / "mt-bench.jsonl", row)
    assert turns(tmp_path, "mt-bench") == [("Write a poem.", "Make it shorter.")]


def test_alpaca_with_and_without_input(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Sort.", "input": "3 1 2", "output": "1 2 3", "text": ""},
        {"instruction": "Greet.", "input": "", "output": "Hi", "text": ""},
    ]
    (tmp_path / "alpaca").mkdir()
    (tmp_path / "alpaca" / "alpaca_data.json").write_text(json.dumps(rows))
    assert turns(tmp_path, "alpaca") == [("Sort.\n\nInput:\n3 1 2",), ("Greet.",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"quest": "a", "answer": "b"}\n',
            "line 1 has no column 'question'; it has quest, answer",
        ),
        ("", "gsm8k.jsonl holds no rows"),
        ('{"question": ""}\n', "line 1 has an empty 'question'"),
        ('{"question": "a"}\nnonsense\n', "gsm8k.jsonl, line 2: not JSON"),
        ("[1]\n", "line 1 holds no row but list"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "gsm8k.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        sets.from_directory(tmp_path, "gsm8k")


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"gsm8k\.parquet cannot be read"):
        sets.from_directory(tmp_path, "gsm8k")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no mbpp: looked for mbpp\.parquet"):
        sets.from_directory(tmp_path, "mbpp")
    with pytest.raises(
        DataError, match="--datasets names 'gsm9k', which is no data set: there are gsm8k, math500"
    ):
        sets.known(["gsm8k", "gsm9k"])


def test_without_a_network_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"^gsm8k: cannot get openai/gsm8k from the hub") as one:
        sets.from_hub("gsm8k")
    assert "\n" not in str(one.value)
    assert "--data-dir" in str(one.value)


def test_the_protocol_counts() -> None:
    assert {name: one.samples for name, one in sets.DATASETS.items()} == {
        "gsm8k": 128, "math500": 128, "aime24": 30, "aime25": 30, "humaneval": 164, "mbpp": 128,
        "livecodebench": 128, "swe-bench": 128, "mt-bench": 80, "alpaca": 128,
    }  # fmt: skip


def conversations(count: int) -> list[Conversation]:
    return [Conversation("set", row, (f"question {row}",)) for row in range(count)]


def test_shuffles_are_those_of_the_protocols() -> None:
    rows = [one.row for one in select(conversations(10), 4, "random-42")]
    assert rows == [7, 3, 2, 8]  # random.Random(42).shuffle(list(range(10)))
    shuffled = Dataset.from_dict({"row": list(range(50))}).shuffle(seed=0)
    older = [one.row for one in select(conversations(50), None, "datasets-0")]
    assert older == shuffled["row"]
    assert [one.row for one in select(conversations(3), 9, "none")] == [0, 1, 2]


def test_earlier_turns_carry_the_runs_own_replies() -> None:
    one = Conversation("set", 0, ("first", "second"), ({"role": "system", "content": "be brief"},))
    assert one.messages([]) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
    ]
    assert one.messages(["a reply"])[2:] == [
        {"role": "assistant", "content": "a reply"},
        {"role": "user", "content": "second"},
    ]


def test_a_prompt_file_has_a_set_per_kind(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    system = {"role": "system", "content": "s"}
    jsonl(
        path,
        {"kind": "a", "messages": [system, {"role": "user", "content": "one"}], "answer": "x"},
        {"messages": [{"role": "user", "content": "two"}]},
        {"kind": "a", "messages": [{"role": "user", "content": "three"}]},
    )
    read = read_prompt_file(path)
    assert {name: [one.turns for one in held] for name, held in read.items()} == {
        "a": [("one",), ("three",)],
        "own": [("two",)],
    }
    assert read["a"][0].opening == (system,)
