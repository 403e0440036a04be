"""Read from a DICOM header what the image shows: spacing, view, body part, species, orientation.

Doubts about the content give warnings and never a refusal: headers are often wrong, so the user decides.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from .dicom_header import Header, TransferSyntax
from .radiograph import DicomFacts, StoredFilm, polarity_warnings

RADIOGRAPHY = frozenset({"CR", "DX", "DR", "RG"})
FOR_PROCESSING_SOP = "1.2.840.10008.5.1.4.1.1.1.1.1"

_VIEW_POSITIONS = {
    "PA": "PA",
    "AP": "AP",
    **dict.fromkeys(("LL", "RL", "LATERAL", "LAT", "ML", "LM", "LLAT", "RLAT"), "LATERAL"),
    **dict.fromkeys(("LLD", "RLD"), "DECUBITUS"),
    **dict.fromkeys(("RLO", "LLO", "LAO", "RAO", "LPO", "RPO", "OBLIQUE"), "OBLIQUE"),
}
_VIEW_CODES = {
    # the codes of CID 4010 are SNOMED CT codes, or retired SNOMED RT codes
    **dict.fromkeys(("272479007", "R-40888", "R-10214"), "PA"),
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399067008", "R-102CD", "399173006", "R-10236", "399198007", "R-10232"), "LATERAL"),
    "399182000": "OBLIQUE",
}
_CHEST = ("CHEST", "THORAX", "LUNG", "RIB", "HEART", "STERNUM", "CXR", "TORAX", "THORAC")
_HUMAN = re.compile(r"human|homo sapiens|337915000|L-85B00", re.IGNORECASE)
_ANIMAL = re.compile(r"\b(canine|feline|equine|bovine|porcine|ovine|avian|murine|dog|horse|veterinar\w*)\b", re.I)
_LATERAL_WORD = re.compile(r"\b(lat|lateral)\b", re.I)
_FRONTAL_WORD = re.compile(r"\b(pa|ap|frontal)\b", re.I)
_EXPECTS_FRONTAL = "the model expects a frontal (PA or AP) chest radiograph"


def read_spacing(header: Header, choices: list[str]) -> tuple[float, float] | None:
    """Return the spacing of rows and of columns in millimetres; ``None`` if there is none.

    It is Pixel Spacing (calibrated), else Imager Pixel Spacing (detector plane), else Nominal Scanned Pixel Spacing (of
    the film scanner).
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = header.numbers(keyword)
        if len(values) == 2 and min(values) > 0:
            spacing = (values[0], values[1])
            choices.append(f"spacing: {keyword} {spacing[0]:g} x {spacing[1]:g} mm")
            if not 0.99 <= spacing[0] / spacing[1] <= 1.01:
                header.warnings.append(
                    f"the pixels are not square ({spacing[0]:g} x {spacing[1]:g} mm) but used as if they were"
                )
            return spacing
        if values:
            header.warnings.append(f"{keyword} is invalid and was ignored")
    aspect = header.numbers("PixelAspectRatio")
    if len(aspect) == 2 and min(aspect) > 0 and not 0.99 <= aspect[0] / aspect[1] <= 1.01:
        header.warnings.append(
            f"the pixels are not square (ratio {aspect[0]:g}:{aspect[1]:g}) but used as if they were"
        )
    return None


def read_view(header: Header, choices: list[str]) -> str | None:
    """Return View Position, else View Code Sequence, else what Patient Orientation implies; ``None`` if none does."""
    position = header.code("ViewPosition")
    if position:
        view = _VIEW_POSITIONS.get(position, position[:16])
        choices.append(f"view: View Position {position[:16]}")
        return view
    for item in header.items("ViewCodeSequence")[:1]:
        view_by_code = _VIEW_CODES.get(item.text("CodeValue"))
        meaning = item.text("CodeMeaning")
        if view_by_code is None and "oblique" in meaning.lower():
            view_by_code = "OBLIQUE"
        if view_by_code is None and "lateral" in meaning.lower():
            view_by_code = "LATERAL"
        if view_by_code is not None:
            choices.append(f"view: View Code Sequence '{meaning[:40]}'")
            return view_by_code
    orientation = header.texts("PatientOrientation")
    if len(orientation) == 2 and orientation[0][:1] in ("A", "P") and orientation[1][:1] in ("F", "H"):
        choices.append("view: Patient Orientation, rows run from back to front or front to back")
        return "LATERAL"
    return None


