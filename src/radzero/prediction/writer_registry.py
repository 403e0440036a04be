"""The registry of the outputs of ``radzero predict``, from which options, help and documents are derived.

The line in ``predictions.jsonl`` is always written. To add an output, write a
:class:`~radzero.prediction.writers.writer.Writer` in a file of its own and add a row; ``radzero predict --write NAME``
then offers it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class WriterSpec:
    """A row of the registry.

    Attributes:
        name: name in the option ``--write``.
        help: what the output is, in words.
        writer: ``module:class`` of the :class:`Writer`, imported when first needed.
    """

    name: str
    help: str
    writer: str


WRITERS = {
    spec.name: spec
    for spec in (
        WriterSpec(
            "overlays", "a picture of every map: overlays/", "radzero.prediction.writers.overlays:OverlayWriter"
        ),
        WriterSpec("dicom", "DICOM results: dicom/ (see --dicom)", "radzero.results.writer:DicomWriter"),
        WriterSpec("csv", "a table for spreadsheets: predictions.csv", "radzero.prediction.writers.table:TableWriter"),
    )
}
"""Outputs by name, in the order in which they are written."""
