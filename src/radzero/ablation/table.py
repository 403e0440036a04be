"""Write the table of a comparison, decide its claims with intervals, and draw maps of every method side by side."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from radzero._numbers import sigmoid
from radzero.ablation.recipe import FIGURES, Ablation, Claim, Row
from radzero.ablation.run import Place, prompts_of
from radzero.evaluation.gallery import draw_case
from radzero.evaluation.models import RadZeroInBenchmark
from radzero.evaluation.public import phantom
from radzero.evaluation.scoring import Statistic, headline_statistics, plain, read_scores
from radzero.models.registry import METHODS
from radzero.pictures import render_table, write_probability
from radzero.prediction.model import load

_PUBLISHED = Path(__file__).parent / "data" / "published.yaml"
_RESAMPLES = 1000
_TASK = {
    "macro AUC": "classification",
    "pointing game": "pointing",
    "Dice": "segmentation",
    "pixel AUC": "segmentation",
    "right against left": "faithfulness",
    "denied when absent": "faithfulness",
}
_NAMES = {"pointing game": "over classes"}


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        name: name of the line in the table.
        kind: similarity, layers, multi-positive ("yes" or "no") and token grid of the method, or "-".
        row, prompt: name of the row, and template of the prompt, or "" for a probe.
        runs: folders of the benchmark runs, one per seed.
        published: figures of the published table.
    """

    name: str
    kind: tuple[str, ...]
    row: str
    prompt: str
    runs: tuple[Path, ...]
    published: dict[str, float]


def lines_of(ablation: Ablation, output: Path) -> list[Line]:
    """Return the lines whose benchmark runs are finished for every seed."""
    place = Place(output)
    published = yaml.safe_load(_PUBLISHED.read_text(encoding="utf-8"))
    lines = []
    for row in ablation.rows:
        prompts = prompts_of(ablation, row)
        for number, prompt in enumerate(prompts):
            runs = tuple(place.row(row, seed) / f"benchmark-{number}" for seed in ablation.seeds)
            name = row.name if len(prompts) == 1 else f'{row.name}, "{prompt.replace("{}", "...")}"'
            known = _known(published, row.published, prompt)
            lines.append(Line(name, _kind(ablation, row, place), row.name, prompt, runs, known))
    for share in ablation.label_shares:
        runs = tuple(place.probe(share, seed) for seed in ablation.seeds)
        known = published.get(f"MGCA fine-tuned on {share:.0%}", {})
        name = f"linear heads, {share:.0%} of the labels"
        lines.append(Line(name, ("-", "linear", "-", "-"), name, "", runs, known))
    return [line for line in lines if all((run / "metrics.json").exists() for run in line.runs)]


def _known(published: dict[str, dict[str, float]], name: str, prompt: str) -> dict[str, float]:
    """Return the published figures of a name with this prompt, else of the name alone, else none.

    Raises:
        ValueError: when nothing is published under the name.
    """
    if not name:
        return {}
    if name not in published and not any(key.startswith(f"{name}, ") for key in published):
        raise ValueError(f"rows: there are no published figures of {name!r}; there are those of {', '.join(published)}")
    return published.get(f"{name}, {prompt}", published.get(name, {}))


def _kind(ablation: Ablation, row: Row, place: Place) -> tuple[str, ...]:
    config = ablation.train_config(row, 0, encoder=place.encoder, manifest=place.manifest, tokens=place.tokens)
    model = config.model
    spec = METHODS[model.method]
    blocks = f"{model.align_layers} layers" if model.align_layers else "linear" if model.align_linear else "none"
    similarity = model.similarity if "similarity" in spec.settings else "-"
    layers = spec.layers or blocks
    positive = "yes" if config.data.sentences == "all" else "no"
    side = model.image_size // (model.token_stride or ablation.encoder.stages[0].token_stride)
    return similarity, layers, positive, f"{side} x {side}"


def figure(metrics: dict[str, Any], name: str) -> float:
    """Return a figure of a run's metrics; NaN where the run does not have it."""
    value = metrics.get(_TASK[name], {}).get(_NAMES.get(name, name))
    value = value[0] if isinstance(value, list) else value
    return float("nan") if value is None else float(value)


