"""The objects themselves, one function per kind, over highdicom.

seg      binary Segmentation: where each map is at least the threshold
seg-map  fractional Segmentation: the maps, 0..255 for 0..1
sr       Comprehensive SR, TID 1500: of each sentence its probability, and of each of its regions the outline
gsps     Grayscale Softcopy Presentation State, one per sentence: outlines, peak and text on the film itself
sc       Secondary Capture, one per sentence: the picture that ``reading.overlay`` draws
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from radzero import __version__
from radzero.answer import Reading, warning_prefix
from radzero.images import DicomFacts
from radzero.images.dicom_display import window
from radzero.images.warning_filters import quiet
from radzero.results.header import IDENTITY, OF_PATIENT_AND_STUDY, ResultError, lut_item, pair
from radzero.results.identity import MANUFACTURER, SCHEME, derived_uid, sentence_code, shortened
from radzero.results.regions import Region, find_regions

if TYPE_CHECKING:
    import highdicom as hd

_SERIES_NUMBER = 9100
"""Of the first kind; PACS sort a study's series by number, and films come first."""
_LINE_POINTS = 8000
"""Points of one graphic object: two floats of 4 bytes each, in an element of at most 65,534 bytes (PS3.5 7.1.2)."""
_UNUSUAL = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, NotImplementedError)
"""What highdicom raises at an unusual header."""
_CHEST_FILM = Code("399208008", "SCT", "Plain chest X-ray")
_FINDING = Code("404684003", "SCT", "Clinical finding")
_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")


class ResultKind(StrEnum):
    """What a reading can become."""

    SEG = "seg"
    SEG_MAP = "seg-map"
    SR = "sr"
    GSPS = "gsps"
    SC = "sc"


def result_kinds(names: str) -> tuple[ResultKind, ...]:
    """Kinds from "all" or names between commas.

    Raises:
        ValueError: naming the kinds that there are.
        ImportError: when what makes them is not installed.
    """
    _require_highdicom()
    if names.strip().lower() == "all":
        return tuple(ResultKind)
    try:
        return tuple(dict.fromkeys(ResultKind(name.strip().lower()) for name in names.split(",")))
    except ValueError as error:
        raise ValueError(f"{names!r}: DICOM results are all, or some of {', '.join(ResultKind)}") from error


_TITLES = {
    ResultKind.SEG: "regions",
    ResultKind.SEG_MAP: "similarity maps",
    ResultKind.SR: "report",
    ResultKind.GSPS: "outlines",
    ResultKind.SC: "pictures",
}


class _Film:
    """A reading, the header of its film, and what every object repeats of them."""

    def __init__(self, reading: Reading, header: Dataset, threshold: float, made: datetime) -> None:
        self.reading, self.header, self.threshold, self.made = reading, header, threshold, made
        self._regions: dict[int, list[Region]] = {}

    def uid(self, kind: ResultKind, *parts: str) -> str:
        """Of an object, from everything that it is made of."""
        asked, threshold = json.dumps(self.reading.sentences), repr(float(self.threshold))
        of = (self._content, self.reading.sha256 or self.reading.model, threshold, asked)
        return str(derived_uid(kind.value, *of, *parts))

    @cached_property
    def _content(self) -> str:
        """The film: what it is called, whose it is and what it shows. Archives hold other pixels, or a corrected name,
        under a UID of before; what is made of those is no object of before."""
        named = [str(self.header.get(keyword, "")) for keyword in (*IDENTITY, *OF_PATIENT_AND_STUDY)]
        content = hashlib.sha256(json.dumps([*named, self.reading.film.shape]).encode())
        content.update(self.reading.film.tobytes())
        return content.hexdigest()

    def common(self, kind: ResultKind, number: int = 1) -> dict[str, Any]:
        """Arguments that every highdicom object takes."""
        return {
            "series_instance_uid": self.uid(kind, "series"),
            "series_number": _SERIES_NUMBER + list(ResultKind).index(kind),
            "sop_instance_uid": self.uid(kind, "instance", str(number)),
            "instance_number": number,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": shortened(self.reading.model, 64),
            "software_versions": __version__,
            "device_serial_number": self.serial,
            "series_description": f"{MANUFACTURER}: {_TITLES[kind]}{self.caution}",
            "specific_character_set": "ISO_IR 192",
            "transfer_syntax_uid": ExplicitVRLittleEndian,
        }

    @property
    def caution(self) -> str:
        """What a series says of a model that is not to be relied on."""
        return " (not for diagnosis)" if self.reading.notice else ""

    @property
    def serial(self) -> str:
        """What tells this model from another of the same name: the hash of its weights."""
        return (self.reading.sha256 or "unknown")[:64]

    def remarks(self, index: int | None = None) -> list[str]:
        """What is to be known before a result is trusted: of the model, of the film, of one or all sentences."""
        others = () if index is None else (*self.reading.sentences[:index], *self.reading.sentences[index + 1 :])
        of_others = tuple(map(warning_prefix, others))
        said = [text for text in self.reading.warnings if not text.startswith(of_others)]
        return [*([self.reading.notice] if self.reading.notice else []), *said]

    def percent(self, index: int) -> float:
        """Probability of a sentence in percent."""
        return round(100 * float(self.reading.probabilities[index]), 2)

    def regions(self, index: int) -> list[Region]:
        """Of a sentence, where its map is at least the threshold."""
        if index not in self._regions:
            self._regions[index] = find_regions(self.reading.map(index), self.threshold)
        return self._regions[index]


