"""Define the verbs that measure: ``evaluate``, ``report``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from radzero.cli.console import (
    LocalOption,
    ModelOption,
    Precision,
    PrecisionOption,
    RevisionOption,
    console,
    errors_in_words,
    fail,
    interruptible,
    phase_bars,
    progress_bars,
    say,
    warn,
)
from radzero.evaluation.registry import BENCHMARKS, BenchmarkSpec


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `radzero evaluate NAME` made.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of report.md and report.html.")],
) -> None:
    """Write runs as tables beside the published numbers, with curves and a gallery: Markdown and one HTML page."""
    from radzero.evaluation.report import write_report

    with errors_in_words():
        written = write_report(runs, output)
    for path in written:
        say(path)


evaluate = typer.Typer(no_args_is_help=True, help="Measure a model on a benchmark, or an extraction engine.")


@evaluate.callback(invoke_without_command=True)
def evaluate_list(
    list_: Annotated[
        bool, typer.Option("--list", help="List the benchmarks, the source of their files and their layout.")
    ] = False,
) -> None:
    """Measure a model on a benchmark, or an extraction engine."""
    if list_:
        folded = [Column(name, overflow="fold") for name in ("files", "from")]  # a file's name is never cut
        table = Table("name", "benchmark", "published counts", *folded, show_lines=True)
        for name, spec in BENCHMARKS.items():
            counts = ", ".join(f"{count:,} {what}" for what, count in spec.module.PUBLISHED.items())
            table.add_row(name, spec.title, counts, escape(spec.module.LAYOUT), escape(spec.module.SOURCE))
        console.print(table)


DataOption = Annotated[Path, typer.Option("--data", help="Folder of the benchmark's files.")]
RunOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder of the run; an interrupted run is resumed there.")
]
ScoresOption = Annotated[
    Path | None,
    typer.Option(help="CSV or Parquet file to take the scores from, with columns image, sentence and score."),
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
    with errors_in_words(), interruptible(), progress_bars() as progress:
        tables = evaluate_benchmark(name, data, output, progress=phase_bars(progress), **options)
    for table in tables:
        console.print(table)
    say(f"{output / 'report.html'}: tables, curves, gallery")


def _add_benchmark(spec: BenchmarkSpec) -> None:
    """Add ``radzero evaluate NAME``."""
    name = spec.name

    @evaluate.command(name, help=f"{spec.title}: see `radzero evaluate --list` for the files that it needs.")
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
            bool, typer.Option("--check", help="Only report which files are there, missing or unreadable.")
        ] = False,
        skip_unreadable: SkipOption = False,
        workers: Annotated[int, typer.Option(min=1, help="Threads that read images.")] = 2,
        precision: PrecisionOption = Precision.HIGHEST,
    ) -> None:
        if not only_check:
            if output is None:
                raise fail("give --output, the folder of the run, or --check")
            options: dict[str, Any] = {"model": model, "scores": scores, "clip": clip, "from_plugin": from_plugin}
            options |= {"revision": revision, "local_files_only": local_files_only}
            _run_benchmark(name, data, output, precision, skip_unreadable=skip_unreadable, workers=workers, **options)
            return
        from radzero.evaluation.command import check_benchmark

        with errors_in_words(), interruptible(), progress_bars() as progress:
            bars = phase_bars(progress)
            checked = check_benchmark(name, data, lambda *done: bars("reading images", *done))
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
    films: Annotated[int, typer.Option(min=20, help="Number of phantoms.")] = 500,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the phantoms; it must not be one that was trained on.")
    ] = 990,
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
    from radzero.prediction.model import load

    with errors_in_words():
        check_packages()
        own = data is None and not (clip or from_plugin)
        if own and load(model, revision=revision, local_files_only=local_files_only).film_seed == seed:
            warn(f"seed {seed} is the one that this model was trained on: its figures prove nothing")
        if data is None:
            with interruptible(), progress_bars() as progress:
                bars = phase_bars(progress)
                data = draw(output / "films", films, seed, size, workers, lambda done: bars("drawing", done, films))
    hub = {"revision": revision, "local_files_only": local_files_only}
    _run_benchmark("phantom", data, output, precision, model=model, clip=clip, from_plugin=from_plugin, **hub)


for _spec in BENCHMARKS.values():
    if _spec.name != "phantom":  # which draws its own images, above
        _add_benchmark(_spec)


@evaluate.command("extraction")
def evaluate_extraction(
    reports: Annotated[
        list[Path] | None,
        typer.Argument(help="Open-I reports (NLMCXR) for the hand-made gold set; phantom reports if not given."),
    ] = None,
    half: Annotated[str, typer.Option(help="Half of the gold set: development or test.")] = "development",
    films: Annotated[int, typer.Option(min=1, help="Number of phantom reports.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the phantoms.")] = 990,
    vocabulary: Annotated[
        Path | None, typer.Option(help="YAML file of findings and anatomy for the rules engine.")
    ] = None,
    cues: Annotated[Path | None, typer.Option(help="YAML file of cues for the rules engine.")] = None,
    errors_too: Annotated[bool, typer.Option("--errors", help="Also list the errors of every report.")] = False,
) -> None:
    """Measure the rules engine: F1 of findings with their polarity, polarity and laterality of matched findings."""
    from radzero.reports.gold import GoldSet, phantom_gold, score_engine
    from radzero.reports.rules import RulesEngine
    from radzero.reports.vocabulary import Vocabulary

    with errors_in_words():
        engine = RulesEngine(Vocabulary(vocabulary, cues))
        gold = GoldSet.open_i(reports, half) if reports else phantom_gold(films, seed)
    score = score_engine(engine, gold)
    console.print(score.table())
    if errors_too:
        for line in score.errors:
            say(line)
