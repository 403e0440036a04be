"""Readings as DICOM objects that a PACS keeps beside the film: SEG, SR, GSPS and secondary capture."""

from radzero.results.header import ResultError, read_header
from radzero.results.objects import Made, ResultKind, make_possible_results, make_results, result_kinds
from radzero.results.regions import Region, find_regions

__all__ = [
    "Made",
    "Region",
    "ResultError",
    "ResultKind",
    "find_regions",
    "make_possible_results",
    "make_results",
    "read_header",
    "result_kinds",
]
