"""Files and folders that are whole or absent, whatever happens while they are written, a power failure included."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


def flush(file: BinaryIO) -> None:
    """Wait until what was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk, where the system can be asked for that (not on Windows)."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to, but not read
        return
    try:
        os.fsync(handle)
    except OSError as error:  # the file system has no such operation
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the temporary path ``<path>.partial`` to write to; it becomes ``path`` when the block ends without an error.

    An earlier file of that name stays until then. The content is on the disk before the name is. After an error the
    temporary file is removed. Streams are opened within the block::

        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            ...
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            flush(file)
        os.replace(temporary, path)
    except BaseException:  # a full disk is no fuller for it
        with suppress(OSError):
            temporary.unlink()
        raise
    flush_folder(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give the new, empty folder ``<folder>.partial`` to fill; it becomes ``folder`` when the block ends without error.

    An earlier folder of that name stays until then, as ``<folder>.earlier`` for the moment of the exchange. After an
    error the temporary folder is removed.
    """
    temporary, earlier = (folder.with_name(folder.name + ending) for ending in (".partial", ".earlier"))
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(earlier, ignore_errors=True)
        if folder.exists():
            os.replace(folder, earlier)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
    flush_folder(folder.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by :func:`replacing`: it has all of the content, or what it had before."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def claim(
    note: Path,
    identity: Mapping[str, Any],
    *,
    holds: str = "another run",
    remedy: str = "name another folder",
    error: type[Exception] = ValueError,
) -> dict[str, Any] | None:
    """Check that a folder is free, or that the run that it holds is this one, before anything is written there.

    Args:
        note: the file in the folder that records its run: a JSON object.
        identity: the entries of the record by which two runs are the same.
        holds: what the folder of another run holds, for the message.
        remedy: what to do then.
        error: the exception that says so.

    Returns:
        The record of the run that is there, or None for a folder without one.

    Raises:
        error: ``"<folder>: holds <holds> (<differences>); <remedy>"``, or that the note is damaged. Differing numbers
            are named with their values.
    """
    if not note.exists():
        return None
    try:
        record = dict(json.loads(note.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as reason:
        raise error(f"{note}: is damaged ({reason}); {remedy}") from reason
    if changed := [key for key, value in identity.items() if record.get(key) != value]:
        numbers = [key for key in changed if isinstance(record.get(key), int)]
        others = [key for key in changed if key not in numbers]
        differences = [f"{key} {record[key]}, not {identity[key]}" for key in numbers]
        differences += [f"other {', '.join(others)}"] if others else []
        raise error(f"{note.parent}: holds {holds} ({'; '.join(differences)}); {remedy}")
    return record
