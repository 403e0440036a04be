"""The registry of the kinds of DICOM results, from which help, messages, documents and the API's schema are derived.

To add a kind, write its maker in a file of its own (see :class:`radzero.results.making.ResultMaker`) and add a row.
"""

import logging
from dataclasses import dataclass


@dataclass(frozen=True)
class ResultKind:
    """A kind of DICOM object that a reading can become.

    Attributes:
        name: name in options, in error messages and in the derivation of UIDs.
        title: title in the series description.
        object: name of the DICOM object.
        content: description of what is in it, for documents.
        maker: ``module:class`` of its :class:`~radzero.results.making.ResultMaker`, imported when first needed.
        needs_maps: whether it shows maps, so that a method without maps cannot have it.
        needs_grey: whether it needs a greyscale image, so that a colour image cannot have it.
    """

    name: str
    title: str
    object: str
    content: str
    maker: str
    needs_maps: bool = True
    needs_grey: bool = False


RESULT_KINDS = {
    kind.name: kind
    for kind in (
        ResultKind(
            "seg",
            "regions",
            "Segmentation, binary",
            "one segment per sentence: the pixels where its map is at least `--threshold`",
            "radzero.results.segmentation:BinarySegmentation",
        ),
        ResultKind(
            "seg-map",
            "similarity maps",
            "Segmentation, fractional",
            "one segment per sentence: its map, with 255 for 1",
            "radzero.results.segmentation:FractionalSegmentation",
        ),
        ResultKind(
            "sr",
            "report",
            "Comprehensive SR, TID 1500",
            "for each sentence the probability (Certainty of Finding, in %) and the outer outline of each region; "
            "holes in a region are in the other kinds",
            "radzero.results.report:StructuredReport",
            needs_maps=False,
        ),
        ResultKind(
            "gsps",
            "outlines",
            "Grayscale Softcopy Presentation State, one per sentence",
            "outlines, peak and text on the image, in the window in which the model saw it",
            "radzero.results.presentation:PresentationStates",
            needs_grey=True,
        ),
        ResultKind(
            "sc",
            "pictures",
            "Secondary Capture, one per sentence",
            "the overlay picture",
            "radzero.results.capture:SecondaryCaptures",
        ),
    )
}
"""Kinds by name. Their order is the order of the series numbers, so a new kind is added at the end."""

KIND_NAMES = ",".join(RESULT_KINDS)
"""The names, separated by commas, for help texts."""


def result_kinds(names: str) -> tuple[str, ...]:
    """Return the names of kinds that "all", or names separated by commas, stand for.

    Raises:
        ValueError: for an unknown name; the message lists the kinds.
        ImportError: see :func:`require_highdicom`.
    """
    require_highdicom()
    if names.strip().lower() == "all":
        return tuple(RESULT_KINDS)
    wanted = tuple(dict.fromkeys(name.strip().lower() for name in names.split(",")))
    if not set(wanted) <= RESULT_KINDS.keys():
        raise ValueError(f"{names!r}: DICOM results are all, or some of {', '.join(RESULT_KINDS)}")
    return wanted


def require_highdicom() -> None:
    """Check that the extra ``dicom`` is installed, and silence highdicom's log.

    Raises:
        ImportError: when it is not; the message names the command that installs it.
    """
    try:
        import contourpy  # noqa: F401
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ImportError("DICOM results need highdicom: pip install 'radzero[dicom]'") from error
    logging.getLogger("highdicom").setLevel(logging.ERROR)  # its warnings name patients
