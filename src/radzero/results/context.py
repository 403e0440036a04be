"""Values that every DICOM result of a reading repeats: identity, dates, equipment, remarks."""

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from radzero import __version__
from radzero.prediction.reading import Reading, SentenceMap, warning_prefix
from radzero.results.header import IDENTITY, OF_PATIENT_AND_STUDY
from radzero.results.identity import MANUFACTURER, SCHEME, derived_uid, shortened
from radzero.results.regions import Region, find_regions

if TYPE_CHECKING:
    import highdicom as hd
from radzero.results.kinds import RESULT_KINDS, ResultKind

_SERIES_NUMBER = 9100
"""Series number of the first kind's objects. A PACS sorts series by number, so radiographs come first."""
_LINE_POINTS = 8000
"""Most points of one graphic object: two floats of 4 bytes each, in an element of up to 65,534 bytes (PS3.5 7.1.2)."""


class ResultContext:
    """A reading, the header of its image, and the values of both that every object repeats."""

    def __init__(self, reading: Reading, header: Dataset, threshold: float, made: datetime) -> None:
        self.reading, self.header, self.threshold, self.made = reading, header, threshold, made
        self._regions: dict[int, list[Region]] = {}

    def uid(self, kind: ResultKind, *parts: str) -> str:
        """Return the UID of an object, derived from everything that the object is made of."""
        asked, threshold = json.dumps(self.reading.sentences), repr(float(self.threshold))
        of = (self._content, self.reading.sha256 or self.reading.model, threshold, asked)
        return str(derived_uid(kind.name, *of, *parts))

    @cached_property
    def _content(self) -> str:
        """SHA-256 of the image's identity, patient, study and pixels, in hexadecimal.

        An archive may correct the pixels or the patient's name without a new UID; the results then need new UIDs.
        """
        named = [str(self.header.get(keyword, "")) for keyword in (*IDENTITY, *OF_PATIENT_AND_STUDY)]
        content = hashlib.sha256(json.dumps([*named, self.reading.film.shape]).encode())
        content.update(self.reading.film.tobytes())
        return content.hexdigest()

    def common(self, kind: ResultKind, number: int = 1) -> dict[str, Any]:
        """Return the arguments that every highdicom object takes."""
        return {
            "series_instance_uid": self.uid(kind, "series"),
            "series_number": _SERIES_NUMBER + list(RESULT_KINDS).index(kind.name),
            "sop_instance_uid": self.uid(kind, "instance", str(number)),
            "instance_number": number,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": shortened(self.reading.model, 64),
            "software_versions": __version__,
            "device_serial_number": self.serial,
            "series_description": f"{MANUFACTURER}: {kind.title}{self.caution}",
            "specific_character_set": "ISO_IR 192",
            "transfer_syntax_uid": ExplicitVRLittleEndian,
        }

    @property
    def caution(self) -> str:
        """End of the series description: a caution if the model has a notice, else an empty string."""
        return " (not for diagnosis)" if self.reading.notice else ""

    @property
    def serial(self) -> str:
        """Serial number of the model: the hash of its weights, which tells models of the same name apart."""
        return (self.reading.sha256 or "unknown")[:64]

    def remarks(self, index: int | None = None) -> list[str]:
        """Return the model's notice and the warnings about the image and one sentence, or all if ``index`` is None."""
        others = () if index is None else (*self.reading.sentences[:index], *self.reading.sentences[index + 1 :])
        of_others = tuple(map(warning_prefix, others))
        said = [text for text in self.reading.warnings if not text.startswith(of_others)]
        return [*([self.reading.notice] if self.reading.notice else []), *said]

    def percent(self, index: int) -> float:
        """Return the probability of a sentence in percent, rounded to two decimals."""
        return round(100 * float(self.reading.probabilities[index]), 2)

    def take_regions(self, shown: SentenceMap) -> None:
        """Find the regions where a sentence's map is at least the threshold, once however many kinds need them."""
        if shown.index not in self._regions:
            self._regions[shown.index] = find_regions(shown.values, self.threshold)

    def regions(self, index: int) -> list[Region]:
        """Return the regions of a sentence; a method without maps has none."""
        return self._regions.get(index, [])


def time_of(header: Dataset) -> datetime:
    """Return the current time, in the time zone of the header's other times if the header names it, else local time."""
    offset = header.get("TimezoneOffsetFromUTC")
    return datetime.now(datetime.strptime(offset, "%z").tzinfo if offset else None)


def set_dates(result: Dataset, made: datetime) -> None:
    """Set all dates and times of an object to one time, and derive its dimension organization UID from its own UID.

    The same reading and time thus give the same bytes.
    """
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


def refer_to(header: Dataset) -> Callable[[Dataset, Any], None]:
    """Return a callback for ``Dataset.walk`` that gives each reference to the image the image's own SOP class."""

    def correct(dataset: Dataset, element: Any) -> None:
        if element.keyword == "ReferencedSOPInstanceUID" and element.value == header.SOPInstanceUID:
            dataset.ReferencedSOPClassUID = header.SOPClassUID

    return correct


def repeat_losses(result: Dataset, header: Dataset) -> None:
    """Copy the attributes that say whether the radiograph was ever compressed with loss (PS3.3 C.7.6.1.1.5)."""
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in header:
            result[keyword] = header[keyword]


def algorithm_identification(context: ResultContext) -> "hd.AlgorithmIdentificationSequence":
    """Return the model, its weights and the threshold, in the form in which a segmentation names its algorithm."""
    import highdicom as hd

    return hd.AlgorithmIdentificationSequence(
        name=f"{MANUFACTURER} {shortened(context.reading.model, 50)}",
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        source=MANUFACTURER,
        parameters={"weights": context.serial, "threshold": f"{context.threshold:g}"},
    )


def coding_schemes() -> list[Any]:
    """Return the identification of the private coding scheme that the codes of sentences belong to."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return [CodingSchemeIdentificationItem(SCHEME, name="Sentences asked of a film by RadZero")]


def thinned(polygon: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return every n-th point of a polygon that has more points than an object may hold; it stays closed."""
    step = -(-len(polygon) // _LINE_POINTS)
    return polygon if step == 1 else np.concatenate([polygon[:-1:step], polygon[-1:]])