def _measured(line: Line) -> dict[str, list[float]]:
    metrics = [json.loads((run / "metrics.json").read_text(encoding="utf-8")) for run in line.runs]
    return {name: [figure(m, name) for m in metrics] for name in FIGURES}


def _shown(values: Sequence[float]) -> str:
    known = [v for v in values if not np.isnan(v)]
    if not known:
        return "-"
    spread = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    return f"{np.mean(known):.3f}{spread}"


@dataclass(frozen=True)
class Verdict:
    """Decision on a figure of a claim: the difference of two rows, with its 95 % interval over images and seeds."""

    claim: str
    prompt: str
    figure: str
    difference: float
    low: float
    high: float

    @property
    def holds(self) -> str:
        """Whether the claim holds: "yes", "no, the reverse" or "not decided"."""
        return "yes" if self.low > 0 else "no, the reverse" if self.high < 0 else "not decided"


def decide(claim: Claim, better: Line, worse: Line, *, seed: int = 0) -> list[Verdict]:
    """Return the differences of the means over seeds, one per figure of the claim, with their intervals.

    The variance of a difference is that over images (bootstrap, the same images for both rows) plus that over seeds,
    s^2 / n of each row. The interval is Student's, with the degrees of freedom of Welch and Satterthwaite: n - 1 for
    the n seeds of each row, and one less than the number of images for the bootstrap. With one seed only the variance
    over images is left.
    """
    sides = [[headline_statistics(read_scores(run)) for run in line.runs] for line in (better, worse)]
    films = len(read_scores(better.runs[0]).images)
    found = []
    for name in claim.figures:
        both: list[list[Statistic]] = [[own[name] for own in side] for side in sides]
        whole = np.ones(films)
        ours, theirs = (float(np.mean([s(whole) for s in side])) for side in both)
        rng = np.random.default_rng(seed)
        drawn = []
        for _ in range(_RESAMPLES):
            weights = np.bincount(rng.integers(films, size=films), minlength=films).astype(np.float64)
            means = [float(np.mean([statistic(weights) for statistic in side])) for side in both]
            drawn.append(means[0] - means[1])
        parts = [(float(np.nanvar(drawn, ddof=1)), films - 1)]
        for side in both:
            values = [statistic(whole) for statistic in side]
            if len(values) > 1:
                parts.append((float(np.var(values, ddof=1)) / len(values), len(values) - 1))
        middle, reach = ours - theirs, _reach(parts)
        found.append(Verdict(claim.claim, better.prompt, name, middle, middle - reach, middle + reach))
    return found


def _reach(parts: Sequence[tuple[float, int]]) -> float:
    """Return half the width of a 95 % interval from variances that add up.

    Each variance has its degrees of freedom (Satterthwaite 1946).
    """
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / n for variance, n in parts)
    return student_quantile(0.975, freedom) * float(np.sqrt(total))


def student_quantile(share: float, freedom: float) -> float:
    """Return the quantile of Student's t distribution, for shares in 0.5..1, from its density on a fine grid.

    With t = tan(a) sqrt(freedom) the density becomes cos(a)^(freedom - 1), which is smooth and ends at a = pi / 2.
    """
    angles = np.linspace(0.0, np.pi / 2, 20_001)
    density = np.cos(angles) ** (freedom - 1)
    mass = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
    angle = np.interp(2 * share - 1, mass / mass[-1], angles)
    return float(np.tan(angle) * np.sqrt(freedom))


