"""The ``radzero`` command: one thin function per verb; the work is in the modules that they name."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from inspect import getdoc
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from radzero.evaluation.titles import BENCHMARK_TITLES

if TYPE_CHECKING:
    from radzero.answer import Reading
    from radzero.batch_prediction import Inputs
    from radzero.training.manifest import ManifestRow
    from radzero.training.preparation import LeftOut

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Ask a chest radiograph any sentence; get a probability and a similarity map.",
)
console = Console()
errors = Console(stderr=True)


class Precision(StrEnum):
    """Matrix-product precisions that torch knows."""

    HIGHEST = "highest"
    HIGH = "high"
    MEDIUM = "medium"


ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Folder or hub id of a checkpoint, or packaged, which it is if not given."),
]
RevisionOption = Annotated[
    str | None,
    typer.Option("--revision", help="Branch, tag or commit of a hub id; OWNER/NAME@REVISION names one too."),
]
LocalOption = Annotated[
    bool,
    typer.Option("--local-files-only", help="Never ask the hub: a hub id is read from this machine's cache of it."),
]
PrecisionOption = Annotated[
    Precision, typer.Option(help="Precision of float32 matrix products; medium is faster on many CPUs.")
]


def _progress() -> Progress:
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=os.environ.get("RANK", "0") != "0",  # of torchrun's processes, the first speaks
    )


def _phases(progress: Progress) -> Callable[[str, int, int], None]:
    """A bar for every phase, from what is done and what there is to do in all."""
    tasks: dict[str, TaskID] = {}

    def on_progress(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = progress.add_task(phase, total=total)
        progress.update(tasks[phase], completed=done, total=total)

    return on_progress


@contextmanager
def _interruptible(then: str = "; run the same command again to go on") -> Iterator[None]:
    """Around work that may take long."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(f"interrupted{then}", highlight=False)
        raise typer.Exit(130) from None


_REMEDIES = {
    FileExistsError: "is a file; name a folder",
    NotADirectoryError: "a part of this path is a file; name a folder",
    IsADirectoryError: "is a folder; name a file",
    PermissionError: "may not be read or written by this user",
    FileNotFoundError: "is not there",
}


def _fail(problem: str | Exception) -> typer.Exit:
    message = str(problem)
    if isinstance(problem, OSError) and problem.strerror:  # without its number
        message = problem.strerror
        if problem.filename:
            message = f"{problem.filename}: {_REMEDIES.get(type(problem), problem.strerror)}"
    errors.print(f"[bold red]error:[/] {_plain(message)}", highlight=False, soft_wrap=True)
    return typer.Exit(2)