def make_results(
    reading: Reading,
    header: Dataset,
    kinds: Iterable[ResultKind | str] = tuple(ResultKind),
    *,
    threshold: float = 0.5,
    made: datetime | None = None,
) -> list[Dataset]:
    """DICOM objects of one reading, ready to be written or sent.

    Args:
        reading: of a DICOM film.
        header: of the same film, by :func:`radzero.results.read_header`.
        kinds: what to make.
        threshold: of regions and outlines, a probability in 0..1.
        made: when; now if None.

    Raises:
        ResultError: when header and reading are of different films, for a colour film's ``gsps``, and for maps of a
            method that has none.
        ValueError: for a kind that is not known, or another threshold.
        ImportError: naming what to install.
    """
    wanted = list(dict.fromkeys(ResultKind(kind) for kind in kinds))
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold is between 0 and 1, not {threshold}")
    if not reading.sentences:
        raise ResultError(f"{reading.source}: no sentence was asked, so there is nothing to store")
    own = reading.dicom.sop_instance_uid if reading.dicom else None
    if own != header.SOPInstanceUID or reading.film.shape != (header.Rows, header.Columns):
        raise ResultError(f"{reading.source}: the header is of another film ({header.SOPInstanceUID}, not {own})")
    if reading.similarity is None and (needed := [kind for kind in wanted if kind is not ResultKind.SR]):
        raise ResultError(f"{reading.source}: {reading.model} has no maps, which {', '.join(needed)} show; ask for sr")
    if ResultKind.GSPS in wanted and header.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise ResultError(
            f"{reading.source}: a film in colour can have no greyscale presentation state; leave gsps out"
        )
    _require_highdicom()
    film = _Film(reading, header, threshold, made or _now(header))
    makers: dict[ResultKind, Callable[[_Film], list[Dataset]]] = {
        ResultKind.SEG: _binary,
        ResultKind.SEG_MAP: _fractional,
        ResultKind.SR: _report,
        ResultKind.GSPS: _states,
        ResultKind.SC: _captures,
    }
    try:
        results = [result for kind in wanted for result in makers[kind](film)]
    except _UNUSUAL as error:
        raise ResultError(f"{reading.source}: its header allows no DICOM result ({error})") from error
    for result in results:
        _date(result, film.made)
        for keyword in OF_PATIENT_AND_STUDY:
            if keyword in header and keyword not in result:
                result[keyword] = header[keyword]
    return results


def _now(header: Dataset) -> datetime:
    """The time where the film's other times are of, if it says where."""
    offset = header.get("TimezoneOffsetFromUTC")
    return datetime.now(datetime.strptime(offset, "%z").tzinfo if offset else None)


class Made(NamedTuple):
    """Results, and why there are none of some kinds."""

    results: list[Dataset]
    left_out: dict[ResultKind, str]


def make_possible_results(
    reading: Reading, header: Dataset, kinds: Iterable[ResultKind | str], *, threshold: float = 0.5
) -> Made:
    """:func:`make_results` kind by kind: one that a film cannot have costs it no other.

    Raises:
        ResultError: when no kind can be made: why not the first.
        ValueError, ImportError: as there.
    """
    made, results, left_out = _now(header), [], {}
    for kind in dict.fromkeys(ResultKind(kind) for kind in kinds):
        try:
            results += make_results(reading, header, [kind], threshold=threshold, made=made)
        except ResultError as error:
            left_out[kind] = str(error)
    if left_out and not results:
        raise ResultError(next(iter(left_out.values())))
    return Made(results, left_out)


