"""Draw pictures of a run: images with the map of a sentence, its true boxes or mask, and the map's peak."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from radzero._numbers import sigmoid
from radzero.evaluation.benchmark import Benchmark, Region
from radzero.evaluation.models import ZeroShotModel
from radzero.evaluation.scoring import read_scores
from radzero.images import Radiograph
from radzero.pictures import mark_peak, thumbnail

_WIDTH = 360
_TRUE = (0, 255, 160)


def draw_case(film: Radiograph, raw_map: npt.NDArray[np.float32], region: Region) -> Image.Image:
    """Draw an image with its map, green boxes or an outline of the truth, and a white cross at the map's peak."""
    known = np.where(np.isfinite(raw_map), raw_map, -np.float32(80))
    values = sigmoid(known)
    scale = _WIDTH / film.width
    picture = thumbnail(film.to_uint8(), values, _WIDTH, None)
    draw = ImageDraw.Draw(picture)
    if region.boxes:
        for x0, y0, x1, y1 in region.boxes:
            draw.rectangle((x0 * scale, y0 * scale, x1 * scale, y1 * scale), outline=_TRUE, width=2)
    elif region.mask is not None:
        mask = Image.fromarray(region.mask.load(film.height, film.width)).resize(picture.size)
        inside = np.asarray(mask)
        edge = inside & ~(
            np.roll(inside, 1, 0) & np.roll(inside, -1, 0) & np.roll(inside, 1, 1) & np.roll(inside, -1, 1)
        )
        pixels = np.asarray(picture).copy()
        pixels[edge] = _TRUE
        picture = Image.fromarray(pixels)
    y, x = np.unravel_index(int(np.argmax(known)), known.shape)
    mark_peak(picture, x * scale, y * scale)
    return picture


def make_gallery(benchmark: Benchmark, model: ZeroShotModel, folder: Path) -> list[Path]:
    """Draw the best, median and worst cases of every class, by Dice at the class's best threshold or by hit.

    Where the pointing game is a mean over pairs, all cases are one class. The pictures are written to ``gallery/`` in
    the run's folder, with a ``gallery.json`` that says what they show.

    Returns:
        The pictures' files; none for a run without regions.
    """
    rows = read_scores(folder).regions
    if not rows:
        return []
    place = {image.name: k for k, image in enumerate(benchmark.images)}
    regions = {(r.image, r.sentence, r.label): r for r in benchmark.regions}
    asked = {sentence: k for k, sentence in enumerate(benchmark.sentences)}
    chosen: list[tuple[str, dict[str, object], float]] = []
    labels = list(dict.fromkeys(r["label"] for r in rows)) if benchmark.averaged == "classes" else [None]
    for label in labels:
        own = [r for r in rows if label is None or r["label"] == label]
        sweep = np.array([r["dice"] for r in own], dtype=np.float64)
        if np.isfinite(sweep).all():
            values = sweep[:, int(np.argmax(sweep.mean(axis=0)))]
        else:
            values = np.array([float(bool(r["hit"])) for r in own])
        order = np.argsort(-values, kind="stable")
        picks = {order[-1]: "worst", order[len(order) // 2]: "median", order[0]: "best"}  # a single case counts as best
        chosen += [(rank, own[k], float(values[k])) for k, rank in reversed(picks.items())]
    target = folder / "gallery"
    target.mkdir(exist_ok=True)
    embedded = model.embed_sentences(benchmark.sentences)
    notes, paths = [], []
    for number, (rank, row, value) in enumerate(chosen):
        index, sentence = place[str(row["image"])], asked[str(row["sentence"])]
        film = benchmark.images[index].film()
        raw_map = model.raw_map(model.embed_images([film]), embedded, 0, sentence)
        if raw_map is None:
            continue
        path = target / f"{number:03d}-{rank}.png"
        draw_case(film, raw_map, regions[index, sentence, str(row["label"])]).save(path)
        paths.append(path)
        notes.append(
            {
                "file": path.name,
                "rank": rank,
                "label": row["label"],
                "image": row["image"],
                "sentence": row["sentence"],
                "value": value,
            }
        )
    (target / "gallery.json").write_text(json.dumps(notes, indent=1), encoding="utf-8")
    return paths
