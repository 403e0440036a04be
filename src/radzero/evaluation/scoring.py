"""Metrics of a run, from its saved scores alone.

Every figure has a 95 % interval by resampling patients (:func:`weighted` statistics: a resample is a weight per image).
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from radzero._files import write_whole
from radzero._numbers import sigmoid
from radzero.evaluation.faithfulness import MAPS, area
from radzero.evaluation.metrics import (
    THRESHOLDS,
    PixelHistogram,
    auc,
    average_precision,
    calibration,
    figures_at_best_f1,
    frequency_group,
)

_RESAMPLES = 1000
_MOST_WORK = 2e9
"""Numbers that all resamples together may go through; beyond, fewer are drawn, and the metrics say how many."""

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """A run's scores.

    Attributes:
        run: content of ``run.json``.
        images, patients: (M,) names.
        sentences: (S,).
        truth: (M, S) 1, 0, or -1 where unknown or not asked.
        logits: (M, S); NaN for a model without scores.
        regions: rows of ``regions.parquet``.
        sides, strata: (M, S) names, "" for none; None where the benchmark knows none.
    """

    run: dict[str, Any]
    images: list[str]
    patients: list[str]
    sentences: list[str]
    truth: npt.NDArray[np.int8]
    logits: npt.NDArray[np.float32]
    regions: list[dict[str, Any]]
    sides: npt.NDArray[np.str_] | None = None
    strata: npt.NDArray[np.str_] | None = None


def read_scores(folder: Path) -> Scores:
    """Read a run.

    Raises:
        ValueError: for a folder without a finished run.
        ImportError: without pyarrow.
    """
    try:
        from pyarrow import compute, parquet
    except ImportError as error:
        raise ImportError("scores are kept as Parquet: pip install 'radzero[evaluate]'") from error
    if not (folder / "scores.parquet").exists():
        raise ValueError(f"{folder}: holds no finished run; give `radzero evaluate` again to go on")
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    table = parquet.read_table(folder / "scores.parquet")
    sentences = compute.unique(table["sentence"]).to_pylist()
    count = max(len(sentences), 1)
    per_image = table.take(np.arange(0, table.num_rows, count))

    def names(column: str) -> npt.NDArray[np.str_] | None:
        known = column in table.column_names
        return table[column].to_numpy().astype(np.str_).reshape(-1, count) if known else None

    return Scores(
        run,
        per_image["image"].to_pylist(),
        per_image["patient"].to_pylist(),
        sentences,
        table["truth"].to_numpy().reshape(-1, count),
        table["logit"].to_numpy().reshape(-1, count),
        parquet.read_table(folder / "regions.parquet").to_pylist(),
        names("side"),
        names("stratum"),
    )


def score(folder: Path, *, resamples: int = _RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Compute a run's metrics and write them to its ``metrics.json``.

    Returns:
        A mapping of task to figures; a figure with an interval is [value, low, high]. NaN is None.
    """
    scores = read_scores(folder)
    metrics: dict[str, Any] = {
        "benchmark": scores.run["benchmark"],
        "model": scores.run["model"],
        "images": len(scores.images),
        "left out": len(scores.run.get("missing", [])) + len(scores.run.get("unreadable", [])),
    }
    resampler = _Resampler(scores.patients, resamples, seed)
    tasks = scores.run["tasks"]
    if "classification" in tasks and not np.isnan(scores.logits).all():
        metrics["classification"] = _classification(scores, resampler)
    if "pointing" in tasks and any(r["hit"] is not None for r in scores.regions):
        metrics["pointing"] = _pointing(scores, resampler)
    if "segmentation" in tasks and any(r["iou"] is not None for r in scores.regions):
        metrics["segmentation"] = _segmentation(scores, folder, resampler)
    if faithfulness := _faithfulness(scores, folder, resampler):
        metrics["faithfulness"] = faithfulness
    metrics = plain(metrics)
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=1).encode())
    return metrics


