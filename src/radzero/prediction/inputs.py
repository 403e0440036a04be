"""Find what to read: items named by paths, folders and patterns."""

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radzero.images.formats import SUFFIXES

OTHER_SUFFIXES = (
    frozenset(
        {
            *(".csv", ".tsv", ".json", ".jsonl", ".txt", ".md", ".rst", ".html", ".xml", ".yaml", ".yml", ".log"),
            *(".pdf", ".doc", ".docx", ".xls", ".xlsx", ".zip", ".gz", ".tgz", ".tar", ".7z", ".py", ".sh"),
            *(".parquet", ".npy", ".npz", ".pkl", ".pt", ".safetensors"),
        }
    )
    - SUFFIXES
)
"""Endings of files that are no radiographs. In folders and among matches of a pattern such files are counted and left
out; a file that the user names is always tried."""
OTHER_NAMES = frozenset(("dicomdir", "license", "readme", "lockfile", "version"))
"""Names, in lower case and without an ending, of files that hospital disks hold beside the radiographs."""


@dataclass(frozen=True)
class Item:
    """One input, which gets one reading.

    Attributes:
        name: name in ``predictions.jsonl`` and of the item's output files; unique within a run.
        paths: files that the item is read from; a radiograph has one.
    """

    name: str
    paths: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path) -> "Item":
        """Make the item of a radiograph in one file, named by its path."""
        return cls(str(path), (path,))

    def stamp(self) -> list[Any]:
        """Return a mark that differs for another item of the same name, and for this one after its files have changed.

        It holds the absolute path of the first file, the size of all files in bytes, the latest time of change in
        nanoseconds, and the number of files if there are several; the path alone when a file is missing.
        """
        first = str(self.paths[0].absolute())
        try:
            states = [path.stat() for path in self.paths]
        except OSError:
            return [first]
        size, changed = sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)
        return [first, size, changed] if len(states) == 1 else [first, size, changed, len(states)]


@dataclass(frozen=True)
class Inputs:
    """Items to read, and what else was found.

    Attributes:
        items: items in the order in which they are read; missing files and broken links are among them, for the run to
            refuse them by name.
        left_out: files of other kinds in folders, and files that ``radzero predict`` wrote there.
        unsearched: folders that could not be searched, with the reason.
    """

    items: list[Item]
    left_out: list[Path]
    unsearched: dict[Path, str] = field(default_factory=dict)


def find_inputs(inputs: Iterable[str | Path], *, exclude: Path | None = None) -> Inputs:
    """Find the items that paths, folders and glob patterns name.

    Folders are searched to any depth, without hidden files. In folders and among matches a file is taken once, however
    many links lead to it, and the output folders of earlier runs are left out.

    Args:
        inputs: paths of files and folders, and glob patterns.
        exclude: folder that is not searched, such as an output folder inside an input folder.

    Raises:
        ValueError: when no input exists or matches a file; the message names the inputs.
    """
    search = _Search(exclude.resolve() if exclude else None)
    missing: list[str] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            search.folder(path)
        elif path.exists() or path.is_symlink():
            search.file(path)
        elif matches := sorted(glob.glob(str(given), recursive=True)):
            for match in map(Path, matches):
                if match.is_dir():
                    search.folder(match)
                else:
                    search.match(match)
        else:
            missing.append(str(given))
    if missing and not search.files:
        raise ValueError(f"no such file, folder or match: {', '.join(missing)}")
    files = [*search.files, *map(Path, missing)]
    return Inputs([Item.of(path) for path in files], list(search.left_out), search.unsearched)


class _Search:
    """The files found so far.

    Attributes:
        files: files to read, in order.
        left_out: files of other kinds, and files that an earlier run wrote.
        unsearched: folders that could not be searched, with the reason.
    """

    def __init__(self, excluded: Path | None) -> None:
        self._excluded = excluded
        self.files: dict[Path, None] = {}
        self.left_out: dict[Path, None] = {}
        self.unsearched: dict[Path, str] = {}
        self._seen: set[str] = set()

    def file(self, path: Path) -> None:
        """Take a file that the user named."""
        self._seen.add(os.path.realpath(path))
        self.files[path] = None

    def match(self, path: Path) -> None:
        """Take a file from a folder or pattern, unless it was taken before or is of another kind."""
        real = os.path.realpath(path)
        if real in self._seen or (self._excluded and self._excluded in Path(real).parents):
            return
        self._seen.add(real)
        other = path.suffix.lower() in OTHER_SUFFIXES or path.name.lower() in OTHER_NAMES
        (self.left_out if other else self.files)[path] = None

    def folder(self, folder: Path) -> None:
        """Take the files of a folder, at any depth."""
        found: list[Path] = []
        searched: set[str] = set()
        for place, folders, names in os.walk(folder, onerror=self._refuse, followlinks=True):
            if (real := os.path.realpath(place)) in searched:  # a link to a folder that is searched already
                folders[:] = []
                continue
            searched.add(real)
            own = "run.json" in names and "predictions.jsonl" in names
            folders[:] = [] if own else [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(place, name)
                if own:
                    if self._excluded != Path(place).resolve():
                        self.left_out[path] = None
                elif not name.startswith(".") and (path.is_file() or path.is_symlink()):
                    found.append(path)
        for path in sorted(found):
            self.match(path)

    def _refuse(self, error: OSError) -> None:
        self.unsearched[Path(error.filename)] = error.strerror or str(error)
