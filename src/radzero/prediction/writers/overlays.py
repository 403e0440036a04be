"""Write a picture of every map: ``overlays/<item>/<number>-<sentence>.png``."""

import re
from pathlib import Path
from typing import Any, ClassVar
from unicodedata import normalize

from radzero._files import replacing
from radzero.images.radiograph import DicomHeader
from radzero.prediction.output_folder import cut, item_folder
from radzero.prediction.reading import PNG_LEVEL, Reading, SentenceMap
from radzero.prediction.writers.writer import Writer

_SLUG_BYTES = 200
"""Longest part of a sentence within a file name, in bytes; file systems allow 255, with the number and the endings."""


class OverlayWriter(Writer):
    """Writer of the pictures of :meth:`radzero.Reading.overlay`; it writes nothing for a method without maps."""

    name: ClassVar[str] = "overlays"
    file_keys: ClassVar[tuple[str, ...]] = ("overlays",)

    def begin(self, reading: Reading, header: DicomHeader | None, folder: Path) -> "_Overlays | None":
        """Begin the pictures of a reading; return None for a method without maps."""
        return None if reading.grid is None else _Overlays(reading, folder)


class _Overlays:
    def __init__(self, reading: Reading, folder: Path) -> None:
        self._reading, self._run = reading, folder
        self._folder = item_folder(folder / "overlays", reading.source)
        self._digits = max(2, len(str(len(reading.sentences) - 1)))
        self._written: list[str] = []

    def add(self, shown: SentenceMap) -> None:
        sentence = self._reading.sentences[shown.index]
        slug = cut(re.sub(r"[\W_]+", "-", normalize("NFC", sentence.lower())).strip("-")[:60], _SLUG_BYTES)
        path = self._folder / f"{shown.index:0{self._digits}d}-{slug}.png"
        with replacing(path) as temporary:
            shown.picture.save(temporary, "PNG", compress_level=PNG_LEVEL)
        self._written.append(path.relative_to(self._run).as_posix())

    def finish(self) -> dict[str, Any]:
        return {"overlays": self._written}
