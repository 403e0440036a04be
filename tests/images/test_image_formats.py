"""Every format of the registry is read by content, found in folders, named, and refused when it is damaged."""

import random
from pathlib import Path

import numpy as np
import pytest

from dicom_factory import chest_like
from film_files import FILM_FILES
from radzero.images import Radiograph, RadiographError, Reason, read_radiograph
from radzero.images.formats import FORMATS, SNIFF_BYTES, ImageFormat, format_names, format_of, image_files
from radzero.prediction.inputs import find_inputs

GREY = (chest_like(64, 48) >> 4).astype(np.uint8)
EVERY = pytest.mark.parametrize("image_format", FORMATS, ids=lambda image_format: image_format.name)


def test_every_format_has_a_file():
    assert list(FILM_FILES) == [image_format.name for image_format in FORMATS], "tests/film_files.py lacks a format"


@EVERY
def test_a_file_is_read_by_its_content(image_format: ImageFormat, tmp_path: Path):
    content = FILM_FILES[image_format.name](GREY)
    found = format_of(content[:SNIFF_BYTES], len(content))
    assert found is image_format
    wrong = tmp_path / "film.xyz"
    wrong.write_bytes(content)
    for source in (wrong, content):
        radiograph = read_radiograph(source)
        assert isinstance(radiograph, Radiograph)
        assert np.abs(radiograph.to_uint8().astype(int) - GREY).max() <= (20 if image_format.name == "JPEG" else 0)


@EVERY
def test_a_file_is_found_in_folders(image_format: ImageFormat, tmp_path: Path):
    content = FILM_FILES[image_format.name](GREY)
    suffixes = image_format.suffixes or ("",)
    for suffix in (*suffixes, *(suffix.upper() for suffix in suffixes)):
        (tmp_path / f"film{suffix}").write_bytes(content)
    there = sorted(tmp_path.iterdir())
    assert [path for item in find_inputs([str(tmp_path)]).items for path in item.paths] == there
    if image_format.suffixes:
        assert image_files(tmp_path) == there
        assert image_format.name in format_names()


@EVERY
def test_a_cut_file_is_refused_by_name(image_format: ImageFormat, tmp_path: Path):
    content = FILM_FILES[image_format.name](GREY)
    for length in random.Random(3).sample(range(1, len(content) - len(content) // 20), 40):
        path = tmp_path / "cut"
        path.write_bytes(content[:length])
        with pytest.raises(RadiographError) as caught:
            read_radiograph(path)
        assert str(path) in str(caught.value)
        assert caught.value.reason in Reason
        assert caught.value.remedy


@EVERY
def test_noise_behind_a_beginning_is_no_film(image_format: ImageFormat, tmp_path: Path):
    content = FILM_FILES[image_format.name](GREY)
    rng = random.Random(4)
    for _ in range(20):
        path = tmp_path / "noise"
        path.write_bytes(content[: rng.randrange(132, 180)] + rng.randbytes(3000))
        with pytest.raises(RadiographError):
            read_radiograph(path)
