"""Read and write manifests, which give each image's sentences, patient and split, as JSON Lines or Parquet.

A manifest has one row per image with the columns ``image`` (a path, relative to the manifest's folder unless absolute),
``sentences``, ``patient``, ``study``, ``view`` and ``split``; further columns are kept. No patient is in two splits.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from radzero._files import replacing
from radzero.errors import RadZeroError

SPLITS = ("train", "validate", "test")
COLUMNS = ("image", "sentences", "patient", "study", "view", "split")
FRONTAL = ("PA", "AP")
REPORT_SENTENCES = "report_sentences"
"""Further column of the report's own sentences about the film."""
PARQUET_HINT = "reading and writing Parquet needs pyarrow: pip install 'radzero[data]'"


class ManifestError(RadZeroError, ValueError):
    """A manifest that cannot be used; the message names the file, the row and the remedy."""


class EmptySplitError(ManifestError):
    """A split without an image that states something."""


@dataclass(frozen=True)
class ManifestRow:
    """An image and what its report states.

    Attributes:
        image: path of the file.
        sentences: finding-sentences, in the report's order.
        patient: identifier of the patient; rows of one patient are in one split.
        study, view: their names in the source, or "".
        split: "train", "validate" or "test".
        extra: further columns and their values.
    """

    image: str
    sentences: tuple[str, ...]
    patient: str
    study: str = ""
    view: str = ""
    split: str = "train"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if taken := sorted(self.extra.keys() & set(COLUMNS)):
            raise ValueError(f"a further column cannot be named {', '.join(taken)}: that is the manifest's own")

    def to_dict(self) -> dict[str, Any]:
        """Return the columns and their values."""
        known = {name: getattr(self, name) for name in COLUMNS}
        return {**known, "sentences": list(self.sentences), **self.extra}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ManifestRow":
        """Make a row from columns and values, which are checked.

        Raises:
            ValueError: when a column is missing or of a wrong type; the message names it.
        """
        for name in ("image", "patient"):
            if not isinstance(values.get(name), str) or not values[name]:
                raise ValueError(f"{name} must be a text that is not empty, not {values.get(name)!r}")
        sentences = values.get("sentences")
        if not isinstance(sentences, Sequence) or isinstance(sentences, str):
            raise ValueError(f"sentences must be a list of texts, not {sentences!r}")
        if not all(isinstance(s, str) and s.strip() for s in sentences):
            raise ValueError("sentences must be texts that are not empty")
        for text in (values["image"], *sentences):
            try:
                text.encode(errors="surrogateescape")
            except UnicodeEncodeError as error:
                raise ValueError(f"{text!r} has half a character in it: {error}") from error
        split = values.get("split") or "train"
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
        study, view = values.get("study") or "", values.get("view") or ""
        extra = {name: value for name, value in values.items() if name not in COLUMNS}
        return cls(values["image"], tuple(sentences), values["patient"], str(study), str(view), split, extra)


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> int:
    """Write a manifest as Parquet if its name ends in .parquet, else as JSON Lines; replace it whole or not at all.

    Returns:
        The number of rows.

    Raises:
        ManifestError: when there is no row, a row that could not be read again, or a patient in two splits; an earlier
            manifest of that name is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    checked = _one_split_each(str(path), _valid(path, rows))
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            count = _write_parquet(path, temporary, checked)
        else:
            count = 0
            with temporary.open("w", encoding="utf-8") as file:
                for row in checked:
                    file.write(_json_line(row))
                    count += 1
        if not count:
            raise ManifestError(f"{path}: there is not one row to write")
    return count


def _valid(path: Path, rows: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
    for row in rows:
        try:
            yield ManifestRow.from_dict(row.to_dict())
        except ValueError as error:
            raise ManifestError(f"{path}: {row.image or 'a row'}: {error}") from error


def _json_line(row: ManifestRow) -> str:
    line = json.dumps(row.to_dict(), ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:  # a file name is not UTF-8
        line = json.dumps(row.to_dict())
    return line + "\n"


def _write_parquet(name: Path, path: Path, rows: Iterable[ManifestRow]) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ManifestError(PARQUET_HINT) from error
    values = [row.to_dict() for row in rows]
    columns = dict.fromkeys(column for row in values for column in row)
    try:
        table = pyarrow.table({column: [row.get(column) for row in values] for column in columns})
        pyarrow.parquet.write_table(table, path)
    except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise ManifestError(f"{name}: cannot be Parquet, write .jsonl instead: {error}") from error
    return int(table.num_rows)


def read_rows(path: Path) -> Iterator[ManifestRow]:
    """Return an iterator over the rows of a manifest.

    Raises:
        ManifestError: for an invalid row, and at the end when a patient is in two splits.
        FileNotFoundError: when there is no such file.
    """
    return _one_split_each(str(path), _checked(path))


def _checked(path: Path) -> Iterator[ManifestRow]:
    for number, values in enumerate(_values(path), 1):
        try:
            yield ManifestRow.from_dict(values)
        except ValueError as error:
            raise ManifestError(f"{path}, row {number}: {error}") from error


def _values(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ManifestError(PARQUET_HINT) from error
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(4096):
                    yield from batch.to_pylist()
        except FileNotFoundError:
            raise
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path}: not whole Parquet: {error}") from error
        return
    for _, values in json_lines(path):
        yield values


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the mappings of a JSON Lines file, each with the number of its line; skip empty lines.

    Raises:
        ManifestError: when a line is no mapping; the message names the file and the line.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode())
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ManifestError(f"{path}, line {number}: not JSON in UTF-8: {error}") from error
            if not isinstance(values, dict):
                raise ManifestError(f"{path}, line {number}: a row must be a mapping, not {values!r}")
            yield number, values


def _one_split_each(name: str, rows: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
    split_of: dict[str, str] = {}
    torn: dict[str, None] = {}
    for row in rows:
        if split_of.setdefault(row.patient, row.split) != row.split:
            torn[row.patient] = None
        yield row
    if torn:
        first = ", ".join(list(torn)[:5])
        raise ManifestError(
            f"{name}: {len(torn)} patients are in two splits ({first}{', ...' if len(torn) > 5 else ''}); "
            "training on a patient of the test split makes its figures worthless"
        )


def _texts(path: Path, row: ManifestRow, texts: str) -> tuple[str, ...]:
    if texts == "findings":
        return row.sentences
    own = row.extra.get(REPORT_SENTENCES)
    if not isinstance(own, Sequence) or isinstance(own, str) or not all(isinstance(s, str) for s in own):
        raise ManifestError(
            f"{path}: {row.image} has no list {REPORT_SENTENCES}, which data.texts: {texts} needs; prepare it again"
        )
    report = tuple(s for s in own if s.strip())
    return report if texts == "report" else tuple(dict.fromkeys((*row.sentences, *report)))


class PackedStrings(Sequence[str]):
    """Hold many strings in two flat arrays, which take little memory."""

    def __init__(self, strings: Iterable[str]) -> None:
        text, ends = bytearray(), array("q", [0])
        for string in strings:
            text += string.encode(errors="surrogateescape")  # a file name may not be UTF-8
            ends.append(len(text))
        self._text, self._ends = bytes(text), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._text[self._ends[index] : self._ends[index + 1]].decode(errors="surrogateescape")


class Manifest:
    """The images of one split and the sentences that they state, in flat arrays.

    Args:
        path: path of the manifest.
        split: name of the split.
        texts: "findings" (the column sentences), "report" (report_sentences) or "merged" (both).
        views: "all", or "frontal" for PA and AP alone.

    Attributes:
        path, split: as given.
        skipped: images of the split that state nothing, and so are not in it.

    Raises:
        EmptySplitError: for a split without an image that states something.
        ManifestError: as :func:`read_rows`.
    """

    def __init__(self, path: Path, split: str, texts: str = "findings", views: str = "all") -> None:
        if split not in SPLITS:
            raise ManifestError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
        self.path, self.split, self.skipped = path, split, 0
        counts: Counter[str] = Counter()
        images, sentences = [], []
        for row in read_rows(path):
            counts[row.split] += 1
            if row.split != split or (views == "frontal" and row.view.upper() not in FRONTAL):
                continue
            stated = _texts(path, row, texts)
            if not stated:
                self.skipped += 1
                continue
            images.append(row.image)
            sentences.append("\n".join(" ".join(s.split()) for s in stated))
        if not images:
            there = ", ".join(f"{count} of {name}" for name, count in counts.items()) or "none at all"
            raise EmptySplitError(f"{path}: no image of the split {split!r} states anything; its rows: {there}")
        self._images, self._sentences = PackedStrings(images), PackedStrings(sentences)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> Path:
        """Return the path of an image's file."""
        return self.path.parent / self._images[index]

    def sentences(self, index: int) -> list[str]:
        """Return the sentences that an image states; there is at least one."""
        return self._sentences[index].split("\n")
