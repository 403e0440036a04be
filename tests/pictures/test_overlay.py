import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radzero.pictures import (
    MAX_LONG_SIDE,
    MAX_NOTICE_CHARACTERS,
    MIN_SHORT_SIDE,
    colours,
    film_rectangle,
    render_film,
    render_overlay,
    render_sheet,
    render_table,
    similarity_alpha,
    similarity_colours,
    thumbnail,
)
from radzero.pictures import layout as layouts
from radzero.pictures import sheet as sheet_module
from radzero.pictures import text as texts

NOTICE = "Synthetic-phantom model: not for real radiographs"


def grey_film(height, width, level=100):
    return np.full((height, width), level, dtype=np.uint8)


def no_similarity(height, width):
    return np.zeros((height, width), dtype=np.float32)


def draw(film, similarity_map, **changes):
    given = {"sentence": "pleural effusion", "probability": 0.87} | changes
    return render_overlay(film, similarity_map, **given)


def film_part(picture, shape, notice=None):
    """The pixels of the film in a picture, (h, w, 3) as int."""
    return np.asarray(picture.crop(film_rectangle(shape, notice))).astype(int)


def marks(similarity_map, level=100, **changes):
    """Where something other than the film was drawn on an even film, (h, w) bool, without any colour."""
    picture = draw(grey_film(*similarity_map.shape, level), similarity_map, opacity=0.0, **changes)
    return (film_part(picture, similarity_map.shape) != level).any(axis=-1)


