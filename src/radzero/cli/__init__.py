"""The ``radzero`` command: one thin function per verb, in a file per group; the work is in the modules that they name.

The table below lists the verbs in the order of the help. To add one, write its function and add it there.
"""

from inspect import getdoc
from typing import Annotated

import typer
from rich.markup import escape

from radzero.cli import asking, data, evaluation, models, pacs, serving, training

_VERBS = {
    "Ask radiographs": (asking.predict, asking.findings, asking.compare, asking.wordings, asking.demo, serving.view),
    "Serve": (serving.serve, pacs.dicomweb, pacs.listen),
    "Models": (models.info, models.convert),
    "Make data": (data.phantom, data.extract, data.prepare),
    "Train and measure": (training.train, training.ablate, evaluation.evaluate, evaluation.report),
}
"""Heading of the help -> functions of the verbs, named as these are, and groups of verbs."""
_GROUP_NAMES = {id(data.prepare): "prepare", id(evaluation.evaluate): "evaluate"}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Ask a chest radiograph any sentence; get a probability and a similarity map.",
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from radzero import __version__

        typer.echo(__version__)
        raise typer.Exit


for _heading, _verbs in _VERBS.items():
    for _verb in _verbs:
        if isinstance(_verb, typer.Typer):
            app.add_typer(_verb, name=_GROUP_NAMES[id(_verb)], rich_help_panel=_heading)
        else:
            app.command(rich_help_panel=_heading)(_verb)


def _take_help_literally(commands: typer.Typer) -> None:
    """Escape brackets in docstrings: Typer prints them by rich, which takes those of radzero[serve] for markup."""
    for command in commands.registered_commands:
        command.help = escape(command.help or getdoc(command.callback) or "")
    for group in commands.registered_groups:
        if group.typer_instance:
            _take_help_literally(group.typer_instance)


_take_help_literally(app)


def main() -> None:
    """Run the command line."""
    app()
