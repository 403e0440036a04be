"""The ``radzero`` command as tests run it."""

from typer.testing import CliRunner, Result

from radzero.cli import app


def call(*arguments: object, code: int = 0) -> Result:
    """Run it in this process; an exception that is no exit is raised, another exit code fails."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result
