"""Define the verbs that make data: ``phantom``, ``extract``, ``prepare``."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from radzero.cli.console import (
    console,
    counted,
    errors,
    errors_in_words,
    fail,
    interruptible,
    progress_bars,
    say,
    unwritable,
    warn,
)

if TYPE_CHECKING:
    from radzero.training.manifest import ManifestRow
    from radzero.training.preparation import LeftOut


def phantom(
    output: Annotated[Path, typer.Argument(help="Folder to write to.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of phantoms.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the series.")] = 0,
    first: Annotated[int, typer.Option(min=0, help="Index of the first film.")] = 0,
    size: Annotated[int, typer.Option(min=72, max=4096, help="Height in pixels.")] = 512,
    film_format: Annotated[str, typer.Option("--format", help="Format of the images: png, dicom or both.")] = "both",
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 2,
) -> None:
    """Write synthetic radiographs with reports, finding-sentences, boxes and masks; the same for the same seed.

    Phantoms of the same seed that the folder holds already stay there; another seed needs another folder.
    """
    from radzero.phantom.writing import FilmFormat, read_index, write_phantoms

    try:
        kind = FilmFormat(film_format)
    except ValueError as error:
        raise fail(f"--format is png, dicom or both, not {film_format}") from error
    try:
        with interruptible("; what was drawn is whole"), progress_bars() as progress:
            task = progress.add_task("drawing", total=count)
            index = write_phantoms(
                output,
                count=count,
                seed=seed,
                first=first,
                size=size,
                film_format=kind,
                workers=workers,
                progress=lambda done: progress.update(task, completed=done),
            )
    except ValueError as error:
        raise fail(error) from error
    except OSError as error:
        raise unwritable(output, error) from error
    say(f"{counted(count, 'phantom')} drawn; {index} has {len(read_index(index))}")


class EngineChoice(StrEnum):
    """Ways to turn a report into finding-sentences."""

    RULES = "rules"
    LLM = "llm"


def extract(
    inputs: Annotated[
        list[Path], typer.Argument(help="Reports: text, XML (Open-I), CSV, JSON Lines, archives, folders.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="JSON Lines file, a line per report; an interrupted run is resumed there."),
    ],
    engine: Annotated[
        EngineChoice, typer.Option(help="rules needs no model and no network; llm asks an OpenAI-compatible endpoint.")
    ] = EngineChoice.RULES,
    processes: Annotated[int, typer.Option(min=1, help="Processes of the rules engine.")] = 1,
    vocabulary: Annotated[
        Path | None, typer.Option(help="YAML file of findings and anatomy for the rules engine.")
    ] = None,
    cues: Annotated[
        Path | None, typer.Option(help="YAML file of negations, doubts and other cues for the rules engine.")
    ] = None,
    audit: Annotated[
        int, typer.Option(min=0, help="Also write OUTPUT.html, which shows this many reports marked.")
    ] = 0,
    name_column: Annotated[str, typer.Option(help="Column or key of the report's name.")] = "",
    text_column: Annotated[str, typer.Option(help="Column or key of the full report.")] = "",
    findings_column: Annotated[str, typer.Option(help="Column or key of the findings.")] = "",
    impression_column: Annotated[str, typer.Option(help="Column or key of the impression.")] = "",
    url: Annotated[str, typer.Option(help="llm: base URL of an OpenAI-compatible API.")] = "http://localhost:8000/v1",
    llm_model: Annotated[str, typer.Option("--model", "-m", help="llm: name of the model at the endpoint.")] = "",
    temperature: Annotated[
        float, typer.Option(min=0.0, help="llm: sampling temperature; 0 takes the likeliest answer.")
    ] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="llm: number of concurrent requests.")] = 8,
    timeout: Annotated[float, typer.Option(min=1.0, help="llm: seconds to wait for an answer.")] = 120.0,
    tries: Annotated[int, typer.Option(min=1, help="llm: tries per request and per answer.")] = 5,
    prompt: Annotated[Path | None, typer.Option(help="llm: file with another system prompt.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="llm: SQLite file that keeps the answers; OUTPUT.cache if not given.")
    ] = None,
    price_in: Annotated[float, typer.Option(min=0.0, help="llm: price of a million input tokens.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0.0, help="llm: price of a million output tokens.")] = 0.0,
) -> None:
    """Turn reports into finding-sentences: "There is ...", "There may be ...", "There is no ...".

    Exit code 0: every report was extracted; 1: some could not be read or failed, each with its reason in the output; 2:
    nothing could be done, or the endpoint failed: run the same command again to go on.
    """
    from radzero.reports.command import Options, run_extraction
    from radzero.reports.llm import Endpoint
    from radzero.reports.sources import Columns

    endpoint = None
    if engine is EngineChoice.LLM:
        if not llm_model:
            raise fail("--engine llm needs --model, the model's name at the endpoint")
        try:
            endpoint = Endpoint(
                url, llm_model, temperature=temperature, tries=tries, concurrency=concurrency, timeout=timeout,
                price_in=price_in, price_out=price_out,
            )  # fmt: skip
        except ValueError as error:
            raise fail(f"--url {error}") from error
        if not endpoint.is_local:
            warn(f"the reports' text leaves this machine for {url}; make sure that you may send it there")
    options = Options(
        columns=Columns(name_column, text_column, findings_column, impression_column),
        processes=processes,
        vocabulary=vocabulary,
        cues=cues,
        endpoint=endpoint,
        prompt=prompt,
        cache=cache,
        audit=audit,
    )
    with errors_in_words(), interruptible(), progress_bars() as progress:
        task = progress.add_task("extracting", total=None)
        result = run_extraction(
            inputs,
            output,
            options,
            on_report=lambda done, total: progress.update(task, completed=done, total=total),
        )
    console.print(result.table())
    for problem in result.summary.problems:
        errors.print(escape(problem), highlight=False, soft_wrap=True)
    say(f"{output}{f', {result.page}' if result.page else ''}")
    if result.summary.unread or result.summary.failed:
        raise typer.Exit(1)


prepare = typer.Typer(
    no_args_is_help=True,
    help="Make a training manifest: which image states which sentences, whose it is, and in which split.",
)

ManifestOption = Annotated[
    Path, typer.Option("--output", "-o", help=escape("Manifest to write: .jsonl, or .parquet with radzero[data]."))
]
ExtractionOption = Annotated[
    Path, typer.Option("--sentences", "-s", help="File that `radzero extract` wrote of the reports.")
]
SharesOption = Annotated[
    tuple[float, float], typer.Option("--shares", help="Shares of the patients in the validation and test splits.")
]


def _prepare(source: "Iterator[ManifestRow | LeftOut]", output: Path) -> None:
    from radzero.training.preparation import prepare as write

    if output.suffix not in (".jsonl", ".parquet"):
        raise fail(f"{output}: a manifest's name ends in .jsonl or .parquet")
    with errors_in_words(), interruptible():
        result = write(source, output)
    table = Table("figure", "value")
    images = sum(result.rows.values())
    table.add_row("images", str(images))
    for split, count in sorted(result.rows.items()):
        table.add_row(f"  {split}", str(count))
    table.add_row("sentences per image", f"{result.sentences / images:.2f}")
    table.add_row("left out", str(sum(result.left_out.values())))
    for reason, count in result.left_out.most_common():
        table.add_row(f"  {reason}", str(count))
    console.print(table)
    say(f"{output}{f', {result.report}' if result.report else ''}")


@prepare.command("mimic-cxr")
def prepare_mimic_cxr(
    root: Annotated[Path, typer.Argument(help="MIMIC-CXR or MIMIC-CXR-JPG: the folder that has files/p10/...")],
    sentences: ExtractionOption,
    output: ManifestOption,
    tables: Annotated[
        Path | None, typer.Option(help="Folder of mimic-cxr-2.0.0-split.csv and -metadata.csv; ROOT if not given.")
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(help="Table with a column dicom_id, such as MS-CXR's; its images are never trained on."),
    ] = None,
    view: Annotated[
        list[str] | None, typer.Option(help="ViewPosition to keep, such as PA; all views if not given.")
    ] = None,
) -> None:
    """Make a manifest of MIMIC-CXR from PhysioNet's own files, with its official split."""
    from radzero.training.preparation import mimic_cxr

    views = frozenset(view) if view else None
    _prepare(mimic_cxr(root, sentences, tables=tables, exclude=exclude, views=views), output)


