"""Raster files: every mode that a radiograph is saved in, and the ones that are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dicom_factory import chest_like, scan_bomb, shared
from radzero.images import RadiographError, ReadLimits, Reason, read_radiograph
from radzero.images.codestream import count_jpeg_scans


def chest8() -> np.ndarray:
    return (chest_like(64, 48) >> 4).astype(np.uint8)


def saved(tmp_path: Path, image: Image.Image, image_format: str, **options: Any) -> Path:
    path = tmp_path / "picture.bin"
    image.save(path, image_format, **options)
    return path


def refused(path: Path, limits: ReadLimits | None = None) -> RadiographError:
    with pytest.raises(RadiographError) as caught:
        read_radiograph(path, limits=limits)
    return caught.value


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_8_bit_grey_is_exact(tmp_path: Path, image_format: str, mode: str) -> None:
    radiograph = read_radiograph(saved(tmp_path, Image.fromarray(chest8()).convert(mode), image_format))
    assert np.array_equal(radiograph.to_uint8(), chest8())
    assert radiograph.warnings == ()
    assert radiograph.spacing is None
    assert radiograph.dicom is None


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_lossy_grey_is_close(tmp_path: Path, image_format: str) -> None:
    radiograph = read_radiograph(saved(tmp_path, Image.fromarray(chest8()), image_format, quality=95))
    assert np.abs(radiograph.to_uint8().astype(int) - chest8()).mean() < 3


@pytest.mark.parametrize(("maximum", "scale"), [(4095, 4095), (65535, 65535), (900, 1023)])
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey(tmp_path: Path, image_format: str, maximum: int, scale: int) -> None:
    image = chest_like(64, 48, maximum)
    radiograph = read_radiograph(saved(tmp_path, Image.fromarray(image), image_format))
    np.testing.assert_allclose(radiograph.pixels, image / scale, atol=1e-7)
    assert f"divided by {scale}, the smallest bit depth" in radiograph.choices[0]


@pytest.mark.parametrize("kind", ["1 bit PNG", "8 bit PNG", "JPEG"])
def test_masks_are_refused(tmp_path: Path, kind: str) -> None:
    mask = np.zeros((256, 320), dtype=bool)
    mask[60:200, 40:120] = mask[60:200, 200:290] = True
    picture = Image.fromarray(mask if kind == "1 bit PNG" else mask.astype(np.uint8) * 255)
    with pytest.raises(RadiographError, match="black or white: this is a mask or a drawing") as caught:
        read_radiograph(saved(tmp_path, picture, "JPEG" if kind == "JPEG" else "PNG"))
    assert caught.value.reason is Reason.BAD_PIXELS


def test_4_bit_png_fills_the_range(tmp_path: Path) -> None:
    # IHDR: 32 x 32, bit depth 4, grey; every row 0..15 twice
    row = b"\0" + bytes((2 * i % 16) << 4 | (2 * i + 1) % 16 for i in range(16))
    path = tmp_path / "four.png"
    path.write_bytes(png([(b"IHDR", struct.pack(">2I5B", 32, 32, 4, 0, 0, 0, 0)), (b"IDAT", zlib.compress(row * 32))]))
    assert read_radiograph(path).to_uint8()[0].tolist() == [17 * (i % 16) for i in range(32)]


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_32_bit_tiff_integers_and_floats(tmp_path: Path) -> None:
    image = chest_like(64, 48)
    integers = read_radiograph(saved(tmp_path, Image.fromarray(image.astype(np.int32)), "TIFF"))
    np.testing.assert_allclose(integers.pixels, image / 4095, atol=1e-7)
    floats = read_radiograph(saved(tmp_path, Image.fromarray((image / 4095).astype(np.float32)), "TIFF"))
    np.testing.assert_allclose(floats.pixels, image / 4095, atol=1e-7)
    error = refused(saved(tmp_path, Image.fromarray(image.astype(np.float32)), "TIFF"))
    assert error.reason is Reason.BAD_PIXELS


def tiff_white_is_zero(image: np.ndarray) -> bytes:
    """A little-endian TIFF with PhotometricInterpretation 0, written by hand."""
    bits = 8 * image.dtype.itemsize
    entries = [(256, 3, image.shape[1]), (257, 3, image.shape[0]), (258, 3, bits), (259, 3, 1), (262, 3, 0)]
    entries += [(273, 4, 8 + 2 + 12 * 9 + 4), (277, 3, 1), (278, 3, image.shape[0]), (279, 4, image.nbytes)]
    ifd = struct.pack("<H", 9) + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8) + ifd + b"\0\0\0\0" + image.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_white_is_zero_is_inverted_once(tmp_path: Path, dtype: type) -> None:
    maximum = np.iinfo(dtype).max
    image = chest_like(64, 48, maximum).astype(dtype)
    path = tmp_path / "film.tif"
    path.write_bytes(tiff_white_is_zero(maximum - image))
    np.testing.assert_allclose(read_radiograph(path).pixels, image / maximum, atol=1e-6)


def test_tiff_with_missing_strips_is_refused(tmp_path: Path) -> None:
    """Pillow reads the strips that are there and leaves the rest black."""
    data = bytearray(tiff_white_is_zero(chest8()))
    struct.pack_into("<I", data, 10 + 12 + 8, 6400)  # ImageLength, 64 in one strip, becomes 6400
    path = tmp_path / "film.tif"
    path.write_bytes(data)
    error = refused(path)
    assert error.reason is Reason.TRUNCATED
    assert "1 % of its 6400 rows" in error.cause


def test_opaque_alpha_is_dropped(tmp_path: Path) -> None:
    for mode in ("RGBA", "LA"):
        radiograph = read_radiograph(saved(tmp_path, Image.fromarray(chest8()).convert(mode), "PNG"))
        assert np.array_equal(radiograph.to_uint8(), chest8())
        assert "alpha channel opaque: dropped" in radiograph.choices
        assert radiograph.warnings == ()


def test_transparency_is_composited_over_black(tmp_path: Path) -> None:
    alpha = np.full((64, 48), 255, np.uint8)
    alpha[:16] = 0
    alpha[16:20] = 51
    rgba = np.dstack([chest8()] * 3 + [alpha])
    radiograph = read_radiograph(saved(tmp_path, Image.fromarray(rgba), "PNG"))
    expected = chest8().astype(float)
    expected[:16] = 0
    expected[16:20] = np.rint(expected[16:20] * 0.2)
    assert np.array_equal(radiograph.to_uint8(), expected)
    assert "transparent" in radiograph.warnings[0]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: rotate 90 degrees clockwise to show
    path = saved(tmp_path, Image.fromarray(chest8()), "PNG", exif=exif)
    radiograph = read_radiograph(path)
    assert np.array_equal(radiograph.to_uint8(), np.rot90(chest8(), k=-1))
    assert "EXIF orientation 6: applied" in radiograph.choices


def test_several_pages_are_refused(tmp_path: Path) -> None:
    page = Image.fromarray(chest8())
    other = Image.fromarray(255 - chest8())
    for image_format in ("TIFF", "PNG", "WEBP"):
        path = saved(tmp_path, page, image_format, save_all=True, append_images=[other])
        error = refused(path)
        assert error.reason is Reason.MULTI_FRAME
        assert "2 pages" in error.cause


def test_main_picture_of_an_mpo_is_read(tmp_path: Path) -> None:
    page, other = Image.fromarray(chest8()), Image.fromarray(255 - chest8())
    radiograph = read_radiograph(saved(tmp_path, page, "MPO", save_all=True, append_images=[other]))
    assert "2 pictures" in radiograph.warnings[0]
    assert np.abs(radiograph.to_uint8().astype(int) - chest8()).mean() < 10


def test_cmyk_is_refused(tmp_path: Path) -> None:
    assert refused(saved(tmp_path, Image.fromarray(chest8()).convert("CMYK"), "JPEG")).reason is Reason.COLOUR


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_truncation_is_refused(tmp_path: Path, image_format: str) -> None:
    image = chest_like(200, 160) >> 4
    path = saved(tmp_path, Image.fromarray(image.astype(np.uint8)), image_format)
    data = path.read_bytes()
    for kept in (0.95, 0.5, 0.1):
        path.write_bytes(data[: int(len(data) * kept)])
        assert refused(path).reason in (Reason.TRUNCATED, Reason.BAD_PIXELS, Reason.BAD_HEADER)
    path.write_bytes(data[: len(data) * 19 // 20])
    if image_format in ("PNG", "JPEG"):
        assert refused(path).reason is Reason.TRUNCATED


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path: Path) -> None:
    """A decoder passes over the whole film in each: two megabytes of them once took minutes."""
    few, many = scan_bomb(40), scan_bomb(200)
    assert count_jpeg_scans(few) == count_jpeg_scans(scan_bomb(0)) + 40
    assert read_radiograph(few).pixels.shape == (64, 64)
    with pytest.raises(RadiographError, match="scans, 100 at most") as refused:
        read_radiograph(many)
    assert refused.value.reason is Reason.TOO_LARGE
    thumbnail = b"\xff\xe1" + struct.pack(">H", 4002) + b"\xff\xda" * 2000  # markers within another segment are none
    assert count_jpeg_scans(few[:2] + thumbnail + few[2:]) == count_jpeg_scans(few)
    assert count_jpeg_scans(few + many) == count_jpeg_scans(few)  # behind the end
    assert count_jpeg_scans(b"\xff\xd8\xff") == 0


def test_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
    # 30000 x 30000 grey pixels in about a kilobyte of honest-looking header
    path = tmp_path / "bomb.png"
    header = struct.pack(">2I5B", 30000, 30000, 8, 0, 0, 0, 0)
    path.write_bytes(png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000)))]))
    assert refused(path).reason is Reason.TOO_LARGE
    assert refused(path, ReadLimits(max_pixels=10**10)).reason is Reason.TOO_LARGE  # Pillow's own limit
    # 12000 x 9000 is beyond the limit here, but only a warning to Pillow
    path.write_bytes(png([(b"IHDR", struct.pack(">2I5B", 12000, 9000, 8, 0, 0, 0, 0))]))
    assert refused(path).reason is Reason.TOO_LARGE


@pytest.mark.parametrize(("kind", "prefix"), [(b"zTXt", b"Comment\0\0"), (b"iCCP", b"profile\0\0")])
def test_compressed_text_and_profile_bombs(tmp_path: Path, kind: bytes, prefix: bytes) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in chest8())
    chunks = [
        (b"IHDR", struct.pack(">2I5B", 48, 64, 8, 0, 0, 0, 0)),
        (kind, prefix + zlib.compress(bytes(80 << 20))),
        (b"IDAT", zlib.compress(rows)),
    ]
    path = tmp_path / "text.png"
    path.write_bytes(png(chunks))
    assert refused(path).reason is Reason.TOO_LARGE


def test_text_and_dpi_do_not_matter(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Nobody")
    radiograph = read_radiograph(saved(tmp_path, Image.fromarray(chest8()), "PNG", pnginfo=text, dpi=(300, 300)))
    assert radiograph.spacing is None


# --- colour
# ---------------------------------------------------------------------------------------------------


def colour_photograph() -> np.ndarray:
    y, x = np.mgrid[0:128, 0:160]
    red = 127 + 120 * np.sin(x / 17)
    green = 127 + 120 * np.sin(y / 23 + 1)
    blue = 127 + 120 * np.sin((x + y) / 31 + 2)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def heat_map() -> np.ndarray:
    value = np.tile(np.linspace(0, 1, 160), (128, 1))
    jet = [np.clip(1.5 - np.abs(4 * value - centre), 0, 1) for centre in (3, 2, 1)]
    return (np.stack(jet, axis=-1) * 255).astype(np.uint8)


def sunset() -> np.ndarray:
    value = np.tile(np.linspace(0, 1, 128)[:, None], (1, 160))
    purple_to_yellow = [0.3 + 0.7 * value, value, 0.4 * (1 - value)]
    return (np.stack(purple_to_yellow, axis=-1) * 255).astype(np.uint8)


@pytest.mark.parametrize("picture", [colour_photograph, heat_map, sunset])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_colour_pictures_are_refused(tmp_path: Path, picture: Any, image_format: str) -> None:
    error = refused(saved(tmp_path, Image.fromarray(picture()), image_format))
    assert error.reason is Reason.COLOUR
    with pytest.raises(RadiographError, match="colour picture"):
        read_radiograph(picture() / 255.0)


def test_coloured_marks_become_luma_with_a_warning(tmp_path: Path) -> None:
    rgb = np.stack([chest8()] * 3, axis=-1)
    rgb[4:12, 4:12] = (250, 30, 20)
    radiograph = read_radiograph(saved(tmp_path, Image.fromarray(rgb), "PNG"))
    assert "coloured marks on 2.1 %" in radiograph.warnings[0]
    assert radiograph.pixels[5, 5] == pytest.approx((0.299 * 250 + 0.587 * 30 + 0.114 * 20) / 255, abs=1e-6)
    assert np.array_equal(radiograph.to_uint8()[12:], chest8()[12:])


def test_a_tint_is_no_colour_picture(tmp_path: Path) -> None:
    grey = chest8().astype(float)
    blue_film = np.stack([grey * 0.6, grey * 0.8, np.minimum(grey * 1.1 + 20, 255)], axis=-1).astype(np.uint8)
    radiograph = read_radiograph(saved(tmp_path, Image.fromarray(blue_film), "PNG"))
    assert "uniform tint" in radiograph.warnings[0]


def test_every_shared_radiograph_is_accepted() -> None:
    folder = shared("images")
    paths = sorted(
        [
            *folder.glob("nih_chestxray14/*.png"),
            *folder.glob("openi/*.png"),
            *folder.glob("covid_chestxray/images/*"),
        ]
    )
    assert len(paths) == 145
    suspected = set()
    for path in paths[::3]:
        radiograph = read_radiograph(path)
        with Image.open(path) as image:
            assert (radiograph.width, radiograph.height) == image.size
            if image.mode == "L":
                assert np.array_equal(radiograph.to_uint8(), np.asarray(image))
        suspected |= {path.name for warning in radiograph.warnings if "inverted" in warning}
    # 00017625_000.png of the NIH release is stored as a negative
    negative = read_radiograph(folder / "nih_chestxray14/00017625_000.png")
    assert "inverted" in negative.warnings[0]
    assert suspected <= {"00017625_000.png"}


def test_rgba_of_the_nih_release_equals_its_channel() -> None:
    seen = 0
    for path in sorted(shared("images/nih_chestxray14").glob("*.png")):
        with Image.open(path) as image:
            if image.mode == "RGBA":
                assert np.array_equal(read_radiograph(path).to_uint8(), np.asarray(image)[..., 0])
                seen += 1
    assert seen >= 2
