"""dflash-train data as a user calls it, on a random target whose tokens are words."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.loading import load_target
from dflash_serve.training.data.answers import read_answers, read_origin
from dflash_serve.training.drafter.initialise import (
    DrafterShape,
    drafter_config,
    new_drafter,
)
from dflash_serve.training.features.store import target_features
from tests.training.chat_target import (
    CONFIG,
    PLAIN,
    THINKING,
    ids,
    words,
    write_chat_target,
    write_rows,
)
from tests.training.command import call
from tests.training.files import export_drafter

MAIN = "from dflash_serve.training.cli import main; main()"


@pytest.fixture
def target_dir(tmp_path: Path) -> Path:
    return write_chat_target(tmp_path / "target")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Single questions, and chats of two turns with an answer that is to be replaced."""
    asked = [" ".join("abcdefghij"[i : i + 3]) for i in range(8)]
    rows: list[Any] = [{"kind": "k", "prompt": text} for text in asked[:5]]
    for text in asked[5:]:
        turns = [("human", text), ("gpt", "a"), ("human", "b c")]
        rows.append({"conversations": [{"from": who, "value": said} for who, said in turns]})
    return write_rows(tmp_path / "prompts.jsonl", rows)


def invoke(*arguments: object, code: int = 0) -> str:
    result = call("data", *arguments)
    assert result.exit_code == code, result.output
    assert ("dflash-train: error: " in result.output) == bool(code)
    return result.output


def rows_of(path: Path) -> list[str]:
    """The file without its order, which depends on what finished first."""
    first, *rest = path.read_text().splitlines()
    return [first, *sorted(rest)]