def _unwritable(folder: Path, error: OSError, then: str = "") -> typer.Exit:
    reason = _REMEDIES.get(type(error), f"cannot be written ({error.strerror or error})")
    return _fail(f"{error.filename or folder}: {reason}{then}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _plain(text: str) -> str:
    """Text with rich's markup taken literally."""
    return escape(text)


@app.command()
def predict(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders (searched to any depth) or glob patterns.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for predictions.jsonl and overlays/.")],
    sentence: Annotated[
        list[str] | None,
        typer.Option("--sentence", "-s", help='A sentence to ask, such as "There is pneumothorax".'),
    ] = None,
    findings: Annotated[
        list[str] | None,
        typer.Option(help="A named set of findings, each asked as its prompt; see `radzero findings`."),
    ] = None,
    model: ModelOption = None,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Similarity at which contours are drawn.")] = 0.5,
    overlays: Annotated[bool, typer.Option(help="Whether to draw overlays.")] = True,
    dicom: Annotated[
        str | None,
        typer.Option(
            help=escape("DICOM results to write: all, or some of seg,seg-map,sr,gsps,sc. Needs 'radzero[dicom]'.")
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Films per pass.")] = 8,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read films and draw; 0: none besides. Usually one per core."),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Most pixels of a film; larger ones are refused as bombs.")
    ] = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU is taken if there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Type of the weights: float32, bfloat16.")] = None,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Read films: probability, similarity map and overlay of every sentence.

    Probabilities are in predictions.jsonl; of up to ten films and thirty answers they are printed too.
    Goes on where an interrupted run into the same folder stopped. Exit code 0: every file was read; 1: some were
    refused, each with its reason in predictions.jsonl; 2: nothing could be done.
    """
    import torch

    from radzero.batch_prediction import OutputFolder, find_inputs, predict_files, run_identity, usual_workers
    from radzero.findings import finding_sentences
    from radzero.images import ReadLimits
    from radzero.reading import load
    from radzero.results import result_kinds

    torch.set_float32_matmul_precision(precision.value)
    try:
        asked = [*(sentence or []), *(text for name in findings or [] for text in finding_sentences(name))]
        asked = list(dict.fromkeys(text.strip() for text in asked))
        if not all(asked):
            raise ValueError("a sentence is empty")
        for text in asked:
            text.encode()  # a UnicodeEncodeError is a ValueError
        if not asked:
            raise ValueError('ask something: -s "There is pleural effusion", or --findings chexpert')
        found = find_inputs(inputs, exclude=output)
        if not found.files:
            raise ValueError(f"no film in {', '.join(inputs)} ({_count(len(found.left_out), 'file')} of other kinds)")
        results = result_kinds(dicom) if dicom is not None else ()
        reader = load(model, device, dtype, revision=revision, local_files_only=local_files_only)
        identity = run_identity(
            reader, asked, threshold=threshold, overlays=overlays, precision=precision.value, results=results
        )
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise _fail(error) from error
    try:
        target = OutputFolder(output, identity, found.files)
    except ValueError as error:
        raise _fail(error) from error
    except OSError as error:
        raise _unwritable(output, error) from error
    if reader.notice:
        errors.print(f"[yellow]{_plain(reader.notice)}[/]", highlight=False)
    unread = {text: words for text in asked if (words := reader.processor.unknown_words(text))}
    for text, words in islice(unread.items(), _UNREAD_SHOWN):
        said = f"{text}: words this model has never seen: {', '.join(words)}"
        errors.print(f"[yellow]{_plain(said)}[/]", highlight=False, soft_wrap=True)
    if (more := len(unread) - _UNREAD_SHOWN) > 0:
        said = f"and {_count(more, 'more sentence')} with words this model has never seen"
        errors.print(f"[yellow]{said}[/]", highlight=False, soft_wrap=True)
    with _interruptible(), _progress() as progress:
        task = progress.add_task("reading", total=len(found.files))

        def on_file(source: str, reading: "Reading | None", error: str | None) -> None:
            if error:
                progress.console.print(f"[red]refused[/] {_plain(error)}", highlight=False, soft_wrap=True)
            for warning in reading.film_warnings if reading else ():  # those of the sentences are said once, above
                progress.console.print(
                    f"[yellow]{_plain(source)}:[/] {_plain(warning)}", highlight=False, soft_wrap=True
                )
            progress.advance(task)

        try:
            outcome = predict_files(
                reader,
                found.files,
                asked,
                target,
                overlays=overlays,
                threshold=threshold,
                results=results,
                batch_size=batch_size,
                workers=usual_workers(len(found.files)) if workers is None else workers,
                limits=ReadLimits(max_pixels=max_pixels) if max_pixels else None,
                on_file=on_file,
            )
        except ChildProcessError as error:
            raise _fail(f"{error}; what was written is whole, run again to go on") from error
        except OSError as error:
            raise _unwritable(output, error, "; what was written is whole, run again to go on") from error
    if len(found.files) <= _TABLE_FILMS and len(found.files) * len(asked) <= _TABLE_ROWS:
        console.print(_probabilities(target.records(), found.files))
    parts = [f"{outcome.read} read"]
    if outcome.resumed:
        parts.append(f"{outcome.resumed} of them earlier")
    if outcome.refused:
        parts.append(f"{len(outcome.refused)} refused")
    if outcome.without_results:
        parts.append(f"{len(outcome.without_results)} without DICOM results (their lines say why)")
    console.print(f"{', '.join([*parts, *_left_out(found)])}; {target.lines}", highlight=False, soft_wrap=True)
    _say_unsearched(found)
    if outcome.refused or found.unsearched:
        raise typer.Exit(1)


def _left_out(found: "Inputs") -> list[str]:
    """What to say of files that were left out, if any were."""
    if not found.left_out:
        return []
    kinds = sorted({p.suffix.lower() for p in found.left_out})
    return [f"{_count(len(found.left_out), 'file')} in folders left out as not films ({' '.join(kinds)})"]


def _say_unsearched(found: "Inputs") -> None:
    for folder, reason in found.unsearched.items():
        errors.print(f"[red]not searched[/] {_plain(str(folder))}: {_plain(reason)}", highlight=False, soft_wrap=True)


_UNREAD_SHOWN = 3
"""Sentences with unknown words that are named; predictions.jsonl names all of them."""
_TABLE_FILMS, _TABLE_ROWS = 10, 30
"""A run of more films, or of more films times sentences, prints no probabilities."""


def _probabilities(records: list[dict[str, Any]], files: list[Path]) -> Table:
    """A row for every film and sentence; of a film that was refused, a row that says so."""
    written = {record["image"]: record for record in records}
    table = Table("film", "sentence", "probability")
    for source in map(str, files):
        shown = escape(source.encode(errors="backslashreplace").decode())  # names that are no UTF-8
        for number, answer in enumerate(written[source].get("sentences", ())):
            row = (escape(answer["sentence"]), f"{answer['probability']:.3f}")
            table.add_row("" if number else shown, *row)
        if "error" in written[source]:
            table.add_row(shown, "", "refused")
        table.add_section()
    return table


@app.command()
def findings() -> None:
    """List the named finding sets that `predict --findings` takes."""
    from radzero.findings import FINDING_SETS

    table = Table("set", "findings")
    for name, members in FINDING_SETS.items():
        table.add_row(name, ", ".join(members))
    console.print(table)


@app.command()
def info(
    model: Annotated[
        str | None, typer.Argument(help="Folder or hub id, or packaged, which it is if not given.")
    ] = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's architecture, sizes, training data, licence and hash."""
    from radzero.reading import describe

    try:
        facts = describe(model, revision=revision, local_files_only=local_files_only)
    except (ValueError, OSError) as error:
        raise _fail(error) from error
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table(show_header=False)
    for key, value in facts.items():
        table.add_row(
            key.replace("_", " "), _plain(json.dumps(value) if isinstance(value, dict | list) else str(value))
        )
    console.print(table)


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="A checkpoint: a folder or hub id, published or ours, or CARZero's file.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder for the checkpoint in our format.")],
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
    from radzero.reading import model_source

    try:
        convert_checkpoint(
            model_source(source),
            output,
            text,
            published=published,
            revision=revision,
            local_files_only=local_files_only,
        )
    except (ValueError, OSError) as error:
        raise _fail(error) from error
    console.print(f"{output}: written; radzero.load({str(output)!r}) reads it", highlight=False, soft_wrap=True)


@app.command()
def phantom(
    output: Annotated[Path, typer.Argument(help="Folder to write to.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the series.")] = 0,
    first: Annotated[int, typer.Option(min=0, help="Index of the first film.")] = 0,
    size: Annotated[int, typer.Option(min=72, max=4096, help="Height in pixels.")] = 512,
    film_format: Annotated[str, typer.Option("--format", help="png, dicom or both.")] = "both",
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 2,
) -> None:
    """Write synthetic radiographs with reports, finding-sentences, boxes and masks; the same for the same seed.

    Phantoms of the same seed that the folder holds already stay there; another seed needs another folder.
    """
    from radzero.phantom.writing import FilmFormat, read_index, write_phantoms

    try:
        kind = FilmFormat(film_format)
    except ValueError as error:
        raise _fail(f"--format is png, dicom or both, not {film_format}") from error
    try:
        with _interruptible("; what was drawn is whole"), _progress() as progress:
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
        raise _fail(error) from error
    except OSError as error:
        raise _unwritable(output, error) from error
    drawn = f"{_count(count, 'phantom')} drawn; {index} has {len(read_index(index))}"
    console.print(drawn, highlight=False, soft_wrap=True)


