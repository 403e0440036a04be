"""Pack an image's values before the window in a form that a page can window itself.

uint32  K, number of grey levels        little-endian throughout
float32 K  value of each level, rising; NaN where it is padding
uint8   K  grey of each level as first shown, padded with zeros to a multiple of 4 bytes
uint16  H * W  level of each pixel, row by row
"""

import numpy as np
from numpy.typing import NDArray

from radzero.images.radiograph import StoredFilm
from radzero.service.engine import EncodedFilm


def pack_pixels(film: EncodedFilm) -> bytes:
    """Return an image in the format above; values of an image that is not grey DICOM are display values, 0..255."""
    stored = film.stored
    if stored is None:
        levels = np.arange(256)
        values, grey, pixels = levels.astype("<f4"), levels.astype(np.uint8), film.seen.film.astype("<u2")
    else:
        order = _order(stored)
        level = np.empty(len(order), dtype="<u2")
        level[order] = np.arange(len(order))
        values = stored.values[order].astype("<f4")
        grey = np.rint(stored.table[order] * 255).astype(np.uint8)
        pixels = level[stored.words]
    padding = b"\0" * (-len(grey) % 4)
    return b"".join((np.uint32(len(values)).tobytes(), values.tobytes(), grey.tobytes(), padding, pixels.tobytes()))


def _order(stored: StoredFilm) -> NDArray[np.intp]:
    """Return the words in the order of their levels.

    Padding is put at the end that is dark as first shown, so that the levels beside it are dark too.
    """
    rising = np.argsort(stored.values, kind="stable")
    padding = stored.padding[rising]
    parts = (rising[~padding], rising[padding]) if stored.inverted else (rising[padding], rising[~padding])
    return np.concatenate(parts)