def _date(result: Dataset, made: datetime) -> None:
    """One time in all of an object's dates, so that the same reading gives the same bytes."""
    result.SeriesDate, result.SeriesTime = made.strftime("%Y%m%d"), made.strftime("%H%M%S")
    for before, after in (
        ("InstanceCreation", ""),
        ("Content", ""),
        ("PresentationCreation", ""),
        ("", "OfSecondaryCapture"),
    ):
        if f"{before}Date{after}" in result:
            setattr(result, f"{before}Date{after}", made.strftime("%Y%m%d"))
            setattr(result, f"{before}Time{after}", made.strftime("%H%M%S"))
    for equipment in result.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = made.strftime("%Y%m%d%H%M%S")
    organization = str(derived_uid("dimensions", str(result.SOPInstanceUID)))
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in result.get(keyword, ()):
            item.DimensionOrganizationUID = organization


def _require_highdicom() -> None:
    try:
        import contourpy  # noqa: F401
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ImportError("DICOM results need highdicom: pip install 'radzero[dicom]'") from error
    logging.getLogger("highdicom").setLevel(logging.ERROR)  # its warnings name patients


# -- Segmentation ---------------------------------------------------------------------------------------


def _binary(film: _Film) -> list[Dataset]:
    count = len(film.reading.sentences)
    masks = np.stack([film.reading.map(k) >= film.threshold for k in range(count)], axis=-1)
    return [_segmentation(film, ResultKind.SEG, masks[None], f"where maps are at least {film.threshold:g}")]


def _fractional(film: _Film) -> list[Dataset]:
    count = len(film.reading.sentences)
    maps = np.stack([np.rint(film.reading.map(k) * 255).astype(np.uint8) for k in range(count)], axis=-1)
    return [_segmentation(film, ResultKind.SEG_MAP, maps[None] / np.float32(255), "similarity maps, 255 for 1")]


@quiet()  # highdicom warns about names of patients, and says them; what takes long is done outside of this
def _segmentation(film: _Film, kind: ResultKind, pixels: npt.NDArray[Any], what: str) -> Dataset:
    import highdicom as hd

    reading = film.reading
    segments = []
    for k, sentence in enumerate(reading.sentences):
        segment = hd.seg.SegmentDescription(
            segment_number=k + 1,
            segment_label=shortened(sentence, 64),
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=sentence_code(sentence),
            algorithm_type="AUTOMATIC",
            algorithm_identification=_algorithm(film),
            tracking_uid=film.uid(kind, "tracking", str(k)),
            tracking_id=shortened(sentence, 10_000),
        )
        segment.SegmentDescription = shortened(f"{sentence} ({film.percent(k):g} %)", 1024)
        segments.append(segment)
    source = deepcopy(film.header)
    # its pixels are the film's own; of Pixel Measures without a slice's thickness highdicom's reader makes nothing
    source.pop("PixelSpacing", None)
    if "NumberOfFrames" in source:  # of a class of many frames it wants positions in space, which a projection lacks
        source.SOPClassUID = SecondaryCaptureImageStorage
        del source.NumberOfFrames, source.SharedFunctionalGroupsSequence
    seg = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=pixels,
        segmentation_type="BINARY" if kind is ResultKind.SEG else "FRACTIONAL",
        segment_descriptions=segments,
        content_label="RADZERO",
        content_description=shortened(what, 64),
        omit_empty_frames=False,
        coding_schemes=_coding_schemes(),
        **film.common(kind),
    )
    seg.walk(_refer_to(film.header))
    # type 2C of the General Image module, which highdicom leaves out for projections
    seg.PatientOrientation = film.header.get("PatientOrientation", "")
    if remarks := film.remarks():
        seg.ImageComments = shortened("; ".join(remarks), 10_000)
    _repeat_losses(seg, film.header)
    return seg


def _refer_to(header: Dataset) -> Callable[[Dataset, Any], None]:
    """For ``Dataset.walk``: wherever the film is referred to, it is by its own class."""

    def correct(dataset: Dataset, element: Any) -> None:
        if element.keyword == "ReferencedSOPInstanceUID" and element.value == header.SOPInstanceUID:
            dataset.ReferencedSOPClassUID = header.SOPClassUID

    return correct


def _repeat_losses(result: Dataset, header: Dataset) -> None:
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in header:
            result[keyword] = header[keyword]


