"""How commands end: one line on stderr and an exit code, never a traceback."""

import pytest
import typer

from dflash_serve import console


class RefusedError(Exception):
    pass


def ends(error: Exception | None, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command() -> int:
        if error is not None:
            raise error
        return 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["program"])
        with pytest.raises(SystemExit) as caught:
            console.run(app, "program", (RefusedError,))
    return caught.value.code, capsys.readouterr().err


def test_the_command_s_code_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(None, capsys) == (1, "")


def test_a_refusal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(RefusedError("no\nroom"), capsys) == (2, "program: error: no room\n")


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ends(ModuleNotFoundError("No module", name="matplotlib"), capsys)
    assert code == 2
    assert text.startswith("program: error: matplotlib is not installed: pip install")
    assert text.count("\n") == 1
