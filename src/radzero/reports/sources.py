"""Read reports from MIMIC-CXR text files, Open-I XML, tables, JSON Lines, archives and folders."""

import csv
import io
import json
import lzma
import re
import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from radzero.reports.sections import Report, Section, heading_name

ARCHIVES = (".tgz", ".tar", ".tar.gz", ".zip")
SUFFIXES = (".xml", ".txt", ".csv", ".tsv", ".jsonl", ".ndjson", *ARCHIVES)
MAX_BYTES = 64 * 2**20
"""Largest text file, XML file or archive member that is read, in bytes."""
_BROKEN = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError)
"""Errors that a file or archive raises when it is damaged, or packed in a way that Python does not know."""

_NAME_COLUMNS = (
    "report",
    "report_id",
    "study_id",
    "study",
    "uid",
    "id",
    "accession",
    "accession_number",
    "dicom_id",
    "filename",
    "file",
    "name",
)
_TEXT_COLUMNS = ("text", "report_text", "full_report", "report", "body", "content", "radiology_report")
_SECTION_COLUMNS = ("findings", "impression")


@dataclass(frozen=True)
class Columns:
    """Columns (or JSON keys) to read; "" to recognise one by its usual names.

    Attributes:
        name: column of the report's name.
        text: column of the full report, headings included.
        findings, impression: columns of these sections, where they have columns of their own.
    """

    name: str = ""
    text: str = ""
    findings: str = ""
    impression: str = ""


@dataclass(frozen=True)
class Unread:
    """Something that should have been a report and could not be read.

    Attributes:
        source: the file, and the member or line of it.
        reason: why it could not be read, and what helps.
    """

    source: str
    reason: str


def report_files(inputs: Sequence[Path]) -> list[Path]:
    """Return the files of ``inputs``, each once and in a fixed order; folders are searched with their subfolders.

    Raises:
        FileNotFoundError: when an input does not exist, or a folder holds no report file; the message names it.
    """
    files: dict[Path, None] = {}
    for path in inputs:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(SUFFIXES))
            if not inside:
                raise FileNotFoundError(f"{path}: no report file ({', '.join(SUFFIXES)}) in this folder")
            files.update(dict.fromkeys(inside))
        elif path.is_file():
            files[path] = None
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return list(files)


def read_reports(files: Sequence[Path], columns: Columns | None = None) -> Iterator[Report | Unread]:
    """Yield every report of the files, in order; one that cannot be read is an :class:`Unread` in its place.

    Sources are unique. Names may not be, where an archive and a loose file hold the same report.
    """
    columns = columns or Columns()
    for path in files:
        lower = path.name.lower()
        try:
            if lower.endswith(ARCHIVES):
                archive = _zip if lower.endswith(".zip") else _tar
                yield from _or_nothing(path, archive(path, columns))
            elif path.stat().st_size > MAX_BYTES and lower.endswith((".xml", ".txt")):
                yield Unread(str(path), f"{path.stat().st_size} bytes are too many for one report")
            else:
                yield from _file(path.name, str(path), path.read_bytes(), columns)
        except _BROKEN as error:
            yield Unread(str(path), f"cannot be read: {error}")


def _or_nothing(path: Path, members: Iterator[Report | Unread]) -> Iterator[Report | Unread]:
    empty = True
    for member in members:
        empty = False
        yield member
    if empty:
        yield Unread(str(path), f"no report file ({', '.join(SUFFIXES)}) in this archive")


def _tar(path: Path, columns: Columns) -> Iterator[Report | Unread]:
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            if not member.isfile() or name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            source = f"{path}!{member.name}"
            if member.size > MAX_BYTES:
                yield Unread(source, f"{member.size} bytes are too many")
                continue
            stream = archive.extractfile(member)
            assert stream is not None  # a plain file has a stream
            yield from _file(name, source, stream.read(), columns)
        assert archive.fileobj is not None  # the archive is open
        # tarfile stops at a damaged header without an error, as it does at the first of the two empty ones at the end
        end = archive.fileobj.read(512)
        if not end or end.strip(b"\0"):
            yield Unread(str(path), "the archive is damaged or cut off after these reports; more may be missing")


def _zip(path: Path, columns: Columns) -> Iterator[Report | Unread]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = PurePosixPath(member.filename).name
            if member.is_dir() or name.startswith((".", "__MACOSX")) or not name.lower().endswith(SUFFIXES):
                continue
            source = f"{path}!{member.filename}"
            if member.file_size > MAX_BYTES:
                yield Unread(source, f"{member.file_size} bytes are too many")
                continue
            if member.flag_bits & 1:
                yield Unread(source, "it is encrypted; unpack the archive")
                continue
            try:
                content = archive.read(member)
            except _BROKEN as error:  # the other members may be whole
                yield Unread(source, f"cannot be read: {error}")
                continue
            yield from _file(name, source, content, columns)


