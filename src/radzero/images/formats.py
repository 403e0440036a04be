"""The file formats that a radiograph is read from: one registry, from which every list of formats is derived.

A format is told by a file's content and never by its name. Suffixes say which files of a folder are worth a look, and
what a browser's file dialogue offers. To add a format, write its reader in a file of its own and add a row here.
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
"""Called with the open file, its name for errors, and what is asked for besides the pixels."""

SNIFF_BYTES = 1024
"""How much of a file's beginning a format is told by, in bytes."""


@dataclass(frozen=True)
class ImageFormat:
    """A file format of radiographs.

    Attributes:
        name: as messages and documents call it.
        suffixes: endings of its files' names, in small letters with the dot; none where names tell nothing.
        matches: whether a file is of this format, by its first :data:`SNIFF_BYTES` bytes and its size in bytes.
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
"""In the order in which a file's content is compared with them."""

SUFFIXES = frozenset(suffix for image_format in FORMATS for suffix in image_format.suffixes)
"""Endings of the names of files that may be radiographs; DICOM files often have others, or none."""


def format_of(head: bytes, size: int) -> ImageFormat | None:
    """The format of a file that begins with ``head`` (:data:`SNIFF_BYTES` bytes) and has ``size`` bytes, or None."""
    return next((image_format for image_format in FORMATS if image_format.matches(head, size)), None)


def format_names() -> str:
    """The formats in a sentence: "DICOM, PNG, JPEG, TIFF, BMP or WebP"."""
    names = [image_format.name for image_format in FORMATS if image_format.suffixes]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def image_files(folder: Path) -> list[Path]:
    """Files below a folder, at any depth, whose names end like those of a format; sorted by path."""
    return sorted(path for path in _files(folder) if path.suffix.lower() in SUFFIXES)


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
