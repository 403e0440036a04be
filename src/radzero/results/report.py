"""Comprehensive SR, TID 1500: the probability of each sentence, and the outline of each of its regions."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from radzero import __version__
from radzero._warnings import quiet
from radzero.prediction.reading import SentenceMap
from radzero.results.context import ResultContext, coding_schemes, thinned
from radzero.results.header import pair
from radzero.results.identity import MANUFACTURER, derived_uid, sentence_code, shortened
from radzero.results.kinds import RESULT_KINDS

_CHEST_FILM = Code("399208008", "SCT", "Plain chest X-ray")
_FINDING = Code("404684003", "SCT", "Clinical finding")
_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")


class StructuredReport:
    """Maker of one Comprehensive SR for all sentences."""

    def __init__(self, context: ResultContext) -> None:
        self._context = context

    def add(self, shown: SentenceMap) -> None:
        """Find the regions."""
        self._context.take_regions(shown)

    def objects(self) -> list[Dataset]:
        """Return the report."""
        return [_report(self._context)]


@quiet()
def _report(context: ResultContext) -> Dataset:
    from highdicom import sr

    groups = [group for k in range(len(context.reading.sentences)) for group in _groups(context, k)]
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=str(derived_uid("device", context.serial)),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=shortened(context.reading.model, 64),
            serial_number=context.serial,
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_CHEST_FILM,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[context.header] if _describable(context.header) else None,
    )
    if remarks := context.remarks():
        content[0].ContentSequence.append(_comments(remarks))
    report = sr.ComprehensiveSR(
        evidence=[context.header],
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=coding_schemes(),
        **context.common(RESULT_KINDS["sr"]),
    )
    return report


def _describable(header: Dataset) -> bool:
    """Return whether the header has what TID 1603 requires for the report's image library, which is optional."""
    pairs = pair(header, "PatientOrientation"), pair(header, "ImagerPixelSpacing")
    return bool(header.get("Modality")) and all(pairs)


def _comments(remarks: Sequence[str]) -> Dataset:
    """Return the remarks on image and model, as qualitative evaluations of TID 1500."""
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


def _groups(context: ResultContext, index: int) -> Iterable[Any]:
    """Yield the measurement groups of a sentence: one per region, or a single group if there is no region."""
    from highdicom import sr

    sentence = context.reading.sentences[index]
    algorithm = sr.AlgorithmIdentification(
        name=f"{MANUFACTURER} {shortened(context.reading.model, 50)}",
        version=__version__,
        parameters=[f"weights {context.serial}", f"threshold {context.threshold:g}"],
    )
    certainty = sr.Measurement(
        name=codes.DCM.CertaintyOfFinding, value=context.percent(index), unit=codes.UCUM.Percent, algorithm_id=algorithm
    )
    regions = context.regions(index)
    for number, region in enumerate(regions):
        yield sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=context.uid(RESULT_KINDS["sr"], "tracking", str(index), str(number)),
                identifier=shortened(sentence, 10_000),
            ),
            referenced_region=sr.ImageRegion(
                graphic_type=sr.GraphicTypeValues.POLYLINE,
                graphic_data=thinned(region.outline),
                source_image=sr.SourceImageForRegion(context.header.SOPClassUID, context.header.SOPInstanceUID),
            ),
            finding_category=_FINDING,
            finding_type=sentence_code(sentence),
            measurements=[certainty],
        )
    if not regions:
        yield sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=context.uid(RESULT_KINDS["sr"], "tracking", str(index)), identifier=shortened(sentence, 10_000)
            ),
            finding_category=_FINDING,
            finding_type=sentence_code(sentence),
            measurements=[certainty],
            source_images=[
                sr.SourceImageForMeasurementGroup(context.header.SOPClassUID, context.header.SOPInstanceUID)
            ],
        )
