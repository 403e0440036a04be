"""Segmentations: a binary one, where each map is at least the threshold, and a fractional one of the maps."""

from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SecondaryCaptureImageStorage

from radzero._warnings import quiet
from radzero.prediction.reading import SentenceMap
from radzero.results.context import ResultContext, algorithm_identification, coding_schemes, refer_to, repeat_losses
from radzero.results.identity import sentence_code, shortened
from radzero.results.kinds import RESULT_KINDS, ResultKind


class BinarySegmentation:
    """Maker of one SEG with a segment per sentence: the pixels where the map is at least the threshold."""

    def __init__(self, context: ResultContext) -> None:
        self._context = context
        self._masks: list[npt.NDArray[np.bool_]] = []

    def add(self, shown: SentenceMap) -> None:
        """Keep the mask of a sentence."""
        self._masks.append(shown.values >= self._context.threshold)

    def objects(self) -> list[Dataset]:
        """The segmentation."""
        what = f"where maps are at least {self._context.threshold:g}"
        return [_segmentation(self._context, RESULT_KINDS["seg"], np.stack(self._masks, axis=-1)[None], what)]


class FractionalSegmentation:
    """Maker of one SEG with a segment per sentence: the map, 0..255 for 0..1."""

    def __init__(self, context: ResultContext) -> None:
        self._context = context
        self._levels: list[npt.NDArray[np.uint8]] = []

    def add(self, shown: SentenceMap) -> None:
        """Keep the map of a sentence in 256 levels."""
        self._levels.append(np.rint(shown.values * 255).astype(np.uint8))

    def objects(self) -> list[Dataset]:
        """The segmentation."""
        maps = np.stack(self._levels, axis=-1)[None] / np.float32(255)
        return [_segmentation(self._context, RESULT_KINDS["seg-map"], maps, "similarity maps, 255 for 1")]


@quiet()  # highdicom warns about names of patients, and the warnings contain the names
def _segmentation(context: ResultContext, kind: ResultKind, pixels: npt.NDArray[Any], what: str) -> Dataset:
    import highdicom as hd

    reading = context.reading
    segments = []
    for k, sentence in enumerate(reading.sentences):
        segment = hd.seg.SegmentDescription(
            segment_number=k + 1,
            segment_label=shortened(sentence, 64),
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=sentence_code(sentence),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm_identification(context),
            tracking_uid=context.uid(kind, "tracking", str(k)),
            tracking_id=shortened(sentence, 10_000),
        )
        segment.SegmentDescription = shortened(f"{sentence} ({context.percent(k):g} %)", 1024)
        segments.append(segment)
    source = deepcopy(context.header)
    # segments have the image's own pixels; highdicom's reader refuses Pixel Measures without a slice thickness
    source.pop("PixelSpacing", None)
    if "NumberOfFrames" in source:  # highdicom would require positions in space, which projections lack
        source.SOPClassUID = SecondaryCaptureImageStorage
        del source.NumberOfFrames, source.SharedFunctionalGroupsSequence
    seg = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=pixels,
        segmentation_type="BINARY" if pixels.dtype == bool else "FRACTIONAL",
        segment_descriptions=segments,
        content_label="RADZERO",
        content_description=shortened(what, 64),
        omit_empty_frames=False,
        coding_schemes=coding_schemes(),
        **context.common(kind),
    )
    seg.walk(refer_to(context.header))
    # Patient Orientation is of type 2C in the General Image module; highdicom leaves it out for projections
    seg.PatientOrientation = context.header.get("PatientOrientation", "")
    if remarks := context.remarks():
        seg.ImageComments = shortened("; ".join(remarks), 10_000)
    repeat_losses(seg, context.header)
    return seg
