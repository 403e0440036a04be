"""Compute the metrics of a run from its saved scores alone.

The main figures have a 95 % interval by resampling patients. A resample is a weight per image, and a figure with an
interval is a function of these weights.
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
"""Limit of the numbers that all resamples of a figure read together; beyond it fewer are drawn, but 50 at least."""

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Saved scores of a run.

    Attributes:
        run: content of ``run.json``.
        images, patients: (M,) names of the images, and of their patients.
        sentences: the S sentences.
        truth: (M, S) 1 for present, 0 for absent, or -1 where unknown or no class asks the sentence.
        logits: (M, S); NaN for a model without scores.
        regions: rows of ``regions.parquet``.
        sides, strata: (M, S) names, "" for none; None where the run has no sides or strata at all.
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
    """Read the saved scores of a run.

    Raises:
        ValueError: when the folder holds no finished run.
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
        A mapping of task to figures, and facts of the run; a figure with an interval is [value, low, high]. NaN becomes
        None.
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
    """Return a value in JSON's types: lists, plain numbers, and None for NaN."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return int(value) if isinstance(value, np.integer) else value


class _Resampler:
    """Draw bootstrap resamples of patients, each as a weight per image."""

    def __init__(self, patients: list[str], resamples: int, seed: int) -> None:
        groups = {patient: k for k, patient in enumerate(dict.fromkeys(patients))}
        self.group = np.array([groups[p] for p in patients], dtype=np.int64)
        self.patients, self.resamples, self.seed = len(groups), resamples, seed

    def interval(self, statistic: Callable[[Weights], float], work: int) -> list[float]:
        """Return [value, low, high] of a function of weights per image; ``work`` is how many numbers it reads.

        Low and high are NaN when the value is, or when fewer than 25 resamples give a number.
        """
        value = statistic(np.ones(len(self.group)))
        rng = np.random.default_rng(self.seed)
        drawn = []
        for _ in range(min(self.resamples, max(50, int(_MOST_WORK / max(work, 1))))):
            picked = np.bincount(rng.integers(self.patients, size=self.patients), minlength=self.patients)
            figure = statistic(picked[self.group].astype(np.float64))
            if not math.isnan(figure):
                drawn.append(figure)
        if math.isnan(value) or len(drawn) < 25:
            return [value, float("nan"), float("nan")]
        return [value, *(float(p) for p in np.percentile(drawn, [2.5, 97.5]))]


class WeightedAuc:
    """Compute the AUC of one class under weights per image; the scores are sorted only once.

    Args:
        truth: (M,) 1 for present, 0 for absent, -1 for unknown.
        logits: (M,) scores.
    """

    def __init__(self, truth: npt.NDArray[np.int8], logits: npt.NDArray[np.float32]) -> None:
        known = np.flatnonzero(truth >= 0)
        self.order = known[np.argsort(logits[known], kind="stable")]
        ranked = logits[self.order]
        self.positive = truth[self.order] == 1
        self.first = np.flatnonzero(np.diff(ranked, prepend=np.float32(np.nan)) != 0)  # starts of runs of equal scores

    def __call__(self, weights: Weights) -> float:
        """Return the AUC, 0..1; NaN when the positives or the negatives have no weight."""
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
    """Return a key that sorts labels in the order of the benchmark's classes, and others after them by name."""
    place = {name: k for k, name in enumerate(scores.run["classes"])}
    return lambda label: (place.get(label, len(place)), label)


def _strata(scores: Scores) -> list[str]:
    """Return the names of the strata of positives, in the order of their first appearance."""
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
    """Return the thresholds that are best on one half of the patients, and the mean Dice of the other half at them.

    Without two halves there are no thresholds, and the Dice is NaN.
    """
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
    """Return image, sentence and the map's highest value (0..1) for every pair where the sentence is not true."""
    with np.load(folder / "pixels.npz") as pixels:
        columns = (pixels[f"empty_{name}"].tolist() for name in ("image", "sentence", "highest"))
        return list(zip(*columns, strict=True))


Statistic = Callable[[Weights], float]
"""Function that computes a figure under weights per image; weights of 1 give the figure itself."""


def headline_statistics(scores: Scores) -> dict[str, Statistic]:
    """Return the figures of the published tables as functions of weights per image, to compare runs on the same images.

    Returns:
        "macro AUC", "pointing game" (over classes) and "Dice" (at each class's best threshold of the unweighted run);
        the function of a figure that the run does not have gives NaN.
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
    """Compute the figures of contrary sentences, of maps of absent findings, and of deletion and insertion."""
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
    """Return class -> kind -> images, with 1 where the true sentence has the higher score, else 0 (a tie is 0)."""
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
