"""dflash-train eval on a pair of this machine, as a user would call it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from dflash_serve.adapters.exactness import exact_path
from dflash_serve.training.evaluate.local import LocalRun
from dflash_serve.training.evaluate.prompts import Conversation
from dflash_serve.training.evaluate.published import published_tau
from dflash_serve.training.evaluate.records import Failure, Response
from dflash_serve.training.evaluate.settings import EvaluateSettings
from tests.e2e.copying import BLOCK, write_copying_drafter, write_repeating_target
from tests.fakes import save_tokenizer
from tests.training.command import call
from tests.training.disk import no_file_above


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A target with a tokenizer, whose answers are accepted in part."""
    directory = tmp_path_factory.mktemp("pair")
    target = write_repeating_target(directory / "target")
    save_tokenizer(target)
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": [305, 307]}))
    return target, write_copying_drafter(directory / "drafter", target)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    rows = [
        {"kind": kind, "messages": [{"role": "user", "content": f"{kind} {number} brown fox"}]}
        for kind in ("dogs", "cats")
        for number in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(pair: tuple[Path, Path], *arguments: object) -> Result:
    target, drafter = pair
    options = ["eval", "--target", target, "--drafter", drafter, "--max-new", 24, *arguments]
    return call(*options)


def results(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "results.json").read_text())
    return document


@pytest.mark.usefixtures("rendered")
@pytest.mark.parametrize("sampling", [(), ("--temperature", 1, "--top-k", 20, "--seed", 3)])
def test_speculative_text_is_plain_text(
    pair: tuple[Path, Path], prompts: Path, tmp_path: Path, sampling: tuple[object, ...]
) -> None:
    out = tmp_path / "out"
    done = run(pair, "--prompts", prompts, "--samples", 2, "--out", out, *sampling)
    assert done.exit_code == 0, done.output
    document = results(out)
    measured = document["results"]
    assert document["settings"]["samples"] == {"dogs": 2, "cats": 2}
    assert set(measured["datasets"]) == {"dogs", "cats"}
    total = measured["total"]
    assert (total["responses"], total["compared"]) == (4, 4)
    if exact_path():
        assert total["differing"] == 0
    assert total["speculative"]["tokens"] == total["plain"]["tokens"]
    drafting = total["drafting"]
    assert len(drafting["histogram"]) == BLOCK + 1
    assert sum(drafting["histogram"]) == drafting["rounds"]
    sizes = sum(size * count for size, count in enumerate(drafting["histogram"]))
    assert sizes == total["speculative"]["tokens"] - 4  # the first token is the prompt's
    assert drafting["tokens_per_round_pooled"] == pytest.approx(sizes / drafting["rounds"])
    assert [one["slot"] for one in drafting["slots"]] == list(range(1, BLOCK))
    assert drafting["slots"][0]["share"] > 0
    assert total["speedup_decode"] > 0
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    headings = ("tokens/round", "pooled", "published", "above 3", "acc/proposed", "end to end")
    assert all(name in done.output for name in headings), "cut to the width of no terminal"


