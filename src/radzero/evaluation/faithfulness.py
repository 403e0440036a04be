"""Measure whether a map shows what the score rests on: deletion and insertion curves, and maps of contrary sentences.

Deletion (Petsiuk et al., RISE, 2018) blurs pixels in the order of the map and records how the probability falls;
insertion starts from the blurred image and restores them. With a faithful map the first curve falls early and the
second rises early, compared with blurring patches in random order. Pixels are blurred and not blackened, because a
black patch would be a finding of its own.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from radzero._files import write_whole
from radzero._numbers import sigmoid
from radzero.evaluation.benchmark import Benchmark, Region
from radzero.evaluation.masks import BoxMask
from radzero.evaluation.models import ZeroShotModel
from radzero.images import Radiograph

FRACTIONS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Shares (0..1) of the pixels that are blurred or restored; the first steps are small, to resolve small findings."""
MAPS = ("map of the sentence", "map of its negation", "map of its side", "map of the other side")
"""Maps whose means inside a region are compared."""
_BLUR, _PATCHES = 8, 16
Map = npt.NDArray[np.float32]


def blurred(pixels: Map) -> Map:
    """Return the image reduced to 8 x 8 means and enlarged again: exposure and body remain, findings do not."""
    image = torch.from_numpy(pixels)[None, None]
    coarse = torch.nn.functional.adaptive_avg_pool2d(image, _BLUR)
    fine = torch.nn.functional.interpolate(coarse, pixels.shape, mode="bilinear", align_corners=False)
    return np.ascontiguousarray(fine[0, 0].clamp(0, 1).numpy())


def removal_curve(
    score: Callable[[Sequence[Radiograph]], npt.NDArray[np.floating]],
    film: Radiograph,
    order: npt.NDArray[np.floating],
    *,
    insert: bool = False,
) -> npt.NDArray[np.float64]:
    """Score an image while its pixels are blurred, or restored in the blurred image, from the highest in order.

    Args:
        score: function that returns the (B,) scores of B images.
        film: the image.
        order: (H, W) values that rank the pixels; among equal ones the first, row by row, is taken first.
        insert: whether to restore pixels instead of blurring them.

    Returns:
        A score for each of :data:`FRACTIONS`.
    """
    ranking = np.argsort(-order.ravel(), kind="stable")
    full, gone = film.pixels.ravel(), blurred(film.pixels).ravel()
    start, end = (gone, full) if insert else (full, gone)
    films = []
    for fraction in FRACTIONS:
        pixels, changed = start.copy(), ranking[: round(fraction * ranking.size)]
        pixels[changed] = end[changed]
        films.append(replace(film, pixels=pixels.reshape(film.pixels.shape)))
    return np.asarray(score(films), dtype=np.float64)


def area(curve: Sequence[float]) -> float:
    """Return the area under a curve over :data:`FRACTIONS`, by trapezoids."""
    values = np.asarray(curve, dtype=np.float64)
    return float(np.diff(FRACTIONS) @ (values[1:] + values[:-1]) / 2)


def chosen_regions(benchmark: Benchmark, cases: int) -> list[Region]:
    """Choose about ``cases`` regions, as many of each class, spread evenly over the benchmark.

    Classes count only where the pointing game is a mean over classes; all regions are one group otherwise.
    """
    by_label: dict[str, list[Region]] = {}
    for region in benchmark.regions:
        by_label.setdefault(region.label, []).append(region)
    groups = list(by_label.values()) if benchmark.averaged == "classes" else [list(benchmark.regions)]
    each = max(1, round(cases / max(1, len(groups))))
    return [group[k * len(group) // n] for group in groups for n in [min(each, len(group))] for k in range(n)]


def measure_faithfulness(
    benchmark: Benchmark,
    model: ZeroShotModel,
    folder: Path,
    *,
    cases: int = 36,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path | None:
    """Measure some of a benchmark's positive cases, and write ``faithfulness.json`` in the run's folder.

    A file that exists is kept as it is.

    Returns:
        The file; None for a model without maps or scores, or a benchmark without regions.
    """
    path = folder / "faithfulness.json"
    if path.exists():
        return path
    regions = chosen_regions(benchmark, cases)
    embedded = model.embed_sentences(benchmark.sentences)
    columns = {label: k for k, label in enumerate(benchmark.classes)}
    found: list[dict[str, Any]] = []
    for number, region in enumerate(regions):
        film = benchmark.images[region.image].film()
        seen = model.embed_images([film])
        raw_map = model.raw_map(seen, embedded, 0, region.sentence)
        if raw_map is None or model.logits(seen, embedded) is None:
            return None

        def score(films: Sequence[Radiograph], sentence: int = region.sentence) -> npt.NDArray[np.floating]:
            logits = model.logits(model.embed_images(films), embedded)
            assert logits is not None
            return sigmoid(logits[:, sentence].astype(np.float64))

        order = np.where(np.isfinite(raw_map), raw_map, -np.inf)
        noise = np.random.default_rng(number).random((_PATCHES, _PATCHES))
        rows, cols = (np.arange(n) * _PATCHES // n for n in raw_map.shape)
        case: dict[str, Any] = {
            "image": benchmark.images[region.image].name,
            "patient": benchmark.images[region.image].patient,
            "label": region.label,
            "sentence": benchmark.sentences[region.sentence],
            "deletion": removal_curve(score, film, order).tolist(),
            "insertion": removal_curve(score, film, order, insert=True).tolist(),
            "random order": removal_curve(score, film, noise[rows][:, cols]).tolist(),
        }
        inside = (region.mask or BoxMask(region.boxes)).load(film.height, film.width)
        for name, sentence in _contrary(benchmark, region, columns).items():
            values = model.raw_map(seen, embedded, 0, sentence)
            if values is not None and inside.any():
                case[name] = float(np.nanmean(sigmoid(values[inside].astype(np.float64))))
        found.append(case)
        progress(number + 1, len(regions))
    if not found:
        return None
    write_whole(path, json.dumps({"fractions": FRACTIONS, "cases": found}, indent=1).encode())
    return path


def _contrary(benchmark: Benchmark, region: Region, columns: dict[str, int]) -> dict[str, int]:
    """Return the sentences, by names of :data:`MAPS`, whose maps are compared inside a region."""
    sentences = [region.sentence]
    if (contrast := benchmark.contrasts.get(region.label)) is not None:
        sentences.append(contrast.denied)
        side = "" if benchmark.sides is None else benchmark.sides[region.image, columns[region.label]]
        if side and contrast.right is not None and contrast.left is not None:
            sentences += [contrast.right, contrast.left] if side == "right" else [contrast.left, contrast.right]
    return dict(zip(MAPS, sentences, strict=False))