def _file(name: str, source: str, content: bytes, columns: Columns) -> Iterator[Report | Unread]:
    lower, stem = name.lower(), PurePosixPath(name).stem
    if lower.endswith(".xml"):
        yield _xml(stem, source, content)
        return
    if lower.endswith(ARCHIVES):
        yield Unread(source, "an archive inside an archive; unpack it")
        return
    text = _decode(content)
    if text is None:
        yield Unread(source, "not text: it holds NUL bytes")
    elif not text.strip():
        yield Unread(source, "the file is empty")
    elif lower.endswith((".csv", ".tsv")):
        yield from _table(source, text, columns, "\t" if lower.endswith(".tsv") else ",")
    elif lower.endswith((".jsonl", ".ndjson")):
        yield from _lines(source, text, columns)
    else:
        yield _checked(Report.from_text(stem, text, source))


def _decode(content: bytes) -> str | None:
    if b"\0" in content[:4096] and content[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _checked(report: Report) -> Report | Unread:
    if not report.sections:
        return Unread(report.source, "the report is empty")
    return report


def _xml(stem: str, source: str, content: bytes) -> Report | Unread:
    if re.search(rb"<!(?:ENTITY|DOCTYPE[^>]*\[)", content, re.IGNORECASE):
        return Unread(source, "the XML declares entities; remove its DOCTYPE")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two mean an unknown encoding
        return Unread(source, f"not well-formed XML: {error}")
    uid = root.find(".//uId")
    name = uid.get("id", stem) if uid is not None else stem
    sections = []
    for element in root.iter("AbstractText"):
        label = element.get("Label", "")
        text = "".join(element.itertext()).strip()
        sections.append(Section(heading_name(label) or label.lower(), text))
    if not sections:
        return Unread(source, "no AbstractText element; of XML, reports of Open-I (NLMCXR) are read")
    return Report(name, tuple(sections), source)


def _table(source: str, text: str, columns: Columns, delimiter: str) -> Iterator[Report | Unread]:
    csv.field_size_limit(MAX_BYTES)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name for name in reader.fieldnames or [] if name is not None]
        chosen = _choose(header, columns)
        if isinstance(chosen, str):
            yield Unread(source, chosen)
            return
        held: Report | Unread | None = None  # the last row is held back: an open quotation mark runs into it
        for row in reader:
            if held:
                yield held
            held = _row(
                f"{source}:{reader.line_num}", {k: v or "" for k, v in row.items() if isinstance(k, str)}, chosen
            )
        if held and text.count('"') % 2:
            held = Unread(held.source, "a quotation mark is never closed, so that rows run together; mend the table")
        if held:
            yield held
    except csv.Error as error:
        yield Unread(f"{source}:{reader.line_num}", f"not a table: {error}")


def _lines(source: str, text: str, columns: Columns) -> Iterator[Report | Unread]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028 and others inside a string
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            yield Unread(f"{source}:{number}", f"not JSON: {error}")
            continue
        if not isinstance(entry, dict):
            yield Unread(f"{source}:{number}", "not a JSON object")
            continue
        chosen = _choose(list(entry), columns)
        if isinstance(chosen, str):
            yield Unread(f"{source}:{number}", chosen)
            continue
        yield _row(f"{source}:{number}", {k: _json_text(v) for k, v in entry.items()}, chosen)


def _json_text(value: object) -> str:
    """Return a JSON value as text; half a surrogate pair, such as "\\ud83d" alone, is no character and becomes "?"."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode()


def _choose(header: list[str], columns: Columns) -> Columns | str:
    """Return the columns to read, or the reason why there are none."""
    for wanted in (columns.name, columns.text, columns.findings, columns.impression):
        if wanted and wanted not in header:
            return f"there is no column {wanted!r}; there are: {', '.join(header)}"
    by_lower = {name.strip().lower(): name for name in header}
    sections = {key: getattr(columns, key) or by_lower.get(key, "") for key in _SECTION_COLUMNS}
    text = columns.text
    if not text and not (columns.findings or columns.impression) and not any(sections.values()):
        text = next((by_lower[name] for name in _TEXT_COLUMNS if name in by_lower), "")
    if text:
        sections = dict.fromkeys(sections, "")
    if not text and not any(sections.values()):
        return f"no column holds reports; name one with --text-column, of: {', '.join(header)}"
    candidates = (by_lower[name] for name in _NAME_COLUMNS if name in by_lower and by_lower[name] != text)
    return Columns(columns.name or next(candidates, ""), text, sections["findings"], sections["impression"])


def _row(source: str, row: dict[str, str], columns: Columns) -> Report | Unread:
    name = (row.get(columns.name) or "").strip() or source
    if columns.text:
        return _checked(Report.from_text(name, row.get(columns.text, ""), source))
    sections = [
        Section(key, row.get(column, "").strip())
        for key, column in (("findings", columns.findings), ("impression", columns.impression))
        if column
    ]
    return Report(name, tuple(sections), source)
