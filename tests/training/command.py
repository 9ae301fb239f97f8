"""`dflash-train` as a user calls it, in this process."""

from typer.testing import CliRunner, Result

from dflash_serve.training.cli import app


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def shown(*words: object) -> str:
    """What a command that ends well prints."""
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: object) -> str:
    """The one line of a command that does not."""
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert result.output.count("\n") == 1
    return result.output