@app.command()
def ablate(
    recipe: Annotated[Path, typer.Argument(help="YAML file; recipes/ablation-phantom.yaml has the published table.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; an interrupted comparison goes on there.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw films.")] = 2,
    jobs: Annotated[int, typer.Option(min=0, help="Rows at a time; 0 for one per GPU, or one.")] = 0,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Train and evaluate methods on the same phantoms, encoder and budget, over several seeds; write their table."""
    import sys

    import torch
    from transformers.utils import logging as transformers_logging

    from radzero.ablation.recipe import load_ablation
    from radzero.ablation.run import run_ablation
    from radzero.ablation.table import draw_methods, write_table
    from radzero.evaluation.command import check_packages
    from radzero.training.trainer import TrainingError

    torch.set_float32_matmul_precision(precision.value)
    transformers_logging.disable_progress_bar()
    try:
        ablation = load_ablation(recipe)
        check_packages()
        with _interruptible(), _progress() as progress:
            run_ablation(ablation, output, workers=workers, jobs=jobs, progress=_phases(progress))
        table = write_table(ablation, output, " ".join(["radzero", *sys.argv[1:]]))
        drawn = draw_methods(ablation, output)
    except (ValueError, OSError, TrainingError, ImportError) as error:
        raise _fail(error) from error
    for path in (table, drawn):
        if path:
            console.print(path, highlight=False, soft_wrap=True)


@app.command()
def compare(
    film: Annotated[Path, typer.Argument(help="A film: DICOM, PNG, JPEG.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write (PNG).")],
    sentences: Annotated[list[str], typer.Option("--sentence", "-s", help="Sentences to ask; give several.")],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Checkpoints to compare, or NAME=CHECKPOINT; give several. The packaged one if none is given.",
        ),
    ] = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
) -> None:
    """Draw the maps of several models and sentences on one film, with probabilities.

    A hub id may name a revision, OWNER/NAME@REVISION, so that two of one model can be compared.
    """
    from radzero.comparison import draw_comparison
    from radzero.reading import PACKAGED

    try:
        picture = draw_comparison(
            film, models or [PACKAGED], sentences, revision=revision, local_files_only=local_files_only
        )
        picture.save(output)
    except (ValueError, OSError) as error:
        raise _fail(error) from error
    console.print(output, highlight=False, soft_wrap=True)


@app.command()
def wordings(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The picture to write (PNG); a CSV is written beside.")
    ],
    sentences: Annotated[
        list[str] | None,
        typer.Option("--sentence", "-s", help="Sentences to compare; the standard set if none is given."),
    ] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
) -> None:
    """Show how a model places sentences against each other: paraphrases, denials, sides."""
    from radzero.files import write_whole
    from radzero.reading import load
    from radzero.wordings import WORDINGS, cosines_as_csv, draw_cosines, sentence_cosines, wording_figures

    asked = list(dict.fromkeys(sentences or [wording.sentence for wording in WORDINGS]))
    if output.suffix.lower() != ".png" or output.is_dir():
        raise _fail(f"{output}: name a file that ends in .png")
    try:
        if not all(text.strip() for text in asked):
            raise ValueError("a sentence is empty")
        output.parent.mkdir(parents=True, exist_ok=True)
        reader = load(model, revision=revision, local_files_only=local_files_only)
        cosines = sentence_cosines(reader, asked)
        groups = None if sentences else [wording.finding for wording in WORDINGS]
        name = Path(reader.name).name if Path(reader.name).is_dir() else reader.name
        picture = draw_cosines(cosines, asked, f"Cosines of sentences in {name}", groups)
        picture.save(output)
        table = output.with_suffix(".csv")
        write_whole(table, cosines_as_csv(cosines, asked).encode())
    except (ValueError, OSError) as error:
        raise _fail(error) from error
    unread = dict.fromkeys(word for text in asked for word in reader.processor.unknown_words(text))
    if unread:
        said = f"words this model has never seen, each the same to it as any other: {', '.join(unread)}"
        errors.print(f"[yellow]{_plain(said)}[/]", highlight=False, soft_wrap=True)
    if not sentences:
        figures = Table("figure", "value")
        for name, value in vars(wording_figures(cosines)).items():
            figures.add_row(_WORDING_FIGURES[name], f"{value:.2f}")
        console.print(figures)
    console.print(f"{output}, {table}", highlight=False, soft_wrap=True)


_WORDING_FIGURES = {
    "paraphrases": "cosine of two wordings of a finding",
    "other_findings": "cosine of two findings",
    "denials": "cosine of a finding and its denial",
    "sides": "cosine of left and right",
    "nearest_is_paraphrase": "share of wordings whose nearest is of the same finding",
    "paraphrase_before_denial": "share of paraphrases that are nearer than the denial",
}


class EngineChoice(StrEnum):
    """Ways from a report to finding-sentences."""

    RULES = "rules"
    LLM = "llm"


@app.command()
def extract(
    inputs: Annotated[
        list[Path], typer.Argument(help="Reports: text, XML (Open-I), CSV, JSON Lines, archives, folders.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON Lines, one per report; an interrupted run goes on there.")
    ],
    engine: Annotated[
        EngineChoice, typer.Option(help="rules: no model, no network; llm: an endpoint.")
    ] = EngineChoice.RULES,
    processes: Annotated[int, typer.Option(min=1, help="Processes of the rules engine.")] = 1,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Findings and anatomy for the rules engine; a YAML file.")
    ] = None,
    cues: Annotated[Path | None, typer.Option(help="Negations, doubts and other cues for the rules engine.")] = None,
    audit: Annotated[
        int, typer.Option(min=0, help="Also write OUTPUT.html, which shows this many reports marked.")
    ] = 0,
    name_column: Annotated[str, typer.Option(help="Column or key of the report's name.")] = "",
    text_column: Annotated[str, typer.Option(help="Column or key of the full report.")] = "",
    findings_column: Annotated[str, typer.Option(help="Column or key of the findings.")] = "",
    impression_column: Annotated[str, typer.Option(help="Column or key of the impression.")] = "",
    url: Annotated[str, typer.Option(help="llm: base URL of an OpenAI-compatible API.")] = "http://localhost:8000/v1",
    llm_model: Annotated[str, typer.Option("--model", "-m", help="llm: the model's name there.")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, help="llm: 0 for the likeliest answer.")] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="llm: requests under way at once.")] = 8,
    timeout: Annotated[float, typer.Option(min=1.0, help="llm: seconds for one answer.")] = 120.0,
    tries: Annotated[int, typer.Option(min=1, help="llm: tries per request and per answer.")] = 5,
    prompt: Annotated[Path | None, typer.Option(help="llm: file of another system prompt.")] = None,
    cache: Annotated[Path | None, typer.Option(help="llm: SQLite file of answers; OUTPUT.cache if not given.")] = None,
    price_in: Annotated[float, typer.Option(min=0.0, help="llm: money per million tokens read.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0.0, help="llm: money per million tokens written.")] = 0.0,
) -> None:
    """Turn reports into finding-sentences: "There is ...", "There may be ...", "There is no ...".

    Exit code 0: every report was extracted; 1: some could not be read or failed, each with its reason in the output; 2:
    nothing could be done, or the endpoint failed: run the same command again to go on.
    """
    from radzero.reports.command import Options, run_extraction
    from radzero.reports.llm import Endpoint, EndpointError
    from radzero.reports.sources import Columns

    endpoint = None
    if engine is EngineChoice.LLM:
        if not llm_model:
            raise _fail("--engine llm needs --model, the model's name at the endpoint")
        try:
            endpoint = Endpoint(
                url, llm_model, temperature=temperature, tries=tries, concurrency=concurrency, timeout=timeout,
                price_in=price_in, price_out=price_out,
            )  # fmt: skip
        except ValueError as error:
            raise _fail(f"--url {error}") from error
        if not endpoint.is_local:
            errors.print(
                f"[yellow]the reports' text leaves this machine for {_plain(url)}; "
                "make sure that you may send it there[/]",
                highlight=False,
                soft_wrap=True,
            )
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
    try:
        with _interruptible(), _progress() as progress:
            task = progress.add_task("extracting", total=None)
            result = run_extraction(
                inputs,
                output,
                options,
                on_report=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except (ValueError, OSError, EndpointError) as error:
        raise _fail(error) from error
    console.print(result.table())
    for problem in result.summary.problems:
        errors.print(_plain(problem), highlight=False, soft_wrap=True)
    console.print(f"{output}{f', {result.page}' if result.page else ''}", highlight=False, soft_wrap=True)
    if result.summary.unread or result.summary.failed:
        raise typer.Exit(1)


prepare = typer.Typer(
    no_args_is_help=True,
    help="Make a training manifest: which image states which sentences, whose it is, and in which split.",
)
app.add_typer(prepare, name="prepare")

ManifestOption = Annotated[
    Path, typer.Option("--output", "-o", help=escape("The manifest: .jsonl, or .parquet with radzero[data]."))
]
ExtractionOption = Annotated[
    Path, typer.Option("--sentences", "-s", help="What `radzero extract` made of the reports.")
]
SharesOption = Annotated[
    tuple[float, float], typer.Option("--shares", help="Shares of the patients that validate and that test.")
]


def _prepare(source: "Iterator[ManifestRow | LeftOut]", output: Path) -> None:
    from radzero.training.preparation import prepare as write

    if output.suffix not in (".jsonl", ".parquet"):
        raise _fail(f"{output}: a manifest's name ends in .jsonl or .parquet")
    try:
        with _interruptible():
            result = write(source, output)
    except (ValueError, OSError) as error:
        raise _fail(error) from error
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
    console.print(f"{output}{f', {result.report}' if result.report else ''}", highlight=False, soft_wrap=True)


@prepare.command("mimic-cxr")
def prepare_mimic_cxr(
    root: Annotated[Path, typer.Argument(help="MIMIC-CXR or MIMIC-CXR-JPG: the folder that has files/p10/...")],
    sentences: ExtractionOption,
    output: ManifestOption,
    tables: Annotated[
        Path | None, typer.Option(help="Folder of mimic-cxr-2.0.0-split.csv and -metadata.csv; ROOT if not given.")
    ] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="A table with a column dicom_id, such as MS-CXR's: never trained on.")
    ] = None,
    view: Annotated[list[str] | None, typer.Option(help="A ViewPosition to keep, such as PA; else all.")] = None,
) -> None:
    """MIMIC-CXR from PhysioNet's own files, with its official split."""
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
    """Open-I (Indiana University)."""
    from radzero.training.preparation import openi

    _prepare(openi(images, sentences, projections=projections, shares=shares), output)


@prepare.command("phantom")
def prepare_phantom(
    folder: Annotated[Path, typer.Argument(help="What `radzero phantom` wrote.")],
    output: ManifestOption,
    shares: SharesOption = (0.1, 0.1),
) -> None:
    """Phantoms."""
    from radzero.training.preparation import phantoms

    _prepare(phantoms(folder, shares=shares), output)


@prepare.command("table")
def prepare_table(
    images: Annotated[Path, typer.Argument(help="Folder of the images, with subfolders.")],
    rows: Annotated[Path, typer.Argument(help="CSV or TSV: a row per image.")],
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
    """A folder of images and a table of reports, sentences or labels."""
    from radzero.training.preparation import TableColumns, table

    columns = TableColumns(image, patient, report, sentences, labels, study, view, split)
    _prepare(table(images, rows, columns, shares=shares), output)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `radzero evaluate NAME` made.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of report.md and report.html.")],
) -> None:
    """Tables of runs beside the published numbers, with curves and a gallery; as Markdown and as one HTML page."""
    from radzero.evaluation.report import write_report

    try:
        written = write_report(runs, output)
    except (ValueError, OSError, ImportError) as error:
        raise _fail(error) from error
    for path in written:
        console.print(path, highlight=False, soft_wrap=True)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as those in recipes/.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; an interrupted run goes on there.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings that replace the recipe's, such as loop.epochs=3.")
    ] = None,
    local_files_only: LocalOption = False,
    precision: PrecisionOption = Precision.HIGHEST,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what it takes: parameters, steps, memory.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Of the run that a dry run is about.")] = 1,
) -> None:
    """Train a RadZero on a manifest or on phantoms; can be interrupted at any moment and continued by the same command.

    It runs on several processes too: torchrun --nproc-per-node 4 -m radzero.cli train ...
    """
    import torch
    from transformers.utils import logging as transformers_logging

    from radzero.training.batches import TooManyUnreadableError
    from radzero.training.config import load_config
    from radzero.training.dry_run import dry_run
    from radzero.training.token_cache import TokenCacheError
    from radzero.training.trainer import Trainer, TrainingError

    torch.set_float32_matmul_precision(precision.value)
    transformers_logging.disable_progress_bar()  # of every checkpoint that is written
    try:
        local = ["model.local_files_only=true"] if local_files_only else []
        config = load_config(recipe, [*(overrides or []), *local])
        if dry:
            console.print(dry_run(config, processes).tables())
            return
        with _interruptible(), _progress() as progress:
            trainer = Trainer(config, output, on_progress=_phases(progress))
            task = progress.add_task("training", total=trainer.steps, completed=trainer.step)
            result = trainer.train(
                lambda record: progress.update(
                    task, completed=record["step"] + 1, description=f"loss {record['loss']:.3f}"
                )
            )
            trainer.close()
    except (ValueError, OSError, TrainingError, TokenCacheError, TooManyUnreadableError, ImportError) as error:
        raise _fail(error) from error
    if trainer.accelerator.is_main_process:
        why = "no better validation loss for a while" if result.stopped_early else "all steps done"
        console.print(
            f"{result.folder}: a checkpoint, after {result.steps} steps ({why})", highlight=False, soft_wrap=True
        )