def plain(value: Any) -> Any:
    """A value as JSON has it: lists, plain numbers, None for what is no number."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return int(value) if isinstance(value, np.integer) else value


class _Resampler:
    """Weights per image of each bootstrap resample of patients."""

    def __init__(self, patients: list[str], resamples: int, seed: int) -> None:
        groups = {patient: k for k, patient in enumerate(dict.fromkeys(patients))}
        self.group = np.array([groups[p] for p in patients], dtype=np.int64)
        self.patients, self.resamples, self.seed = len(groups), resamples, seed

    def interval(self, statistic: Callable[[Weights], float], work: int) -> list[float]:
        """A statistic of weights per image, with its interval; ``work`` is how many numbers it goes through."""
        value = statistic(np.ones(len(self.group)))
        chance = np.random.default_rng(self.seed)
        drawn = []
        for _ in range(min(self.resamples, max(50, int(_MOST_WORK / max(work, 1))))):
            picked = np.bincount(chance.integers(self.patients, size=self.patients), minlength=self.patients)
            figure = statistic(picked[self.group].astype(np.float64))
            if not math.isnan(figure):
                drawn.append(figure)
        if math.isnan(value) or len(drawn) < 25:
            return [value, float("nan"), float("nan")]
        return [value, *(float(p) for p in np.percentile(drawn, [2.5, 97.5]))]


class WeightedAuc:
    """The AUC of one class under weights per image, its scores sorted once.

    Args:
        truth: (M,) 1, 0 or -1.
        logits: (M,).
    """

    def __init__(self, truth: npt.NDArray[np.int8], logits: npt.NDArray[np.float32]) -> None:
        known = np.flatnonzero(truth >= 0)
        self.order = known[np.argsort(logits[known], kind="stable")]
        ranked = logits[self.order]
        self.positive = truth[self.order] == 1
        self.first = np.flatnonzero(np.diff(ranked, prepend=np.float32(np.nan)) != 0)  # of each group of equal scores

    def __call__(self, weights: Weights) -> float:
        """0..1; NaN when a class has no weight."""
        if not len(self.order):
            return float("nan")
        own = weights[self.order]
        positive = np.add.reduceat(np.where(self.positive, own, 0.0), self.first)
        negative = np.add.reduceat(np.where(self.positive, 0.0, own), self.first)
        pairs = positive.sum() * negative.sum()
        if not pairs:
            return float("nan")
        return float((positive * (np.cumsum(negative) - negative / 2)).sum() / pairs)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def _classification(scores: Scores, resampler: _Resampler) -> dict[str, Any]:
    column = {sentence: k for k, sentence in enumerate(scores.sentences)}
    classes = scores.run["classes"]
    aucs: dict[str, WeightedAuc] = {}
    per_class: dict[str, dict[str, Any]] = {}
    frequencies: list[float] = []
    pooled_truth, pooled_probability = [], []
    for name, sentence in classes.items():
        truth, logits = scores.truth[:, column[sentence]], scores.logits[:, column[sentence]]
        known = truth >= 0
        positive = truth[known] == 1
        probability = sigmoid(logits[known].astype(np.float64))
        aucs[name] = WeightedAuc(truth, logits)
        best = figures_at_best_f1(positive, logits[known])
        reliability = calibration(positive, probability)
        frequencies.append(float(positive.mean()) if len(positive) else 0.0)
        pooled_truth.append(positive)
        pooled_probability.append(probability)
        per_class[name] = {
            "images": len(positive),
            "positives": int(positive.sum()),
            "AUC": resampler.interval(aucs[name], len(positive)),
            "AUPRC": average_precision(positive, logits[known]),
            "F1": best.f1,
            "MCC": best.mcc,
            "accuracy": best.accuracy,
            "Brier": reliability.brier,
            "ECE": reliability.ece,
        }
        if scores.strata is not None:
            stratum = scores.strata[:, column[sentence]]
            for own in _strata(scores):
                among = known & ((truth == 0) | (stratum == own))
                per_class[name][f"AUC, {own}"] = auc(truth[among] == 1, logits[among])
    for figures in per_class.values():
        figures["group"] = frequency_group(figures["positives"], max(1, figures["images"]), frequencies)
    whole = calibration(np.concatenate(pooled_truth), np.concatenate(pooled_probability))
    groups = {
        group: _mean([f["AUC"][0] for f in per_class.values() if f["group"] == group])
        for group in ("head", "medium", "tail")
    }
    return {
        "macro AUC": resampler.interval(
            lambda w: _mean([of_class(w) for of_class in aucs.values()]), scores.truth.size
        ),
        **{f"{group} AUC": value for group, value in groups.items()},
        **{f"macro {key}": _mean([f[key] for f in per_class.values()]) for key in ("AUPRC", "F1", "MCC", "accuracy")},
        "Brier": whole.brier,
        "ECE": whole.ece,
        "reliability": {"predicted": whole.predicted, "observed": whole.observed, "counts": whole.counts},
        "classes": per_class,
    }


def _order(scores: Scores) -> Callable[[str], tuple[int, str]]:
    """Labels sort as the benchmark's classes do."""
    place = {name: k for k, name in enumerate(scores.run["classes"])}
    return lambda label: (place.get(label, len(place)), label)


