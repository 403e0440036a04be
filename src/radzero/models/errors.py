"""The error for a checkpoint that cannot be loaded, and how messages quote values from its files."""

from typing import Any

from radzero.errors import RadZeroError

_QUOTED = 80


class CheckpointError(RadZeroError, ValueError):
    """A checkpoint cannot be loaded; the message names the folder, what is wrong and what to do."""


def short(value: Any) -> str:
    """Return a value from a file as messages quote it: printable, at most 80 characters."""
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 3]}..."


def shown_name(name: str) -> str:
    """Return a name from a file, such as a tensor's, as messages show it: printable, at most 240 characters."""
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= 3 * _QUOTED else f"{name[: 3 * _QUOTED - 3]}..."
