"""The command line: quick help, one-line errors, options that arrive."""

import subprocess
import sys
import types

import pytest

from dflash_serve.server import cli
from dflash_serve.server.settings import Settings
from dflash_serve.version import __version__


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dflash-serve", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What ``build.serve`` was called with."""
    calls: list[Settings] = []
    build = types.ModuleType("dflash_serve.server.build")
    build.serve = lambda chosen: calls.append(chosen) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dflash_serve.server.build", build)
    return calls


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "x"],
        ["--port", "99999"],
        ["--bogus", "1"],
        ["--speculation", "some"],
        ["--memory-limit", "8XB"],
        ["--block-size", "0"],
        ["--target"],
        ["surplus"],
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    started: list[Settings],
    arguments: list[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("dflash-serve: error: ")
    assert not started


def test_options_arrive_and_the_exit_code_returns(
    monkeypatch: pytest.MonkeyPatch, started: list[Settings]
) -> None:
    monkeypatch.delenv("DFLASH_API_KEY", raising=False)
    monkeypatch.delenv("DFLASH_ADMIN_KEY", raising=False)
    arguments = "--target m --drafter none --port 0 --memory-limit 2GiB --block-size 4 --seed -3"
    more = "--cors-origin http://a --cors-origin http://b --max-body-bytes 1MB --keep-alive 0.5"
    safety = "--admin-key adm --allowed-host box --allowed-host b2 --max-connections 9"
    times = "--send-timeout 1.5"
    parsers = "--tool-parser hermes --reasoning-parser none"
    given = " ".join((arguments, more, safety, times, parsers))
    assert run(monkeypatch, *given.split()) == 7
    assert started == [
        Settings(
            target="m",
            drafter="none",
            port=0,
            memory_limit=2 * 2**30,
            block_size=4,
            seed=-3,
            cors_origin=("http://a", "http://b"),
            admin_key="adm",
            allowed_host=("box", "b2"),
            max_connections=9,
            send_timeout=1.5,
            max_body_bytes=10**6,
            keep_alive=0.5,
            tool_parser="hermes",
            reasoning_parser="none",
        )
    ]


def test_the_defaults_of_the_command_line_are_those_of_settings(
    monkeypatch: pytest.MonkeyPatch, started: list[Settings]
) -> None:
    monkeypatch.setenv("DFLASH_API_KEY", "secret")
    monkeypatch.setenv("DFLASH_ADMIN_KEY", "other")
    assert run(monkeypatch) == 7
    assert started == [Settings(api_key="secret", admin_key="other")]


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"dflash-serve {__version__}\n"


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; sys.argv = ['dflash-serve', '--help']\n"
        "from dflash_serve.server import cli\n"
        "try:\n    cli.main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'mlx', 'mlx_lm', 'transformers', 'fastapi', 'uvicorn', 'tokenizers', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--memory-limit" in done.stdout