def judge_content(header: Header, view: str | None, pixels: NDArray[np.float32]) -> None:
    """Append to ``header.warnings`` what a user should know about the content.

    Args:
        header: the data set.
        view: the view that :func:`read_view` returned.
        pixels: display values (rows, columns) in 0..1, checked for a negative when the header allows a frontal chest.
    """
    _judge_modality(header)
    is_frontal_chest = all(
        [_judge_body_part(header), _judge_species(header), _judge_view(header, view, _description(header))]
    )
    if is_frontal_chest:
        _judge_orientation(header)
        header.warnings += polarity_warnings(pixels)


def _judge_modality(header: Header) -> None:
    modality = header.code("Modality")
    if modality not in RADIOGRAPHY:
        header.warnings.append(
            f"modality {modality[:16] or 'unknown'} is not radiography (CR, DX): check that this is a radiograph"
        )
    intent = header.code("PresentationIntentType")
    if intent == "FOR PROCESSING" or header.text("SOPClassUID") == FOR_PROCESSING_SOP:
        header.warnings.append("this is a raw detector image (for processing), not the one radiologists read")


def _judge_body_part(header: Header) -> bool:
    """Return whether the body part may be the chest; warn if not."""
    body_part = header.code("BodyPartExamined")
    if not body_part or any(name in body_part for name in _CHEST):
        return True
    header.warnings.append(f"body part is {body_part[:32]}, not the chest: {_EXPECTS_FRONTAL}")
    return False


def _description(header: Header) -> str:
    """Return free text about this one series. The study's text is left out, since it would name all of its views."""
    keywords = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
    codes = header.items("PerformedProtocolCodeSequence")
    return " ".join([*(header.text(k) for k in keywords), *(item.text("CodeMeaning") for item in codes)])


def _judge_species(header: Header) -> bool:
    """Return whether the patient may be human; warn if not."""
    codes = header.items("PatientSpeciesCodeSequence")
    species = [
        header.text("PatientSpeciesDescription"),
        *(f"{code.text('CodeValue')} {code.text('CodeMeaning')}" for code in codes),
    ]
    named = [text for text in species if text.strip()]
    if named:
        if any(_HUMAN.search(text) for text in named):
            return True
        header.warnings.append(f"the patient is not human ({named[0][:40]})")
        return False
    animal = _ANIMAL.search(_description(header))
    if animal is None:
        return True
    header.warnings.append(f"the patient is probably not human (the header says '{animal.group(0)}')")
    return False


def _judge_view(header: Header, view: str | None, description: str) -> bool:
    """Return whether the view may be frontal; warn if not."""
    if view in ("PA", "AP"):
        return True
    if view in ("LATERAL", "OBLIQUE", "DECUBITUS"):
        header.warnings.append(f"the view is {view.lower()}: {_EXPECTS_FRONTAL}")
    elif view is not None:
        header.warnings.append(f"the view is {view}: {_EXPECTS_FRONTAL}")
    elif _LATERAL_WORD.search(description) and not _FRONTAL_WORD.search(description):
        header.warnings.append(f"the view is probably lateral (the header's description): {_EXPECTS_FRONTAL}")
    else:
        return True
    return False


def _judge_orientation(header: Header) -> None:
    """Warn about mirrored and upside-down images: rows should run to the patient's left, columns to the feet."""
    orientation = header.texts("PatientOrientation")
    if len(orientation) != 2:
        return
    if orientation[0][:1].upper() == "R":
        header.warnings.append("Patient Orientation: the image is mirrored (patient's left on the left side)")
    if orientation[1][:1].upper() == "H":
        header.warnings.append("Patient Orientation: the image is upside down")


def facts(header: Header, syntax: TransferSyntax, film: StoredFilm | None) -> DicomFacts:
    """Collect the header values that a result should carry; none of them names the patient.

    A value that is longer than DICOM allows (PS3.5 6.2) is cut, and a UID that is too long counts as absent.
    """
    return DicomFacts(
        sop_class_uid=_uid(header, "SOPClassUID"),
        sop_instance_uid=_uid(header, "SOPInstanceUID"),
        study_instance_uid=_uid(header, "StudyInstanceUID"),
        series_instance_uid=_uid(header, "SeriesInstanceUID"),
        modality=header.code("Modality")[:16] or None,
        photometric_interpretation=header.code("PhotometricInterpretation")[:16],
        transfer_syntax=syntax.value,
        body_part=header.code("BodyPartExamined")[:16] or None,
        patient_orientation="\\".join(text[:16] for text in header.texts("PatientOrientation")[:2]) or None,
        window=film.window if film else None,
        lut=film.lut if film else None,
        padding_range=film.padding_range if film else None,
    )


def _uid(header: Header, keyword: str) -> str | None:
    uid = header.text(keyword)
    return uid if 0 < len(uid) <= 64 else None
