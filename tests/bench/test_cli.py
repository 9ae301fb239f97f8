"""The commands as a user runs them: help without MLX, one line and exit code 2 for bad input."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dflash_serve.bench import cli, doctor
from dflash_serve.kernels.dispatch import hand_written
from tests.bench.conftest import VOCAB, Stored
from tests.tiny import write_target


def run(
    main: object, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> tuple[object, str, str]:
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    with pytest.raises(SystemExit) as stop:
        main()  # type: ignore[operator]
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_help_imports_no_mlx() -> None:
    code = (
        "import sys; from dflash_serve.bench import cli, doctor\n"
        "sys.argv = ['x', '--help']\n"
        "for module in (cli, doctor):\n"
        "    try: module.main()\n"
        "    except SystemExit as stop: assert not stop.code, stop.code\n"
        "    else: raise AssertionError(module)\n"
        "assert 'mlx.core' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=240)


@pytest.mark.parametrize("command", [one.name for one in cli.app.registered_commands])
def test_every_command_says_what_it_takes(command: str) -> None:
    shown = CliRunner().invoke(cli.app, [command, "--help"])
    assert shown.exit_code == 0
    assert "--help" in shown.output


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["decode", "--nonsense"], "No such option"),
        (["decode", "--batch", "1,x"], "--batch is 1,x, but must be numbers from 1"),
        (["decode", "--batch", "0"], "--batch is 0, but"),
        (["decode", "--block-size", "1"], "--block-size is 1, but"),
        (["decode", "--target", "/no/such/place"], "no directory /no/such/place"),
        (["decode", "--random-target", "qwen9"], "--random-target qwen9"),
        (["decode", "--random-target", "qwen3-tiny", "--target", "x"], "excludes"),
        (["exact", "--prompts", "0"], "--prompts"),
        (["training-step", "--only", "huge"], "--only names 'huge', but must be of demo,"),
        (["serve"], "--base-url"),
        (["stops", "--shortest", "3", "--longest", "2"], "--longest is 2.0"),
        (["http", "--target", "/no/such/place"], "no directory /no/such/place"),
        (["serve", "--base-url", "http://x/v1", "--clients", "two"], "--clients is two"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    argv: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    code, _, err = run(cli.main, argv, monkeypatch, capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_bad_prompt_file(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "good"}\n{"text": "?"}\n', encoding="utf-8")
    argv = ["decode", "--target", str(stored.target), "--drafter", str(stored.drafter)]
    code, _, err = run(cli.main, [*argv, "--prompt-file", str(prompts)], monkeypatch, capsys)
    assert code == 2
    assert "p.jsonl, line 2" in err


@pytest.mark.parametrize(
    ("place", "message"), [("folder", "it is a directory"), ("file/x.json", "File exists")]
)
@pytest.mark.parametrize("words", [["decode", "--out"], ["record"]])
def test_a_place_for_the_result_is_asked_for_before_it_is_measured(
    words: list[str],
    place: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """The target is not even looked for."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    argv = [*words, str(tmp_path / place), "--target", "/no/such/place"]
    code, _, err = run(cli.main, argv, monkeypatch, capsys)
    assert (code, err) == (2, f"dflash-bench: error: cannot write {tmp_path / place}: {message}\n")


def test_a_result_is_written_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out_file = tmp_path / "deep" / "exact.json"
    argv = ["exact", "--random-target", "qwen3-tiny", "--prompts", "3", "--max-tokens", "4"]
    argv += ["--batch", "2", "--block-size", "4", "--out", str(out_file)]
    code, out, _ = run(cli.main, argv, monkeypatch, capsys)
    assert code == 0
    assert "0 wrong" in out
    assert json.loads(out_file.read_text(encoding="utf-8"))["results"]["wrong"] == 0
    # nothing of the atomic write stays behind
    assert {path.name for path in out_file.parent.iterdir()} == {"exact.json", "exact.png"}


def test_doctor_examines_a_pair(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    argv = ["--target", str(stored.target), "--drafter", str(stored.drafter)]
    code, out, _ = run(doctor.main, [*argv, "--prompts", "2", "--json"], monkeypatch, capsys)
    assert code == 0
    found = json.loads(out)
    assert found["blas"]["matmul_gflops"] > 0
    assert found["pair"]["cache_bytes_at_4096"] > 0
    assert found["pair"]["divergence"]["different_tokens"] == 0
    assert {cost["rows"] for cost in found["pair"]["round_costs"]} == {1, 4, 8}
    assert {1} < {point["width"] for point in found["pair"]["cost_table"]}


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets DFLASH_KERNELS, as if this process had begun with it."""

    def begin_with(choice: str) -> None:
        monkeypatch.setenv("DFLASH_KERNELS", choice)
        hand_written.cache_clear()

    yield begin_with
    hand_written.cache_clear()


def test_doctor_shows_tables_and_the_switch_of_the_kernels(
    stored: Stored,
    switch: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    switch("plain")
    argv = ["--target", str(stored.target), "--drafter", "none"]
    code, out, _ = run(doctor.main, argv, monkeypatch, capsys)
    assert code == 0
    assert "This machine" in out
    assert "kernels: off (DFLASH_KERNELS=plain)" in out
    assert "Pair target: fits" in out


def test_doctor_refuses_an_unknown_switch(
    switch: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    switch("fast")
    code, out, err = run(doctor.main, [], monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert err == "dflash-doctor: error: DFLASH_KERNELS='fast' is none of auto, plain\n"


def test_doctor_refuses_a_drafter_for_another_target(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    other = write_target(tmp_path / "other", hidden_size=32, vocab_size=VOCAB)
    argv = ["--target", str(other), "--drafter", str(stored.drafter), "--json"]
    code, _, err = run(doctor.main, argv, monkeypatch, capsys)
    assert code == 2
    assert "drafter hidden_size is 64, target hidden_size is 32" in err
    assert err.count("\n") == 1
