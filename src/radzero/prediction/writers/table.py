"""Write a table for spreadsheets: ``predictions.csv``, with a row per image and sentence."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from radzero._files import replacing
from radzero.prediction.writers.writer import Writer

if TYPE_CHECKING:
    from radzero.prediction.output_folder import OutputFolder

COLUMNS = ("image", "sentence", "probability", "logit", "peak_x", "peak_y", "overlay", "warnings", "error")
"""Columns, with the peak in image pixels; an image that was refused has one row, with its error and no sentence."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters by which a spreadsheet takes a cell of text for a formula."""


class TableWriter(Writer):
    """Writer of all lines of the folder as one table, when a run ends; an earlier table is replaced in one step.

    The table is UTF-8 with a byte-order mark, without which spreadsheets misread names. Text that a spreadsheet would
    take for a formula gets an apostrophe in front.
    """

    name: ClassVar[str] = "csv"

    def end(self, output: "OutputFolder") -> list[Path]:
        """Write ``predictions.csv``."""
        path = output.folder / "predictions.csv"
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file,
        ):
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for record in output.records():
                table.writerows(_rows(record))
        return [path]


def _rows(record: dict[str, Any]) -> list[list[Any]]:
    if "error" in record:
        return [[_text(record["image"]), "", "", "", "", "", "", "", _text(record["error"])]]
    overlays = record.get("overlays") or [""] * len(record["sentences"])
    warnings = _text("; ".join(record["warnings"]))
    rows = []
    for answer, overlay in zip(record["sentences"], overlays, strict=True):
        x, y = answer.get("peak", ("", ""))
        figures = [answer["probability"], answer["logit"], x, y]
        rows.append([_text(record["image"]), _text(answer["sentence"]), *figures, overlay, warnings, ""])
    return rows


def _text(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value
