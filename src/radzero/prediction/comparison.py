"""Compare models on one radiograph: draw a map with its probability for every model and sentence."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from radzero.images import read_radiograph
from radzero.pictures import render_table, thumbnail, write_probability
from radzero.prediction.model import RadZero, load
from radzero.prediction.reading import Reading

_WIDTH = 360
"""Width of a cell in pixels."""


def draw_comparison(
    film: Path,
    models: Sequence[str],
    sentences: Sequence[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Image.Image:
    """Draw a picture with a row per model and a column per sentence.

    Every cell shows the image, the map on it, a mark at the map's peak (a cross, or a faint ring where no part of the
    image reaches 0.5) and the probability; for a method without maps it shows the image alone.

    Args:
        film: file of the radiograph.
        models: checkpoints, "packaged" among them, or ``NAME=CHECKPOINT``.
        sentences: sentences that every model is asked.
        revision: revision of the hub ids that name none.
        local_files_only: whether the hub is never asked.

    Raises:
        ValueError: when the image or a checkpoint cannot be read.
    """
    radiograph = read_radiograph(film)
    rows = []
    for given in models:
        name, separator, source = given.partition("=")
        source = source if separator else given
        wanted = None if "@" in source else revision
        model: RadZero = load(source, revision=wanted, local_files_only=local_files_only)
        rows.append((name if separator else Path(given).name, model.predict(radiograph, list(sentences))[0]))
    cells = [[_cell(reading, column) for column in range(len(sentences))] for _, reading in rows]
    return render_table(cells, sentences, [name for name, _ in rows])


def _cell(reading: Reading, index: int) -> Image.Image:
    if reading.similarity is None:
        cell = thumbnail(reading.film, None, _WIDTH, None)
    else:
        x, y = reading.peaks[index].tolist()
        cell = thumbnail(reading.film, reading.map(index), _WIDTH, (x, y))
    write_probability(cell, reading.probabilities[index])
    return cell