def test_answers_are_those_of_asking_turn_by_turn(
    target_dir: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    invoke("--target", target_dir, "--prompts", prompts, "--out", out, "--max-new", 12)
    answers = {answer.row: answer for answer in read_answers(out)}
    assert sorted(answers) == list(range(8))
    target = load_target(target_dir)
    several = 0
    for row, text in enumerate(" ".join("abcdefghij"[i : i + 3]) for i in range(8)):
        said = f"<|im_start|> user {text} <|im_end|> <|im_start|> assistant"
        first = greedy(target, ids(said), 12)
        expected, spans = ids(said) + first, [(len(ids(said)), len(ids(said)) + len(first))]
        if row >= 5 and first[-1] == 1:
            said = f"{said} {words(first)} <|im_start|> user b c <|im_end|> <|im_start|> assistant"
            second = greedy(target, ids(said), 12)
            expected = ids(said) + second
            spans.append((len(ids(said)), len(expected)))
            several += 1
        assert answers[row].tokens.tolist() == expected
        assert list(answers[row].spans) == spans
        assert answers[row].kind == ("k" if row < 5 else "")
    assert several


def greedy(target: TargetAdapter, prompt: list[int], limit: int) -> list[int]:
    """One token at a time from whole forwards: no engine, no cache."""
    answer: list[int] = []
    while len(answer) < limit and answer[-1:] != [1]:
        made = target_features(target, mx.array([prompt + answer]), (0,), final=True)
        assert made.final is not None
        answer.append(int(mx.argmax(target.logits(made.final[0, -1])).item()))
    return answer


@pytest.mark.parametrize("sampling", [(), ("--temperature", 1.0, "--top-k", 9, "--seed", 3)])
def test_neither_the_batch_nor_a_drafter_changes_an_answer(
    sampling: tuple[object, ...], target_dir: Path, prompts: Path, tmp_path: Path
) -> None:
    drafter = tmp_path / "drafter"
    shape = DrafterShape(2, layers=1, block_size=4, target_layer_ids=(0, 1, 2))
    config = drafter_config(CONFIG, shape)
    model = new_drafter(config, load_target(target_dir), seed=0).model
    export_drafter(drafter, config, model)
    common = ("--target", target_dir, "--prompts", prompts, "--max-new", 10, *sampling)
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    invoke(*common, "--out", alone, "--batch", 1)
    shown = invoke(*common, "--out", together, "--batch", 5, "--drafter", drafter)
    assert rows_of(together) == rows_of(alone)
    assert "tokens per round  " in shown
    assert "tokens per round pooled" in shown
    if sampling:
        other = tmp_path / "other.jsonl"
        invoke(*common, "--out", other, "--seed", 4)
        assert rows_of(other)[1:] != rows_of(alone)[1:]


def test_a_killed_run_is_continued_to_the_same_file(target_dir: Path, tmp_path: Path) -> None:
    write_chat_target(target_dir, seed=0)  # no answer ends early: there is time to kill
    rows = [{"prompt": " ".join("abcdefghij"[i % 8 : i % 8 + 1 + i // 8])} for i in range(14)]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    common = ["--target", target_dir, "--prompts", prompts, "--max-new", "40", "--batch", "1"]
    command = [sys.executable, "-c", MAIN, "data", *map(str, common), "--out", str(cut)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None and (not cut.exists() or cut.read_bytes().count(b"\n") < 2):
            time.sleep(0.002)
        os.kill(run.pid, signal.SIGKILL)
    made = cut.read_bytes().count(b"\n")
    assert 2 <= made < 15
    with cut.open("a") as file:
        file.write('{"row":13,"kin')  # torn, as a kill in the middle of a write leaves it
    invoke(*common, "--out", whole)
    invoke(*common, "--out", cut)
    assert rows_of(cut) == rows_of(whole)
    assert len(rows_of(whole)) == 15
    before = cut.read_bytes()
    assert "usable" in invoke(*common, "--out", cut)  # nothing left to do, the summary again
    assert cut.read_bytes() == before


@pytest.mark.parametrize(
    "change", ["target", "tokenizer", "prompts", "max_new", "max_length", "sampling", "template"]
)
def test_a_file_of_another_origin_is_refused_with_both_values(
    change: str, target_dir: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    write_chat_target(target_dir, PLAIN + "{# reads mode #}")
    options = {"target": target_dir, "prompts": prompts, "out": out, "max-new": 3, "batch": 8}
    invoke(*flags(options))
    before, origin = out.read_bytes(), read_origin(out)
    options |= {
        "max_new": {"max-new": 4},
        "max_length": {"max-length": 77},
        "sampling": {"temperature": 0.5},
        "template": {"chat-template-kwargs": '{"mode": 1}'},
    }.get(change, {})
    if change == "target":
        write_chat_target(target_dir, PLAIN + "{# reads mode #}", seed=1)
    elif change == "tokenizer":
        write_chat_target(target_dir, PLAIN + " ")
    elif change == "prompts":
        write_rows(prompts, [{"prompt": "j"}])
    shown = invoke(*flags(options), code=2)
    key = "chat_template_kwargs" if change == "template" else change
    old = origin[key] if isinstance(origin[key], str) else json.dumps(origin[key])
    assert f"made with another {key} {old} (now " in " ".join(shown.split())
    assert out.read_bytes() == before


def flags(options: dict[str, object]) -> list[object]:
    return [part for name, value in options.items() for part in (f"--{name}", value)]


BAD_ROWS: list[Any] = [
    {"prompt": "a"},
    "nonsense",
    {"text": "a"},
    {"messages": []},
    {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]},
    {"prompt": "a " * 60},
    {"conversations": [{"from": "alien", "value": "a"}]},
    "{broken",
]


def test_bad_rows_are_counted_and_named_and_do_not_stop_the_run(tmp_path: Path) -> None:
    target = write_chat_target(tmp_path / "target", THINKING)
    prompts, out = write_rows(tmp_path / "p.jsonl", BAD_ROWS), tmp_path / "out.jsonl"
    common = ("--target", target, "--prompts", prompts, "--out", out, "--max-new", 4)
    shown = " ".join(invoke(*common, "--max-length", 64, "--min-loss-tokens", 1).split())
    assert [answer.row for answer in read_answers(out)] == [0]
    summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
    assert summary["bad"] == {
        "not JSON": ["line 2", "line 8"],
        "no known shape": ["line 3"],
        "empty": ["line 4"],
        "the template refuses it": ["line 5"],
        "prompt too long": ["line 6"],
        "unknown role": ["line 7"],
    }
    assert (summary["rows_read"], summary["usable"], summary["answers"]) == (8, 1, 1)
    for part in ("rows read 8", "usable 1", "line 2:", "line 8", "no system", "limit is 64"):
        assert part in shown


def test_with_strict_or_with_nothing_left_bad_rows_are_an_error(tmp_path: Path) -> None:
    target = write_chat_target(tmp_path / "target")
    out = tmp_path / "out.jsonl"
    for rows, extra, message in (
        (BAD_ROWS, ["--strict"], "not JSON: 2 (line 2: Expecting value"),
        (["nonsense"], [], "no row is usable: not JSON: 1 (line 1"),
        ([], [], "holds no rows"),
    ):
        prompts = write_rows(tmp_path / "p.jsonl", rows)
        shown = invoke("--target", target, "--prompts", prompts, "--out", out, *extra, code=2)
        assert message in " ".join(shown.split())
        assert shown.count("\n") == 1
        assert not out.exists()


def test_answers_too_short_to_train_on_are_bad_rows(target_dir: Path, tmp_path: Path) -> None:
    prompts, out = write_rows(tmp_path / "p.jsonl", [{"prompt": "a"}]), tmp_path / "out.jsonl"
    shown = invoke(
        "--target", target_dir, "--prompts", prompts, "--out", out, "--max-new", 3,
        "--min-loss-tokens", 4, code=2,
    )  # fmt: skip
    assert "too few loss tokens: 1 (line 1: " in " ".join(shown.split())


def test_given_responses_are_kept_where_asked(target_dir: Path, tmp_path: Path) -> None:
    row = {"instruction": "a", "input": "b", "output": "c d"}
    prompts, out = write_rows(tmp_path / "p.jsonl", [row, {"prompt": "a"}]), tmp_path / "out.jsonl"
    shown = invoke("--target", target_dir, "--prompts", prompts, "--out", out, "--keep-responses")
    (answer,) = read_answers(out)
    assert words(answer.tokens) == (
        "<|im_start|> user a b <|im_end|> <|im_start|> assistant c d <|im_end|>"
    )
    assert answer.spans == ((7, 10),)
    assert read_origin(out)["responses"] == "given"
    assert "no answer to keep" in shown


def test_thinking_reaches_the_template_and_the_header(tmp_path: Path) -> None:
    target = write_chat_target(tmp_path / "target", THINKING)
    prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": "a"}])
    common = ("--target", target, "--prompts", prompts, "--max-new", 4)
    for mode, scaffold in (("on", 0), ("off", 2)):
        out = tmp_path / f"{mode}.jsonl"
        invoke(*common, "--out", out, "--thinking", mode)
        (answer,) = read_answers(out)
        assert answer.spans[0][0] == 6 + scaffold
        assert read_origin(out)["chat_template_kwargs"] == {"enable_thinking": mode == "on"}
    for asked, told in (
        (("--thinking", "high"), "--thinking is 'high', but the target's chat template knows"),
        (("--chat-template-kwargs", '{"mode": 1}'), "does not read mode"),
        (
            ("--thinking", "on", "--chat-template-kwargs", '{"enable_thinking": false}'),
            "--thinking is 'on', but --chat-template-kwargs sets enable_thinking to False",
        ),
    ):
        shown = invoke(*common, "--out", tmp_path / "x", *asked, code=2)
        assert told in " ".join(shown.split())
    shown = invoke(*common, "--out", tmp_path / "x", "--chat-template-kwargs", "[]", code=2)
    assert "no JSON object" in shown


def test_ids_that_the_target_has_no_logit_for_end_no_answer(tmp_path: Path) -> None:
    """As in the server: such a token never comes."""
    target = write_chat_target(tmp_path / "target")
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": 999}))
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"eos_token_id": [999]}))
    prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": "a"}])
    common = ("--target", target, "--prompts", prompts, "--out", tmp_path / "x")
    assert "names no eos_token_id of its vocabulary" in " ".join(invoke(*common, code=2).split())


def test_a_hub_id_without_a_network_is_one_line(
    target_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    out = tmp_path / "out.jsonl"
    shown = invoke("--target", target_dir, "--prompts", "org/name", "--out", out, code=2)
    assert shown.startswith("dflash-train: error: the hub cannot be reached for org/name")
    assert shown.count("\n") == 1
    assert not out.exists()


def test_a_file_of_something_else_keeps_its_last_line(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text('{"no": "answers"}\nand no line end')
    target = write_chat_target(tmp_path / "target")
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a b"}])
    invoke("--target", target, "--prompts", prompts, "--out", notes, code=2)
    assert notes.read_text() == '{"no": "answers"}\nand no line end'


def test_half_a_surrogate_pair_is_a_bad_row(tmp_path: Path) -> None:
    target = write_chat_target(tmp_path / "target")
    prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": "a \ud800"}, {"prompt": "a b c"}])
    shown = invoke("--target", target, "--prompts", prompts, "--out", tmp_path / "answers.jsonl")
    assert "surrogate" in shown
    assert "line 1" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keep-responses", "--temperature", 1, "--max-new", 5), "--max-new, --temperature"),
        (
            ("--top-p", 0.5, "--seed", 3),
            "which is greedy, so it excludes --top-p",
        ),
        (("--top-p", 1.5), "--top-p is 1.5"),
    ],
)
def test_options_without_effect_are_refused(
    options: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    common = ("--target", tmp_path, "--prompts", tmp_path / "p", "--out", tmp_path / "o")
    assert message in " ".join(invoke(*common, *options, code=2).split())


def test_json_and_csv_need_no_datasets(target_dir: Path, tmp_path: Path) -> None:
    """In a process where neither `datasets` nor what it brings can be imported."""
    row = {"question": "a", "answer": "b c"}
    names = ("rows.jsonl", "rows.json", "rows.csv")
    write_rows(tmp_path / names[0], [row])
    (tmp_path / names[1]).write_text(json.dumps([row]))
    (tmp_path / names[2]).write_text("question,answer\na,b c\n")
    block = "import sys; sys.modules |= dict.fromkeys(('datasets', 'pyarrow', 'pandas'))"
    calls = [
        ["data", "--target", str(target_dir), "--prompts", str(tmp_path / name), "--out",
         str(tmp_path / f"{name}.out"), "--keep-responses"]
        for name in (*names, "rows.parquet")
    ]  # fmt: skip
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    program = f"""{block}
from dflash_serve import console
from dflash_serve.training.cli import app
import typer.testing
for call in {calls[:3]!r}:
    assert typer.testing.CliRunner().invoke(app, call).exit_code == 0
sys.argv[1:] = {calls[3]!r}
console.run(app, "dflash-train", ())"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert "dflash-train: error: datasets is not installed: pip install" in done.stderr
    for name in names:
        (answer,) = read_answers(tmp_path / f"{name}.out")
        assert words(answer.tokens[slice(*answer.spans[0])]) == "b c <|im_end|>"
