"""What an output of ``radzero predict`` is: a :class:`Writer` of the run, an :class:`ItemWriter` of each reading."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from radzero.images.radiograph import DicomHeader
from radzero.prediction.reading import Reading, SentenceMap

if TYPE_CHECKING:
    from radzero.prediction.output_folder import OutputFolder


@dataclass(frozen=True)
class WriterOptions:
    """What the user chose for all outputs.

    Attributes:
        threshold: of contours and regions, 0..1.
        results: names of DICOM kinds, :data:`radzero.results.RESULT_KINDS`.
    """

    threshold: float = 0.5
    results: tuple[str, ...] = ()


class ItemWriter(Protocol):
    """Writes one reading."""

    def add(self, shown: SentenceMap) -> None:
        """Take a sentence's map, which is gone afterwards. Called for each sentence in order."""
        ...

    def finish(self) -> dict[str, Any]:
        """Write what is left to write; the entries that the reading's line gets."""
        ...


class Writer:
    """One output of a run. It travels to worker processes, so it holds settings alone.

    Attributes:
        name: the registry's.
        file_keys: entries of a line that list the files written, as paths relative to the run's folder. A reading
            whose files are gone is made again when a run is resumed.
        needs_header: whether :meth:`begin` is given the header of a DICOM file.
    """

    name: ClassVar[str]
    file_keys: ClassVar[tuple[str, ...]] = ()
    needs_header: ClassVar[bool] = False

    def __init__(self, options: WriterOptions) -> None:
        self.options = options

    def identity(self) -> dict[str, Any]:
        """Entries of ``run.json``: what makes runs different that have this output."""
        return {}

    def begin(self, reading: Reading, header: DicomHeader | None, folder: Path) -> ItemWriter | None:
        """Begin a reading, in whichever process finishes it.

        Args:
            reading: what is to be written.
            header: of a DICOM file, if :attr:`needs_header`; None of any other file.
            folder: of the run.

        Returns:
            What takes the sentences' maps; None where there is nothing to write of this reading.
        """
        return None

    def end(self, output: "OutputFolder") -> list[Path]:
        """Write what is of the whole run, once all lines are written; the paths that were written."""
        return []
