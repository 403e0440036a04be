"""Define the verbs that ask radiographs: ``predict``, ``findings``, ``compare``, ``wordings``, ``demo``."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from radzero.cli.console import (
    DeviceOption,
    FindingsOption,
    LocalOption,
    ModelOption,
    Precision,
    PrecisionOption,
    RevisionOption,
    SentenceOption,
    console,
    counted,
    errors_in_words,
    fail,
    interruptible,
    left_out,
    progress_bars,
    say,
    say_unsearched,
    unwritable,
    warn,
)
from radzero.prediction.writer_registry import WRITERS
from radzero.results.kinds import KIND_NAMES

if TYPE_CHECKING:
    from radzero.prediction.inputs import Item
    from radzero.prediction.model import RadZero
    from radzero.prediction.reading import Reading

_OWN_OPTIONS = ("overlays", "dicom")
"""Outputs that have an option of their own besides --write."""


def predict(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders (searched to any depth) or glob patterns.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for predictions.jsonl and the other outputs.")],
    sentence: SentenceOption = None,
    findings: FindingsOption = None,
    model: ModelOption = None,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Similarity at which contours are drawn.")] = 0.5,
    overlays: Annotated[bool, typer.Option(help="Whether to draw overlays.")] = True,
    dicom: Annotated[
        str | None,
        typer.Option(help=escape(f"DICOM results to write: all, or some of {KIND_NAMES}. Needs 'radzero[dicom]'.")),
    ] = None,
    write: Annotated[
        list[str] | None,
        typer.Option(
            help="A further output: "
            + "; ".join(f"{name}, {spec.help}" for name, spec in WRITERS.items() if name not in _OWN_OPTIONS)
            + "."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Films per forward pass.")] = 8,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Processes that read films and draw; 0 does all in one process. Usually one per core."
        ),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Most pixels of a film; a larger film is refused before it is decoded.")
    ] = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    device: DeviceOption = None,
    dtype: Annotated[str | None, typer.Option(help="Type of the weights: float32, bfloat16.")] = None,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Read films: probability, similarity map and overlay of every sentence.

    Probabilities are in predictions.jsonl; of up to ten films and thirty answers they are printed too.
    Goes on where an interrupted run into the same folder stopped. Exit code 0: every file was read; 1: some were
    refused, each with its reason in predictions.jsonl; 2: nothing could be done.
    """
    import torch

    from radzero.findings import asked_sentences
    from radzero.images import ReadLimits
    from radzero.prediction.inputs import find_inputs
    from radzero.prediction.model import load
    from radzero.prediction.output_folder import OutputFolder, run_identity
    from radzero.prediction.run import predict_items, usual_workers
    from radzero.prediction.writers import WriterOptions, file_keys, make_writers
    from radzero.results import result_kinds

    torch.set_float32_matmul_precision(precision.value)
    with errors_in_words(RuntimeError):
        asked = asked_sentences(sentence, findings)
        found = find_inputs(inputs, exclude=output)
        if not found.items:
            raise ValueError(f"no film in {', '.join(inputs)} ({counted(len(found.left_out), 'file')} of other kinds)")
        results = result_kinds(dicom) if dicom is not None else ()
        chosen = [*(["overlays"] if overlays else []), *(["dicom"] if results else []), *(write or [])]
        writers = make_writers(chosen, WriterOptions(threshold, results))
        radzero = load(model, device, dtype, revision=revision, local_files_only=local_files_only)
        identity = run_identity(radzero, asked, threshold=threshold, precision=precision.value, writers=writers)
    try:
        target = OutputFolder(output, identity, found.items, file_keys=file_keys(writers))
    except ValueError as error:
        raise fail(error) from error
    except OSError as error:
        raise unwritable(output, error) from error
    if radzero.notice:
        warn(radzero.notice)
    _warn_of_unknown_words(radzero, asked)
    with interruptible(), progress_bars() as progress:
        task = progress.add_task("reading", total=len(found.items))

        def on_item(name: str, reading: "Reading | None", error: str | None) -> None:
            if error:
                progress.console.print(f"[red]refused[/] {escape(error)}", highlight=False, soft_wrap=True)
            for warning in reading.film_warnings if reading else ():  # warnings about the sentences were printed before
                progress.console.print(f"[yellow]{escape(name)}:[/] {escape(warning)}", highlight=False, soft_wrap=True)
            progress.advance(task)

        try:
            outcome = predict_items(
                radzero,
                found.items,
                asked,
                target,
                writers=writers,
                threshold=threshold,
                batch_size=batch_size,
                workers=usual_workers(len(found.items)) if workers is None else workers,
                limits=ReadLimits(max_pixels=max_pixels) if max_pixels else None,
                on_item=on_item,
            )
        except ChildProcessError as error:
            raise fail(f"{error}; what was written is whole, run again to go on") from error
        except OSError as error:
            raise unwritable(output, error, "; what was written is whole, run again to go on") from error
    if len(found.items) <= _TABLE_FILMS and len(found.items) * len(asked) <= _TABLE_ROWS:
        console.print(_probabilities(target.records(), found.items))
    parts = [f"{outcome.read} read"]
    if outcome.resumed:
        parts.append(f"{outcome.resumed} of them earlier")
    if outcome.refused:
        parts.append(f"{len(outcome.refused)} refused")
    if outcome.without_results:
        parts.append(f"{len(outcome.without_results)} without DICOM results (their lines say why)")
    say(f"{', '.join([*parts, *left_out(found)])}; {', '.join(map(str, [target.lines, *outcome.written]))}")
    say_unsearched(found)
    if outcome.refused or found.unsearched:
        raise typer.Exit(1)


