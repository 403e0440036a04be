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
    """Wait until the names in a folder are on the disk, where the system can do that (Windows cannot)."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # the folder may be written to, but not read
        return
    try:
        os.fsync(handle)
    except OSError as error:  # some file systems lack this operation
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
    except BaseException:  # leave nothing behind, not least on a full disk
        with suppress(OSError):
            temporary.unlink()
        raise
    flush_folder(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give the new, empty folder ``<folder>.partial`` to fill; it becomes ``folder`` when the block ends without error.

    An earlier folder of that name stays until then; it is called ``<folder>.earlier`` during the exchange. After an
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
    """Check that a folder holds no run, or this very run, before anything is written there.

    Args:
        note: the file in the folder that records its run: a JSON object.
        identity: the entries of the record that two runs must share to be the same run.
        holds: description of what the folder holds, for the message.
        remedy: advice to the user, for the message.
        error: type of the exception to raise.

    Returns:
        The record of the run in the folder, or None for a folder without a record.

    Raises:
        error: when the folder holds another run (``"<folder>: holds <holds> (<differences>); <remedy>"``), or when the
            note is damaged. Differing numbers are named with their values.
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