def write_table(ablation: Ablation, output: Path, command: str = "") -> Path:
    """Write ``table.md`` and ``table.json`` of the rows that are done, and return the path of ``table.md``."""
    lines = lines_of(ablation, output)
    shown = [*FIGURES, *(f"published {name}" for name in ("macro AUC", "pointing game", "Dice"))]
    header = ["method", "similarity", "layers", "multi-positive", "tokens", *shown]
    rows, kept = [], []
    for line in lines:
        measured = _measured(line)
        known = [line.published.get(name) for name in ("macro AUC", "pointing game", "Dice")]
        cells = [_shown(measured[name]) for name in FIGURES] + ["-" if v is None else f"{v:.3f}" for v in known]
        rows.append([line.name, *line.kind, *cells])
        kept.append({"name": line.name, "kind": line.kind, "figures": measured, "published": line.published})
    by_name = {(line.row, line.prompt): line for line in lines}
    verdicts, undecided = [], []
    for claim in ablation.claims:
        pairs = [(by_name[claim.better, p], by_name[claim.worse, p]) for n, p in by_name
                 if n == claim.better and (claim.worse, p) in by_name]  # fmt: skip
        verdicts += [verdict for better, worse in pairs for verdict in decide(claim, better, worse)]
        if not pairs:
            undecided.append(claim.claim)
    several = len({verdict.prompt for verdict in verdicts}) > 1
    seeds, films = len(ablation.seeds), ablation.films
    parts = [
        f"{films.train:,} training films, {films.test:,} test films, {seeds} seeds: mean ± standard deviation over "
        "seeds. Published: AUC on ChestXray14, pointing game on ChestXDet10, Dice on SIIM (MGCA's is of SIIM too).",
        _markdown(header, rows),
    ]
    note = output / "encoder" / "encoder.json"
    encoder = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if encoder:
        said = "; ".join(f"{name} {value:.3f}" for name, value in encoder.items())
        parts.append(f"The frozen encoder, on films of its own series that it was not trained on: {said}.")
    if verdicts:
        body = [
            [
                f'{v.claim}, asked "{v.prompt.replace("{}", "...")}"' if several else v.claim,
                v.figure,
                f"{v.difference:+.3f} ({v.low:+.3f} to {v.high:+.3f})",
                v.holds,
            ]
            for v in verdicts
        ]
        parts += [
            f"Claims: difference of the means over {seeds} seeds, with its 95 % interval over films and seeds, each "
            f"for itself; of {len(verdicts)} such intervals one in twenty misses by chance.",
            _markdown(["claim", "figure", "difference", "holds"], body),
        ]
    if undecided:
        parts.append(f"Not decided, since a row is missing: {'; '.join(undecided)}.")
    if command:
        parts.append(f"`{command}`")
    record = {
        "rows": kept,
        "claims": [vars(v) | {"holds": v.holds} for v in verdicts],
        "undecided": undecided,
        "encoder": encoder,
    }
    (output / "table.json").write_text(json.dumps(plain(record), indent=1, allow_nan=False), encoding="utf-8")
    path = output / "table.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def draw_methods(ablation: Ablation, output: Path) -> Path | None:
    """Draw ``maps.png``: maps of the first seed's models, with an image and its sentence per row, a method per column.

    Returns:
        The picture's path; None without images or models to draw.
    """
    place = Place(output)
    benchmark = phantom.read(place.test)
    wanted = []
    for name in ablation.pictures:
        one_sided = [
            r for r in benchmark.regions if r.label == name and benchmark.strata is not None
            and benchmark.strata[r.image, benchmark.classes.index(name)] == "moderate"
        ]  # fmt: skip
        if one_sided:
            wanted.append(one_sided[0])
    models = [
        (row.name, RadZeroInBenchmark(load(folder)))
        for row in ablation.rows
        if (folder := place.row(row, ablation.seeds[0]) / "model").exists()
    ]
    models = [(name, model) for name, model in models if model.model.model.has_maps]
    if not wanted or not models:
        return None
    grid: list[list[Image.Image]] = []
    for region in wanted:
        film, sentence = benchmark.images[region.image].film(), benchmark.sentences[region.sentence]
        cells = []
        for _, model in models:
            seen, asked = model.embed_images([film]), model.embed_sentences([sentence])
            (probability,) = sigmoid(model.logits(seen, asked)[0])
            raw_map = model.raw_map(seen, asked, 0, 0)
            assert raw_map is not None
            cell = draw_case(film, raw_map, region)
            write_probability(cell, probability)
            cells.append(cell)
        grid.append(cells)
    path = output / "maps.png"
    sentences = [f'"{benchmark.sentences[region.sentence]}"' for region in wanted]
    render_table(grid, [name for name, _ in models], sentences).save(path)
    return path
