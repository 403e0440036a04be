"""Phantom films: deterministic, never mirrored, and showing what they say, where they say it."""

import hashlib
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from radzero.phantom.detector import _GLYPHS
from radzero.phantom.film import Film, make_film
from radzero.phantom.findings import (
    DEVICES,
    DRAWING_ORDER,
    EITHER_OR_BOTH,
    EXCLUSIVE,
    FINDINGS,
    ONE_SIDED,
    ZONED,
    Finding,
    Grade,
    sample_finding,
    sample_findings,
)

SIZE = 96
SEED = 7
CASES = 8  # films per finding and grade


@cache
def normal(index: int, size: int = SIZE) -> Film:
    return make_film(SEED, index, size=size, findings=())


@cache
def with_finding(name: str, grade: Grade, index: int, size: int = SIZE) -> Film:
    """A film with one finding, at the same place in every grade."""
    place = sample_finding(name, np.random.default_rng([index, FINDINGS.index(name) if name in FINDINGS else 99]))
    return make_film(SEED, index, size=size, findings=(Finding(name, grade, place.side, place.zone),))


def midline(film: Film) -> np.ndarray:
    """Column of the body's midline in every row (H, 1), from position and rotation of the patient alone."""
    height, width = film.pixels.shape
    rows = (np.arange(height) + 0.5) / height * film.body.film_height - film.body.shift_y - 12.0
    x_cm = film.body.shift_x - np.tan(film.body.rotation) * rows
    return (x_cm / film.body.film_width + 0.5)[:, None] * width


def on_image_left(film: Film) -> np.ndarray:
    """(H, W) what lies on the left of the picture: the patient's right."""
    return np.arange(film.pixels.shape[1])[None, :] + 0.5 < midline(film)


def at(film: Film, x_cm: float, y_cm: float, radius_cm: float = 0.6) -> float:
    """Mean pixel around a place in cm from the midline and below the apex, looked up without the phantom's code."""
    height, width = film.pixels.shape
    row = (y_cm + film.body.shift_y) / film.body.film_height * height
    middle = float(midline(film)[min(max(int(row), 0), height - 1), 0])
    column = middle + x_cm / film.body.film_width * width
    half = max(1, round(radius_cm / film.body.film_height * height))
    rows = slice(max(round(row) - half, 0), round(row) + half + 1)
    return float(film.pixels[rows, max(round(column) - half, 0) : round(column) + half + 1].mean())


# -- the same for the same seed --------------------------------------------------------------------


def fingerprint(film: Film) -> str:
    digest = hashlib.sha256(film.pixels.tobytes())
    for evidence in film.evidence:
        digest.update(repr((evidence.finding, evidence.boxes)).encode())
        digest.update(evidence.mask.tobytes())
    return digest.hexdigest()


def test_films_are_the_same_in_another_process_and_in_any_order():
    here = {index: fingerprint(make_film(11, index, size=72)) for index in (5, 0, 3)}
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_film import fingerprint; from radzero.phantom.film import make_film\n"
        "for index in (0, 3, 5): print(index, fingerprint(make_film(11, index, size=72)))"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {int(k): v for k, v in (line.split() for line in there.splitlines())} == here
    assert fingerprint(make_film(11, 3, size=72)) == here[3]


def test_films_of_other_indexes_and_seeds_differ():
    films = [make_film(seed, index, size=72) for seed in (0, 1) for index in range(4)]
    assert len({fingerprint(film) for film in films}) == len(films)
    # not the same patient with other noise either
    assert len({film.body.half_width for film in films}) == len(films)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), index=st.integers(0, 2**40), size=st.integers(72, 120))
