"""Read PNG, JPEG, TIFF, BMP and WebP files, Pillow images and numpy arrays into :class:`Radiograph`.

| case | what is done |
| --- | --- |
| 8-bit grey | divided by 255 |
| 16-bit grey, 32-bit TIFF | divided by 2**b - 1, where b is the least of 8, 10, 12, 14, 15, 16 that holds the maximum |
| float (TIFF, arrays) | must be within 0..1, else ``bad_pixels`` |
| TIFF "white is zero" | inverted |
| 1-bit | read as 0 and 1, and refused like every image that is only black and white |
| only black and white (a mask, a drawing) | ``bad_pixels`` |
| palette, RGB | read as grey when the colours are grey, see :mod:`.grey`; a colour picture is refused, ``colour`` |
| CMYK, YCCK, LAB, HSV | ``colour`` |
| opaque alpha | dropped |
| transparent alpha | composited over black, warning |
| EXIF orientation | applied, and recorded as a choice |
| several pages, animation | ``multi_frame`` |
| JPEG with extra pictures (MPO) | the main one is read, warning |
| looks like a negative | read as stored, warning |
| side below 32 pixels | ``too_small`` |
| every pixel equal | ``constant`` |
| truncated, damaged | ``truncated``, ``bad_pixels`` |
| more pixels than the limit | ``too_large``, before decoding |
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from radzero._warnings import quiet

from .codestream import MOST_SCANS, count_jpeg_scans
from .grey import Grey, full_scale, grey_from_colour, grey_from_integers, refuse_negative, row_blocks
from .radiograph import (
    Radiograph,
    RadiographError,
    ReadLimits,
    Reason,
    check_not_constant,
    check_not_mask,
    check_size,
    polarity_warnings,
    refusing,
)

_ALPHA_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}
_COLOUR_MODES = {"CMYK", "YCbCr", "LAB", "HSV"}
_REEXPORT = "Export the image again as PNG, or ask the source for an undamaged copy"


def read_raster(file: BinaryIO, image_format: str, source: str, limits: ReadLimits) -> Radiograph:
    """Read an open PNG, JPEG, TIFF, BMP or WebP file.

    Args:
        file: open binary file at any position; it is read from its start.
        image_format: name of the format in Pillow: "PNG", "JPEG", "TIFF", "BMP" or "WEBP".
        source: name of the file in errors.
        limits: limits that are checked against the header, before decoding.

    Raises:
        RadiographError: when the file is refused; see the table of this module.
    """
    with quiet():  # Pillow warns about damaged EXIF data and large images; the limits here decide instead
        file.seek(0)
        image = _open(file, image_format, source)
        with image:
            return _from_opened(image, source, limits)


def read_pil(image: Image.Image, source: str, limits: ReadLimits) -> Radiograph:
    """Read a Pillow image of any grey or RGB mode, loaded or not. Raise the errors of :func:`read_raster`."""
    with quiet():
        return _from_opened(image, source, limits)


def read_array(array: NDArray[Any], source: str, limits: ReadLimits) -> Radiograph:
    """Read a numpy array of display values (bones bright).

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); unsigned or signed integers without negative
            values, or floats within 0..1.
        source: name of the array in errors.
        limits: limits beyond which the array is refused.

    Raises:
        RadiographError: ``bad_shape`` (a stack of images, a channel-first image), ``bad_pixels`` (bool,
            negative, NaN, float out of 0..1, more than 16 bits, only black and white), ``too_small``, ``too_large``,
            ``constant``, ``colour``.
    """
    _check_array(array, source)
    samples = 1 if array.ndim == 2 else array.shape[2]
    check_size(source, array.shape[0], array.shape[1], samples, limits)
    if array.ndim == 3 and samples == 1:
        array = array[..., 0]
    what = f"{array.dtype} array"
    if array.dtype.kind == "f":
        grey = _grey_from_float_array(array, source)
    elif array.ndim == 2:
        grey = grey_from_integers(array, source, what)
    else:
        grey = _grey_from_integer_colour(array, source)
    return _finish(grey, source)


def _check_array(array: NDArray[Any], source: str) -> None:
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        if array.size == 0:
            raise RadiographError(source, Reason.BAD_SHAPE, "the array is empty", "Pass an array (H, W)")
    elif array.ndim == 3 and array.shape[0] in (1, 3, 4):
        raise RadiographError(
            source,
            Reason.BAD_SHAPE,
            f"shape {array.shape} has its channels first",
            "Pass numpy.moveaxis(array, 0, -1), an array (H, W) or (H, W, 3)",
        )
    elif array.ndim in (3, 4):
        raise RadiographError(
            source,
            Reason.BAD_SHAPE,
            f"shape {array.shape} looks like a stack of images",
            "Pass a list of (H, W) arrays, one per radiograph: pass a list",
        )
    else:
        raise RadiographError(
            source, Reason.BAD_SHAPE, f"shape {array.shape} is no image", "Pass an array (H, W) or (H, W, 3)"
        )
    if array.dtype.kind == "b":
        raise RadiographError(
            source,
            Reason.BAD_PIXELS,
            "a bool array is a mask, not a radiograph",
            "Pass the grey values; for a deliberate black-and-white image pass array.astype(float)",
        )
    if array.dtype.kind not in "uif":
        raise RadiographError(
            source,
            Reason.BAD_PIXELS,
            f"dtype {array.dtype} is no grey value",
            "Pass uint8, uint16 or float 0..1",
        )


def _grey_from_float_array(array: NDArray[Any], source: str) -> Grey:
    low, high = float(array.min()), float(array.max())  # min and max propagate NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RadiographError(
            source,
            Reason.BAD_PIXELS,
            "the array has NaN or infinite values",
            "Replace them, for example with numpy.nan_to_num",
        )
    if low < 0.0 or high > 1.0:
        raise RadiographError(
            source,
            Reason.BAD_PIXELS,
            f"floats run from {low:.6g} to {high:.6g}, but must be display values within 0..1",
            "Scale them: ((array - black) / (white - black)).clip(0, 1), with the window's limits",
        )
    choice = f"{array.dtype} array within 0..1: used as it is"
    if array.ndim == 2:
        return Grey(np.ascontiguousarray(array, dtype=np.float32), (choice,))
    # colour decisions need no more than 16 bits; equal channels keep their float values
    colour, notes = _drop_alpha(array, 1.0)
    if np.array_equal(colour[..., 0], colour[..., 1]) and np.array_equal(colour[..., 0], colour[..., 2]):
        return Grey(np.ascontiguousarray(colour[..., 0], dtype=np.float32), (choice, *notes.choices), notes.warnings)
    quantised = np.rint(colour.astype(np.float64) * 65535).astype(np.uint16)
    return _with_notes(grey_from_colour(quantised, 65535, source), notes)


def _grey_from_integer_colour(array: NDArray[Any], source: str) -> Grey:
    """Convert (H, W, 3|4) integers to grey; alpha has the same scale as the colours."""
    if array.dtype == np.uint8:
        scale = 255
    else:
        refuse_negative(array, source)
        scale = full_scale(int(array.max()), source)
    colour, notes = _drop_alpha(array, scale)
    return _with_notes(grey_from_colour(colour, scale, source), notes)


def _with_notes(grey: Grey, notes: Grey) -> Grey:
    return Grey(grey.pixels, (*notes.choices, *grey.choices), (*notes.warnings, *grey.warnings))


def _open(file: BinaryIO, image_format: str, source: str) -> Image.Image:
    try:
        return Image.open(file, formats=[image_format])
    except Image.DecompressionBombError as exc:
        raise RadiographError(
            source,
            Reason.TOO_LARGE,
            f"Pillow refuses it as a possible decompression bomb ({exc})",
            "If the file is genuine, raise PIL.Image.MAX_IMAGE_PIXELS and ReadLimits.max_pixels",
        ) from exc
    except Exception as exc:
        if "MAX_TEXT" in str(exc):
            raise RadiographError(
                source, Reason.TOO_LARGE, f"its text or profile chunks are a bomb ({_short(exc)})", _REEXPORT
            ) from exc
        # Pillow raises UnidentifiedImageError, SyntaxError, ValueError, struct.error, OverflowError, ...
        raise RadiographError(
            source,
            Reason.BAD_HEADER,
            f"the {image_format} header is damaged or of an unsupported kind ({_short(exc)})",
            _REEXPORT,
        ) from exc


def _short(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__


def _from_opened(image: Image.Image, source: str, limits: ReadLimits) -> Radiograph:
    check_size(source, image.height, image.width, _samples(image.mode), limits)
    choices: list[str] = []
    warnings: list[str] = []
    _refuse_frames(image, source, warnings)
    if image.mode in _COLOUR_MODES:
        raise RadiographError(
            source, Reason.COLOUR, f"the image is stored as {image.mode} colour", "Convert it to greyscale"
        )
    white_is_zero = _white_is_zero_16bit(image, source)
    opened_as = image.format or "Pillow image"
    _refuse_missing_strips(image, source)
    _refuse_many_scans(image, source)
    _load(image, source)
    image = _apply_orientation(image, source, choices, warnings)
    grey = _grey_from_pil(image, source, opened_as)
    if white_is_zero:
        np.subtract(np.float32(1.0), grey.pixels, out=grey.pixels)
        choices.append("TIFF photometric interpretation white-is-zero: inverted")
    merged = Grey(grey.pixels, (*choices, *grey.choices), (*warnings, *grey.warnings))
    return _finish(merged, source)


def _samples(mode: str) -> int:
    return 1 if mode.startswith("I") else Image.getmodebands(mode)


def _refuse_frames(image: Image.Image, source: str, warnings: list[str]) -> None:
    with refusing(source, Reason.BAD_HEADER, "the pages of the file can not be counted", _REEXPORT):
        frames = int(getattr(image, "n_frames", 1))
    if frames <= 1:
        return
    if image.format == "MPO":
        warnings.append(f"the JPEG holds {frames} pictures; the main one was read")
        return
    raise RadiographError(
        source,
        Reason.MULTI_FRAME,
        f"the file holds {frames} pages or frames",
        "Save each page as a file of its own and pass those",
    )


def _white_is_zero_16bit(image: Image.Image, source: str) -> bool:
    """Tell whether a TIFF has the photometric interpretation that Pillow inverts only up to 8 bits."""
    if image.format != "TIFF" or image.mode in ("1", "L", "P"):
        return False
    tags = getattr(image, "tag_v2", None)
    with refusing(source, Reason.BAD_HEADER, "the TIFF tags can not be read", _REEXPORT):
        return bool(tags is not None and tags.get(262) == 0)


def _refuse_missing_strips(image: Image.Image, source: str) -> None:
    """Refuse a file whose strips do not cover the image: Pillow would leave the rest black without an error."""
    tiles = getattr(image, "tile", None)
    if not tiles:  # the image is already decoded
        return
    covered = 0
    with refusing(source, Reason.BAD_HEADER, "the layout of the pixel data is damaged", _REEXPORT):
        for tile in tiles:
            left, top, right, bottom = tile[1] or (0, 0, image.width, image.height)
            covered += max(0, min(right, image.width) - left) * max(0, min(bottom, image.height) - top)
    if covered < image.width * image.height:
        share = covered / (image.width * image.height)
        raise RadiographError(
            source,
            Reason.TRUNCATED,
            f"the file holds only {100 * share:.3g} % of its {image.height} rows",
            "Copy or download the file again",
        )


def _refuse_many_scans(image: Image.Image, source: str) -> None:
    """Refuse a JPEG with more than :data:`MOST_SCANS` scans (per strip or tile in a TIFF), since each takes time."""
    file = getattr(image, "fp", None)
    jpeg_in_tiff = image.format == "TIFF" and "jpeg" in str(image.info.get("compression"))
    if file is None or not (jpeg_in_tiff or image.format in ("JPEG", "MPO")):
        return
    with refusing(source, Reason.UNREADABLE, "the file can not be read again", _REEXPORT):
        position = file.tell()
        file.seek(0)
        content = file.read()
        file.seek(position)
        tags = getattr(image, "tag_v2", {})
        pieces = max(1, len(tags.get(273, ())), len(tags.get(324, ()))) if jpeg_in_tiff else 1
    scans = content.count(b"\xff\xda") if jpeg_in_tiff else count_jpeg_scans(content)
    if scans > MOST_SCANS * pieces:
        raise RadiographError(
            source, Reason.TOO_LARGE, f"the JPEG has {scans:,} scans, {MOST_SCANS} at most are read", _REEXPORT
        )


def _load(image: Image.Image, source: str) -> None:
    try:
        image.load()
    except Exception as exc:
        # codecs raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        truncated = "truncated" in str(exc).lower() or isinstance(exc, EOFError)
        if isinstance(exc, MemoryError):
            raise RadiographError(
                source, Reason.TOO_LARGE, "not enough memory to decode it", "Use a machine with more memory"
            ) from exc
        raise RadiographError(
            source,
            Reason.TRUNCATED if truncated else Reason.BAD_PIXELS,
            f"the image data is {'cut short' if truncated else 'damaged'} ({_short(exc)})",
            "Copy or download the file again" if truncated else _REEXPORT,
        ) from exc


def _apply_orientation(image: Image.Image, source: str, choices: list[str], warnings: list[str]) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as exc:
        # the EXIF block is optional and often damaged: warn, and show the pixels as they are stored
        warnings.append(f"the EXIF data is damaged and was ignored ({_short(exc)})")
        return image
    if orientation not in (2, 3, 4, 5, 6, 7, 8):
        return image
    with refusing(source, Reason.BAD_PIXELS, "the EXIF orientation can not be applied", _REEXPORT):
        turned = ImageOps.exif_transpose(image)
    choices.append(f"EXIF orientation {orientation}: applied")
    return turned


def _grey_from_pil(image: Image.Image, source: str, what: str) -> Grey:
    mode = image.mode
    if mode == "P" or "transparency" in image.info:
        with refusing(source, Reason.BAD_PIXELS, "the palette or transparency can not be applied", _REEXPORT):
            image = _without_palette(image)
        mode = image.mode
    if mode == "1":
        pixels = np.asarray(image).astype(np.float32)
        return Grey(pixels, (f"1-bit {what}: 0 and 1",), ("the image has only two grey levels (1 bit)",))
    if mode == "L":
        return grey_from_integers(np.asarray(image), source, f"8-bit {what}")
    if mode == "I" or mode.startswith("I;16"):
        bits = 32 if mode == "I" else 16
        return grey_from_integers(np.asarray(image), source, f"{bits}-bit {what}")
    if mode == "F":
        return _grey_from_float_array(np.asarray(image), source)
    if mode in _ALPHA_MODES:
        with refusing(source, Reason.BAD_PIXELS, "the alpha channel can not be applied", _REEXPORT):
            array = np.asarray(image.convert("RGBA"))
        return _grey_from_integer_colour(array, source)
    if mode in ("RGB", "RGBX"):
        return grey_from_colour(np.asarray(image)[..., :3], 255, source)
    raise RadiographError(source, Reason.UNSUPPORTED, f"Pillow mode {mode} is not supported", "Convert it to L")


def _without_palette(image: Image.Image) -> Image.Image:
    """Convert a palette to RGB and colour-key transparency to RGBA; leave a 16-bit colour key alone."""
    if "transparency" in image.info and not image.mode.startswith("I"):
        return image.convert("RGBA")
    if image.mode == "P":
        return image.convert("RGB")
    return image


def _drop_alpha(array: NDArray[Any], scale: float) -> tuple[NDArray[Any], Grey]:
    """Drop opaque alpha of (H, W, 3|4), composite transparency over black. Return colours (H, W, 3) and notes."""
    nothing = np.empty((0, 0), dtype=np.float32)
    if array.shape[2] == 3:
        return array, Grey(nothing)
    alpha = array[..., 3]
    if bool((alpha == scale).all()):
        return array[..., :3], Grey(nothing, ("alpha channel opaque: dropped",))
    composited = np.empty((*array.shape[:2], 3), dtype=array.dtype)
    for rows in row_blocks(*array.shape[:2]):
        product = array[rows, :, :3].astype(np.float64) * (alpha[rows, :, None].astype(np.float64) / scale)
        composited[rows] = product if array.dtype.kind == "f" else np.rint(product)
    share = float(np.mean(alpha < scale))
    return composited, Grey(
        nothing,
        ("alpha channel: composited over black",),
        (f"{100 * share:.1f} % of the image is transparent; it was composited over black",),
    )


def _finish(grey: Grey, source: str) -> Radiograph:
    check_not_constant(source, grey.pixels)
    check_not_mask(source, grey.pixels)
    warnings = (*grey.warnings, *polarity_warnings(grey.pixels))
    return Radiograph(pixels=grey.pixels, source=source, warnings=warnings, choices=grey.choices)