def test_an_evaluation_goes_on_where_it_stopped_but_not_with_other_settings(
    pair: tuple[Path, Path], prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    common = ("--prompts", prompts, "--out", out)
    assert run(pair, *common, "--samples", 1).exit_code == 0
    path = out / "responses.jsonl"
    first = path.read_text()
    path.write_text(first + '{"dataset": "dogs", "ro')  # torn by a crash
    assert run(pair, *common).exit_code == 0
    whole = path.read_text()
    assert whole.startswith(first)
    assert whole.count("\n") == 1 + 6
    assert results(out)["results"]["total"]["responses"] == 6
    refused = run(pair, *common, "--block-size", 4)
    assert refused.exit_code == 2
    assert "made with another block 8 (now 4)" in refused.output
    assert path.read_text() == whole
    # what the file says of equality decides the figures and, where equality is due, the exit code
    path.write_text(whole.replace('"same":true', '"same":false', 1))
    done = run(pair, *common)
    assert results(out)["results"]["total"]["differing"] == 1
    if exact_path():
        assert done.exit_code == 1
        assert "1 of 6 responses differ from plain decoding" in done.output


def test_a_full_disk_is_one_line_and_leaves_what_was_whole(
    pair: tuple[Path, Path], prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    common = ("--prompts", prompts, "--samples", 1, "--out", out)
    with no_file_above(100):
        refused = run(pair, *common)
    assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
    assert f"{out / 'responses.jsonl'} cannot be written: File too large" in refused.output
    assert (out / "responses.jsonl").read_bytes() == b""
    assert run(pair, *common).exit_code == 0
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    with no_file_above(1000):
        refused = run(pair, *common)
    assert refused.exit_code == 2
    assert f"{out / 'results.json'} cannot be written: File too large" in refused.output
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


def load(pair: tuple[Path, Path], batch: int = 1, **changes: Any) -> LocalRun:
    target, drafter = map(str, pair)
    given = {"target": target, "drafter": drafter, "out": "o", "max_new": 20, "batch": batch}
    return LocalRun(EvaluateSettings.model_validate(given | {"thinking": "default"} | changes))


def test_replies_are_fed_back_into_the_next_turn(pair: tuple[Path, Path]) -> None:
    two_turns = Conversation("mt", 0, ("hello world", "and again"))
    first, second = load(pair).answers([two_turns])
    assert isinstance(first, Response)
    assert isinstance(second, Response)
    assert (first.turn, second.turn) == (0, 1)
    earlier = (
        {"role": "user", "content": "hello world"},
        {"role": "assistant", "content": first.text},
    )
    told = Conversation("mt", 0, ("and again",), earlier)
    without = Conversation("mt", 0, ("and again",))
    (alone,) = load(pair).answers([told])
    (forgot,) = load(pair).answers([without])
    assert isinstance(alone, Response)
    assert isinstance(forgot, Response)
    assert alone.text == second.text
    assert forgot.text != second.text


def test_a_batch_answers_like_one_at_a_time(pair: tuple[Path, Path]) -> None:
    asked = [
        Conversation("a", 0, ("hello", "world")),
        Conversation("a", 1, ("the quick brown fox",)),
        Conversation("a", 2, ("again and again", "lazy", "dog")),
    ]
    texts = [
        {(one.row, one.turn): one.text for one in made if isinstance(one, Response)}
        for made in (list(load(pair, batch).answers(asked)) for batch in (1, 3))
    ]
    assert set(texts[0]) == {(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)}
    if exact_path():
        assert texts[0] == texts[1]


def test_a_prompt_beyond_the_context_is_told_not_fatal(pair: tuple[Path, Path]) -> None:
    asked = [Conversation("a", 0, ("fox " * 600, "no")), Conversation("a", 1, ("fox",))]
    told, answered = load(pair, 2).answers(asked)
    assert isinstance(told, Failure)
    assert "tokens, the target's context 512" in told.error
    assert isinstance(answered, Response)


def test_which_way_goes_first_alternates(pair: tuple[Path, Path]) -> None:
    asked = [Conversation("a", row, (f"hello {row}",)) for row in range(4)]
    first = [
        one.plain.started < one.speculative.started
        for one in load(pair).answers(asked)
        if isinstance(one, Response) and one.plain is not None
    ]
    assert first == [True, False, True, False]


def test_no_timed_round_is_the_first_of_its_shape(pair: tuple[Path, Path]) -> None:
    """Long answers come to larger caches, whose rounds are traced anew."""
    asked = [Conversation("a", 0, ("hello",)), Conversation("a", 1, ("the quick brown fox",))]
    loaded = load(pair, max_new=200)
    loaded.warm_up(asked)
    answers = list(loaded.answers(asked))
    assert max(one.speculative.tokens for one in answers if isinstance(one, Response)) > 64
    assert loaded.notes == {"cold_rounds": 0}
    cold = load(pair, max_new=200)
    list(cold.answers(asked))
    assert cold.notes["cold_rounds"] > 0


@pytest.mark.parametrize(
    ("target", "dataset", "temperature", "expected"),
    [
        ("Qwen/Qwen3-8B", "gsm8k", 0.0, 6.55),
        ("models/Qwen3-8B-MLX-4bit/", "math500", 1.0, 6.57),
        ("Qwen/Qwen3-4B", "alpaca", 0.0, 3.10),
        ("Qwen/Qwen3-4B-Thinking-2507", "gsm8k", 0.0, None),
        ("Qwen/Qwen3-8B", "own prompts", 0.0, None),
        ("Qwen/Qwen3-8B", "gsm8k", 0.7, None),
    ],
)
def test_published_figures_are_of_the_same_target(
    target: str, dataset: str, temperature: float, expected: float | None
) -> None:
    assert published_tau(target, dataset, temperature, "off") == expected
    assert published_tau(target, dataset, temperature, "on") is None


def test_thinking_reaches_the_template(pair: tuple[Path, Path]) -> None:
    asked = Conversation("a", 0, ("hello",))
    (plain,) = load(pair).answers([asked])
    (silent,) = load(pair, thinking="off").answers([asked])
    assert isinstance(plain, Response)
    assert isinstance(silent, Response)
    assert plain.text != silent.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plain-url", "http://127.0.0.1:9/v1"), "--plain-url goes with --url"),
        (("--datasets", "gsm9k", "--data-dir", "."), "--datasets names 'gsm9k'"),
        (("--block-size", "9"), "--block-size is 9, but the drafter was trained with 8"),
        (("--temperature", "3"), "--temperature is 3, but"),
        (("--top-p", "0"), "--top-p is 0, but"),
        (("--top-p", "0.5"), "--top-p 0.5 has no effect with --temperature 0"),
        (("--timeout", "9"), "--timeout 9.0 has no effect without --url"),
        (("--api-key", "sesame"), "error: --api-key has no effect without --url"),
        (("--shuffle", "best"), "--shuffle is best, but"),
        (("--thinking", "high"), "--thinking is 'high', but the target's chat template knows only"),
        (("--url", "http://127.0.0.1:1/v1"), "give --target and --drafter, or --url alone"),
    ],
)
def test_a_mistake_is_one_line(
    pair: tuple[Path, Path],
    prompts: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    done = run(pair, "--prompts", prompts, "--samples", 1, "--out", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert done.output.startswith("dflash-train: error: ")
    assert done.output.count("\n") == 1
    assert message in done.output


def test_data_sets_found_in_a_directory_are_measured(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    row = {"prompt": ["hello", "and again"], "category": "writing"}
    (data / "mt-bench.jsonl").write_text(json.dumps(row) + "\n")
    (data / "alpaca.jsonl").write_text(json.dumps({"instruction": "hi", "input": ""}) + "\n")
    done = run(pair, "--data-dir", data, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = results(tmp_path / "out")["results"]["datasets"]
    assert {name: one["responses"] for name, one in found.items()} == {"mt-bench": 2, "alpaca": 1}
    shutil.rmtree(data)
    data.mkdir()
    empty = run(pair, "--data-dir", data, "--out", tmp_path / "out")
    assert empty.exit_code == 2
    assert "holds none of gsm8k" in empty.output
