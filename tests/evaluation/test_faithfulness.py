"""Deletion and insertion, contrary sentences and sides, on cases worked by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radzero.evaluation.benchmark import Benchmark, BenchmarkImage, Region
from radzero.evaluation.contrasts import one_sided, with_contrasts
from radzero.evaluation.faithfulness import (
    FRACTIONS,
    area,
    blurred,
    chosen_regions,
    measure_faithfulness,
    removal_curve,
)
from radzero.images import Radiograph

SIDE = 60


def film() -> Radiograph:
    """Grey, with a small white square that is 1 % of it."""
    pixels = np.full((SIDE, SIDE), 0.25, dtype=np.float32)
    pixels[24:30, 36:42] = 1
    return Radiograph(pixels=pixels, source="square")


def brightness(films) -> np.ndarray:
    """How much of the square is there: 1 in the film, about 0 when blurred."""
    return np.array([(f.pixels[24:30, 36:42].mean() - 0.25) / 0.75 for f in films])


def test_a_blurred_film_keeps_its_brightness_and_loses_what_is_small():
    found = blurred(film().pixels)
    assert found.dtype == np.float32
    assert found.mean() == pytest.approx(film().pixels.mean(), abs=0.01)
    assert found.max() < 0.75
    assert blurred(np.full((31, 47), 0.5, dtype=np.float32)) == pytest.approx(np.full((31, 47), 0.5), abs=1e-6)


def test_a_map_of_the_square_deletes_it_at_once_and_inserts_it_at_once():
    order = np.zeros((SIDE, SIDE))
    order[24:30, 36:42] = 1
    deleted, inserted = (removal_curve(brightness, film(), order, insert=i) for i in (False, True))
    rest = brightness([Radiograph(pixels=blurred(film().pixels), source="")])[0]
    assert deleted == pytest.approx([1] + [rest] * (len(FRACTIONS) - 1))
    assert inserted == pytest.approx([rest] + [1] * (len(FRACTIONS) - 1))
    assert area(deleted) == pytest.approx(rest + 0.01 * (1 - rest) / 2)
    assert area(inserted) == pytest.approx(1 - 0.01 * (1 - rest) / 2)


def test_a_map_of_everything_else_deletes_it_last():
    order = np.ones((SIDE, SIDE))
    order[24:30, 36:42] = 0
    assert removal_curve(brightness, film(), order)[:-1] == pytest.approx([1] * (len(FRACTIONS) - 1))


def test_areas_of_straight_lines():
    assert area(list(FRACTIONS)) == pytest.approx(0.5)
    assert area([1.0] * len(FRACTIONS)) == pytest.approx(1)


# -- a benchmark -------------------------------------------------------------------------------------------


class Seeing:
    """Sees the white square, and says on which side it is."""

    name, sha256 = "seeing", ""

    def __init__(self, *, maps: bool = True) -> None:
        self.maps = maps

    def embed_sentences(self, sentences):
        return list(sentences)

    def embed_images(self, films):
        return films

    def logits(self, images, sentences):
        bright = np.array([(f.pixels > 0.9).mean() for f in images])
        return np.array([[20 * (b * 50 - 0.25) * (-1 if " no " in s else 1) for s in sentences] for b in bright])

    def raw_map(self, images, sentences, film, sentence):
        if not self.maps:
            return None
        square = np.where(images[film].pixels > 0.9, 6.0, -6.0).astype(np.float32)
        wrong = " no " in sentences[sentence] or " right " in sentences[sentence]
        return -np.abs(square) if wrong else square


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    boxes = {"0": ((36.0, 24.0, 42.0, 30.0),), "1": (), "2": ((2.0, 24.0, 8.0, 30.0),), "3": ((28.0, 1.0, 40.0, 9.0),)}
    images = []
    for name, own in boxes.items():
        pixels = np.full((SIDE, SIDE), 64, dtype=np.uint8)
        for x0, y0, x1, y1 in own:
            pixels[int(y0) : int(y1), int(x0) : int(x1)] = 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        images.append(BenchmarkImage(name, name, tmp_path / f"{name}.png"))
    regions = tuple(Region(k, 0, "Square", own, frame=(SIDE, SIDE)) for k, own in enumerate(boxes.values()) if own)
    truth = np.array([[1], [0], [1], [1]], dtype=np.int8)
    return Benchmark("squares", tuple(images), ("There is Square",), ("Square",), (0,), truth, regions, ("pointing",))


def test_sides_are_those_of_boxes_that_lie_in_one_half(benchmark: Benchmark):
    assert one_sided(benchmark)[:, 0].tolist() == ["left", "", "right", ""], "the patient's right is the image's left"


def test_contrary_sentences_are_added_once(benchmark: Benchmark):
    found = with_contrasts(benchmark)
    wanted = ("There is Square", "There is no Square", "There is right Square", "There is left Square")
    assert found.sentences == wanted
    assert (found.contrasts["Square"].denied, found.contrasts["Square"].right, found.contrasts["Square"].left) == (
        1, 2, 3,
    )  # fmt: skip
    assert with_contrasts(found).sentences == wanted
    fewer = found.without(["0"])
    assert fewer.sides is not None
    assert fewer.sides[:, 0].tolist() == ["", "right", ""]


def test_sentences_of_another_form_have_no_contrary(benchmark: Benchmark):
    from dataclasses import replace

    phrases = replace(benchmark, sentences=("a white square",))
    assert with_contrasts(phrases).sentences == ("a white square",)


def test_cases_are_spread_over_classes(benchmark: Benchmark):
    assert [r.image for r in chosen_regions(benchmark, 2)] == [0, 2]
    assert [r.image for r in chosen_regions(benchmark, 1)] == [0]
    assert [r.image for r in chosen_regions(benchmark, 99)] == [0, 2, 3]


def test_what_is_measured_at_a_case(benchmark: Benchmark, tmp_path: Path):
    import json

    path = measure_faithfulness(with_contrasts(benchmark), Seeing(), tmp_path)
    assert path is not None
    first, second, third = json.loads(path.read_text())["cases"]
    assert [case["image"] for case in (first, second, third)] == ["0", "2", "3"]
    for case in (first, second, third):
        assert case["deletion"][0] == pytest.approx(1 / (1 + np.exp(-20 * (50 * 36 / 3600 - 0.25))), abs=0.01)
        assert area(case["deletion"]) < area(case["random order"]) < area(case["insertion"])
        assert case["map of the sentence"] == pytest.approx(1 / (1 + np.exp(-6)))
        assert case["map of its negation"] == pytest.approx(1 / (1 + np.exp(6)))
    assert first["map of its side"] > 0.9 > 0.1 > first["map of the other side"]
    assert second["map of its side"] < 0.1 < 0.9 < second["map of the other side"], "it says left of everything"
    assert "map of its side" not in third, "across the middle"


def test_a_model_without_maps_is_not_measured(benchmark: Benchmark, tmp_path: Path):
    assert measure_faithfulness(benchmark, Seeing(maps=False), tmp_path) is None
    assert not (tmp_path / "faithfulness.json").exists()
