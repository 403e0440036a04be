"""Define the verbs about checkpoints: ``info``, ``convert``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from radzero.cli.console import LocalOption, RevisionOption, console, errors_in_words, say


def info(
    model: Annotated[
        str | None, typer.Argument(help="Checkpoint: a folder, a hub id, or packaged (the default).")
    ] = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's architecture, sizes, training data, licence and hash."""
    from radzero.prediction.model import describe

    with errors_in_words():
        facts = describe(model, revision=revision, local_files_only=local_files_only)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table(show_header=False)
    for key, value in facts.items():
        table.add_row(
            key.replace("_", " "), escape(json.dumps(value) if isinstance(value, dict | list) else str(value))
        )
    console.print(table)


def convert(
    source: Annotated[
        str, typer.Argument(help="Checkpoint to rewrite: a folder or hub id, published or ours, or CARZero's file.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder of the rewritten checkpoint.")],
    text: Annotated[
        str | None,
        typer.Option(help="Tokenizer for CARZero's file, which has none: folder or hub id; ClinicalBERT if not given."),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Write the published format instead, for programs that read that.")
    ] = False,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
) -> None:
    """Rewrite a published checkpoint into our format, or a RadZero of ours into the published one."""
    from radzero.models.conversion import convert_checkpoint
    from radzero.prediction.model import model_source

    with errors_in_words():
        convert_checkpoint(
            model_source(source),
            output,
            text,
            published=published,
            revision=revision,
            local_files_only=local_files_only,
        )
    say(f"{output}: written; radzero.load({str(output)!r}) reads it")
