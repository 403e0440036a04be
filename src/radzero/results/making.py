"""Make the DICOM results of a reading: all wanted kinds in one pass over the maps, so each map is upsampled once."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple, Protocol

from pydicom.dataset import Dataset

from radzero._registry import resolve
from radzero.prediction.reading import Reading, SentenceMap
from radzero.results.context import ResultContext, set_dates, time_of
from radzero.results.header import OF_PATIENT_AND_STUDY, ResultError
from radzero.results.kinds import RESULT_KINDS, require_highdicom

_UNUSUAL = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, NotImplementedError)
"""Exceptions that highdicom raises for an unusual header."""


class ResultMaker(Protocol):
    """Maker of the objects of one kind. Its only constructor argument is the :class:`ResultContext` of the reading."""

    def add(self, shown: SentenceMap) -> None:
        """Take what is needed of a sentence's map, which is then freed; this is called for each sentence in order."""
        ...

    def objects(self) -> list[Dataset]:
        """Return the objects. This is called once, after all sentences; a method without maps adds none."""
        ...


class Made(NamedTuple):
    """DICOM results, and for each kind that cannot be made the reason, by the name of the kind."""

    results: list[Dataset]
    left_out: dict[str, str]


class ResultBuilder:
    """Builder of the DICOM objects of one reading, for a caller that passes the sentences' maps one after another.

    Args:
        reading: reading of a DICOM file.
        header: header of the same file, by :func:`radzero.results.read_header`.
        kinds: names of :data:`~radzero.results.kinds.RESULT_KINDS`.
        threshold: threshold of regions and outlines, 0..1.
        made: time at which the objects were made; now if None.

    Raises:
        ResultError: when header and reading belong to different files, or no sentence was asked.
        ValueError: for an unknown kind, or a threshold outside 0..1.
        ImportError: when the extra ``dicom`` is not installed.
    """

    def __init__(
        self,
        reading: Reading,
        header: Dataset,
        kinds: Iterable[str],
        *,
        threshold: float = 0.5,
        made: datetime | None = None,
    ) -> None:
        wanted = list(dict.fromkeys(kinds))
        if unknown := [name for name in wanted if name not in RESULT_KINDS]:
            raise ValueError(f"{unknown[0]!r}: is no kind of DICOM result; there are {', '.join(RESULT_KINDS)}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"a threshold is between 0 and 1, not {threshold}")
        if not reading.sentences:
            raise ResultError(f"{reading.source}: no sentence was asked, so there is nothing to store")
        own = reading.dicom.sop_instance_uid if reading.dicom else None
        if own != header.SOPInstanceUID or reading.film.shape != (header.Rows, header.Columns):
            raise ResultError(f"{reading.source}: the header is of another film ({header.SOPInstanceUID}, not {own})")
        self._left_out = {name: why for name in wanted if (why := _refusal(name, reading, header))}
        require_highdicom()
        self._order = wanted
        self._context = ResultContext(reading, header, threshold, made or time_of(header))
        self._makers: dict[str, ResultMaker] = {
            name: resolve(RESULT_KINDS[name].maker)(self._context) for name in wanted if name not in self._left_out
        }

    def add(self, shown: SentenceMap) -> None:
        """Take what the wanted kinds need of a sentence's map; call this for each sentence in order."""
        for name, maker in list(self._makers.items()):
            try:
                maker.add(shown)
            except _UNUSUAL as error:
                self._refuse(name, error)

    def finish(self) -> Made:
        """Return the objects, in the order of the kinds, and the reason for each kind that cannot be made."""
        results: list[Dataset] = []
        for name, maker in list(self._makers.items()):
            try:
                made = maker.objects()
            except _UNUSUAL as error:
                self._refuse(name, error)
                continue
            for result in made:
                self._complete(result)
            results += made
        return Made(results, {name: self._left_out[name] for name in self._order if name in self._left_out})

    def _complete(self, result: Dataset) -> None:
        header = self._context.header
        set_dates(result, self._context.made)
        for keyword in OF_PATIENT_AND_STUDY:
            if keyword in header and keyword not in result:
                result[keyword] = header[keyword]

    def _refuse(self, name: str, error: Exception) -> None:
        del self._makers[name]
        if not isinstance(error, ResultError):
            error = ResultError(f"{self._context.reading.source}: its header allows no DICOM result ({error})")
        self._left_out[name] = str(error)


def _refusal(name: str, reading: Reading, header: Dataset) -> str:
    """Return the reason why there can be no object of a kind, or an empty string."""
    kind = RESULT_KINDS[name]
    if kind.needs_maps and reading.grid is None:
        return f"{reading.source}: {reading.model} has no maps, which {name} shows; ask for sr"
    if kind.needs_grey and header.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        return f"{reading.source}: a film in colour can have no greyscale presentation state; leave {name} out"
    return ""


def make_possible_results(
    reading: Reading,
    header: Dataset,
    kinds: Iterable[str],
    *,
    threshold: float = 0.5,
    made: datetime | None = None,
) -> Made:
    """Make the DICOM objects of one reading, ready to be written or sent; a kind that cannot be made is left out.

    Args:
        reading: see :class:`ResultBuilder`.
        header: see :class:`ResultBuilder`.
        kinds: see :class:`ResultBuilder`.
        threshold: see :class:`ResultBuilder`.
        made: see :class:`ResultBuilder`.

    Raises:
        ResultError: when no kind can be made; the message is the reason for the first. Also see :class:`ResultBuilder`.
        ValueError: see :class:`ResultBuilder`.
        ImportError: see :class:`ResultBuilder`.
    """
    builder = ResultBuilder(reading, header, kinds, threshold=threshold, made=made)
    for shown in reading.sentence_maps(threshold) if reading.grid is not None else ():
        builder.add(shown)
    done = builder.finish()
    if done.left_out and not done.results:
        raise ResultError(next(iter(done.left_out.values())))
    return done


def make_results(
    reading: Reading,
    header: Dataset,
    kinds: Iterable[str] = tuple(RESULT_KINDS),
    *,
    threshold: float = 0.5,
    made: datetime | None = None,
) -> list[Dataset]:
    """Do what :func:`make_possible_results` does, but raise an error if one of the kinds cannot be made.

    Raises:
        ResultError: when one of the kinds cannot be made; the message is the reason. Also see :class:`ResultBuilder`.
        ValueError: see :class:`ResultBuilder`.
        ImportError: see :class:`ResultBuilder`.
    """
    done = make_possible_results(reading, header, kinds, threshold=threshold, made=made)
    if done.left_out:
        raise ResultError(next(iter(done.left_out.values())))
    return done.results
