"""Write DICOM results of readings of DICOM files: ``dicom/<item>/<series>-<instance>-<class>.dcm``."""

from pathlib import Path
from typing import Any, ClassVar

from radzero._files import replacing
from radzero.images import RadiographError
from radzero.images.radiograph import DicomHeader
from radzero.prediction.output_folder import item_folder
from radzero.prediction.reading import Reading, SentenceMap
from radzero.prediction.writers.writer import Writer, WriterOptions
from radzero.results.header import ResultError, result_header
from radzero.results.kinds import result_kinds
from radzero.results.making import ResultBuilder


class DicomWriter(Writer):
    """Writer of the chosen kinds; ``results_refused`` in a reading's line says why some or all cannot be made."""

    name: ClassVar[str] = "dicom"
    file_keys: ClassVar[tuple[str, ...]] = ("results",)
    needs_header: ClassVar[bool] = True

    def __init__(self, options: WriterOptions) -> None:
        """Take the kinds that ``options`` names, or all.

        Raises:
            ImportError: see :func:`radzero.results.kinds.require_highdicom`.
        """
        super().__init__(options)
        self.kinds = options.results or result_kinds("all")

    def identity(self) -> dict[str, Any]:
        """Return the kinds."""
        return {"results": list(self.kinds)}

    def begin(self, reading: Reading, header: DicomHeader | None, folder: Path) -> "_Results":
        """Begin the results of a reading."""
        try:
            kept = result_header(header, reading.source)
            builder = ResultBuilder(reading, kept, self.kinds, threshold=self.options.threshold)
        except (ResultError, RadiographError) as error:
            return _Results(reading, folder, None, str(error))
        return _Results(reading, folder, builder, "")


class _Results:
    def __init__(self, reading: Reading, folder: Path, builder: ResultBuilder | None, refused: str) -> None:
        self._reading, self._run, self._builder, self._refused = reading, folder, builder, refused

    def add(self, shown: SentenceMap) -> None:
        if self._builder is not None:
            self._builder.add(shown)

    def finish(self) -> dict[str, Any]:
        if self._builder is None:
            return {"results_refused": self._refused}
        made = self._builder.finish()
        if not made.results:
            return {"results_refused": next(iter(made.left_out.values()))}
        folder = item_folder(self._run / "dicom", self._reading.source)
        written = []
        for result in made.results:
            kind = result.file_meta.MediaStorageSOPClassUID.keyword.removesuffix("Storage")
            path = folder / f"{result.SeriesNumber}-{result.InstanceNumber:03d}-{kind}.dcm"
            with replacing(path) as temporary:
                result.save_as(temporary, enforce_file_format=True)
            written.append(path.relative_to(self._run).as_posix())
        refused = {"results_refused": "; ".join(made.left_out.values())} if made.left_out else {}
        return {"results": written, **refused}
