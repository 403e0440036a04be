"""Run ``radzero evaluate NAME``: check a benchmark's files, or run the benchmark and show its figures."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from radzero.evaluation.contrasts import with_contrasts
from radzero.evaluation.faithfulness import measure_faithfulness
from radzero.evaluation.gallery import make_gallery
from radzero.evaluation.models import RadZeroInBenchmark, ScoresFromFile, ZeroShotModel, plugin
from radzero.evaluation.registry import BENCHMARKS, BenchmarkSpec
from radzero.evaluation.report import TASKS, shown, write_report
from radzero.evaluation.run import check, run_benchmark, unanswered
from radzero.evaluation.scoring import score


@dataclass(frozen=True)
class Checked:
    """Result of a check of a benchmark's folder.

    Attributes:
        tables: tables for a terminal.
        problems: number of images that are missing, unreadable or of another size.
    """

    tables: list[Table]
    problems: int


def check_benchmark(name: str, data: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Checked:
    """Read a benchmark's tables and every image.

    Raises:
        BenchmarkError: when the tables cannot be read.
    """
    spec = BENCHMARKS[name]
    benchmark = spec.module.read(data)
    there = benchmark.without(benchmark.missing)
    problems = check(there, progress=lambda done: progress(done, len(there.images)))
    summary = Table("figure", "here", "published", title=f"{spec.title} in {data}")
    for what, count in benchmark.counts().items():
        published = spec.module.PUBLISHED.get(what)
        shown = "" if published is None else f"{published:,}" if published == count else f"{published:,}  (differs)"
        summary.add_row(what, f"{count:,}", shown)
    summary.add_row("images missing", f"{len(benchmark.missing):,}", "")
    summary.add_row("images unreadable or of another size", f"{len(problems):,}", "")
    tables = [summary]
    if benchmark.missing or problems:
        listed = Table("image", "what is wrong", title="the first 20 of them")
        rows = [(missing, "missing") for missing in benchmark.missing] + [(p.name, p.reason) for p in problems]
        for image, reason in rows[:20]:
            listed.add_row(image, reason)
        tables.append(listed)
    return Checked(tables, len(benchmark.missing) + len(problems))


def check_packages() -> None:
    """Check that the packages for scores and curves are installed.

    Call this before the work, drawing phantoms included, so that the work is not lost.

    Raises:
        ImportError: without pyarrow or matplotlib.
    """
    try:
        import matplotlib  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(f"benchmarks need {error.name}: pip install 'radzero[evaluate]'") from error


def evaluate_benchmark(
    name: str,
    data: Path,
    output: Path,
    *,
    model: str | None = None,
    scores: Path | None = None,
    clip: str | None = None,
    from_plugin: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    skip_unreadable: bool = False,
    workers: int = 2,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> list[Table]:
    """Run a benchmark, or resume its run, score it, and return tables for a terminal.

    Args:
        name: name of the benchmark.
        data: folder of its files.
        output: folder of the run.
        model: name or folder of a RadZero model; None for the packaged one.
        scores: table of another model's scores, to be used instead.
        clip: name or folder of a CLIP-style model of transformers, to be used instead.
        from_plugin: name of a model that an installed package offers, to be used instead.
        revision, local_files_only: as in :func:`radzero.load`, for a hub id.
        skip_unreadable, workers: see :func:`~radzero.evaluation.run.run_benchmark`.
        progress: called with the phase, and the numbers done and in all: images ("asking") or cases ("perturbing").

    Raises:
        ValueError: when files, models or images cannot be used; the message says what to do.
        ImportError: without pyarrow or matplotlib.
    """
    check_packages()
    if sum(map(bool, (model, scores, clip, from_plugin))) > 1:
        raise ValueError("give one of --model, --clip, --plugin and --scores")
    spec = BENCHMARKS[name]
    benchmark = spec.module.read(data)
    if not scores:  # a table of scores holds the frozen prompts only
        benchmark = with_contrasts(benchmark)
    asked: ZeroShotModel
    if scores:
        asked = ScoresFromFile(scores)
    elif clip:
        from radzero.evaluation.clip import ClipInBenchmark

        asked = ClipInBenchmark(clip, revision=revision, local_files_only=local_files_only)
    elif from_plugin:
        asked = plugin(from_plugin)
    else:
        from radzero.prediction.model import load

        asked = RadZeroInBenchmark(load(model, revision=revision, local_files_only=local_files_only))
    count = len(benchmark.images) - len(benchmark.missing)
    run_benchmark(
        benchmark,
        asked,
        output,
        command=sys.argv,
        skip_unreadable=skip_unreadable,
        workers=workers,
        progress=lambda done: progress("asking", done, count),
    )
    if not (scores or clip):
        there = benchmark.without(unanswered(output))
        measure_faithfulness(there, asked, output, progress=lambda *done: progress("perturbing", *done))
        make_gallery(benchmark, asked, output)
    metrics = score(output)
    write_report([output], output)
    return metric_tables(spec, metrics)


def metric_tables(spec: BenchmarkSpec, metrics: dict[str, Any]) -> list[Table]:
    """Return a run's figures, with their intervals, as tables for a terminal."""
    title = f"{spec.title}: {metrics['model']} on {metrics['images']:,} images"
    if metrics["left out"]:
        title += f" ({metrics['left out']:,} left out: missing or unreadable)"
    summary = Table("figure", "value", "95 % interval", title=title)
    for task in TASKS:
        for key, value in metrics.get(task, {}).items():
            if isinstance(value, dict):
                continue
            interval = f"{shown(value[1])} to {shown(value[2])}" if isinstance(value, list) else ""
            summary.add_row(f"{task}: {key}", shown(value[0] if isinstance(value, list) else value), interval)
    tables = [summary]
    for task, columns in _COLUMNS.items():
        if classes := metrics.get(task, {}).get("classes"):
            present = [key for key in columns if any(key in figures for figures in classes.values())]
            table = Table("class", *present, title=f"{task}, per class")
            for name, figures in classes.items():
                table.add_row(name, *(shown(figures.get(key)) for key in present))
            tables.append(table)
    return tables


_COLUMNS = {
    "classification": ("positives", "AUC", "AUC, plain", "AUC, moderate", "AUC, subtle"),
    "pointing": ("pairs", "hits", "hits, plain", "hits, moderate", "hits, subtle"),
    "segmentation": ("positives", "Dice", "threshold", "pixel AUC"),
    "faithfulness": ("affirmed when present", "denied when absent", "right against left", "lit where it is not"),
}
"""Figures of each class, by task, that a terminal shows; the report has the rest."""