evaluate = typer.Typer(no_args_is_help=True, help="Measure a model on a benchmark, or an extraction engine.")
app.add_typer(evaluate, name="evaluate")


@evaluate.callback(invoke_without_command=True)
def evaluate_list(
    list_: Annotated[
        bool, typer.Option("--list", help="The benchmarks, where their files come from, and as what.")
    ] = False,
) -> None:
    """Measure a model on a benchmark, or an extraction engine."""
    if list_:
        from radzero.evaluation.public import PUBLIC

        table = Table("name", "benchmark", "published counts", "files", "from", show_lines=True)
        for name, module in PUBLIC.items():
            counts = ", ".join(f"{count:,} {what}" for what, count in module.PUBLISHED.items())
            table.add_row(name, module.TITLE, counts, escape(module.LAYOUT), escape(module.SOURCE))
        console.print(table)


DataOption = Annotated[Path, typer.Option("--data", help="Folder of the benchmark's files.")]
RunOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder of the run; an interrupted run goes on there.")
]
ScoresOption = Annotated[
    Path | None, typer.Option(help="Take scores from this CSV or Parquet file: image, sentence, score.")
]
ClipOption = Annotated[
    str | None, typer.Option(help="A CLIP-style model of transformers (CLIP, SigLIP, ...): folder or hub id.")
]
PluginOption = Annotated[str | None, typer.Option("--plugin", help="A model that an installed package offers.")]
SkipOption = Annotated[
    bool, typer.Option(help="Score without images that are missing or cannot be read; the table says so.")
]


