"""The kinds of DICOM results: one registry, from which options, help, documents and the API's schema are derived.

To add a kind, write its maker in a file of its own (see :class:`radzero.results.making.ResultMaker`) and add a row.
"""

import logging
from dataclasses import dataclass


@dataclass(frozen=True)
class ResultKind:
    """A kind of DICOM object that a reading can become.

    Attributes:
        name: as options, lines and UIDs have it.
        title: what its series is called.
        object: the DICOM object that it is, in words.
        maker: ``module:class`` of its :class:`~radzero.results.making.ResultMaker`, imported when first needed.
        needs_maps: whether a method without maps can have none.
        needs_grey: whether a radiograph in colour can have none.
    """

    name: str
    title: str
    object: str
    maker: str
    needs_maps: bool = True
    needs_grey: bool = False


RESULT_KINDS = {
    kind.name: kind
    for kind in (
        ResultKind(
            "seg",
            "regions",
            "binary Segmentation: where each map is at least the threshold",
            "radzero.results.segmentation:BinarySegmentation",
        ),
        ResultKind(
            "seg-map",
            "similarity maps",
            "fractional Segmentation: the maps, 0..255 for 0..1",
            "radzero.results.segmentation:FractionalSegmentation",
        ),
        ResultKind(
            "sr",
            "report",
            "Comprehensive SR, TID 1500: of each sentence its probability, and of each of its regions the outline",
            "radzero.results.report:StructuredReport",
            needs_maps=False,
        ),
        ResultKind(
            "gsps",
            "outlines",
            "Grayscale Softcopy Presentation State, one per sentence: outlines, peak and text on the radiograph itself",
            "radzero.results.presentation:PresentationStates",
            needs_grey=True,
        ),
        ResultKind(
            "sc",
            "pictures",
            "Secondary Capture, one per sentence: the picture that `Reading.overlay` draws",
            "radzero.results.capture:SecondaryCaptures",
        ),
    )
}
"""By name. The order is that of the series numbers, so new kinds go to the end."""

KIND_NAMES = ",".join(RESULT_KINDS)
"""The names between commas, for help and messages."""


def result_kinds(names: str) -> tuple[str, ...]:
    """Names of kinds from "all" or names between commas.

    Raises:
        ValueError: naming the kinds that there are.
        ImportError: when what makes them is not installed.
    """
    require_highdicom()
    if names.strip().lower() == "all":
        return tuple(RESULT_KINDS)
    wanted = tuple(dict.fromkeys(name.strip().lower() for name in names.split(",")))
    if not set(wanted) <= RESULT_KINDS.keys():
        raise ValueError(f"{names!r}: DICOM results are all, or some of {', '.join(RESULT_KINDS)}")
    return wanted


def require_highdicom() -> None:
    """Check that the extra is installed.

    Raises:
        ImportError: naming the line that installs it.
    """
    try:
        import contourpy  # noqa: F401
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ImportError("DICOM results need highdicom: pip install 'radzero[dicom]'") from error
    logging.getLogger("highdicom").setLevel(logging.ERROR)  # its warnings name patients
