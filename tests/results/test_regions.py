from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from radzero.results import find_regions


def area(polygon: np.ndarray) -> float:
    total = 0.0
    for (x0, y0), (x1, y1) in pairwise(polygon):
        total += x0 * y1 - x1 * y0
    return abs(total) / 2


def test_a_rectangle():
    values = np.zeros((60, 80), dtype=np.float32)
    values[10:30, 40:70] = 1
    (region,) = find_regions(values, 0.5)
    # the contour runs half way between the centres of pixels inside and outside: on the pixels' edges
    assert region.outline.min(axis=0) == pytest.approx([40, 10], abs=1e-6)
    assert region.outline.max(axis=0) == pytest.approx([70, 30], abs=1e-6)
    assert np.array_equal(region.outline[0], region.outline[-1])
    assert region.area == pytest.approx(20 * 30, abs=2.1)  # corners are cut
    assert not region.holes


def test_a_ring_and_a_dot():
    y, x = np.mgrid[0:200, 0:200] + 0.5
    radius = np.hypot(x - 70, y - 90)
    values = ((radius < 50) & (radius > 20)).astype(np.float32)
    values[150:170, 150:180] = 1
    values[5, 5] = 1  # too small to be a region
    ring, dot = find_regions(values, 0.5)
    assert ring.area == pytest.approx(np.pi * (50**2 - 20**2), rel=0.02)
    (hole,) = ring.holes
    assert area(hole) == pytest.approx(np.pi * 20**2, rel=0.03)
    assert hole.mean(axis=0) == pytest.approx([70, 90], abs=2)
    assert dot.outline.min(axis=0) == pytest.approx([150, 150], abs=1e-6)
    assert len(ring.polygons) == 2
    assert len(dot.polygons) == 1


def test_regions_end_at_the_films_edge():
    (region,) = find_regions(np.ones((40, 70), dtype=np.float32), 0.5)
    assert region.outline.min(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert region.outline.max(axis=0) == pytest.approx([70, 40], abs=1e-6)
    assert region.area == pytest.approx(70 * 40, rel=1e-3)


def test_nothing_is_no_region():
    assert find_regions(np.zeros((40, 40), dtype=np.float32), 0.5) == []


def test_a_threshold_of_zero_and_one():
    values = np.zeros((40, 40), dtype=np.float32)
    values[10:20, 10:20] = 1
    assert find_regions(values, 0.0)[0].area == pytest.approx(1600, rel=1e-3)
    assert sum(region.area for region in find_regions(values, 1.0)) <= 100


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.5, 0.8]))
def test_outlines_hold_the_pixels_that_reach_the_threshold(seed: int, threshold: float):
    """Against Pillow's polygons, of smooth maps as bilinear upsampling gives them."""
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(60, 200, 2))
    cells = rng.random(tuple(rng.integers(2, 7, 2))).astype(np.float32)
    values = np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BILINEAR))
    drawn = Image.new("1", (8 * width, 8 * height))
    pen = ImageDraw.Draw(drawn)
    for region in find_regions(values, threshold, min_area=0, tolerance=0.1):
        pen.polygon([(8 * x, 8 * y) for x, y in region.outline], fill=1)
        for hole in region.holes:
            pen.polygon([(8 * x, 8 * y) for x, y in hole], fill=0)
    inside = np.asarray(drawn)[4::8, 4::8]  # at the pixels' centres
    clear = np.abs(values - threshold) > 0.02
    assert np.mean(inside[clear] != (values >= threshold)[clear]) < 0.005


def test_large_films_are_outlined_on_fewer_pixels():
    y, x = np.mgrid[0:3000, 0:2500]
    values = np.exp(-(((x - 1800) / 300) ** 2) - ((y - 700) / 500) ** 2).astype(np.float32)
    (region,) = find_regions(values, 0.5)
    half = np.sqrt(np.log(2))
    assert region.area == pytest.approx(np.pi * 300 * 500 * half**2, rel=0.002)
    assert region.outline.min(axis=0) == pytest.approx([1800.5 - 300 * half, 700.5 - 500 * half], abs=0.6)
    assert len(region.outline) < 400


def test_no_outline_leaves_the_film():
    """A point between the last pixel's centre and the film's edge may be rounded to beyond it."""
    rows = np.linspace(0.931584939213849, 0.3694044110916809, 64, dtype=np.float32)
    width = 2532
    (region,) = find_regions(np.repeat(rows[:, None], width, axis=1), 0.5)
    assert region.outline[:, 0].max() == width
    assert region.outline.min() >= 0
