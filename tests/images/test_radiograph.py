"""The Radiograph type, its errors, and what read_radiograph accepts besides files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_factory import chest_like, dicom_bytes
from radzero.images import Radiograph, RadiographError, ReadLimits, Reason, read_radiograph


def refused(source: object, **limits: int) -> RadiographError:
    with pytest.raises(RadiographError) as caught:
        read_radiograph(source, limits=ReadLimits(**limits))  # type: ignore[arg-type]
    return caught.value


def ramp8(height: int = 40, width: int = 32) -> np.ndarray:
    return (np.arange(height * width).reshape(height, width) % 256).astype(np.uint8)


def test_every_8_bit_value_round_trips() -> None:
    image = ramp8()
    radiograph = read_radiograph(image)
    assert np.array_equal(radiograph.to_uint8(), image)
    assert radiograph.pixels.dtype == np.float32
    assert radiograph.pixels.flags.c_contiguous
    assert (radiograph.height, radiograph.width) == (40, 32)
    rgb = radiograph.to_rgb()
    assert rgb.mode == "RGB"
    assert rgb.size == (32, 40)
    assert np.array_equal(np.asarray(rgb), np.stack([image] * 3, axis=-1))


def test_a_radiograph_is_returned_as_it_is() -> None:
    radiograph = read_radiograph(ramp8())
    assert read_radiograph(radiograph) is radiograph


def test_array_kinds_agree() -> None:
    image = ramp8()
    expected = image.astype(np.float32) / 255
    for array in (
        image[..., None],
        np.stack([image] * 3, axis=-1),
        np.dstack([image, image, image, np.full_like(image, 255)]),
        expected,
        expected.astype(np.float64),
        image.astype(np.int32),
        np.asfortranarray(image),
        image.astype(">i2"),
        np.stack([expected] * 3, axis=-1),
    ):
        np.testing.assert_allclose(read_radiograph(array).pixels, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("maximum", "scale"),
    [
        (200, 255),
        (255, 255),
        (256, 1023),
        (1023, 1023),
        (1024, 4095),
        (4096, 16383),
        (16384, 32767),
        (40000, 65535),
    ],
)
def test_16_bit_scale_is_the_smallest_bit_depth(maximum: int, scale: int) -> None:
    image = np.linspace(0, maximum / 2, 32 * 32).reshape(32, 32).astype(np.uint16)
    image[3, 4] = maximum
    radiograph = read_radiograph(image)
    assert radiograph.pixels[3, 4] == pytest.approx(maximum / scale)
    assert f"divided by {scale}" in radiograph.choices[0]


@pytest.mark.parametrize(
    ("array", "reason", "says"),
    [
        (np.zeros((5, 64, 64), np.uint8), Reason.BAD_SHAPE, "pass a list"),
        (np.zeros((2, 64, 64, 3), np.uint8), Reason.BAD_SHAPE, "pass a list"),
        (np.zeros((3, 64, 64), np.uint8), Reason.BAD_SHAPE, "moveaxis"),
        (np.zeros(64, np.uint8), Reason.BAD_SHAPE, "no image"),
        (np.zeros((0, 64), np.uint8), Reason.BAD_SHAPE, "empty"),
        (np.eye(64, dtype=bool), Reason.BAD_PIXELS, "mask"),
        (np.eye(64, dtype=complex), Reason.BAD_PIXELS, "complex"),
        (np.eye(64).astype(object), Reason.BAD_PIXELS, "object"),
        (np.eye(64) * 255.0, Reason.BAD_PIXELS, "(array - black) / (white - black)"),
        (np.eye(64) - 0.5, Reason.BAD_PIXELS, "within 0..1"),
        (np.where(np.eye(64) > 0, np.nan, 0.0), Reason.BAD_PIXELS, "NaN"),
        (np.where(np.eye(64) > 0, np.inf, 0.0), Reason.BAD_PIXELS, "infinite"),
        (-np.eye(64, dtype=np.int16), Reason.BAD_PIXELS, "negative"),
        (np.eye(64, dtype=np.int32) * 70000, Reason.BAD_PIXELS, "16 bits"),
        (np.full((64, 64), 7, np.uint8), Reason.CONSTANT, "same value"),
        (np.eye(31, dtype=np.uint8), Reason.TOO_SMALL, "31 x 31"),
        (np.zeros((31, 500), np.uint8), Reason.TOO_SMALL, "31 x 500"),
    ],
)
def test_arrays_that_are_refused(array: np.ndarray, reason: Reason, says: str) -> None:
    error = refused(array)
    assert error.reason is reason
    assert says in str(error)
    assert str(error) == f"{error.source}: {error.cause}. {error.remedy}."


def test_limits_hold_for_arrays_and_pillow_images() -> None:
    assert refused(ramp8(), max_pixels=1000).reason is Reason.TOO_LARGE
    assert refused(Image.fromarray(ramp8()), max_pixels=1000).reason is Reason.TOO_LARGE
    assert read_radiograph(ramp8(), limits=ReadLimits(max_pixels=40 * 32)).height == 40
    with pytest.raises(ValueError, match="max_pixels"):
        ReadLimits(max_pixels=0)


def test_pillow_image_names_its_file_or_itself(tmp_path: Path) -> None:
    assert read_radiograph(Image.fromarray(ramp8())).source == "Pillow image (L 32x40)"
    path = tmp_path / "a.png"
    Image.fromarray(ramp8()).save(path)
    with Image.open(path) as image:
        assert read_radiograph(image).source == str(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing.png").reason is Reason.NOT_FOUND
    assert refused(tmp_path).reason is Reason.UNREADABLE
    assert refused("/dev/zero").reason is Reason.UNREADABLE
    assert refused("a\0b.png").reason is Reason.UNREADABLE
    assert refused("x" * 5000).reason is Reason.UNREADABLE
    empty = tmp_path / "empty.png"
    empty.touch()
    assert refused(empty).reason is Reason.EMPTY
    text = tmp_path / "report.png"
    text.write_text("FINDINGS: the lungs are clear. " * 9)
    assert refused(str(text)).reason is Reason.NOT_AN_IMAGE
    assert refused(text, max_file_bytes=10).reason is Reason.TOO_LARGE


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    dicom = tmp_path / "really_dicom.png"
    dicom.write_bytes(dicom_bytes(chest_like(), bits=12))
    assert read_radiograph(dicom).dicom is not None
    png = tmp_path / "really_png.dcm"
    Image.fromarray(ramp8()).save(png, "PNG")
    assert read_radiograph(png).dicom is None


def test_other_types_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="not list"):
        read_radiograph([ramp8()])  # type: ignore[arg-type]


def test_radiograph_checks_its_pixels() -> None:
    for pixels in (
        np.zeros((4, 4)),
        np.zeros((4, 4, 1), np.float32),
        np.zeros((4, 8), np.float32)[:, ::2],
        np.full((4, 4), 1.5, np.float32),
        np.full((4, 4), np.nan, np.float32),
        np.zeros((0, 4), np.float32),
    ):
        with pytest.raises(ValueError, match=r"Radiograph\.pixels"):
            Radiograph(pixels=pixels, source="test")


def test_error_survives_a_worker_process() -> None:
    error = RadiographError("a.png", Reason.COLOUR, "it is red", "Make it grey")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "a.png: it is red. Make it grey."
    assert (again.reason, again.source) == ("colour", "a.png")


def test_negative_is_suspected_not_corrected() -> None:
    chest = (chest_like(200, 160) >> 4).astype(np.uint8)
    assert read_radiograph(chest).warnings == ()
    negative = read_radiograph(255 - chest)
    assert "inverted" in negative.warnings[0]
    assert np.array_equal(negative.to_uint8(), 255 - chest)