@prepare.command("openi")
def prepare_openi(
    images: Annotated[Path, typer.Argument(help="Folder of CXR54_IM-2145-1001.png and the like.")],
    sentences: ExtractionOption,
    output: ManifestOption,
    projections: Annotated[Path | None, typer.Option(help="A table with filename and projection.")] = None,
    shares: SharesOption = (0.1, 0.1),
) -> None:
    """Make a manifest of Open-I (Indiana University)."""
    from radzero.training.preparation import openi

    _prepare(openi(images, sentences, projections=projections, shares=shares), output)


@prepare.command("phantom")
def prepare_phantom(
    folder: Annotated[Path, typer.Argument(help="Folder that `radzero phantom` wrote.")],
    output: ManifestOption,
    shares: SharesOption = (0.1, 0.1),
) -> None:
    """Make a manifest of phantoms."""
    from radzero.training.preparation import phantoms

    _prepare(phantoms(folder, shares=shares), output)


@prepare.command("table")
def prepare_table(
    images: Annotated[Path, typer.Argument(help="Folder of the images, with subfolders.")],
    rows: Annotated[Path, typer.Argument(help="CSV or TSV file with a row per image.")],
    output: ManifestOption,
    image: Annotated[str, typer.Option(help="Column of the file's name or path below IMAGES.")] = "image",
    patient: Annotated[str, typer.Option(help="Column of the patient.")] = "patient",
    report: Annotated[str, typer.Option(help="Column of free text; the rules engine extracts it.")] = "",
    sentences: Annotated[str, typer.Option(help='Column of finding-sentences with ";" or "|" between.')] = "",
    labels: Annotated[str, typer.Option(help='Column of findings with "|" or ";" between, as NIH has.')] = "",
    study: Annotated[str, typer.Option(help="Column of the study.")] = "",
    view: Annotated[str, typer.Option(help="Column of the view.")] = "",
    split: Annotated[str, typer.Option(help="Column of train, validate, test.")] = "",
    shares: SharesOption = (0.1, 0.1),
) -> None:
    """Make a manifest of a folder of images and a table of reports, sentences or labels."""
    from radzero.training.preparation import TableColumns, table

    columns = TableColumns(image, patient, report, sentences, labels, study, view, split)
    _prepare(table(images, rows, columns, shares=shares), output)
