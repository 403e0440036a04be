"""Writers of the outputs that ``radzero predict`` has besides the lines: :mod:`radzero.prediction.writer_registry`."""

from collections.abc import Iterable, Sequence

from radzero._registry import resolve
from radzero.prediction.writer_registry import WRITERS, WriterSpec
from radzero.prediction.writers.writer import ItemWriter, Writer, WriterOptions


def make_writers(names: Iterable[str], options: WriterOptions) -> tuple[Writer, ...]:
    """Make the writers of these names, in the registry's order.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
        ImportError: when a package that a writer needs is not installed.
    """
    wanted = set(names)
    if unknown := sorted(wanted - WRITERS.keys()):
        raise ValueError(f"{unknown[0]!r}: is no output; there are {', '.join(WRITERS)}")
    return tuple(resolve(spec.writer)(options) for name, spec in WRITERS.items() if name in wanted)


def file_keys(writers: Sequence[Writer]) -> tuple[str, ...]:
    """Return the entries of a line that list files that these writers wrote."""
    return tuple(key for writer in writers for key in writer.file_keys)


__all__ = ["WRITERS", "ItemWriter", "Writer", "WriterOptions", "WriterSpec", "file_keys", "make_writers"]