def _run_benchmark(name: str, data: Path, output: Path, precision: Precision, **options: Any) -> None:
    import torch

    from radzero.evaluation.command import evaluate_benchmark

    torch.set_float32_matmul_precision(precision.value)
    try:
        with _interruptible(), _progress() as progress:
            tables = evaluate_benchmark(name, data, output, progress=_phases(progress), **options)
    except (ValueError, OSError, ImportError) as error:
        raise _fail(error) from error
    for table in tables:
        console.print(table)
    console.print(f"{output / 'report.html'}: tables, curves, gallery", highlight=False, soft_wrap=True)


def _public_benchmark(name: str, title: str) -> None:
    """Add ``radzero evaluate NAME``."""

    @evaluate.command(name, help=f"{title}: see `radzero evaluate --list` for the files that it needs.")
    def run(
        data: DataOption,
        output: RunOption = None,
        model: ModelOption = None,
        scores: ScoresOption = None,
        clip: ClipOption = None,
        from_plugin: PluginOption = None,
        revision: RevisionOption = None,
        local_files_only: LocalOption = False,
        only_check: Annotated[
            bool, typer.Option("--check", help="Only say what is there, missing or unreadable.")
        ] = False,
        skip_unreadable: SkipOption = False,
        workers: Annotated[int, typer.Option(min=1, help="Threads that read images.")] = 2,
        precision: PrecisionOption = Precision.HIGHEST,
    ) -> None:
        if not only_check:
            if output is None:
                raise _fail("give --output, the folder of the run, or --check")
            options: dict[str, Any] = {"model": model, "scores": scores, "clip": clip, "from_plugin": from_plugin}
            options |= {"revision": revision, "local_files_only": local_files_only}
            _run_benchmark(name, data, output, precision, skip_unreadable=skip_unreadable, workers=workers, **options)
            return
        from radzero.evaluation.command import check_benchmark

        try:
            with _interruptible(), _progress() as progress:
                phases = _phases(progress)
                checked = check_benchmark(name, data, lambda *done: phases("reading images", *done))
        except (ValueError, OSError, ImportError) as error:
            raise _fail(error) from error
        for table in checked.tables:
            console.print(table)
        if checked.problems:
            raise typer.Exit(1)