def _strata(scores: Scores) -> list[str]:
    """Names of the groups that positives are scored in, in their order."""
    return [] if scores.strata is None else [str(s) for s in dict.fromkeys(scores.strata.ravel().tolist()) if s]


def _pointing(scores: Scores, resampler: _Resampler) -> dict[str, Any]:
    rows = [r for r in scores.regions if r["hit"] is not None]
    place = {name: k for k, name in enumerate(scores.images)}
    image = np.array([place[r["image"]] for r in rows])
    hit = np.array([float(r["hit"]) for r in rows])
    label = np.array([r["label"] for r in rows])

    def of(chosen: npt.NDArray[np.bool_]) -> Callable[[Weights], float]:
        return _weighted_mean(image[chosen], hit[chosen])

    column = {sentence: k for k, sentence in enumerate(scores.sentences)}
    strata = scores.strata
    own = [strata[place[r["image"]], column[r["sentence"]]] if strata is not None else "" for r in rows]
    stratum = np.array(own, dtype=np.str_)
    every = of(np.ones(len(rows), dtype=bool))
    result: dict[str, Any] = {"pairs": len(rows), "over pairs": resampler.interval(every, len(rows))}
    if scores.run["averaged"] == "classes":
        shares = {name: of(label == name) for name in sorted(set(label.tolist()), key=_order(scores))}
        result["over classes"] = resampler.interval(lambda w: _mean([s(w) for s in shares.values()]), len(rows))
        result["classes"] = {
            name: {"pairs": int((label == name).sum()), "hits": resampler.interval(s, int((label == name).sum()))}
            | {f"hits, {g}": _mean(hit[(label == name) & (stratum == g)].tolist()) for g in _strata(scores)}
            for name, s in shares.items()
        }
    return result