def extent(mask, shape):
    """The bounding box of a mask in film pixels: x0, y0, x1, y1, x1 and y1 just outside."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    across, down = shape[1] / mask.shape[1], shape[0] / mask.shape[0]
    return columns[0] * across, rows[0] * down, (columns[-1] + 1) * across, (rows[-1] + 1) * down


def cone(height, width, x, y, reach):
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(columns - x, rows - y)
    return np.clip(1.0 - distance / reach, 0.0, 1.0).astype(np.float32)


# --- size ---


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((300, 300), (512, 512)),
        ((300, 400), (683, 512)),
        ((1200, 1000), (1000, 1200)),
        ((3000, 2500), (1333, 1600)),
        ((2500, 3000), (1600, 1333)),
        ((300, 2000), (1600, 240)),
        ((2000, 300), (240, 1600)),
        ((1, 1), (512, 512)),
        ((1, 5000), (1600, 1)),
        ((5000, 1), (1, 1600)),
    ],
)
def test_film_is_drawn_at_the_documented_size_and_overlay_and_film_panel_agree(shape, expected):
    x0, y0, x1, y1 = film_rectangle(shape, NOTICE)
    assert (x1 - x0, y1 - y0) == expected
    height, width = shape
    overlay = draw(grey_film(*shape), no_similarity(*shape), notice=NOTICE, peak=(width - 1, height - 1))
    plain = render_film(grey_film(*shape), title="Film", notice=NOTICE)
    assert overlay.mode == plain.mode == "RGB"
    assert overlay.size == plain.size
    assert x0 > 0
    assert y0 > 0
    assert x1 < overlay.width
    assert y1 < overlay.height
    assert (film_part(plain, shape, NOTICE) == 100).all()


@pytest.mark.parametrize("side", [60, 511, 512, 700, 1600, 1601, 2600])
def test_side_limits_hold_and_aspect_ratio_is_kept(side):
    shape = (side, round(side * 1.2))
    x0, y0, x1, y1 = film_rectangle(shape)
    assert min(x1 - x0, y1 - y0) >= MIN_SHORT_SIDE
    assert max(x1 - x0, y1 - y0) <= MAX_LONG_SIDE
    assert (x1 - x0) / (y1 - y0) == pytest.approx(shape[1] / shape[0], rel=0.003)


def test_text_grows_with_the_output():
    small, large = layouts.lay_out((300, 300), None), layouts.lay_out((3000, 2500), None)
    assert small.body >= 16
    assert large.body > 1.5 * small.body
    assert large.line > small.line


# --- colour ---


def test_colours_get_lighter_all_the_way_and_differ_from_step_to_step():
    colours = similarity_colours(np.linspace(0.0, 1.0, 101)).astype(float)
    lightness = ((colours / 255.0) ** 2.2) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()


def test_opacity_is_nothing_at_zero_and_rises_to_the_given_one():
    alpha = similarity_alpha(np.linspace(0.0, 1.0, 101), 0.45)
    assert alpha[0] == 0.0
    assert alpha[50] == pytest.approx(0.225)
    assert alpha[-1] == pytest.approx(0.45)
    assert (np.diff(alpha) > 0).all()


@pytest.mark.parametrize("shape", [(300, 300), (1000, 900), (2000, 300), (3000, 2500)])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
def test_same_value_has_the_same_colour_on_every_film(shape, value):
    pixels = film_part(draw(grey_film(*shape), np.full(shape, value, dtype=np.float32)), shape)
    alpha = 0.45 * (3 * value**2 - 2 * value**3)
    wanted = (1 - alpha) * 100 + alpha * similarity_colours(np.array(value)).astype(float)
    assert np.abs(pixels - wanted).max() <= 0.51


def test_a_low_map_is_not_stretched():
    low = np.zeros((600, 600), dtype=np.float32)
    low[100:300, 100:300] = 0.3
    high = low.copy()
    high[400:500, 400:500] = 1.0
    one = film_part(draw(grey_film(600, 600), low, threshold=1.0), low.shape)
    two = film_part(draw(grey_film(600, 600), high, threshold=1.0), low.shape)
    assert (one[:390, :390] == two[:390, :390]).all()
    assert (one[200, 200] != 100).any()
    assert np.abs(two[450, 450] - two[200, 200]).max() > 50


def test_anatomy_shows_through_the_strongest_similarity():
    film = grey_film(600, 600, 60)
    film[:, 300:] = 200
    pixels = film_part(draw(film, np.ones((600, 600), dtype=np.float32)), film.shape)
    assert (pixels[300, 500] - pixels[300, 100] >= 70).all()


def test_zero_map_leaves_the_film_as_it_is_and_no_text_lies_on_it():
    film = np.random.default_rng(0).integers(0, 256, (700, 600), dtype=np.uint8)
    picture = draw(film, no_similarity(700, 600), sentence="effusion " * 500, notice="careful " * 100)
    assert (film_part(picture, film.shape, "careful " * 100) == film[..., None]).all()


def test_colour_lands_on_the_right_pixels():
    values = no_similarity(400, 900)
    values[50:150, 700:850] = 0.9
    picture = draw(grey_film(400, 900), values, threshold=1.0)
    coloured = (film_part(picture, values.shape) != 100).any(axis=-1)
    assert extent(coloured, values.shape) == pytest.approx((700, 50, 850, 150), abs=2)


# --- legend ---


def legend_part(picture, shape):
    return np.asarray(picture)[:, film_rectangle(shape)[2] + 2 :].astype(int)


@pytest.mark.parametrize("shape", [(300, 300), (3000, 2500), (300, 2000), (2000, 300)])
def test_legend_shows_the_whole_scale_in_order(shape):
    panel = legend_part(draw(grey_film(*shape), no_similarity(*shape)), shape)
    ends = [similarity_colours(np.array(value)).astype(int) for value in (0.0, 0.25, 0.75, 1.0)]
    tolerance = 6
    heights = []
    for colour in ends:
        found = (np.abs(panel - colour) <= tolerance).all(axis=-1)
        assert found.any()
        heights.append(np.argwhere(found)[:, 0].mean())
    zero, quarter, three, one = heights
    assert one < three < quarter < zero
    assert (zero - quarter) == pytest.approx((zero - one) / 4, abs=0.02 * (zero - one) + 2)


def test_legend_does_not_depend_on_the_map_but_marks_the_threshold():
    shape = (600, 500)
    zero = legend_part(draw(grey_film(*shape), no_similarity(*shape)), shape)
    ramp = np.tile(np.linspace(0, 0.4, 500, dtype=np.float32), (600, 1))
    foot = layouts.lay_out(shape, None).key_y
    assert (legend_part(draw(grey_film(*shape), ramp), shape)[:foot] == zero[:foot]).all()
    other = legend_part(draw(grey_film(*shape), no_similarity(*shape), threshold=0.25), shape)
    changed = np.flatnonzero((other != zero)[:foot].any(axis=(1, 2)))
    assert changed.size
    line = (other == 255).all(axis=-1)[:foot].sum(axis=1).argmax()
    line_at_half = (zero == 255).all(axis=-1)[:foot].sum(axis=1).argmax()
    assert line > line_at_half + 20


def test_legend_strip_on_film_shows_the_colours_that_occur():
    shape = (600, 600)
    layout = layouts.lay_out(shape, None)
    panel = legend_part(draw(grey_film(*shape), no_similarity(*shape), opacity=0.6), shape)
    for grey in (0, 255):
        seen = film_part(draw(grey_film(*shape, grey), np.ones(shape, dtype=np.float32), opacity=0.6), shape)[300, 300]
        found = (np.abs(panel - seen) <= 1).all(axis=-1)
        assert found[: layout.key_y].any()


# --- contour ---


def test_contour_lies_where_the_map_crosses_the_threshold():
    values = np.full((400, 900), 0.2, dtype=np.float32)
    values[60:120, 600:850] = 0.9
    drawn = marks(values)
    assert extent(drawn, values.shape) == pytest.approx((600, 60, 850, 120), abs=5)
    scale = drawn.shape[0] / 400
    assert not drawn[round(80 * scale) : round(100 * scale), round(620 * scale) : round(830 * scale)].any()


@pytest.mark.parametrize("shape", [(300, 300), (900, 1000), (3000, 2500), (300, 2000)])
def test_contour_of_a_cone_is_a_circle_of_the_right_radius(shape):
    height, width = shape
    x, y, reach = width * 0.6, height * 0.4, min(shape) * 0.35
    values = cone(height, width, x, y, reach)
    light = film_part(draw(grey_film(*shape, 0), values, threshold=0.4, opacity=0.0), shape)[..., 0] > 128
    x, y, radius = x + 0.5, y + 0.5, 0.6 * reach
    slack = 3.5 * max(shape) / max(light.shape)  # half the line's width, in film pixels
    assert extent(light, shape) == pytest.approx((x - radius, y - radius, x + radius, y + radius), abs=slack)


def test_contour_draws_in_as_the_threshold_rises():
    values = cone(600, 600, 250, 350, 240)
    boxes = [extent(marks(values, threshold=at), values.shape) for at in (0.1, 0.3, 0.5, 0.7, 0.9)]
    for outer, inner in pairwise(boxes):
        assert outer[0] < inner[0]
        assert outer[1] < inner[1]
        assert outer[2] > inner[2]
        assert outer[3] > inner[3]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_contour_is_seen_on_black_grey_and_white(level):
    values = cone(600, 600, 300, 300, 250)
    picture = draw(grey_film(600, 600, level), values, opacity=0.0)
    pixels = film_part(picture, values.shape)[300, :, 0]
    assert pixels.max() > 200
    assert pixels.min() < 90


def test_region_at_the_border_stays_open_there():
    values = no_similarity(600, 600)
    values[:, :200] = 0.9
    drawn = marks(values)
    assert extent(drawn, values.shape) == pytest.approx((200, 0, 200, 600), abs=6)


@pytest.mark.parametrize(("value", "threshold"), [(0.2, 0.5), (0.8, 0.5), (0.3, 0.3), (0.7, 0.0)])
@pytest.mark.parametrize("shape", [(300, 300), (1999, 1777)])
def test_even_map_has_no_contour(shape, value, threshold):
    assert not marks(np.full(shape, value, dtype=np.float32), threshold=threshold).any()


def test_key_says_whether_the_threshold_is_reached():
    shape = (600, 600)
    layout = layouts.lay_out(shape, None)
    half = no_similarity(*shape)
    half[:300] = 0.8
    keys = [
        np.asarray(draw(grey_film(*shape), values))[layout.key_y :].tobytes()
        for values in (no_similarity(*shape), half, np.full(shape, 0.8, dtype=np.float32))
    ]
    assert len(set(keys)) == 3


def test_a_value_reaches_a_threshold_equal_to_it_whatever_their_types():
    film, values = grey_film(300, 300), np.full((300, 300), 0.7, dtype=np.float32)
    assert float(values[0, 0]) < 0.7
    wanted = draw(film, values, threshold=0.7).tobytes()
    assert draw(film, values, threshold=np.float64(0.7)).tobytes() == wanted
    above = draw(film, values, threshold=np.float64(0.700001)).tobytes()
    assert above != wanted


# --- peak and frame ---


@pytest.mark.parametrize("value", [0.2, 0.8])
@pytest.mark.parametrize("shape", [(300, 400), (3000, 2500)])
def test_peak_marker_points_at_its_pixel_and_leaves_it_clear(shape, value):
    x, y = round(shape[1] * 0.7), round(shape[0] * 0.2)
    drawn = marks(np.full(shape, value, dtype=np.float32), peak=(x, y))
    x0, y0, x1, y1 = extent(drawn, shape)
    slack = 2 * shape[0] / drawn.shape[0]
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((x + 0.5, y + 0.5), abs=slack)
    scale = drawn.shape[0] / shape[0]
    row, column = int((y + 0.5) * scale), int((x + 0.5) * scale)
    assert not drawn[row - 3 : row + 4, column - 3 : column + 4].any()
    assert drawn[row].any()
    assert drawn[:, column].any()


@pytest.mark.parametrize("shape", [(300, 300), (3000, 2500)])
@pytest.mark.parametrize("level", [0, 100, 255])
def test_a_peak_below_the_threshold_has_a_faint_dashed_ring_and_no_cross(shape, level):
    x = y = shape[1] // 2
    film = grey_film(*shape, level)

    def contrast(value, threshold):
        values = np.full(shape, value, dtype=np.float32)
        picture = draw(film, values, threshold=threshold, peak=(x, y), opacity=0.0)
        return np.abs(film_part(picture, shape) - level).max(axis=-1)

    cross, ring = contrast(0.3, 0.3), contrast(0.3, 0.31)
    scale = ring.shape[0] / shape[0]
    row, column = int((y + 0.5) * scale), int((x + 0.5) * scale)
    arm = int(np.flatnonzero(cross.any(axis=0))[-1]) - column
    assert not ring[:, column + arm - 2 :].any(), "smaller than the cross"
    angles = np.radians(np.arange(0, 360, 3))
    radii = np.arange(arm)[:, None]
    around = ring[
        np.rint(row + radii * np.sin(angles)).astype(int), np.rint(column + radii * np.cos(angles)).astype(int)
    ].max(axis=0)
    dashes = np.count_nonzero(np.diff((around > 40).astype(int), append=int(around[0] > 40)) == 1)
    assert dashes == 8
    assert 20 < ring.max() < 0.9 * cross.max()
    assert ring.sum() < cross.sum()


def test_the_key_shows_the_mark_that_is_on_the_film():
    shape = (600, 600)
    layout = layouts.lay_out(shape, None)
    low = np.full(shape, 0.3, dtype=np.float32)
    key = (slice(layout.key_y, None), slice(0, layout.size[0]))
    assert (np.asarray(draw(grey_film(*shape), low, threshold=0.3, peak=(9, 9)))[key] == colours.PEAK).all(-1).any()
    below = np.asarray(draw(grey_film(*shape), low, threshold=0.4, peak=(9, 9)))[key]
    assert not (below == colours.PEAK).all(-1).any()
    without = np.asarray(draw(grey_film(*shape), low, threshold=0.4))[key]
    assert (below != without).any()


def test_thumbnails_mark_a_peak_below_the_threshold_with_a_ring():
    film = grey_film(360, 360)
    peak = (200, 100)
    bare, ring, cross, low = (
        np.asarray(thumbnail(film, np.full((360, 360), value, dtype=np.float32), 360, at, threshold)).astype(int)
        for value, at, threshold in ((0.4, None, 0.5), (0.4, peak, 0.5), (0.5, peak, 0.5), (0.4, peak, 0.4))
    )
    assert (cross[100, 200] == 255).all()
    assert (low[100, 200] == 255).all()
    assert (ring[100, 200] == bare[100, 200]).all()
    rows, columns = np.nonzero((ring != bare).any(axis=-1))
    assert (rows.mean(), columns.mean()) == pytest.approx((100, 200), abs=0.6)
    assert not (ring == 255).all(axis=-1).any()


@pytest.mark.parametrize("corner", [(0, 0), (399, 0), (0, 299), (399, 299)])
def test_peak_marker_in_a_corner_stays_on_the_film(corner):
    film, values = grey_film(300, 400), no_similarity(300, 400)
    picture = draw(film, values, peak=corner)
    assert (film_part(picture, film.shape) != 100).any()
    bare = np.asarray(draw(film, values)).copy()
    marked = np.asarray(picture).copy()
    x0, y0, x1, y1 = film_rectangle(film.shape)
    for pixels in (bare, marked):
        pixels[y0:y1, x0:x1] = 0
    key_y = layouts.lay_out(film.shape, None).key_y
    assert (bare[:key_y] == marked[:key_y]).all()


def test_frame_marks_the_covered_part_with_dashes():
    drawn = marks(no_similarity(600, 800), covered=(150.0, 30.0, 780.0, 420.0))
    assert extent(drawn, (600, 800)) == pytest.approx((150, 30, 780, 420), abs=1)
    picture = draw(grey_film(600, 800), no_similarity(600, 800), covered=(150.0, 30.0, 780.0, 420.0))
    top = film_part(picture, (600, 800))[30, 150:780, 0]
    assert np.count_nonzero(np.abs(np.diff(top)) > 100) > 20


def test_frame_reaching_past_the_film_is_cut_to_it():
    drawn = marks(no_similarity(600, 800), covered=(-50.0, 100.0, 900.0, 700.0))
    assert extent(drawn, (600, 800)) == pytest.approx((0, 100, 800, 600), abs=1)


@pytest.mark.parametrize("covered", [(0.0, 0.0, 800.0, 600.0), (-100.0, 0.0, 900.0, 600.0), None])
def test_no_frame_when_the_whole_film_was_seen(covered):
    assert not marks(no_similarity(600, 800), covered=covered).any()


# --- text ---


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (0.87, "p = 0.87"),
        (0.0, "p = 0.00"),
        (1.0, "p = 1.00"),
        (0.9999, "p > 0.99"),
        (0.0001, "p < 0.01"),
        (0.5, "p = 0.50"),
    ],
)
def test_probability_is_never_rounded_to_certainty(probability, said):
    assert texts.probability_text(probability) == said


def test_sentence_probability_and_notice_are_drawn_outside_the_film():
    film, values = grey_film(500, 700), no_similarity(500, 700)
    base = np.asarray(draw(film, values, notice=NOTICE)).astype(int)
    layout = layouts.lay_out(film.shape, NOTICE)
    for changes, rows in (
        ({"sentence": "pneumothorax"}, (0, layout.probability_y)),
        ({"probability": 0.12}, (layout.probability_y - 2, layout.film[1])),
        ({"notice": NOTICE.upper()}, (layout.band_y, layout.size[1])),
    ):
        other = np.asarray(draw(film, values, **({"notice": NOTICE} | changes))).astype(int)
        changed = np.flatnonzero((other != base).any(axis=(1, 2)))
        assert changed.size
        assert changed[0] >= rows[0]
        assert changed[-1] < rows[1]


@pytest.mark.parametrize("shape", [(300, 300), (3000, 2500), (2000, 300), (300, 2000)])
@pytest.mark.parametrize("sentence", ["effusion " * 20, "effusion " * 20_000, "x" * 5000, "i" * 5000])
def test_long_sentence_is_fitted_into_the_header(shape, sentence):
    layout = layouts.lay_out(shape, None)
    size, lines = texts.fit(texts.to_drawable(sentence).text, layout.body, layout.text_width)
    assert len(lines) * texts.line_height(size) <= layout.probability_y
    assert all(texts.caption_font(size).getlength(line) <= layout.text_width for line in lines)
    assert lines[-1].endswith("…") == (len(sentence) > 1000)
    picture = draw(grey_film(*shape), no_similarity(*shape), sentence=sentence)
    assert picture.size == layout.size


def test_sentence_that_fits_is_kept_whole():
    layout = layouts.lay_out((300, 300), None)
    sentence = "There is a small right apical pneumothorax without shift of the mediastinum"
    _, lines = texts.fit(sentence, layout.body, layout.text_width)
    assert " ".join(lines) == sentence


@pytest.mark.parametrize("shape", [(300, 300), (2000, 300)])
def test_notice_is_written_in_full_at_full_size(shape):
    notice = ("Not for diagnosis on real radiographs. " * 30)[:MAX_NOTICE_CHARACTERS].strip()
    layout = layouts.lay_out(shape, notice)
    assert " ".join(layout.band_lines) == notice
    font = texts.caption_font(layout.body)
    assert all(font.getlength(line) <= layout.text_width for line in layout.band_lines)
    end = layout.band_y + len(layout.band_lines) * texts.line_height(layout.body)
    assert end <= layout.size[1]
    plain = draw(grey_film(*shape), no_similarity(*shape), notice=notice)
    assert plain.size == layout.size


def test_notice_has_strong_contrast():
    shape = (300, 300)
    layout = layouts.lay_out(shape, NOTICE)
    band = np.asarray(draw(grey_film(*shape), no_similarity(*shape), notice=NOTICE))[layout.band_y :]
    light = ((band / 255.0) ** 2.2) @ (0.2126, 0.7152, 0.0722)
    assert (light.max() + 0.05) / (np.median(light) + 0.05) > 7
    assert (light > 0.5).sum() > 300


NOT_HUMAN = "the patient is probably not human (the header says 'canine')"


def test_warnings_are_written_below_the_notice_in_its_colours():
    film, values = grey_film(500, 700), no_similarity(500, 700)
    layout = layouts.lay_out(film.shape, NOTICE, [NOT_HUMAN])
    assert " ".join(layout.band_lines) == f"{NOTICE} Warning: {NOT_HUMAN}"
    plain = draw(film, values, notice=NOTICE)
    warned = draw(film, values, notice=NOTICE, warnings=[NOT_HUMAN])
    assert warned.size == layout.size == render_film(film, title="F", notice=NOTICE, warnings=[NOT_HUMAN]).size
    assert warned.height > plain.height
    above = plain.height - layout.pad // 2
    assert np.array_equal(np.asarray(warned)[:above], np.asarray(plain)[:above]), "nothing else moves or changes"
    added = np.asarray(warned)[above:].reshape(-1, 3)
    for colour in (colours.NOTICE_BAND, colours.NOTICE_TEXT):
        assert (added == colour).all(axis=1).sum() > 50
    alone = draw(film, values, warnings=[NOT_HUMAN])
    assert alone.height > draw(film, values).height, "without a notice too"


@pytest.mark.parametrize("shape", [(300, 300), (3000, 2500), (2000, 300)])
def test_many_and_long_warnings_end_in_an_ellipsis(shape):
    bare = layouts.lay_out(shape, None)
    font = texts.caption_font(bare.body)
    for warnings, most in ((["long " * 5000], 3), (["x" * 5000], 3), ([NOT_HUMAN, "long " * 500] * 9, 6)):
        layout = layouts.lay_out(shape, None, warnings)
        assert len(layout.band_lines) == most
        assert layout.band_lines[-1].endswith("…")
        assert all(font.getlength(line) <= layout.text_width for line in layout.band_lines)
        assert draw(grey_film(*shape), no_similarity(*shape), warnings=warnings).size == layout.size


@pytest.mark.parametrize(
    ("text", "drawable", "missing"),
    [
        ("pleural  effusion\n\tright", "pleural effusion right", False),
        ("Épanchement à gauche", "Épanchement à gauche", False),
        ("E\u0301panchement", "Épanchement", False),
        ("nodule ≥ 8 mm, 5 μm – “stable” 2°", "nodule ≥ 8 mm, 5 μm – “stable” 2°", False),
        ("Übergroße Öffnung, GROẞ", "Übergroße Öffnung, GROẞ", False),
        ("Плевральный выпот слева", "Плевральный выпот слева", False),
        ("Πλευριτική συλλογή", "Πλευριτική συλλογή", False),
        ("płyn w jamie opłucnowej, Ångström", "płyn w jamie opłucnowej, Ångström", False),
        ("ﬁbrosis", "fibrosis", False),
        ("肺炎 ж", "\uffff\uffff ж", True),
        ("אב", "\uffff\uffff", True),  # whose letters the font has, but no order from right to left
        ("\ud800\x00\u200b", "\uffff", True),
        ("", "", False),
    ],
)  # fmt: skip
def test_letters_outside_the_font_are_replaced(text, drawable, missing):
    drawn = texts.to_drawable(text)
    assert (drawn.text, drawn.missing) == (drawable, missing)
    assert bool(drawn.note) == missing


def test_a_letter_without_a_glyph_loses_its_accent(monkeypatch):
    monkeypatch.setattr(texts, "_has_glyph", lambda character: character < "\x7f")
    assert texts.to_drawable("é") == texts.Drawable("e", missing=False)


def test_the_font_is_in_the_package_with_its_licence():
    fonts = Path(texts.__file__).parent / "fonts"
    assert "Bitstream Vera" in (fonts / "LICENSE_DEJAVU").read_text(encoding="utf-8")
    assert texts.caption_font(20).getname() == ("DejaVu Sans", "Book")


@pytest.mark.parametrize(
    "sentence", ["胸水があります", "Плевральный выпот", "انصباب جنبي", "\U0001fac1", "\ud800", "", "\x00"]
)
def test_any_sentence_can_be_drawn(sentence):
    film, values = grey_film(300, 300), no_similarity(300, 300)
    picture = draw(film, values, sentence=sentence, notice=NOTICE + " 肺")
    assert picture.size == draw(film, values, notice=NOTICE + " 肺").size
    assert render_film(film, title=sentence).size == draw(film, values).size


def test_boxes_are_explained():
    sentence = "肺"
    film, values = grey_film(300, 300), no_similarity(300, 300)
    layout = layouts.lay_out(film.shape, None)
    rows = slice(layout.probability_y, layout.film[1] - 1)
    latin, other = (np.asarray(draw(film, values, sentence=text))[rows] for text in ("box", sentence))
    assert (latin != other).any()
    note = texts.to_drawable(sentence).note
    font = texts.caption_font(layout.small)
    widest = texts.caption_font(round(layout.body * 1.3)).getlength("p > 0.99") + 2 * layout.body
    assert layout.pad + widest + font.getlength(note) <= layout.size[0]


# --- comparison ---


def test_comparison_places_pictures_row_by_row_in_equal_cells():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
    sizes = [(300, 200), (300, 200), (100, 150), (300, 200), (250, 200)]
    pictures = [Image.new("RGB", size, colour) for size, colour in zip(sizes, colours, strict=True)]
    sheet = np.asarray(render_sheet(pictures, columns=2))
    height, width = sheet.shape[0] / 3, sheet.shape[1] / 2
    for index, (size, colour) in enumerate(zip(sizes, colours, strict=True)):
        found = np.argwhere((sheet == colour).all(axis=-1))
        assert len(found) == size[0] * size[1]
        row, column = found.mean(axis=0)
        assert row == pytest.approx((index // 2 + 0.5) * height, abs=6)
        assert column == pytest.approx((index % 2 + 0.5) * width, abs=6)


@pytest.mark.parametrize(
    ("count", "columns", "grid"),
    [
        (1, None, (1, 1)),
        (3, None, (3, 1)),
        (4, None, (2, 2)),
        (7, None, (3, 3)),
        (3, 1, (1, 3)),
        (2, 9, (2, 1)),
    ],
)
def test_comparison_grid(count, columns, grid):
    sheet = render_sheet([Image.new("L", (400, 300))] * count, columns)
    assert 400 * grid[0] < sheet.width < 420 * grid[0] + 10
    assert 300 * grid[1] < sheet.height < 320 * grid[1] + 10


def test_comparison_has_the_background_of_the_overlays():
    film = grey_film(300, 300)
    overlay = draw(film, no_similarity(300, 300))
    sheet = render_sheet([overlay, render_film(film, title="Film")])
    assert sheet.getpixel((0, 0)) == overlay.getpixel((0, 0))


def test_too_large_a_comparison_is_reduced(monkeypatch):
    monkeypatch.setattr(sheet_module, "MAX_SHEET_PIXELS", 10_000)
    sheet = render_sheet([Image.new("RGB", (400, 300), (0, 200, 0))] * 4)
    assert 8_000 < sheet.width * sheet.height <= 10_000
    assert sheet.width / sheet.height == pytest.approx(4 / 3, rel=0.05)


def test_comparison_refuses_nothing_and_no_columns():
    with pytest.raises(ValueError, match="at least one picture"):
        render_sheet([])
    with pytest.raises(ValueError, match="columns"):
        render_sheet([Image.new("RGB", (10, 10))], columns=0)


# --- checks ---


@pytest.mark.parametrize(
    ("film", "message"),
    [
        (np.zeros((10, 10, 3), dtype=np.uint8), "shape"),
        (np.zeros((0, 10), dtype=np.uint8), "at least one pixel"),
        (np.zeros((10, 10), dtype=np.float32), "uint8"),
        (np.zeros((10, 10), dtype=np.uint16), "uint8"),
    ],
)
def test_unusable_film_is_refused(film, message):
    with pytest.raises(ValueError, match=message):
        draw(film, no_similarity(10, 10))
    with pytest.raises(ValueError, match=message):
        render_film(film, title="Film")


def with_value(value, dtype=np.float32):
    values = np.zeros((20, 30), dtype=dtype)
    values[3, 4] = value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (no_similarity(30, 20), "film's shape"),
        (no_similarity(1, 1), "film's shape"),
        (np.zeros((20, 30, 1), dtype=np.float32), "film's shape"),
        (with_value(np.nan), "NaN"),
        (with_value(1.01), "0..1"),
        (with_value(-0.01), "0..1"),
        (with_value(np.inf), "0..1"),
        (with_value(1, np.uint8), "floating"),
        (with_value(1, np.bool_), "floating"),
    ],
)
def test_unusable_map_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        draw(grey_film(20, 30), values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probability": 1.01}, "probability"),
        ({"probability": -0.1}, "probability"),
        ({"probability": float("nan")}, "probability"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"opacity": -0.1}, "opacity"),
        ({"opacity": 1.1}, "opacity"),
        ({"peak": (30, 0)}, "peak"),
        ({"peak": (0, 20)}, "peak"),
        ({"peak": (-1, 0)}, "peak"),
        ({"covered": (5.0, 0.0, 5.0, 9.0)}, "covered"),
        ({"covered": (0.0, 9.0, 5.0, 8.0)}, "covered"),
        ({"covered": (30.0, 0.0, 40.0, 9.0)}, "covered"),
        ({"covered": (0.0, 0.0, float("nan"), 9.0)}, "covered"),
        ({"notice": "  "}, "notice"),
        ({"notice": "x" * (MAX_NOTICE_CHARACTERS + 1)}, "notice"),
    ],
)
def test_unusable_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        draw(grey_film(20, 30), no_similarity(20, 30), **changes)


def test_film_rectangle_refuses_an_empty_shape():
    with pytest.raises(ValueError, match="shape"):
        film_rectangle((0, 10))


def test_peak_is_x_first():
    picture = draw(grey_film(20, 30), no_similarity(20, 30), peak=(29, 19))
    assert picture.size == draw(grey_film(20, 30), no_similarity(20, 30)).size
    with pytest.raises(ValueError, match="width 30 and height 20"):
        draw(grey_film(20, 30), no_similarity(20, 30), peak=(19, 29))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_floating_type_and_memory_order_gives_the_same_picture(dtype):
    film = np.random.default_rng(1).integers(0, 256, (300, 400), dtype=np.uint8)
    values = np.zeros((300, 400), dtype=np.float32)
    values[50:100, 200:300] = 0.75
    wanted = draw(film, values, notice=NOTICE).tobytes()
    assert draw(np.asfortranarray(film), np.asfortranarray(values.astype(dtype)), notice=NOTICE).tobytes() == wanted


def test_rounding_just_past_one_is_forgiven():
    values = np.full((20, 30), 1.0 + 1e-7, dtype=np.float64)
    assert draw(grey_film(20, 30), values).tobytes() == draw(grey_film(20, 30), np.ones((20, 30))).tobytes()


def test_inputs_are_left_alone():
    film, values = grey_film(700, 700), cone(700, 700, 300, 300, 200)
    film.flags.writeable = values.flags.writeable = False
    before = values.copy()
    draw(film, values, peak=(300, 300), covered=(10.0, 10.0, 600.0, 600.0))
    assert (values == before).all()
    assert (film == 100).all()


def test_large_film_is_quick():
    values = cone(3000, 2500, 1000, 1200, 900)
    film = grey_film(3000, 2500)
    draw(film, values)
    start = time.process_time()
    draw(film, values, peak=(1000, 1200), notice=NOTICE)
    assert time.process_time() - start < 1.4  # about 0.3 s of processor time; twice the goal of 0.7 s


def test_a_table_has_titles_above_its_columns_and_rows():
    colours = [[(200, 0, 0), (0, 200, 0)], [(0, 0, 200), (200, 200, 0)]]
    cells = [[Image.new("RGB", (300, 200), colour) for colour in row] for row in colours]
    long = "There is a large right pleural effusion with compressive atelectasis of the whole lower lobe"
    table = np.asarray(render_table(cells, ["a", long], ["first", "second"]))
    places = [[np.argwhere((table == colour).all(axis=-1)) for colour in row] for row in colours]
    for row in places:
        for found in row:
            assert len(found) == 300 * 200, "no picture is covered or cut"
    tops = [[found[:, 0].min() for found in row] for row in places]
    lefts = [[found[:, 1].min() for found in row] for row in places]
    assert tops[0][0] == tops[0][1] < tops[1][0] == tops[1][1]
    assert lefts[0][0] == lefts[1][0] < lefts[0][1] == lefts[1][1]
    ink = (table < 128).all(axis=-1)
    assert ink[: tops[0][0]].any()
    assert ink[tops[0][0] + 200 : tops[1][0]].any()
    lines = ink[: tops[0][0], lefts[0][1] :].any(axis=1)
    assert np.count_nonzero(np.diff(lines.astype(int)) == 1) >= 2, "a long title is broken into lines"
    assert not ink[: tops[0][0], lefts[0][1] + 300 :].any(), "and stays within its column"