def test_any_seed_gives_a_film(seed: int, index: int, size: int):
    film = make_film(seed, index, size=size)
    assert film.pixels.dtype == np.float32
    assert film.pixels.shape[0] == size
    assert film.pixels.shape[1] == round(size * film.body.film_width / film.body.film_height)
    assert np.isfinite(film.pixels).all()
    assert film.pixels.min() >= 0
    assert film.pixels.max() <= 1
    assert film.pixels.std() > 0.1
    assert np.abs(film.to_uint8() / 255 - film.pixels).max() <= 0.5 / 255 + 1e-6
    assert film.pixel_mm[0] == pytest.approx(film.body.film_height * 10 / size)
    # pixels are square but for the rounding of the width
    assert film.pixel_mm[1] == pytest.approx(film.pixel_mm[0], rel=0.51 / film.pixels.shape[1] + 1e-6)
    assert len(film.evidence) == len(film.findings)
    assert all(e.mask.shape == film.pixels.shape for e in film.evidence)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_film_is_the_same_at_every_size(index: int):
    small, large = make_film(3, index, shape=(192, 184)), make_film(3, index, shape=(384, 368))
    reduced = large.pixels.reshape(192, 2, 184, 2).mean(axis=(1, 3))
    assert np.corrcoef(small.pixels.ravel(), reduced.ravel())[0, 1] > 0.98
    assert abs(float(small.pixels.mean() - reduced.mean())) < 0.02
    assert np.abs(small.pixels - reduced).mean() < 0.03
    assert small.findings == large.findings
    for a, b in zip(small.evidence, large.evidence, strict=True):
        assert np.allclose(np.array(a.boxes) * 2, np.array(b.boxes), atol=4)
    for name, mask in small.anatomy.items():
        assert large.anatomy[name].mean() == pytest.approx(mask.mean(), abs=0.01)


def test_shape_squashes_the_film_that_size_gives():
    film = make_film(3, 4, size=128)
    squashed = make_film(3, 4, shape=(128, 128))
    wanted = np.asarray(Image.fromarray(film.pixels).resize((128, 128), Image.Resampling.BILINEAR))
    assert squashed.pixels.shape == (128, 128)
    assert np.corrcoef(wanted.ravel(), squashed.pixels.ravel())[0, 1] > 0.97


# -- never mirrored --------------------------------------------------------------------------------


def test_heart_knob_and_bubble_lie_on_the_picture_s_right():
    heart, knob, bubble = [], [], []
    for index in range(30):
        film = normal(index, 160)
        body = film.body
        level = body.dome[1] - 3.0
        heart.append(at(film, 0.8 * body.heart_left, level) - at(film, -0.8 * body.heart_left, level))
        knob_x = body.shift_mediastinum + 2.4 + 0.8 * body.knob
        knob.append(at(film, knob_x, 6.2, 0.3) - at(film, -knob_x, 6.2, 0.3))
        mask = film.anatomy["heart"]
        assert (mask & ~on_image_left(film)).sum() > 1.2 * (mask & on_image_left(film)).sum(), index
        if body.bubble > 1.4:
            y = body.dome[1] + 0.8 + body.bubble
            bubble.append(at(film, -0.36 * body.half_width, y) - at(film, 0.36 * body.half_width, y))
    assert np.mean(np.array(heart) > 0) >= 0.9  # brighter where the heart is
    assert np.mean(heart) > 0.1
    assert np.mean(knob) > 0.01
    assert len(bubble) > 5
    assert np.mean(np.array(bubble) > 0) >= 0.9  # darker where the air is


def marker_letters(film: Film) -> tuple[np.ndarray, float]:
    """The burned-in pixels of the first marker letter, cut out, and the column of its centre; only ink is exactly 1."""
    ink = film.pixels == 1.0
    labels, count = ndimage.label(ink, structure=np.ones((3, 3)))
    assert count >= 1
    pieces = ndimage.find_objects(labels)
    rows, columns = min(pieces, key=lambda piece: piece[0].start)
    return ink[rows, columns], (columns.start + columns.stop) / 2