@evaluate.command("phantom")
def evaluate_phantom(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run, the films included.")] = Path(
        "phantom-run"
    ),
    model: ModelOption = None,
    clip: ClipOption = None,
    from_plugin: PluginOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    films: Annotated[int, typer.Option(min=20, help="How many phantoms.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the phantoms; never one that was trained on.")] = 990,
    size: Annotated[int, typer.Option(min=72, help="Height of the phantoms in pixels.")] = 512,
    data: Annotated[
        Path | None, typer.Option(help="Phantoms that `radzero phantom` wrote, instead of drawing them.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw phantoms.")] = 2,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Draw phantoms and measure a model on every task: per finding and grade, places, sides, negation, quiet maps.

    An interrupted run goes on by the same command.
    """
    from radzero.evaluation.command import check_packages
    from radzero.evaluation.public.phantom import draw
    from radzero.reading import load

    try:
        check_packages()
        own = data is None and not (clip or from_plugin)
        if own and load(model, revision=revision, local_files_only=local_files_only).film_seed == seed:
            errors.print(f"[yellow]seed {seed} is the one that this model was trained on: its figures prove nothing[/]")
        if data is None:
            with _interruptible(), _progress() as progress:
                phases = _phases(progress)
                data = draw(output / "films", films, seed, size, workers, lambda done: phases("drawing", done, films))
    except (ValueError, OSError, ImportError) as error:
        raise _fail(error) from error
    hub = {"revision": revision, "local_files_only": local_files_only}
    _run_benchmark("phantom", data, output, precision, model=model, clip=clip, from_plugin=from_plugin, **hub)


for _name, _title in BENCHMARK_TITLES.items():
    if _name != "phantom":
        _public_benchmark(_name, _title)


@evaluate.command("extraction")
def evaluate_extraction(
    reports: Annotated[
        list[Path] | None,
        typer.Argument(help="Open-I reports (NLMCXR) for the hand-made gold set; phantom reports if not given."),
    ] = None,
    half: Annotated[str, typer.Option(help="Of the gold set: development or test.")] = "development",
    films: Annotated[int, typer.Option(min=1, help="How many phantom reports.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the phantoms.")] = 990,
    vocabulary: Annotated[Path | None, typer.Option(help="Findings and anatomy for the rules engine.")] = None,
    cues: Annotated[Path | None, typer.Option(help="Cues for the rules engine.")] = None,
    errors_too: Annotated[bool, typer.Option("--errors", help="Also list what is wrong, report by report.")] = False,
) -> None:
    """Measure the rules engine: F1 of findings with their polarity, polarity and laterality of matched findings."""
    from radzero.reports.gold import GoldSet, phantom_gold, score_engine
    from radzero.reports.rules import RulesEngine
    from radzero.reports.vocabulary import Vocabulary

    try:
        engine = RulesEngine(Vocabulary(vocabulary, cues))
        gold = GoldSet.open_i(reports, half) if reports else phantom_gold(films, seed)
    except (ValueError, OSError) as error:
        raise _fail(error) from error
    score = score_engine(engine, gold)
    console.print(score.table())
    if errors_too:
        for line in score.errors:
            console.print(_plain(line), highlight=False, soft_wrap=True)


UploadOption = Annotated[int, typer.Option(min=1, help="Most MiB of one request.")]


@app.command()
def view(
    inputs: Annotated[list[str] | None, typer.Argument(help="Films, folders or glob patterns to offer.")] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Whether to open the page.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU is taken if there is one.")] = None,
    max_upload_mib: UploadOption = 256,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Open a local page that shows films and asks them sentences. Needs 'radzero[serve]'.

    Only this machine reaches it, and on it only who has the link that is printed.
    """
    import secrets
    from contextlib import nullcontext

    from radzero.batch_prediction import find_inputs

    try:
        found = find_inputs(inputs or [])
        token = secrets.token_urlsafe(24)
        settings, serve = _service(port=port, tokens=frozenset((token,)), max_upload_bytes=max_upload_mib * 2**20)
        hub = {"revision": revision, "local_files_only": local_files_only}
        listener, run = serve(model, device, precision, found.files, **hub)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise _fail(error) from error
    from radzero.viewer.opening import opened_in_browser

    link = f"http://{settings.host}:{listener.getsockname()[1]}/?token={token}"
    offered = ", ".join([f"{_count(len(found.files), 'film')} offered", *_left_out(found)])
    console.print(f"{offered}. The page: {link}", highlight=False, soft_wrap=True)
    _say_unsearched(found)
    console.print("Ctrl-C ends it.")
    with opened_in_browser(link) if browser else nullcontext():
        run()


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address; other than loopback it needs --token-file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    model: ModelOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    token_file: Annotated[Path | None, typer.Option(help="File with bearer tokens, one per line.")] = None,
    viewer: Annotated[bool, typer.Option(help="Whether to serve the viewer's page too.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU is taken if there is one.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Most films in one pass.")] = 16,
    max_pending: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are answered 429.")] = 128,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")] = 60.0,
    cache_mib: Annotated[int, typer.Option(min=1, help="Memory for films that are kept.")] = 1024,
    max_upload_mib: UploadOption = 256,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Most pixels of a film.")] = None,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Answer over HTTP (docs/service.md). Needs 'radzero[serve]'. Ends on SIGTERM, after what it has accepted."""
    try:
        from radzero.service.settings import read_tokens

        _, start = _service(
            host=host,
            port=port,
            tokens=read_tokens(token_file) if token_file else frozenset(),
            max_batch=max_batch,
            max_pending=max_pending,
            time_limit_s=time_limit,
            cache_bytes=cache_mib * 2**20,
            max_upload_bytes=max_upload_mib * 2**20,
            **({"max_pixels": max_pixels} if max_pixels else {}),
        )
        hub = {"revision": revision, "local_files_only": local_files_only}
        _, run = start(model, device, precision, [] if viewer else None, **hub)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise _fail(error) from error
    run()


