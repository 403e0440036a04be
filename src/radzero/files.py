"""Files that are whole or absent, whatever happens while they are written, be it that the power fails."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


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
    except PermissionError:  # one that may be written, but not read
        return
    try:
        os.fsync(handle)
    except OSError as error:  # of a file system that has no such thing
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file to a temporary name beside it, then rename it; an earlier file stays until then."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            flush(file)
        os.replace(temporary, path)
    except OSError:  # a full disk is no fuller for it
        with suppress(OSError):
            temporary.unlink()
        raise
    flush_folder(path.parent)
