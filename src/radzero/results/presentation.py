"""Grayscale Softcopy Presentation State, one per sentence: outlines, peak and text on the radiograph itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from radzero._warnings import quiet
from radzero.images import DicomFacts
from radzero.images.dicom_display import window
from radzero.prediction.reading import SentenceMap
from radzero.results.context import ResultContext, thinned
from radzero.results.header import lut_item, pair
from radzero.results.identity import shortened
from radzero.results.kinds import RESULT_KINDS


class PresentationStates:
    """Maker of presentation states (GSPS), one per sentence."""

    def __init__(self, context: ResultContext) -> None:
        self._context = context

    def add(self, shown: SentenceMap) -> None:
        """Find the regions."""
        self._context.take_regions(shown)

    def objects(self) -> list[Dataset]:
        """Return the presentation states."""
        return [_state(self._context, index) for index in range(len(self._context.reading.sentences))]


@quiet()
def _state(context: ResultContext, index: int) -> Dataset:
    from highdicom import pr
    from highdicom.content import PresentationLUTTransformation

    reading, header = context.reading, context.header
    height, width = reading.film.shape
    layer = pr.GraphicLayer("RADZERO", order=1, description=shortened(reading.sentences[index], 64))
    lines = [
        pr.GraphicObject(pr.GraphicTypeValues.POLYLINE, thinned(polygon), pr.AnnotationUnitsValues.PIXEL)
        for region in context.regions(index)
        for polygon in region.polygons
    ]
    peak = np.asarray(reading.peaks[index], dtype=np.float64)[None] + 0.5
    marks = [*lines, pr.GraphicObject(pr.GraphicTypeValues.POINT, peak, pr.AnnotationUnitsValues.PIXEL)]
    said = [f"{reading.sentences[index]}: {context.percent(index):g} %", *context.remarks(index)]
    text = pr.TextObject(
        "\r\n".join(shortened(line, 300) for line in said)[:1000],
        pr.AnnotationUnitsValues.PIXEL,
        bounding_box=(0.02 * width, 0.02 * height, 0.98 * width, 0.12 * height),
        text_justification="LEFT",
    )
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    state = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[header],
        content_label="RADZERO",
        content_description=shortened(reading.sentences[index], 64),
        graphic_layers=[layer],
        graphic_annotations=[pr.GraphicAnnotation([header], layer, graphic_objects=marks, text_objects=[text])],
        concept_name=None,
        presentation_lut_transformation=PresentationLUTTransformation("INVERSE" if inverted else "IDENTITY"),
        voi_lut_transformations=_voi(context),
        **context.common(RESULT_KINDS["gsps"], index + 1),
    )
    state.Laterality = header.get("Laterality", "")  # type 2C in the General Series module: present even if empty
    for keyword in ("RescaleIntercept", "RescaleSlope", "RescaleType"):
        state.pop(keyword, None)
        if keyword in header and not _needs_one_lut(context):
            state[keyword] = header[keyword]
    _note_aspect(state, header)
    return state


def _note_aspect(state: Dataset, header: Dataset) -> None:
    """Note the spacing or aspect ratio of the image's pixels; highdicom takes all pixels to be square."""
    area = state.DisplayedAreaSelectionSequence[0]
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = pair(header, keyword)
        if spacing:
            area.pop("PresentationPixelAspectRatio", None)
            area.PresentationPixelSpacing = spacing
            return
    ratio = pair(header, "PixelAspectRatio")
    if ratio and min(map(int, ratio)) > 0:
        area.PresentationPixelAspectRatio = ratio


def _voi(context: ResultContext) -> Sequence[Any] | None:
    """Return the window or VOI LUT that the image was displayed with, or one LUT of stored values if needed."""
    from highdicom import VOILUT, pr

    facts = context.reading.dicom
    if facts is None or (facts.window is None and facts.lut is None):
        return None
    if _needs_one_lut(context):
        first, grey = _from_stored(context.header, facts)
        lut = VOILUT(max(0, first), grey)
        lut.update(lut_item(first, grey))
        return [pr.SoftcopyVOILUTTransformation(voi_luts=[lut])]
    if facts.window is not None:
        shown = facts.window
        return [pr.SoftcopyVOILUTTransformation(shown.centre, shown.width, voi_lut_function=shown.function)]
    assert facts.lut is not None
    lut = VOILUT(max(0, facts.lut.first), facts.lut.entries)
    lut.update(lut_item(facts.lut.first, facts.lut.entries))  # highdicom takes no first value below 0
    return [pr.SoftcopyVOILUTTransformation(voi_luts=[lut])]


def _needs_one_lut(context: ResultContext) -> bool:
    """Return whether one LUT of stored values must replace both the modality transformation and the window or VOI LUT.

    It must for an image with a modality LUT, since dciodvfy expects a modality LUT to use all 16 bits, and for an image
    with padding, since padding is displayed black.
    """
    facts = context.reading.dicom
    return "ModalityLUTSequence" in context.header or (facts is not None and facts.padding_range is not None)


def _from_stored(header: Dataset, facts: DicomFacts) -> tuple[int, npt.NDArray[np.uint16]]:
    """Return the first stored value, and the grey value (0..65535, before MONOCHROME1's inversion) from it onwards."""
    modality, padding = header.get("ModalityLUTSequence"), facts.padding_range
    if padding is not None:
        stored = np.arange(2**16) - (2**15 if padding.signed else 0)
    else:
        stored = modality[0].LUTDescriptor[1] + np.arange(len(modality[0].LUTData) // 2)
    if modality:
        entries = np.frombuffer(modality[0].LUTData, "<u2").astype(np.float64)
        values = entries[np.clip(stored - modality[0].LUTDescriptor[1], 0, len(entries) - 1)]
    else:
        values = stored * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
    if facts.lut is not None:
        index = np.clip(np.rint(values) - facts.lut.first, 0, len(facts.lut.entries) - 1).astype(np.int64)
        grey = facts.lut.entries[index]
    else:
        assert facts.window is not None
        shown = window(values, facts.window.centre, facts.window.width, facts.window.function)
        grey = np.rint(shown * 65535).astype(np.uint16)
    if padding is not None:
        black = 65535 if header.PhotometricInterpretation == "MONOCHROME1" else 0
        grey = np.where((stored >= padding.low) & (stored <= padding.high), black, grey).astype(np.uint16)
    return int(stored[0]), grey
