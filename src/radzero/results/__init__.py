"""Make DICOM objects of readings, for a PACS to store beside the radiograph: SEG, SR, GSPS and Secondary Capture.

Names are imported when first used, so that the command line's help imports :mod:`radzero.results.kinds` alone.
"""

from typing import TYPE_CHECKING

from radzero._registry import lazy_names

if TYPE_CHECKING:
    from radzero.results.header import ResultError, read_header, result_header
    from radzero.results.kinds import KIND_NAMES, RESULT_KINDS, ResultKind, result_kinds
    from radzero.results.making import Made, ResultBuilder, make_possible_results, make_results
    from radzero.results.regions import Region, find_regions

__all__ = [
    "KIND_NAMES",
    "RESULT_KINDS",
    "Made",
    "Region",
    "ResultBuilder",
    "ResultError",
    "ResultKind",
    "find_regions",
    "make_possible_results",
    "make_results",
    "read_header",
    "result_header",
    "result_kinds",
]

__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("ResultError", "read_header", "result_header"), "header"),
        **dict.fromkeys(("KIND_NAMES", "RESULT_KINDS", "ResultKind", "result_kinds"), "kinds"),
        **dict.fromkeys(("Made", "ResultBuilder", "make_possible_results", "make_results"), "making"),
        **dict.fromkeys(("Region", "find_regions"), "regions"),
    },
)
