"""Files that are whole or absent, whatever happens while they are written."""

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file to a temporary name beside it, then rename it; an earlier file stays until then."""
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:  # a full disk is no fuller for it
        with suppress(OSError):
            temporary.unlink()
        raise