def _segmentation(scores: Scores, folder: Path, resampler: _Resampler) -> dict[str, Any]:
    place = {name: k for k, name in enumerate(scores.images)}
    with np.load(folder / "pixels.npz") as pixels:
        histograms = dict(zip(pixels["sentences"].tolist(), pixels["counts"], strict=True))
    empty = _empty(folder)
    classes: dict[str, Any] = {}
    dices: list[Callable[[Weights], float]] = []
    labels = {r["sentence"]: r["label"] for r in reversed(scores.regions) if r["iou"] is not None}
    by_class = _order(scores)
    for sentence in sorted(labels, key=lambda sentence: by_class(labels[sentence])):
        rows = [r for r in scores.regions if r["sentence"] == sentence and r["iou"] is not None]
        sweep = np.array([r["dice"] for r in rows])
        image = np.array([place[r["image"]] for r in rows])
        best = int(np.argmax(sweep.mean(axis=0)))
        dices.append(_weighted_mean(image, sweep[:, best]))
        chosen, held_out = _held_out(sweep, [r["patient"] for r in rows])
        highest = np.array([value for _, asked, value in empty if asked == sentence])
        histogram = PixelHistogram()
        histogram.counts = histograms[sentence]
        classes[rows[0]["label"]] = {
            "positives": len(rows),
            "negatives": len(highest),
            "Dice": resampler.interval(dices[-1], len(rows)),
            "threshold": float(THRESHOLDS[best]),
            "Dice at 0.5": float(sweep[:, 50].mean()),
            "Dice at the other half's threshold": held_out,
            "thresholds so chosen": chosen,
            "specificity": float((highest < THRESHOLDS[best]).mean()) if len(highest) else float("nan"),
            "pixel AUC": histogram.auc,
            "pixel AUC bound": histogram.bound,
            "CNR": _mean([float("nan") if r["cnr"] is None else r["cnr"] for r in rows]),
            "mIoU": _mean([r["iou"] for r in rows]),
        }
    keys = ("threshold", "Dice at 0.5", "specificity", "pixel AUC", "CNR", "mIoU", "Dice at the other half's threshold")
    return {
        "Dice": resampler.interval(lambda weights: _mean([dice(weights) for dice in dices]), len(scores.regions)),
        **{key: _mean([c[key] for c in classes.values()]) for key in keys if key != "threshold"},
        "classes": classes,
    }


def _held_out(sweep: npt.NDArray[np.float64], patients: list[str]) -> tuple[list[float], float]:
    """Dice of each half of the patients at the threshold that is best on the other half."""
    order = {patient: k for k, patient in enumerate(sorted(set(patients)))}
    half = np.array([order[patient] % 2 for patient in patients])
    if len(set(half.tolist())) < 2:
        return [], float("nan")
    chosen, values = [], np.empty(len(sweep))
    for own in (0, 1):
        best = int(np.argmax(sweep[half != own].mean(axis=0)))
        chosen.append(float(THRESHOLDS[best]))
        values[half == own] = sweep[half == own, best]
    return chosen, float(values.mean())


def _empty(folder: Path) -> list[tuple[str, str, float]]:
    """Image, sentence and the highest value of the map, of every pair where the sentence is not true."""
    with np.load(folder / "pixels.npz") as pixels:
        columns = (pixels[f"empty_{name}"].tolist() for name in ("image", "sentence", "highest"))
        return list(zip(*columns, strict=True))


Statistic = Callable[[Weights], float]
"""A figure under weights per image; the figure itself where all are 1."""


def headline_statistics(scores: Scores) -> dict[str, Statistic]:
    """The figures of the published tables as functions of weights per image, so that runs on the same images compare.

    Returns:
        Those that the run has of "macro AUC", "pointing game" (over classes) and "Dice" (at each class's best
        threshold of the unweighted run); NaN functions for the others.
    """
    column = {sentence: k for k, sentence in enumerate(scores.sentences)}
    place = {name: k for k, name in enumerate(scores.images)}
    aucs = [
        WeightedAuc(scores.truth[:, column[s]], scores.logits[:, column[s]]) for s in scores.run["classes"].values()
    ]
    hits: list[Statistic] = []
    dices: list[Statistic] = []
    for label in dict.fromkeys(r["label"] for r in scores.regions):
        rows = [r for r in scores.regions if r["label"] == label]
        image = np.array([place[r["image"]] for r in rows])
        if all(r["hit"] is not None for r in rows):
            hits.append(_weighted_mean(image, np.array([float(r["hit"]) for r in rows])))
        if all(r["iou"] is not None for r in rows):
            sweep = np.array([r["dice"] for r in rows])
            dices.append(_weighted_mean(image, sweep[:, int(np.argmax(sweep.mean(axis=0)))]))
    named = (("macro AUC", aucs), ("pointing game", hits), ("Dice", dices))
    return {name: partial(_mean_of, parts) for name, parts in named}


