"""The interface of an output of ``radzero predict``: a :class:`Writer` per run, an :class:`ItemWriter` per reading."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from radzero.images.radiograph import DicomHeader
from radzero.prediction.reading import Reading, SentenceMap

if TYPE_CHECKING:
    from radzero.prediction.output_folder import OutputFolder


@dataclass(frozen=True)
class WriterOptions:
    """Options of all outputs.

    Attributes:
        threshold: threshold of contours and regions, 0..1.
        results: names of kinds of DICOM results (:data:`radzero.results.RESULT_KINDS`); all kinds when empty.
    """

    threshold: float = 0.5
    results: tuple[str, ...] = ()


class ItemWriter(Protocol):
    """Writer of one reading."""

    def add(self, shown: SentenceMap) -> None:
        """Take a sentence's map, which is freed afterwards; this is called for each sentence in order."""
        ...

    def finish(self) -> dict[str, Any]:
        """Write what is left to write; return the entries to add to the reading's line."""
        ...


class Writer:
    """One output of a run. It is pickled for worker processes, so it holds nothing but settings.

    Attributes:
        name: name in the registry.
        file_keys: entries of a line that list the files written, as paths relative to the run's folder. A reading
            whose files are missing is made again when a run is resumed.
        needs_header: whether :meth:`begin` is given the header of a DICOM file.
    """

    name: ClassVar[str]
    file_keys: ClassVar[tuple[str, ...]] = ()
    needs_header: ClassVar[bool] = False

    def __init__(self, options: WriterOptions) -> None:
        self.options = options

    def identity(self) -> dict[str, Any]:
        """Return entries of ``run.json`` for the settings of this output; a run is only resumed with equal ones."""
        return {}

    def begin(self, reading: Reading, header: DicomHeader | None, folder: Path) -> ItemWriter | None:
        """Begin a reading, in the process that also finishes it.

        Args:
            reading: reading to be written.
            header: header of a DICOM file, if :attr:`needs_header`; None for any other file.
            folder: folder of the run.

        Returns:
            An object that takes the sentences' maps; None where there is nothing to write for this reading.
        """
        return None

    def end(self, output: "OutputFolder") -> list[Path]:
        """Write files for the whole run, after all lines are written; return their paths."""
        return []