def _algorithm(film: _Film) -> "hd.AlgorithmIdentificationSequence":
    import highdicom as hd

    return hd.AlgorithmIdentificationSequence(
        name=f"{MANUFACTURER} {shortened(film.reading.model, 50)}",
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        source=MANUFACTURER,
        parameters={"weights": film.serial, "threshold": f"{film.threshold:g}"},
    )


def _coding_schemes() -> list[Any]:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return [CodingSchemeIdentificationItem(SCHEME, name="Sentences asked of a film by RadZero")]


# -- Structured report ----------------------------------------------------------------------------------


def _report(film: _Film) -> list[Dataset]:
    if film.reading.similarity is not None:
        for index in range(len(film.reading.sentences)):
            film.regions(index)
    return [_report_of_regions(film)]


@quiet()
def _report_of_regions(film: _Film) -> Dataset:
    from highdicom import sr

    groups = [group for k in range(len(film.reading.sentences)) for group in _groups(film, k)]
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=str(derived_uid("device", film.serial)),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=shortened(film.reading.model, 64),
            serial_number=film.serial,
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_CHEST_FILM,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[film.header] if _describable(film.header) else None,
    )
    if remarks := film.remarks():
        content[0].ContentSequence.append(_comments(remarks))
    report = sr.ComprehensiveSR(
        evidence=[film.header],
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=_coding_schemes(),
        **film.common(ResultKind.SR),
    )
    return report


def _describable(header: Dataset) -> bool:
    """Whether the header has what TID 1603 wants in the report's image library, which is optional."""
    pairs = pair(header, "PatientOrientation"), pair(header, "ImagerPixelSpacing")
    return bool(header.get("Modality")) and all(pairs)


def _comments(remarks: Sequence[str]) -> Dataset:
    """What is to be known of film and model, among the qualitative evaluations of TID 1500."""
    from highdicom import sr

    comments = sr.ContainerContentItem(
        name=_EVALUATIONS, relationship_type=sr.RelationshipTypeValues.CONTAINS, is_content_continuous=False
    )
    contains = sr.RelationshipTypeValues.CONTAINS
    comments.ContentSequence = sr.ContentSequence(
        sr.TextContentItem(name=codes.DCM.Comment, value=shortened(text, 10_000), relationship_type=contains)
        for text in remarks
    )
    return comments


def _groups(film: _Film, index: int) -> Iterable[Any]:
    """Of a sentence: a measurement group per region, or one without region."""
    from highdicom import sr

    sentence = film.reading.sentences[index]
    algorithm = sr.AlgorithmIdentification(
        name=f"{MANUFACTURER} {shortened(film.reading.model, 50)}",
        version=__version__,
        parameters=[f"weights {film.serial}", f"threshold {film.threshold:g}"],
    )
    certainty = sr.Measurement(
        name=codes.DCM.CertaintyOfFinding, value=film.percent(index), unit=codes.UCUM.Percent, algorithm_id=algorithm
    )
    regions = film.regions(index) if film.reading.similarity is not None else []
    for number, region in enumerate(regions):
        yield sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=film.uid(ResultKind.SR, "tracking", str(index), str(number)), identifier=shortened(sentence, 10_000)
            ),
            referenced_region=sr.ImageRegion(
                graphic_type=sr.GraphicTypeValues.POLYLINE,
                graphic_data=_few(region.outline),
                source_image=sr.SourceImageForRegion(film.header.SOPClassUID, film.header.SOPInstanceUID),
            ),
            finding_category=_FINDING,
            finding_type=sentence_code(sentence),
            measurements=[certainty],
        )
    if not regions:
        yield sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=film.uid(ResultKind.SR, "tracking", str(index)), identifier=shortened(sentence, 10_000)
            ),
            finding_category=_FINDING,
            finding_type=sentence_code(sentence),
            measurements=[certainty],
            source_images=[sr.SourceImageForMeasurementGroup(film.header.SOPClassUID, film.header.SOPInstanceUID)],
        )


# -- Presentation state ---------------------------------------------------------------------------------


def _states(film: _Film) -> list[Dataset]:
    for index in range(len(film.reading.sentences)):
        film.regions(index)
    return [_state(film, k) for k in range(len(film.reading.sentences))]


