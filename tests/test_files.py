"""Files that are whole or absent."""

import errno
import os
from pathlib import Path

import pytest

from radzero._files import write_whole


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "x"), None])
def test_a_folder_that_cannot_be_read_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
):
    def opened(*_: object) -> int:
        if error:
            raise error
        return os.dup(0)  # of which a pipe's or terminal's cannot be flushed

    monkeypatch.setattr("radzero._files.os.open", opened)
    write_whole(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_whole(tmp_path / "a", b"earlier")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("radzero._files.flush", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(tmp_path / "a", b"later")
    assert (tmp_path / "a").read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
