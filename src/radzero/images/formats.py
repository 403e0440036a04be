"""Register the file formats that a radiograph is read from; every list of formats is derived from this registry.

A format is recognised by a file's content and never by its name. Suffixes only help to choose files in a folder, or in
a browser's file dialogue. To add a format, write its reader in a file of its own and add a row to :data:`FORMATS`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from .dicom import read_dicom
from .dicom_header import bare_encoding
from .radiograph import Radiograph, ReadOptions
from .raster import read_raster

Reader: TypeAlias = Callable[[BinaryIO, str, ReadOptions], Radiograph]
"""Function that reads a file; it is called with the file, open at its first byte, its name for errors, and options."""

SNIFF_BYTES = 1024
"""Number of bytes at a file's beginning by which its format is recognised."""


@dataclass(frozen=True)
class ImageFormat:
    """A file format of radiographs.

    Attributes:
        name: name of the format in messages and documents.
        suffixes: endings of its file names, in lower case with the dot; empty where names do not show the format.
        matches: tells whether a file has this format, from its first :data:`SNIFF_BYTES` bytes and its size in bytes.
        read: reads an open file; raises :class:`~radzero.RadiographError`.
    """

    name: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes, int], bool]
    read: Reader


def _by_pillow(name: str) -> Reader:
    def read(file: BinaryIO, source: str, options: ReadOptions) -> Radiograph:
        return read_raster(file, name, source, options.limits)

    return read


def _begins(*signatures: bytes) -> Callable[[bytes, int], bool]:
    return lambda head, size: head.startswith(signatures)


FORMATS = (
    # DICOM comes first: its preamble may hold the signature of another format
    ImageFormat("DICOM", (".dcm", ".dicom"), lambda head, size: head[128:132] == b"DICM", read_dicom),
    ImageFormat("PNG", (".png",), _begins(b"\x89PNG\r\n\x1a\n"), _by_pillow("PNG")),
    ImageFormat("JPEG", (".jpg", ".jpeg"), _begins(b"\xff\xd8\xff"), _by_pillow("JPEG")),
    ImageFormat("TIFF", (".tif", ".tiff"), _begins(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _by_pillow("TIFF")),
    ImageFormat("BMP", (".bmp",), lambda head, size: head.startswith(b"BM") and len(head) >= 16, _by_pillow("BMP")),
    ImageFormat(
        "WebP", (".webp",), lambda head, size: head.startswith(b"RIFF") and head[8:12] == b"WEBP", _by_pillow("WEBP")
    ),
    ImageFormat("DICOM without preamble", (), lambda head, size: bare_encoding(head, size) is not None, read_dicom),
)
"""All formats, in the order in which a file's content is compared with them."""

SUFFIXES = frozenset(suffix for image_format in FORMATS for suffix in image_format.suffixes)
"""Endings of the names of files that may be radiographs; DICOM files often have other endings, or none."""


def format_of(head: bytes, size: int) -> ImageFormat | None:
    """Return the format of a file by ``head``, its first :data:`SNIFF_BYTES` bytes, and its ``size`` in bytes.

    Return None when the file has no known format.
    """
    return next((image_format for image_format in FORMATS if image_format.matches(head, size)), None)


def format_names() -> str:
    """Return the names of the formats as a phrase: "DICOM, PNG, JPEG, TIFF, BMP or WebP"."""
    names = [image_format.name for image_format in FORMATS if image_format.suffixes]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def image_files(folder: Path) -> list[Path]:
    """Return the files below a folder, at any depth, whose names end in one of :data:`SUFFIXES`, sorted by path."""
    return sorted(path for path in _files(folder) if path.suffix.lower() in SUFFIXES)


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