def test_the_side_marker_is_on_its_own_side_and_reads_the_right_way():
    seen: Counter[str] = Counter()
    for index in range(24):
        film = make_film(SEED, index, size=320, findings=())
        letter, column = marker_letters(film)
        marker = film.exposure.marker
        seen[marker] += 1
        assert (column < film.pixels.shape[1] / 2) == (marker == "R")
        drawn = np.asarray(Image.fromarray(letter).resize((5, 7), Image.Resampling.NEAREST))
        match = {
            name: (drawn == glyph).mean()
            for name in "RL"
            for glyph in [np.array([[c == "#" for c in row] for row in _GLYPHS[name]])]
        }
        mirrored = np.array([[c == "#" for c in row] for row in _GLYPHS[marker]])[:, ::-1]
        assert match[marker] > 0.85
        assert match[marker] > (drawn == mirrored).mean() + 0.1
    assert seen["R"] > seen["L"] > 0


@pytest.mark.parametrize("name", [*ONE_SIDED, *EITHER_OR_BOTH, "pacemaker"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_one_sided_finding_is_on_its_own_side(name: str, side: str):
    zone = "mid" if name in ZONED else None
    for index in range(6):
        film = make_film(SEED, index, size=SIZE, findings=(Finding(name, Grade.PLAIN, side, zone),))
        mask, right = film.evidence[0].mask, on_image_left(film)
        share = (mask & right).sum() / mask.sum()
        # a lead crosses to the right ventricle; everything else stays on its side of the midline
        limit = 0.55 if name == "pacemaker" else 0.02
        assert (1 - share if side == "right" else share) <= limit, (index, share)
        # and the pixels say the same: what changed is on that side
        change = np.abs(film.pixels - normal(index).pixels)
        change = np.where(change > 0.04, change, 0)  # less is the display window, which follows the whole film
        if name != "atelectasis" and change.sum() > 1:  # atelectasis pulls the whole mediastinum
            on_right = change[right].sum() / change.sum()
            assert (on_right > 0.5) == (side == "right"), (index, on_right)


def test_zones_are_in_order_from_top_to_bottom():
    for name in ZONED:
        for index in range(4):
            heights = []
            for zone in ("upper", "mid", "lower"):
                film = make_film(SEED, index, size=SIZE, findings=(Finding(name, Grade.PLAIN, "right", zone),))
                heights.append(np.nonzero(film.evidence[0].mask)[0].mean())
            assert all(a < b for a, b in pairwise(heights)), (name, index, heights)


def test_bilateral_findings_are_on_both_sides_with_a_box_each():
    for name in EITHER_OR_BOTH:
        for index in range(4):
            film = make_film(SEED, index, size=SIZE, findings=(Finding(name, Grade.MODERATE, "bilateral"),))
            mask, right = film.evidence[0].mask, on_image_left(film)
            assert 0.15 < (mask & right).sum() / mask.sum() < 0.85
            assert len(film.evidence[0].boxes) == 2


# -- masks and boxes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("grade", list(Grade))
@pytest.mark.parametrize("name", [*FINDINGS, *DEVICES])
def test_every_finding_has_a_mask_inside_its_boxes_inside_the_film(name: str, grade: Grade):
    for index in range(CASES):
        (evidence,) = with_finding(name, grade, index).evidence
        height, width = evidence.mask.shape
        assert evidence.mask.any(), index
        assert 1 <= len(evidence.boxes) <= 2
        covered = np.zeros_like(evidence.mask)
        for x0, y0, x1, y1 in evidence.boxes:
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            covered[int(np.ceil(y0)) : int(np.floor(y1)), int(np.ceil(x0)) : int(np.floor(x1))] = True
            inside = evidence.mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
            assert inside.any(), "a box around nothing"
        assert not (evidence.mask & ~covered).any(), index


def test_sampled_films_have_masks_too():
    empty = []
    for index in range(80):
        film = make_film(SEED, index, size=SIZE)
        empty += [(index, e.finding) for e in film.evidence if not e.mask.any() or not e.boxes]
    assert empty == []


# -- what the findings look like ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FINDINGS)
def test_plain_findings_change_the_film_more_than_subtle_ones(name: str):
    change = {
        grade: np.mean([np.abs(with_finding(name, grade, k).pixels - normal(k).pixels).mean() for k in range(15)])
        for grade in (Grade.PLAIN, Grade.SUBTLE)
    }
    assert change[Grade.SUBTLE] > 1e-4
    assert change[Grade.PLAIN] > 1.1 * change[Grade.SUBTLE]


def test_a_pneumothorax_is_darker_and_has_no_markings():
    darker, smoother = [], []
    for index in range(8):
        film, without = with_finding("pneumothorax", Grade.PLAIN, index, 256), normal(index, 256)
        air = ndimage.binary_erosion(film.evidence[0].mask, iterations=6)  # without the pleural line
        assert air.sum() > 50
        fine = [f.pixels - ndimage.gaussian_filter(f.pixels, 4.0) for f in (film, without)]
        darker.append(float(film.pixels[air].mean() - without.pixels[air].mean()))
        smoother.append(float(fine[0][air].std() / fine[1][air].std()))
    assert max(darker) < 0
    assert np.mean(smoother) < 0.95


def test_an_effusion_whitens_the_base():
    for grade in (Grade.PLAIN, Grade.MODERATE):
        for index in range(8):
            film, without = with_finding("pleural effusion", grade, index), normal(index)
            mask = film.evidence[0].mask
            assert film.pixels[mask].mean() > without.pixels[mask].mean() + 0.02, (grade, index)
            rows = np.nonzero(mask)[0]
            assert rows.mean() > 0.5 * mask.shape[0]


@pytest.mark.parametrize("name", ["consolidation", "mass", "nodule", "calcification"])
def test_opacities_are_brighter_than_the_lung_that_they_replace(name: str):
    for index in range(8):
        film, without = with_finding(name, Grade.PLAIN, index), normal(index)
        mask = film.evidence[0].mask
        assert film.pixels[mask].mean() > without.pixels[mask].mean() + 0.02, index


def test_emphysema_darkens_and_flattens_and_edema_whitens():
    for index in range(6):
        without = normal(index)
        lungs = without.anatomy["right lung"] | without.anatomy["left lung"]
        edema = with_finding("pulmonary edema", Grade.PLAIN, index)
        assert edema.pixels[edema.evidence[0].mask].mean() > without.pixels[edema.evidence[0].mask].mean() + 0.05
        emphysema = with_finding("emphysema", Grade.PLAIN, index)
        lower = [np.nonzero(f.anatomy["right diaphragm"])[0].min() for f in (without, emphysema)]
        assert lower[1] > lower[0]
        assert emphysema.anatomy["right lung"].sum() + emphysema.anatomy["left lung"].sum() > lungs.sum()


def cardiothoracic_ratio(film: Film) -> float:
    """Of the masks, as it is measured on a film: widest heart over widest inner chest."""
    heart = np.flatnonzero(film.anatomy["heart"].any(axis=0))
    lungs = np.flatnonzero((film.anatomy["right lung"] | film.anatomy["left lung"]).any(axis=0))
    return (heart[-1] - heart[0] + 1) / (lungs[-1] - lungs[0] + 1)


def test_cardiomegaly_is_a_ratio_above_a_half():
    for index in range(CASES):
        big = {grade: cardiothoracic_ratio(with_finding("cardiomegaly", grade, index)) for grade in Grade}
        assert min(big.values()) > 0.5, index
        assert big[Grade.PLAIN] > big[Grade.SUBTLE]
        assert cardiothoracic_ratio(normal(index)) < min(big.values())
    assert np.mean([cardiothoracic_ratio(normal(k)) < 0.51 for k in range(30)]) > 0.9


# -- plans -------------------------------------------------------------------------------------------


def test_sampled_plans_are_mixed_and_possible():
    rng = np.random.default_rng(0)
    plans = [sample_findings(rng) for _ in range(3000)]
    found = [[f for f in plan if f.name in FINDINGS] for plan in plans]
    assert {len(f) for f in found} == {0, 1, 2, 3, 4}
    assert 0.15 < np.mean([not f for f in found]) < 0.3
    names = Counter(f.name for plan in plans for f in plan)
    assert set(names) == {*FINDINGS, *DEVICES}
    assert all(0.05 < names[device] / len(plans) < 0.14 for device in DEVICES)
    assert any(not f and plan for f, plan in zip(found, plans, strict=True)), "devices on normal films too"
    for plan in plans:
        assert len({f.name for f in plan}) == len(plan)
        assert not any({f.name for f in plan} >= pair for pair in EXCLUSIVE)
    for finding in (f for plan in plans for f in plan):
        sides = {"right", "left"}
        if finding.name in EITHER_OR_BOTH:
            sides |= {"bilateral"}
        elif finding.name not in (*ONE_SIDED, "central venous catheter", "pacemaker"):
            sides = {None}
        assert finding.side in sides
        assert (finding.zone in ("upper", "mid", "lower")) == (finding.name in ZONED)
    grades = Counter(f.grade for plan in found for f in plan)
    assert all(0.3 < grades[g] / grades.total() < 0.37 for g in Grade)


def test_normal_films_show_nothing_and_devices_do_not_count():
    film = normal(0)
    assert film.is_normal
    assert film.evidence == film.findings == ()
    device = make_film(SEED, 0, size=SIZE, findings=(Finding("pacemaker", Grade.PLAIN, "left"),))
    assert device.is_normal
    assert [f.name for f in device.findings] == ["pacemaker"]
    assert (np.abs(device.pixels - film.pixels) > 0.1).any()
    assert not with_finding("nodule", Grade.SUBTLE, 0).is_normal


def test_a_plan_overrides_the_sampled_findings_and_keeps_the_patient():
    nodule, effusion = Finding("nodule", Grade.PLAIN, "left", "upper"), Finding("pleural effusion", side="right")
    film = make_film(SEED, 2, size=SIZE, findings=(effusion, nodule))
    assert film.findings == (nodule, effusion), "in drawing order"
    assert [f.name for f in film.findings] == sorted((f.name for f in film.findings), key=DRAWING_ORDER.index)
    turned = make_film(SEED, 2, size=SIZE, findings=(nodule, effusion))
    assert np.array_equal(film.pixels, turned.pixels)
    assert film.body == normal(2).body
    assert film.exposure == normal(2).exposure
    untouched = ~ndimage.binary_dilation(film.evidence[0].mask | film.evidence[1].mask, iterations=8)
    change = np.abs(film.pixels - normal(2).pixels)
    assert change[untouched].mean() < 0.02  # the display window follows the whole film
    assert change[~untouched].mean() > 2 * change[untouched].mean()


def test_both_projections_and_both_formats_occur():
    films = [normal(index, 72) for index in range(60)]
    projections = Counter(film.body.projection for film in films)
    assert projections["PA"] > projections["AP"] > 5
    assert any(film.pixels.shape[1] > film.pixels.shape[0] for film in films), "landscape"
    assert any(film.pixels.shape[1] < film.pixels.shape[0] for film in films), "portrait"
    ratio = {p: np.mean([cardiothoracic_ratio(f) for f in films if f.body.projection == p]) for p in projections}
    assert ratio["AP"] > ratio["PA"], "the heart is magnified on AP films"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0), "negative"),
        ((0, -1), "negative"),
        ((0, 0, 63), "64 pixels"),
        ((0, 0, 0), "64 pixels"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[int, ...], message: str):
    seed, index, *size = arguments
    with pytest.raises(ValueError, match=message):
        make_film(seed, index, size=size[0] if size else 96)


def test_bad_shapes_and_findings_are_refused():
    with pytest.raises(ValueError, match="64 pixels"):
        make_film(0, 0, shape=(96, 63))
    with pytest.raises(ValueError, match=r".+"):
        make_film(0, 0, size=96, findings=(Finding("measles"),))


@pytest.mark.parametrize(
    "arguments",
    [("measles",), ("nodule", Grade.PLAIN, "Left", "upper"), ("nodule", Grade.PLAIN, "left"), ("mass", Grade.PLAIN)],
)
def test_an_impossible_finding_says_what_is_wrong(arguments: tuple[str, ...]):
    with pytest.raises(ValueError, match=r"measles|side|zone"):
        Finding(*arguments)  # type: ignore[arg-type]