_UNKNOWN_SHOWN = 3
"""Most sentences with unknown words that are printed; predictions.jsonl names all of them."""
_TABLE_FILMS, _TABLE_ROWS = 10, 30
"""A run of more films, or of more films times sentences, prints no probabilities."""


def _warn_of_unknown_words(radzero: "RadZero", asked: Sequence[str]) -> None:
    unknown = {text: words for text in asked if (words := radzero.unknown_words(text))}
    for text, words in islice(unknown.items(), _UNKNOWN_SHOWN):
        warn(f"{text}: words this model has never seen: {', '.join(words)}")
    if (more := len(unknown) - _UNKNOWN_SHOWN) > 0:
        warn(f"and {counted(more, 'more sentence')} with words this model has never seen")


def _probabilities(records: list[dict[str, Any]], items: "Sequence[Item]") -> Table:
    """Return a table with a row per film and sentence, and one row for a film that was refused."""
    written = {record["image"]: record for record in records}
    table = Table("film", "sentence", "probability")
    for name in (item.name for item in items):
        shown = escape(name.encode(errors="backslashreplace").decode())  # a name may not be UTF-8
        for number, answer in enumerate(written[name].get("sentences", ())):
            row = (escape(answer["sentence"]), f"{answer['probability']:.3f}")
            table.add_row("" if number else shown, *row)
        if "error" in written[name]:
            table.add_row(shown, "", "refused")
        table.add_section()
    return table


def findings() -> None:
    """List the named finding sets that `predict --findings` takes."""
    from radzero.findings import FINDING_SETS

    table = Table("set", "findings")
    for name, members in FINDING_SETS.items():
        table.add_row(name, ", ".join(members))
    console.print(table)


def compare(
    film: Annotated[Path, typer.Argument(help="File of a film, such as DICOM, PNG or JPEG.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write (PNG).")],
    sentences: Annotated[
        list[str], typer.Option("--sentence", "-s", help="Sentence to ask; repeat the option for more.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Checkpoint to compare, or NAME=CHECKPOINT; repeat it for more. The packaged one if none is given.",
        ),
    ] = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
) -> None:
    """Draw the maps of several models and sentences on one film, with probabilities.

    A hub id may name a revision, OWNER/NAME@REVISION, so that two of one model can be compared.
    """
    from radzero.prediction.comparison import draw_comparison
    from radzero.prediction.model import PACKAGED

    with errors_in_words():
        picture = draw_comparison(
            film, models or [PACKAGED], sentences, revision=revision, local_files_only=local_files_only
        )
        picture.save(output)
    say(output)


def wordings(
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write (PNG); a CSV is written beside it.")],
    sentences: Annotated[
        list[str] | None,
        typer.Option(
            "--sentence", "-s", help="Sentence to compare; repeat the option for more. A standard set if none is given."
        ),
    ] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
) -> None:
    """Show how a model places sentences against each other: paraphrases, denials, sides."""
    from radzero._files import write_whole
    from radzero.prediction.model import load
    from radzero.prediction.wordings import WORDINGS, cosines_as_csv, draw_cosines, sentence_cosines, wording_figures

    asked = list(dict.fromkeys(sentences or [wording.sentence for wording in WORDINGS]))
    if output.suffix.lower() != ".png" or output.is_dir():
        raise fail(f"{output}: name a file that ends in .png")
    with errors_in_words():
        if not all(text.strip() for text in asked):
            raise ValueError("a sentence is empty")
        output.parent.mkdir(parents=True, exist_ok=True)
        radzero = load(model, revision=revision, local_files_only=local_files_only)
        cosines = sentence_cosines(radzero, asked)
        groups = None if sentences else [wording.finding for wording in WORDINGS]
        name = Path(radzero.name).name if Path(radzero.name).is_dir() else radzero.name
        picture = draw_cosines(cosines, asked, f"Cosines of sentences in {name}", groups)
        picture.save(output)
        table = output.with_suffix(".csv")
        write_whole(table, cosines_as_csv(cosines, asked).encode())
    if unknown := dict.fromkeys(word for text in asked for word in radzero.unknown_words(text)):
        warn(f"words this model has never seen, each the same to it as any other: {', '.join(unknown)}")
    if not sentences:
        figures = Table("figure", "value")
        for figure, value in vars(wording_figures(cosines)).items():
            figures.add_row(_WORDING_FIGURES[figure], f"{value:.2f}")
        console.print(figures)
    say(f"{output}, {table}")


_WORDING_FIGURES = {
    "paraphrases": "cosine of two wordings of a finding",
    "other_findings": "cosine of two findings",
    "denials": "cosine of a finding and its denial",
    "sides": "cosine of left and right",
    "nearest_is_paraphrase": "share of wordings whose nearest is of the same finding",
    "paraphrase_before_denial": "share of paraphrases that are nearer than the denial",
}


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for films and overlays.")] = Path("demo"),
) -> None:
    """Make phantoms, ask the packaged model about them, and draw what it sees."""
    from radzero.demo import run_demo

    try:
        with interruptible(""):
            run_demo(output, console)
    except ValueError as error:
        raise fail(error) from error
    except OSError as error:
        raise unwritable(output, error) from error
