"""Write runs as a report, in Markdown and as one HTML page: tables beside the published numbers, curves, a gallery."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from radzero._pages import render_page
from radzero.evaluation.metrics import roc_points
from radzero.evaluation.registry import title_of
from radzero.evaluation.scoring import Scores, read_scores, score

_PUBLISHED = Path(__file__).parent / "data" / "published.yaml"
_HEADLINE = {
    "macro AUC": ("classification", ("macro AUC",)),
    "pointing game": ("pointing", ("over classes", "over pairs")),
    "Dice": ("segmentation", ("Dice",)),
    "pixel AUC": ("segmentation", ("pixel AUC",)),
}
"""Figure of the published tables -> its task and its possible names in our metrics."""
TASKS = ("classification", "pointing", "segmentation", "faithfulness")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: folder of the run.
        scores: scores that the run saved.
        metrics: content of ``metrics.json``.
    """

    folder: Path
    scores: Scores
    metrics: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run, and score it if that has not been done.

        Raises:
            ValueError: when the folder holds no finished run.
        """
        scores, path = read_scores(folder), folder / "metrics.json"
        return cls(folder, scores, json.loads(path.read_text(encoding="utf-8")) if path.exists() else score(folder))

    @property
    def title(self) -> str:
        """Title of the benchmark and name of the model."""
        name = self.metrics["benchmark"]
        return f"{title_of(name)}: {self.metrics['model']}"

    def headline(self, figure: str) -> list[float | None] | None:
        """Return a figure of the published tables as [value, low, high], or None where the run does not have it."""
        task, names = _HEADLINE[figure]
        values = self.metrics.get(task, {})
        value = next((values[name] for name in names if name in values), None)
        return value if value is None or isinstance(value, list) else [value, None, None]


def write_report(folders: list[Path], output: Path) -> tuple[Path, Path]:
    """Write ``report.md`` and ``report.html`` of one or several runs, and return their paths.

    Args:
        folders: folders of finished runs.
        output: folder of the report.

    Raises:
        ValueError: when a folder holds no finished run.
    """
    runs = [Run.read(folder) for folder in folders]
    output.mkdir(parents=True, exist_ok=True)
    markdown, page = output / "report.md", output / "report.html"
    markdown.write_text(_markdown(runs), encoding="utf-8")
    page.write_text(_page(runs), encoding="utf-8")
    return markdown, page


@dataclass(frozen=True)
class _Table:
    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def shown(value: Any) -> str:
    """Return the text of a figure, or of a figure with its interval."""
    if isinstance(value, list):
        low, high = value[1], value[2]
        return shown(value[0]) + (f" ({shown(low)} to {shown(high)})" if low is not None else "")
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _compared(runs: list[Run]) -> list[_Table]:
    """Return a table per benchmark with every headline figure of the runs beside the published ones."""
    published = yaml.safe_load(_PUBLISHED.read_text(encoding="utf-8"))
    tables = []
    for name in dict.fromkeys(run.metrics["benchmark"] for run in runs):
        own = [run for run in runs if run.metrics["benchmark"] == name]
        figures = [f for f in _HEADLINE if any(run.headline(f) for run in own)]
        known = published.get(name, {})
        rows = []
        for run in own:
            left_out = run.metrics["left out"]
            label = f"{run.metrics['model']} (measured, {run.metrics['images']:,} images)"
            if left_out:
                label += f", {left_out:,} left out"
            rows.append([label, *(shown(run.headline(f)) for f in figures)])
        methods = list(dict.fromkeys(m for f in figures for m in known.get(f, {})))
        rows += [[f"{m} (published)", *(shown(known.get(f, {}).get(m)) for f in figures)] for m in methods]
        note = "Measured figures have 95 % intervals by resampling patients."
        if methods:
            note += " Published ones are of the whole benchmark."
        tables.append(_Table(title_of(name), ["model", *figures], rows, note))
    return tables


def _details(run: Run) -> list[_Table]:
    """Return tables of all figures of a run, and of its classes."""
    tables = []
    for task in TASKS:
        figures = run.metrics.get(task)
        if not figures:
            continue
        rows = [[key, shown(value)] for key, value in figures.items() if not isinstance(value, dict)]
        tables.append(_Table(task.capitalize(), ["figure", "value (95 % interval)"], rows))
        if classes := figures.get("classes"):
            columns = list(dict.fromkeys(key for values in classes.values() for key in values))
            columns = [key for key in columns if key != "thresholds so chosen"]
            body = [[name, *(shown(values.get(key)) for key in columns)] for name, values in classes.items()]
            tables.append(_Table(f"{task.capitalize()} per class", ["class", *columns], body))
    return tables


def _facts(run: Run) -> list[tuple[str, str]]:
    record = run.scores.run
    facts = [
        ("model", f"{record['model']}, SHA-256 {record['sha256'][:16] or 'not known'}"),
        ("data", f"{record['images']:,} images, SHA-256 {record['data'][:16]}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
        ("command", " ".join(record["command"])),
    ]
    if record.get("missing"):
        facts.append(("missing", f"{len(record['missing']):,} images: {', '.join(record['missing'][:5])}"))
    if record.get("unreadable"):
        facts.append(("unreadable", f"{len(record['unreadable']):,} images: {record['unreadable'][0][1]}"))
    return facts


def _markdown(runs: list[Run]) -> str:
    def table(t: _Table) -> str:
        lines = [f"| {' | '.join(t.header)} |", "|" + " --- |" * len(t.header)]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in t.rows]
        return f"### {t.title}\n\n" + "\n".join(lines) + (f"\n\n{t.note}" if t.note else "") + "\n"

    parts = ["# Zero-shot benchmarks\n", *(table(t) for t in _compared(runs))]
    for run in runs:
        parts.append(f"## {run.title}\n\n" + "\n".join(f"- {name}: {value}" for name, value in _facts(run)) + "\n")
        parts += [table(t) for t in _details(run)]
    return "\n".join(parts)


def _page(runs: list[Run]) -> str:
    shown_runs = [
        {
            "title": run.title,
            "facts": _facts(run),
            "tables": _details(run),
            "curves": _curves(run) if "classification" in run.metrics else "",
            "gallery": _gallery(run),
        }
        for run in runs
    ]
    return render_page("radzero.evaluation", "report.html.j2", compared=_compared(runs), runs=shown_runs)


def _curves(run: Run) -> str:
    """Draw the ROC curves of the classes, the reliability curve of all answers, and deletion and insertion, as SVG."""
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("curves are drawn by matplotlib: pip install 'radzero[evaluate]'") from error

    removal = run.folder / "faithfulness.json"
    rows = 2 if removal.exists() else 1
    figure = Figure(figsize=(11, 4.6 * rows), layout="constrained")
    FigureCanvasSVG(figure)
    left, right, *below = figure.subplots(rows, 2).ravel()
    left.set_prop_cycle(color=colormaps["tab20"](range(20)))
    place = {sentence: k for k, sentence in enumerate(run.scores.sentences)}
    classes = run.metrics["classification"]["classes"]
    for name, sentence in run.scores.run["classes"].items():
        truth, logits = run.scores.truth[:, place[sentence]], run.scores.logits[:, place[sentence]]
        x, y = roc_points(truth[truth >= 0] == 1, logits[truth >= 0])
        if len(x):
            label = f"{name} {shown(classes[name]['AUC'][0])}" if len(classes) <= 20 else None
            left.plot(x, y, linewidth=1.2, label=label)
    left.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC, with AUC", aspect="equal")
    if len(classes) <= 20:
        left.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    reliability = run.metrics["classification"]["reliability"]
    points = [
        (p, o, n)
        for p, o, n in zip(*(reliability[key] for key in ("predicted", "observed", "counts")), strict=True)
        if n
    ]
    right.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    if points:
        x, y, n = (np.array(column) for column in zip(*points, strict=True))
        right.plot(x, y, color="tab:blue")
        right.scatter(x, y, s=10 + 150 * n / n.max(), color="tab:blue", alpha=0.6)
    right.set(xlabel="probability said", ylabel="share that is true", title="Reliability, all classes together")
    right.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    if below:
        known = json.loads(removal.read_text(encoding="utf-8"))
        curves, nothing = below
        nothing.axis("off")
        for name, style in (("deletion", "-"), ("insertion", "-"), ("random order", ":")):
            mean = np.mean([case[name] for case in known["cases"]], axis=0)
            curves.plot(known["fractions"], mean, style, label=name, color="0.4" if style == ":" else None)
        curves.set(xlabel="share of the film blurred away, or brought back", ylabel="probability, mean over cases")
        curves.set(title="Deletion and insertion, by the map", ylim=(-0.02, 1.02))
        curves.legend(frameon=False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _gallery(run: Run) -> list[dict[str, str]]:
    """Return the run's pictures, each as base64 with a caption."""
    path = run.folder / "gallery" / "gallery.json"
    if not path.exists():
        return []
    return [
        {
            "image": base64.b64encode((path.parent / note["file"]).read_bytes()).decode(),
            "caption": f'{note["rank"]} of {note["label"]}: {note["image"]}, "{note["sentence"]}", {note["value"]:.2f}',
        }
        for note in json.loads(path.read_text(encoding="utf-8"))
    ]