def _mean_of(parts: Sequence[Statistic], weights: Weights) -> float:
    return _mean([part(weights) for part in parts])


# -- faithfulness ----------------------------------------------------------------------------------------


def _faithfulness(scores: Scores, folder: Path, resampler: _Resampler) -> dict[str, Any]:
    """Contrary sentences, maps of what is not there, and what scores rest on."""
    found: dict[str, Any] = {}
    classes: dict[str, dict[str, Any]] = {}
    everything: dict[str, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]] = {}
    for name, pairs in _contrasts(scores).items():
        classes[name] = {}
        for kind, (image, right) in pairs.items():
            classes[name][kind] = float(right.mean()) if len(right) else float("nan")
            everything.setdefault(kind, []).append((image, right))
    if scores.run.get("contrasts") and not np.isnan(scores.logits).all():
        for kind, parts in everything.items():
            image, right = (np.concatenate(column) for column in zip(*parts, strict=True))
            found[kind] = resampler.interval(_weighted_mean(image, right), len(right))
    if empty := _empty(folder):
        place = {name: k for k, name in enumerate(scores.images)}
        image = np.array([place[name] for name, _, _ in empty])
        lit = np.array([float(highest >= 0.5) for _, _, highest in empty])
        found["maps that reach 0.5 where nothing is"] = resampler.interval(_weighted_mean(image, lit), len(lit))
        columns = [scores.sentences.index(sentence) for sentence in scores.run["classes"].values()]
        nothing = np.flatnonzero((scores.truth[:, columns] == 0).all(axis=1))
        if len(nothing):
            any_lit = np.bincount(image, weights=lit, minlength=len(scores.images))[nothing] > 0
            whole = resampler.interval(_weighted_mean(nothing, (~any_lit).astype(float)), len(nothing))
            found["images without findings whose maps all stay below 0.5"] = whole
        for name, sentence in scores.run["classes"].items():
            own = [highest >= 0.5 for _, asked, highest in empty if asked == sentence]
            classes.setdefault(name, {})["lit where it is not"] = float(np.mean(own)) if own else float("nan")
    path = folder / "faithfulness.json"
    if path.exists():
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
        found["cases"] = len(cases)
        for curve in ("deletion", "insertion", "random order"):
            found[f"{curve}, area"] = _mean([area(case[curve]) for case in cases])
        for key in MAPS:
            if inside := [case[key] for case in cases if key in case]:
                found[f"{key}, inside"] = _mean(inside)
    if found and classes:
        found["classes"] = classes
    return found


def _contrasts(scores: Scores) -> dict[str, dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]]:
    """Class -> kind -> images, and 1 where the true sentence has the higher score (a tie is 0)."""
    column = {sentence: k for k, sentence in enumerate(scores.sentences)}
    pairs: dict[str, dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]] = {}
    for name, contrary in scores.run.get("contrasts", {}).items():
        prompt = column[scores.run["classes"][name]]
        affirmed, denied = scores.logits[:, prompt], scores.logits[:, column[contrary["denied"]]]
        present, absent = (np.flatnonzero(scores.truth[:, prompt] == value) for value in (1, 0))
        pairs[name] = {
            "affirmed when present": (present, (affirmed > denied)[present].astype(np.float64)),
            "denied when absent": (absent, (denied > affirmed)[absent].astype(np.float64)),
        }
        if "right" in contrary and scores.sides is not None:
            right, left = (scores.logits[:, column[contrary[side]]] for side in ("right", "left"))
            sides = scores.sides[:, prompt]
            wins = np.where(sides == "right", right > left, left > right)
            known = np.flatnonzero(sides != "")
            pairs[name]["right against left"] = (known, wins[known].astype(np.float64))
    return pairs


def _weighted_mean(image: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> Callable[[Weights], float]:
    def mean(weights: Weights) -> float:
        own = weights[image]
        return float((own * values).sum() / own.sum()) if own.sum() else float("nan")

    return mean