@quiet()
def _state(film: _Film, index: int) -> Dataset:
    from highdicom import pr
    from highdicom.content import PresentationLUTTransformation

    reading, header = film.reading, film.header
    height, width = reading.film.shape
    layer = pr.GraphicLayer("RADZERO", order=1, description=shortened(reading.sentences[index], 64))
    lines = [
        pr.GraphicObject(pr.GraphicTypeValues.POLYLINE, _few(polygon), pr.AnnotationUnitsValues.PIXEL)
        for region in film.regions(index)
        for polygon in region.polygons
    ]
    peak = np.asarray(reading.peaks[index], dtype=np.float64)[None] + 0.5
    marks = [*lines, pr.GraphicObject(pr.GraphicTypeValues.POINT, peak, pr.AnnotationUnitsValues.PIXEL)]
    said = [f"{reading.sentences[index]}: {film.percent(index):g} %", *film.remarks(index)]
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
        voi_lut_transformations=_voi(film),
        **film.common(ResultKind.GSPS, index + 1),
    )
    state.Laterality = header.get("Laterality", "")  # type 2C of the General Series module
    for keyword in ("RescaleIntercept", "RescaleSlope", "RescaleType"):
        state.pop(keyword, None)
        if keyword in header and not _needs_one_lut(film):
            state[keyword] = header[keyword]
    _note_aspect(state, header)
    return state


def _note_aspect(state: Dataset, header: Dataset) -> None:
    """How wide and high the film's pixels are; highdicom calls all of them square."""
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


def _voi(film: _Film) -> Sequence[Any] | None:
    """The window or VOI LUT that the film was displayed with; one LUT of stored values where these do not tell all."""
    from highdicom import VOILUT, pr

    facts = film.reading.dicom
    if facts is None or (facts.window is None and facts.lut is None):
        return None
    if _needs_one_lut(film):
        first, grey = _from_stored(film.header, facts)
        lut = VOILUT(max(0, first), grey)
        lut.update(lut_item(first, grey))
        return [pr.SoftcopyVOILUTTransformation(voi_luts=[lut])]
    if facts.window is not None:
        shown = facts.window
        return [pr.SoftcopyVOILUTTransformation(shown.centre, shown.width, voi_lut_function=shown.function)]
    assert facts.lut is not None
    lut = VOILUT(max(0, facts.lut.first), facts.lut.entries)
    lut.update(lut_item(facts.lut.first, facts.lut.entries))  # highdicom knows no first value below 0
    return [pr.SoftcopyVOILUTTransformation(voi_luts=[lut])]


def _needs_one_lut(film: _Film) -> bool:
    """Whether the film has a modality LUT (dciodvfy wants one to use all 16 bits), or padding, which is black."""
    facts = film.reading.dicom
    return "ModalityLUTSequence" in film.header or (facts is not None and facts.padding_range is not None)


def _from_stored(header: Dataset, facts: DicomFacts) -> tuple[int, npt.NDArray[np.uint16]]:
    """First stored value, and the grey of it and of those behind it, before a MONOCHROME1's inversion."""
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


def _few(polygon: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Every so many points of a polygon that has more than an object may hold, still closed."""
    step = -(-len(polygon) // _LINE_POINTS)
    return polygon if step == 1 else np.concatenate([polygon[:-1:step], polygon[-1:]])


# -- Secondary capture ----------------------------------------------------------------------------------


def _captures(film: _Film) -> list[Dataset]:
    pictures = (film.reading.overlay(k, threshold=film.threshold) for k in range(len(film.reading.sentences)))
    return [_capture(film, k, np.asarray(picture.convert("RGB"))) for k, picture in enumerate(pictures)]


@quiet()
def _capture(film: _Film, index: int, picture: npt.NDArray[np.uint8]) -> Dataset:
    from highdicom.sc import SCImage
    from highdicom.sr import CodedConcept

    capture = SCImage.from_ref_dataset(
        film.header,
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # highdicom wants one; the film's own, or none, is put in below
        **film.common(ResultKind.SC, index + 1),
    )
    capture.Laterality = film.header.get("Laterality", "")
    said = [f"{film.reading.sentences[index]}: {film.percent(index):g} %", *film.remarks(index)]
    capture.ImageComments = shortened("; ".join(said), 10_000)
    _repeat_losses(capture, film.header)
    if burned := film.header.get("BurnedInAnnotation"):  # the picture adds what was asked, never of whom
        capture.BurnedInAnnotation = burned
    capture.PatientOrientation = pair(film.header, "PatientOrientation")
    source = Dataset()
    source.ReferencedSOPClassUID = film.header.SOPClassUID
    source.ReferencedSOPInstanceUID = film.header.SOPInstanceUID
    source.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    capture.SourceImageSequence = [source]
    return capture