def _service(**options: Any) -> tuple[Any, Callable[..., Any]]:
    """Settings, and what opens a socket and gives back the function that serves on it."""
    try:
        from radzero.service.allocator import keep_memory_between_passes
        from radzero.service.app import create_app
        from radzero.service.server import open_socket, run_server
        from radzero.service.settings import ServiceSettings
        from radzero.viewer import add_viewer
    except ImportError as error:
        raise ImportError(
            f"the service needs more than is installed ({error}): pip install 'radzero[serve]'"
        ) from error
    settings = ServiceSettings(**options)

    def start(
        model: str | None, device: str | None, precision: Precision, library: list[Path] | None, **hub: Any
    ) -> Any:
        import torch

        from radzero.reading import load

        torch.set_float32_matmul_precision(precision.value)
        keep_memory_between_passes()
        listener = open_socket(settings)
        try:
            application = create_app(load(model, device=device, **hub), settings)
        except BaseException:
            listener.close()
            raise
        if library is not None:
            add_viewer(application, application.state.service, library)
        return listener, lambda: run_server(application, listener, settings)

    return settings, start


ResultsOption = Annotated[str, typer.Option("--results", help="all, or some of seg,seg-map,sr,gsps,sc.")]
SentenceOption = Annotated[list[str] | None, typer.Option("--sentence", "-s", help="A sentence to ask of every film.")]
FindingsOption = Annotated[list[str] | None, typer.Option(help="A named set of findings; see `radzero findings`.")]
ThresholdOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="Similarity at which regions begin.")]


