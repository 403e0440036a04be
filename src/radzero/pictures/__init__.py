"""Draw pictures of a similarity map on its radiograph, for people to look at.

Three functions draw: :func:`render_overlay` puts a map on a radiograph, :func:`render_film` puts the radiograph alone
in the same frame (so that the two can stand side by side), and :func:`render_sheet` lays several such pictures out on
one sheet. They need numpy and Pillow only, and the same input gives the same pixels.

What a reader can rely on:

* The colour scale is FIXED from 0 to 1. A map that never rises above 0.3 is shown with the colours of
  0 to 0.3 and is never stretched, so two overlays can be compared by eye.
* The colour of a value is `similarity_colours(value)` and its opacity is `similarity_alpha(value, opacity)`:
  both depend on the value alone. What is seen on the film is ``(1 - a) * grey + a * colour``.
* The legend shows both. Its left strip is the bare colour, without transparency. Its right strip is what
  that colour becomes on film, from a black film at its left edge to a white film at its right edge.
* The peak of a map has a cross if the map reaches the threshold there. Otherwise it has a faint, dashed ring, which
  marks where the film fits the sentence best, and not a finding.
* No text lies on the film. Only the map, the contour, the peak marker and the frame of the part that the
  model saw are drawn on it.

Coordinates are in film pixels, x (to the right) before y (downwards), with the origin at the top left
corner of the top left pixel.
"""

from radzero.pictures.colours import similarity_alpha, similarity_colours
from radzero.pictures.layout import MAX_LONG_SIDE, MAX_NOTICE_CHARACTERS, MIN_SHORT_SIDE, film_rectangle
from radzero.pictures.marks import mark_peak
from radzero.pictures.overlay import render_film, render_overlay
from radzero.pictures.sheet import MAX_SHEET_PIXELS, render_sheet, render_table, thumbnail, write_probability
from radzero.pictures.text import caption_font, drawable_text

__all__ = [
    "MAX_LONG_SIDE",
    "MAX_NOTICE_CHARACTERS",
    "MAX_SHEET_PIXELS",
    "MIN_SHORT_SIDE",
    "caption_font",
    "drawable_text",
    "film_rectangle",
    "mark_peak",
    "render_film",
    "render_overlay",
    "render_sheet",
    "render_table",
    "similarity_alpha",
    "similarity_colours",
    "thumbnail",
    "write_probability",
]
