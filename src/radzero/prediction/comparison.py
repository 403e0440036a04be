"""Several models on one film: a map for every model and sentence, with its probability."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from radzero.images import read_radiograph
from radzero.pictures import caption_font, drawable_text, thumbnail
from radzero.prediction.model import RadZero, load
from radzero.prediction.reading import Reading

_WIDTH, _MARGIN, _TOP = 360, 12, 34


def draw_comparison(
    film: Path,
    models: Sequence[str],
    sentences: Sequence[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Image.Image:
    """A picture with a row per model and a column per sentence.

    Every cell has the film, the map on it, a mark at the map's peak (a cross, or a faint ring where no part of the film
    reaches 0.5) and the probability; a method without maps shows the film alone.

    Args:
        film: the file.
        models: checkpoints, "packaged" among them, or ``NAME=CHECKPOINT``.
        sentences: to ask.
        revision: of the hub ids that name none.
        local_files_only: never ask the hub.

    Raises:
        ValueError: for a film or a checkpoint that cannot be read.
    """
    radiograph = read_radiograph(film)
    rows = []
    for given in models:
        name, separator, source = given.partition("=")
        source = source if separator else given
        wanted = None if "@" in source else revision
        model: RadZero = load(source, revision=wanted, local_files_only=local_files_only)
        shown = drawable_text(name if separator else Path(given).name)
        rows.append((shown, model.predict(radiograph, list(sentences))[0]))
    height = max(1, round(_WIDTH * radiograph.height / radiograph.width))
    left = _MARGIN + max(int(caption_font(18).getlength(name)) for name, _ in rows) + _MARGIN
    size = (left + len(sentences) * (_WIDTH + _MARGIN), _TOP + len(rows) * (height + _MARGIN))
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for column, sentence in enumerate(sentences):
        place = (left + column * (_WIDTH + _MARGIN), 8)
        draw.text(place, drawable_text(sentence), fill=(0, 0, 0), font=caption_font(17))
    for row, (name, reading) in enumerate(rows):
        y = _TOP + row * (height + _MARGIN)
        draw.text((_MARGIN, y + 8), name, fill=(0, 0, 0), font=caption_font(18))
        for column in range(len(sentences)):
            sheet.paste(_cell(reading, column), (left + column * (_WIDTH + _MARGIN), y))
    return sheet


def _cell(reading: Reading, index: int) -> Image.Image:
    shown = reading.similarity is not None
    x, y = reading.peaks[index].tolist() if shown else (0, 0)
    cell = thumbnail(reading.film, reading.map(index) if shown else None, _WIDTH, (x, y) if shown else None)
    label = f"p = {reading.probabilities[index]:.2f}"
    ImageDraw.Draw(cell).text(
        (8, 6), label, fill=(255, 255, 255), font=caption_font(18), stroke_width=2, stroke_fill=(0, 0, 0)
    )
    return cell