@app.command()
def dicomweb(
    url: Annotated[str, typer.Argument(help="The server, such as http://localhost:8042/dicom-web.")],
    state: Annotated[Path, typer.Option("--state", help="Folder that remembers what was done; one run at a time.")],
    sentence: SentenceOption = None,
    findings: FindingsOption = None,
    modality: Annotated[str, typer.Option(help="Modalities of films, between commas.")] = "CR,DX",
    query: Annotated[
        list[str] | None, typer.Option(help="Further QIDO keys: StudyDate=20260101-, PatientID=..., ...")
    ] = None,
    results: ResultsOption = "seg,sr",
    threshold: ThresholdOption = 0.5,
    store_url: Annotated[str | None, typer.Option(help="Where results go, when not to the same server.")] = None,
    watch: Annotated[float | None, typer.Option(min=1, help="Look again every so many seconds, until Ctrl-C.")] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU is taken if there is one.")] = None,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Ask the films of a DICOMweb server, and store the results there. Needs 'radzero[dicom]'.

    Goes on where an interrupted run stopped; a result is stored once. Credentials come from the environment:
    RADZERO_DICOMWEB_TOKEN, or RADZERO_DICOMWEB_USER and RADZERO_DICOMWEB_PASSWORD; those of another server for the
    results from RADZERO_DICOMWEB_STORE_TOKEN, ..._USER and ..._PASSWORD. Exit code 0: every film has its
    results; 1: some were refused, by name; 2: nothing could be done, or the server went away.
    """
    import sqlite3
    import time

    try:
        from radzero.pacs.dicomweb import open_servers
        from radzero.pacs.process import UnreachableError

        keys = dict(_key_value(text) for text in query or [])
        source, target = open_servers(url, store_url)
        for server in {source.name: source, target.name: target}.values():
            _warn_unless_encrypted(server)
        hub = {"revision": revision, "local_files_only": local_files_only}
        processor = _processor(sentence, findings, results, threshold, target, state, model, device, precision, **hub)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise _fail(error) from error
    modalities = tuple(part.strip().upper() for part in modality.split(",") if part.strip())
    tally = processor.tally
    with _interruptible(), _progress() as progress:
        bar = progress.add_task("films", total=None)

        def say(what: str, why: str) -> None:
            colour = "yellow" if what == "warning" else "red"
            progress.console.print(f"[{colour}]{what}[/] {_plain(why)}", highlight=False, soft_wrap=True)

        def on_problem(series: str, why: str) -> None:
            tally.failed[series] = why
            say("failed", f"series {series}: {why}")

        def attempt(uid: str, work: Callable[[], None]) -> None:
            before = processor.problems(uid)
            processor.attempt(uid, work)
            for what, why in processor.problems(uid).items() - before.items():
                say(what, why)

        try:
            while True:
                tally.earlier, tally.failed = 0, {}
                try:
                    waiting = dict.fromkeys(processor.ledger.films_waiting())
                    for uid in waiting:
                        attempt(uid, partial(processor.send, uid))
                    for film in source.films(modalities, keys, on_problem):
                        if film.instance not in waiting or processor.ledger.state(film.instance) == "lost":
                            attempt(
                                film.instance, partial(processor.process, film.instance, partial(source.fetch, film))
                            )
                        progress.advance(bar)
                    for uid in processor.ledger.films_lost():  # and not among the films that this query finds
                        if uid not in tally.failed:
                            tally.failed[uid] = (
                                f"{uid}: its results are to be made again; ask for it with a wider --query"
                            )
                            say("failed", tally.failed[uid])
                except UnreachableError as error:
                    if watch is None:
                        raise
                    progress.console.print(f"[red]{_plain(str(error))}[/]", highlight=False, soft_wrap=True)
                if watch is None:
                    break
                time.sleep(watch)
        except (UnreachableError, OSError, sqlite3.Error) as error:
            raise _fail(f"{error}; give the command again to go on") from error
        finally:
            processor.ledger.close()
            console.print(_tally(tally), highlight=False)
    if tally.refused or tally.failed:
        raise typer.Exit(1)


@app.command()
def listen(
    state: Annotated[Path, typer.Option("--state", help="Folder for the inbox and what was done; one run at a time.")],
    sentence: SentenceOption = None,
    findings: FindingsOption = None,
    aet: Annotated[str, typer.Option(help="Our application entity title.")] = "RADZERO",
    host: Annotated[str, typer.Option(help="Address; other than loopback it needs --from.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 11112,
    caller: Annotated[list[str] | None, typer.Option("--from", help="Title that may send; any on loopback.")] = None,
    store_url: Annotated[str | None, typer.Option(help="DICOMweb server for the results.")] = None,
    send_to: Annotated[str | None, typer.Option(help="Or a DICOM peer: AET@HOST:PORT.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Or a folder.")] = None,
    results: ResultsOption = "seg,sr",
    threshold: ThresholdOption = 0.5,
    model: ModelOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU is taken if there is one.")] = None,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Receive films by C-STORE, ask them, and send the results on. Needs 'radzero[dicom]'. Ends on Ctrl-C or SIGTERM.

    A film is on disk before it is acknowledged; what was not finished is finished by the next run.
    """
    import os
    import signal

    try:
        from radzero.pacs.dicomweb import Credentials, DicomWeb
        from radzero.pacs.listen import DimseDestination, Listener, Peer
        from radzero.pacs.process import FolderDestination
        from radzero.service.settings import is_loopback

        if sum(option is not None for option in (store_url, send_to, output)) != 1:
            raise ValueError("say where results go, by one of --store-url, --send-to and --output")
        if not is_loopback(host) and not caller:
            raise ValueError(f"{host} can be reached from other machines: name who may send, by --from TITLE")
        if store_url:
            target: Any = DicomWeb(store_url, Credentials.of_environment())
            _warn_unless_encrypted(target)
        else:
            target = DimseDestination(Peer.parse(send_to), aet) if send_to else FolderDestination(Path(str(output)))
        hub = {"revision": revision, "local_files_only": local_files_only}
        processor = _processor(sentence, findings, results, threshold, target, state, model, device, precision, **hub)

        def on_film(uid: str, problem: str | None) -> None:
            console.print(_plain(f"{uid}: {problem or 'done'}"), highlight=False, soft_wrap=True)
            for what, why in processor.problems(uid).items():
                if what in ("warning", "left out"):
                    console.print(f"[yellow]{what}[/] {_plain(why)}", highlight=False, soft_wrap=True)

        try:
            listener = Listener(
                processor,
                state / "inbox",
                title=aet,
                host=host,
                port=port,
                callers=tuple(caller or ()),
                on_film=on_film,
            )
        except OSError as error:
            raise OSError(f"{host}:{port}: cannot be listened on ({error.strerror})") from error
        if store_url:
            target.stopping = lambda: listener.stopping
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise _fail(error) from error

    def stop(*_: Any) -> None:
        if listener.stopping:  # told twice: what is on disk is as good as after any kill
            os._exit(1)
        listener.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    console.print(
        f"{aet} listens on {host}:{listener.port}; results go to {_plain(target.name)}", highlight=False, soft_wrap=True
    )
    listener.run()
    processor.ledger.close()
    console.print(_tally(processor.tally), highlight=False)


def _processor(
    sentence: list[str] | None,
    findings: list[str] | None,
    results: str,
    threshold: float,
    target: Any,
    state: Path,
    model: str | None,
    device: str | None,
    precision: Precision,
    **hub: Any,
) -> Any:
    """What films go through, from a command's options."""
    import sqlite3
    import warnings

    import torch

    from radzero.findings import finding_sentences
    from radzero.pacs.ledger import Ledger, Task
    from radzero.pacs.process import Processor
    from radzero.reading import load
    from radzero.results import result_kinds

    asked = [*(sentence or []), *(text for name in findings or [] for text in finding_sentences(name))]
    asked = list(dict.fromkeys(text.strip() for text in asked))
    if not asked or not all(asked):
        raise ValueError('ask something: -s "There is pleural effusion", or --findings chexpert')
    warnings.filterwarnings("ignore", module=r"py(net)?dicom\b")  # they quote what was sent
    task = Task(tuple(asked), tuple(result_kinds(results)), threshold)
    torch.set_float32_matmul_precision(precision.value)
    reader = load(model, device=device, **hub)
    if reader.notice:
        errors.print(f"[yellow]{_plain(reader.notice)}[/]", highlight=False)
    try:
        ledger = Ledger(state, task.identity(reader, target.name))
    except sqlite3.Error as error:
        raise ValueError(f"{state}: cannot be used ({error}); another run may be at work in it") from error
    return Processor(reader, task, target, ledger)


def _warn_unless_encrypted(server: Any) -> None:
    if not server.encrypted:
        said = f"{_plain(server.name)}: all that it is sent travels unencrypted, credentials included"
        errors.print(f"[yellow]{said}[/]", highlight=False, soft_wrap=True)


def _key_value(text: str) -> tuple[str, str]:
    import re

    from pydicom.datadict import tag_for_keyword

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"{text!r}: a query is KEY=VALUE, such as StudyDate=20260101-")
    if tag_for_keyword(key) is None and not re.fullmatch("[0-9A-Fa-f]{8}", key):  # servers ignore what they don't know
        raise ValueError(f"{key!r}: is no DICOM attribute; name it by keyword (StudyDate) or tag (00080020)")
    return key, value


def _tally(tally: Any) -> str:
    parts = [f"{_count(tally.done, 'film')} with {_count(tally.stored, 'result')} stored"]
    if tally.earlier:
        parts.append(f"{tally.earlier} done earlier")
    if tally.refused:
        parts.append(f"{len(tally.refused)} refused")
    if tally.failed:
        parts.append(f"{len(tally.failed)} not fetched or stored, to be tried again")
    return ", ".join(parts)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for films and overlays.")] = Path("demo"),
) -> None:
    """Make phantoms, ask the packaged model about them, and draw what it sees."""
    from radzero.demo import run_demo

    try:
        with _interruptible(""):
            run_demo(output, console)
    except ValueError as error:
        raise _fail(error) from error
    except OSError as error:
        raise _unwritable(output, error) from error


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from radzero import __version__

        typer.echo(__version__)
        raise typer.Exit


def _take_help_literally(commands: typer.Typer) -> None:
    """Typer prints docstrings by rich, which takes the brackets of radzero[serve] for markup and leaves them out."""
    for command in commands.registered_commands:
        command.help = escape(command.help or getdoc(command.callback) or "")
    for group in commands.registered_groups:
        if group.typer_instance:
            _take_help_literally(group.typer_instance)


_take_help_literally(app)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
