"""Give the verbs what they share: the two consoles, progress, errors in words, and common options."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from radzero.errors import RadZeroError

if TYPE_CHECKING:
    from radzero.prediction.inputs import Inputs

console = Console()
errors = Console(stderr=True)


class Precision(StrEnum):
    """Matrix-product precisions that torch knows."""

    HIGHEST = "highest"
    HIGH = "high"
    MEDIUM = "medium"


# -- options that several verbs have ----------------------------------------------------------------------

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Checkpoint: a folder, a hub id, or packaged (the default)."),
]
RevisionOption = Annotated[
    str | None,
    typer.Option("--revision", help="Branch, tag or commit of a hub id; OWNER/NAME@REVISION does the same."),
]
LocalOption = Annotated[
    bool,
    typer.Option("--local-files-only", help="Never contact the hub; read a hub id from this machine's cache."),
]
DeviceOption = Annotated[str | None, typer.Option(help="Device: cpu, cuda, ...; a GPU is used if there is one.")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="Precision of float32 matrix products; medium is faster on many CPUs.")
]
SentenceOption = Annotated[
    list[str] | None,
    typer.Option("--sentence", "-s", help='A sentence to ask, such as "There is pneumothorax".'),
]
FindingsOption = Annotated[
    list[str] | None,
    typer.Option(help="Named set of findings, each asked by its prompt; see `radzero findings`."),
]


# -- lines of text -------------------------------------------------------------------------------------------


def say(text: object) -> None:
    """Print a line of plain text, never broken: a path may be in it."""
    console.print(escape(str(text)), highlight=False, soft_wrap=True)


def warn(text: object) -> None:
    """Print a line in yellow on standard error."""
    errors.print(f"[yellow]{escape(str(text))}[/]", highlight=False, soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 file", "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def left_out(found: "Inputs") -> list[str]:
    """Return a phrase about the files that were left out; none when there are none."""
    if not found.left_out:
        return []
    kinds = sorted({path.suffix.lower() for path in found.left_out})
    return [f"{counted(len(found.left_out), 'file')} in folders left out as not films ({' '.join(kinds)})"]


def say_unsearched(found: "Inputs") -> None:
    """Name the folders that could not be looked into."""
    for folder, reason in found.unsearched.items():
        errors.print(f"[red]not searched[/] {escape(f'{folder}: {reason}')}", highlight=False, soft_wrap=True)


# -- progress -----------------------------------------------------------------------------------------------


def progress_bars() -> Progress:
    """Return progress bars on standard error."""
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=os.environ.get("RANK", "0") != "0",  # of torchrun's processes only the first prints
    )


def phase_bars(progress: Progress) -> Callable[[str, int, int], None]:
    """Return a function that shows a bar per phase, from its name, the work that is done and the work in all."""
    tasks: dict[str, TaskID] = {}

    def on_progress(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = progress.add_task(phase, total=total)
        progress.update(tasks[phase], completed=done, total=total)

    return on_progress


# -- errors -------------------------------------------------------------------------------------------------

_REMEDIES = {
    FileExistsError: "is a file; name a folder",
    NotADirectoryError: "a part of this path is a file; name a folder",
    IsADirectoryError: "is a folder; name a file",
    PermissionError: "may not be read or written by this user",
    FileNotFoundError: "is not there",
}


@contextmanager
def interruptible(then: str = "; run the same command again to go on") -> Iterator[None]:
    """Let Ctrl-C end the work inside with one line and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(f"interrupted{then}", highlight=False)
        raise typer.Exit(130) from None


@contextmanager
def errors_in_words(*others: type[Exception]) -> Iterator[None]:
    """Let expected errors end the work inside with one line and exit code 2.

    Args:
        *others: exceptions besides the library's own, ValueError, OSError and ImportError.
    """
    expected: Sequence[type[Exception]] = (RadZeroError, ValueError, OSError, ImportError, *others)
    try:
        yield
    except typer.Exit:  # a RuntimeError, which may be among the others
        raise
    except tuple(expected) as error:
        raise fail(error) from error


def fail(problem: str | Exception) -> typer.Exit:
    """Print what went wrong, and return the exit to raise."""
    message = str(problem)
    if isinstance(problem, OSError) and problem.strerror:  # without its number
        message = problem.strerror
        if problem.filename:
            message = f"{problem.filename}: {_REMEDIES.get(type(problem), problem.strerror)}"
    errors.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    return typer.Exit(2)


def unwritable(folder: Path, error: OSError, then: str = "") -> typer.Exit:
    """Print that a folder cannot be written, and why; return the exit to raise."""
    reason = _REMEDIES.get(type(error), f"cannot be written ({error.strerror or error})")
    return fail(f"{error.filename or folder}: {reason}{then}")
