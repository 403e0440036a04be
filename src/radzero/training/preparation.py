"""Prepare a manifest from MIMIC-CXR, Open-I, phantoms, or a folder of images and a table.

Every image that is left out is reported with its reason. Rows of one patient go to one split.
"""

import csv
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from radzero.images.formats import image_files
from radzero.reports.rules import RulesEngine
from radzero.reports.sections import Report
from radzero.reports.splitting import report_sentences
from radzero.training.manifest import (
    COLUMNS,
    REPORT_SENTENCES,
    SPLITS,
    ManifestError,
    ManifestRow,
    json_lines,
    write_manifest,
)

NOTHING_STATED = "its report states no finding"
NOT_EXTRACTED = "its report is not in the extraction's output"
NO_FILE = "there is no such file"
_SPLIT_NAMES = {
    **{name: name for name in SPLITS},
    "training": "train", "val": "validate", "valid": "validate", "validation": "validate", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class LeftOut:
    """An image, or a row, that is not in the manifest, and the reason."""

    item: str
    reason: str


@dataclass
class Prepared:
    """Result of a preparation.

    Attributes:
        rows: split -> number of images in the manifest.
        sentences: number of sentences of all images.
        left_out: reason -> number of images or rows that were left out.
        report: path of the file that names each of those; None where none was left out.
    """

    rows: Counter[str] = field(default_factory=Counter)
    sentences: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    report: Path | None = None


def prepare(source: Iterable[ManifestRow | LeftOut], output: Path) -> Prepared:
    """Write the manifest of a source, and beside it ``<name>.left_out.jsonl`` with the items that were left out.

    Raises:
        ManifestError: when nothing is left, or a patient is in two splits.
    """
    result = Prepared()
    report = output.with_name(output.stem + ".left_out.jsonl")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = report.with_name(report.name + ".partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:

            def kept() -> Iterator[ManifestRow]:
                for item in source:
                    if isinstance(item, LeftOut):
                        result.left_out[item.reason] += 1
                        file.write(json.dumps({"item": item.item, "reason": item.reason}) + "\n")
                        continue
                    result.rows[item.split] += 1
                    result.sentences += len(item.sentences)
                    yield item
                if not result.rows:
                    reasons = "; ".join(f"{count} x {reason}" for reason, count in result.left_out.most_common(3))
                    more = f"; {report} names them" if reasons else "the source names none"
                    raise ManifestError(f"{output}: not one image is left ({reasons}{more})")

            write_manifest(output, kept())
    except ManifestError:
        if result.left_out and not result.rows:  # every item was left out, so the reasons are kept
            os.replace(temporary, report)
        raise
    else:
        if result.left_out:
            os.replace(temporary, report)
            result.report = report
        else:
            report.unlink(missing_ok=True)
    finally:
        temporary.unlink(missing_ok=True)
    return result


def split_of(patient: str, shares: tuple[float, float] = (0.1, 0.1), seed: int = 0) -> str:
    """Return a patient's split where the source has none: by a hash, so that it stays when patients are added.

    Args:
        patient: identifier of the patient.
        shares: shares (0..1) of "validate" and of "test".
        seed: seed of the hash.

    Raises:
        ManifestError: for shares that are below 0 or leave nothing to train on.
    """
    if not (shares[0] >= 0 and shares[1] >= 0 and sum(shares) < 1):
        raise ManifestError(f"the shares that validate and test must be 0 or more and below 1 together, not {shares}")
    digest = hashlib.sha256(f"radzero split {seed} {patient}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "validate" if place < shares[0] else "test" if place < sum(shares) else "train"


def extraction_sentences(path: Path) -> dict[str, tuple[str, ...]]:
    """Return report name -> finding-sentences of a ``radzero extract`` output.

    Two reports of one name, which a run over several copies of the reports gives, must have the same sentences.

    Raises:
        ManifestError: for a file that is no such output, or two reports of one name that differ.
    """
    found: dict[str, tuple[str, ...]] = {}
    for number, record in json_lines(path):
        try:
            name, stated = record["report"], record.get("sentences")
            texts = None if stated is None else tuple(s["text"] for s in stated)
            same = texts is None or found.setdefault(name, texts) == texts  # an unread or failed one has None
        except (KeyError, TypeError) as error:
            raise ManifestError(f"{path}, line {number}: not a line of `radzero extract`: {error!r}") from error
        if not same:
            raise ManifestError(f"{path}, line {number}: {name} is there twice and differs; extract each report once")
    return found


def _stated(image: str, report: str, sentences: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | LeftOut:
    if report not in sentences:
        return LeftOut(image, NOT_EXTRACTED)
    return sentences[report] or LeftOut(image, NOTHING_STATED)


# -- MIMIC-CXR -----------------------------------------------------------------------------------------


def mimic_cxr(
    root: Path,
    extraction: Path,
    *,
    tables: Path | None = None,
    exclude: Path | None = None,
    views: frozenset[str] | None = None,
) -> Iterator[ManifestRow | LeftOut]:
    """Yield the rows of MIMIC-CXR (or MIMIC-CXR-JPG) in the folders of PhysioNet.

    Args:
        root: the folder that has ``files/p10/p10000032/s50414267/<dicom_id>.jpg`` (or ``.dcm``).
        extraction: output of `radzero extract` over the report archive; reports are named like their studies,
            s50414267.
        tables: folder of ``mimic-cxr-2.0.0-split.csv[.gz]`` and ``...-metadata.csv[.gz]``; None for ``root``.
        exclude: a table with a column ``dicom_id``, such as MS-CXR's, whose images are left out of every split.
        views: ``ViewPosition`` values to keep; None for all.

    Raises:
        ManifestError: for a table that is missing or lacks a column.
    """
    tables = tables or root
    sentences = extraction_sentences(extraction)
    excluded = {row["dicom_id"] for row in _table(exclude, ("dicom_id",))} if exclude else set()
    metadata = _one_of(tables, "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-metadata.csv.gz")
    view_of = {row["dicom_id"]: row["ViewPosition"] for row in _table(metadata, ("dicom_id", "ViewPosition"))}
    splits = _one_of(tables, "mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-split.csv.gz")
    for row in _table(splits, ("dicom_id", "study_id", "subject_id", "split")):
        subject, study, name = f"p{row['subject_id']}", f"s{row['study_id']}", row["dicom_id"]
        folder = root / "files" / subject[:3] / subject / study
        if name in excluded:
            yield LeftOut(name, f"{exclude.name if exclude else ''} excludes it")
            continue
        if views is not None and view_of.get(name, "") not in views:
            yield LeftOut(name, f"its view is {view_of.get(name) or 'not stated'}")
            continue
        file = next((f for f in (folder / f"{name}.jpg", folder / f"{name}.dcm") if f.exists()), None)
        if file is None:
            yield LeftOut(name, NO_FILE)
            continue
        stated = _stated(name, study, sentences)
        if isinstance(stated, LeftOut):
            yield stated
            continue
        yield ManifestRow(str(file.resolve()), stated, subject, study, view_of.get(name, ""), row["split"])


# -- Open-I ----------------------------------------------------------------------------------------------

_OPENI_NAME = re.compile(r"(?:CXR)?(\d+)_(?:\d+_)?IM-\d+.*")


def openi(
    images: Path, extraction: Path, *, projections: Path | None = None, shares: tuple[float, float] = (0.1, 0.1)
) -> Iterator[ManifestRow | LeftOut]:
    """Yield the rows of Open-I (Indiana University): ``CXR54_IM-2145-1001.png`` or ``54_IM-2145-1001.dcm.png``.

    Each report counts as a patient, since the collection names no patients.

    Args:
        images: folder of the images, searched with its subfolders.
        extraction: output of `radzero extract` over the reports, which are named CXR54, or 54.
        projections: a table with ``filename`` and ``projection``, such as ``indiana_projections.csv``.
        shares: see :func:`split_of`.
    """
    sentences = extraction_sentences(extraction)
    view_of: dict[str, str] = {}
    if projections:
        view_of = {
            _openi_stem(row["filename"]): row["projection"].lower()
            for row in _table(projections, ("filename", "projection"))
        }
    for file in _image_files(images):
        if not (match := _OPENI_NAME.fullmatch(file.name)):
            yield LeftOut(str(file), "its name is not one of Open-I's")
            continue
        report = f"CXR{match[1]}"
        named = report if report in sentences else match[1]  # the tables name it 54, the XML files CXR54
        stated = _stated(str(file), named, sentences)
        if isinstance(stated, LeftOut):
            yield stated
            continue
        view = view_of.get(_openi_stem(file.name), "")
        yield ManifestRow(str(file.resolve()), stated, report, report, view, split_of(report, shares))


def _openi_stem(name: str) -> str:
    """Return the part of a file name that both namings share, such as "54_IM-2145-1001"."""
    number = re.search(r"(\d+)_(IM-[\d-]+)", name)
    return f"{number[1]}_{number[2].rstrip('-')}" if number else name


# -- phantoms --------------------------------------------------------------------------------------------


def phantoms(folder: Path, *, shares: tuple[float, float] = (0.1, 0.1)) -> Iterator[ManifestRow | LeftOut]:
    """Yield the rows of a folder that ``radzero phantom`` wrote, with the PNG if there is one, else the DICOM file."""
    index = folder / "phantoms.jsonl"
    if not index.exists():
        raise ManifestError(f"{folder}: has no phantoms.jsonl; `radzero phantom {folder}` writes one")
    for number, record in json_lines(index):
        try:
            files = [folder / record[kind] for kind in ("image", "dicom") if record.get(kind)]
            stated = tuple(s["sentence"] for s in record["sentences"])
            name, view, written = record["id"], record["view"], folder / record.get("report", "")
        except (KeyError, TypeError) as error:
            raise ManifestError(f"{index}, line {number}: not a line of `radzero phantom`: {error!r}") from error
        file = next((file for file in files if file.exists()), None)
        if file is None:
            yield LeftOut(str(files[0]) if files else name, NO_FILE)
            continue
        if not stated:
            yield LeftOut(str(file), NOTHING_STATED)
            continue
        extra = {}
        if written.is_file():
            report = Report.from_text(name, written.read_text(encoding="utf-8"))
            extra[REPORT_SENTENCES] = list(report_sentences(report))
        yield ManifestRow(str(file.resolve()), stated, name, name, view, split_of(name, shares), extra)


# -- a folder and a table --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableColumns:
    """Names of the columns of a table, by their content; "" for a column that is not there.

    Attributes:
        image: file name, path below the images' folder, or name without ending.
        patient: identifier of the patient.
        report: free text, from which the rules engine takes the sentences.
        sentences: finding-sentences with ";" or "|" between them.
        labels: names of findings with "|" or ";" between them, as in NIH's tables; "No Finding" is a normal chest.
        study, view, split: optional columns.
    """

    image: str = "image"
    patient: str = "patient"
    report: str = ""
    sentences: str = ""
    labels: str = ""
    study: str = ""
    view: str = ""
    split: str = ""


def table(
    images: Path, rows: Path, columns: TableColumns, *, shares: tuple[float, float] = (0.1, 0.1)
) -> Iterator[ManifestRow | LeftOut]:
    """Yield the rows of a folder of images and a CSV or TSV file that describes them.

    Raises:
        ManifestError: when not exactly one of report, sentences and labels is named, or a column is missing.
    """
    if sum(map(bool, (columns.report, columns.sentences, columns.labels))) != 1:
        raise ManifestError("name one column of reports, of sentences or of labels")
    paths = {str(file.relative_to(images)): file for file in _image_files(images)}
    names: dict[str, list[Path]] = {}
    for file in paths.values():
        for key in {file.name, file.stem}:
            names.setdefault(key, []).append(file)
    engine = RulesEngine() if columns.report else None
    needed = [getattr(columns, name) for name in TableColumns.__dataclass_fields__ if getattr(columns, name)]
    named: set[Path] = set()
    doubtful: set[Path] = set()
    for row in _table(rows, needed):
        name = row[columns.image]
        meant = [paths[name]] if name in paths else names.get(name, [])
        if len(meant) != 1:
            doubtful.update(meant)
            yield LeftOut(name, "several files have this name; give paths below the folder" if meant else NO_FILE)
            continue
        (file,) = meant
        if file in named:
            yield LeftOut(name, "the table names it twice")
            continue
        named.add(file)
        own: dict[str, Any] = {}
        if engine:
            report = Report.from_text(name, row[columns.report])
            own[REPORT_SENTENCES] = list(report_sentences(report))
            stated = tuple(s.text for s in engine.extract(report).sentences)
        elif columns.sentences:
            stated = _parts(row[columns.sentences])
        else:
            stated = tuple(_sentence_of_label(label) for label in _parts(row[columns.labels]))
        patient = row[columns.patient].strip()
        split = row[columns.split].strip() if columns.split else ""
        if split and split.lower() not in _SPLIT_NAMES:
            raise ManifestError(f"{rows}: {name}: its split {split!r} is none of {', '.join(SPLITS)}")
        if not stated or not patient:
            yield LeftOut(name, NOTHING_STATED if patient else "its patient is not named")
            continue
        study, view = (row[c] if c else "" for c in (columns.study, columns.view))
        # a further column that is named like one of the manifest's is kept as table.<name>
        extra = {f"table.{k}" if k in COLUMNS else k: v for k, v in row.items() if k not in needed} | own
        chosen = _SPLIT_NAMES[split.lower()] if split else split_of(patient, shares)
        yield ManifestRow(str(file.resolve()), stated, patient, study, view, chosen, extra)
    for file in sorted(set(paths.values()) - named - doubtful):
        yield LeftOut(str(file), "the table does not name it")


def _parts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in re.split(r"[|;]", text) if part.strip()))


def _sentence_of_label(label: str) -> str:
    words = label.replace("_", " ").strip().lower()
    return "There is no cardiopulmonary abnormality" if words in ("no finding", "normal") else f"There is {words}"


# -- files -------------------------------------------------------------------------------------------------


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder")
    return image_files(folder)


def _one_of(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise ManifestError(f"{folder}: has no {' or '.join(names)}; it comes with MIMIC-CXR-JPG")


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if path.suffix == ".gz":
        with gzip.open(path, "rb") as packed, io.TextIOWrapper(packed, encoding="utf-8-sig", newline="") as text:
            yield text
    else:
        with path.open(encoding="utf-8-sig", newline="") as text:
            yield text


def _table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    try:
        with _opened(path) as text:
            reader = csv.DictReader(text, delimiter="\t" if ".tsv" in path.suffixes else ",")
            if missing := [c for c in columns if c not in (reader.fieldnames or ())]:
                there = ", ".join(reader.fieldnames or ()) or "none"
                raise ManifestError(f"{path}: has no column {', '.join(missing)}; its columns: {there}")
            for row in reader:
                if None in row or None in row.values():
                    raise ManifestError(f"{path}, line {reader.line_num}: more or fewer values than columns")
                yield row
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read as a table: {error}") from error
