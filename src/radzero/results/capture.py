"""Secondary Capture, one per sentence: the picture that ``reading.overlay`` draws."""

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from radzero._warnings import quiet
from radzero.prediction.reading import SentenceMap
from radzero.results.context import ResultContext, repeat_losses
from radzero.results.header import pair
from radzero.results.identity import shortened
from radzero.results.kinds import RESULT_KINDS


class SecondaryCaptures:
    """Maker of Secondary Captures, one per sentence."""

    def __init__(self, context: ResultContext) -> None:
        self._context = context
        self._captures: list[Dataset] = []

    def add(self, shown: SentenceMap) -> None:
        """Make a Secondary Capture of the sentence's picture."""
        self._captures.append(_capture(self._context, shown.index, np.asarray(shown.picture.convert("RGB"))))

    def objects(self) -> list[Dataset]:
        """Return the Secondary Captures."""
        return self._captures


@quiet()
def _capture(context: ResultContext, index: int, picture: npt.NDArray[np.uint8]) -> Dataset:
    from highdicom.sc import SCImage
    from highdicom.sr import CodedConcept

    capture = SCImage.from_ref_dataset(
        context.header,
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # highdicom requires one; below, the image's own or none replaces it
        **context.common(RESULT_KINDS["sc"], index + 1),
    )
    capture.Laterality = context.header.get("Laterality", "")
    said = [f"{context.reading.sentences[index]}: {context.percent(index):g} %", *context.remarks(index)]
    capture.ImageComments = shortened("; ".join(said), 10_000)
    repeat_losses(capture, context.header)
    if burned := context.header.get("BurnedInAnnotation"):  # the picture adds text, but no patient's name
        capture.BurnedInAnnotation = burned
    capture.PatientOrientation = pair(context.header, "PatientOrientation")
    source = Dataset()
    source.ReferencedSOPClassUID = context.header.SOPClassUID
    source.ReferencedSOPInstanceUID = context.header.SOPInstanceUID
    source.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    capture.SourceImageSequence = [source]
    return capture
