"""Runs of the rules engine: every report accounted for, the same bytes always, and whatever people call a report."""

import csv
import gzip
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import Result

from command_line import call
from radzero.reports.command import Options, run_extraction
from radzero.reports.extraction import read_lines, sentences_of
from radzero.reports.rules import RulesEngine
from radzero.reports.sections import Report
from radzero.reports.sentences import MAX_WORDS, TEMPORAL, FindingSentence
from radzero.reports.sources import ARCHIVES, Columns, Unread, read_reports, report_files

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).with_name("radzero")
STATEMENTS = (
    "The heart is enlarged.",
    "Heart size is normal.",
    "There is a small left pleural effusion, unchanged.",
    "Bilateral effusions and cardiomegaly.",
    "No focal consolidation, effusion or pneumothorax.",
    "The lungs are clear.",
    "Possible pneumonia at the right base.",
    "New 8 mm nodule in the right upper lobe since the prior film.",
    "Findings may represent atelectasis or scarring in the left lower lobe.",
    "Endotracheal tube 4 cm above the carina.",
    "The right pneumothorax has resolved.",
    "Calcified granulomas in both upper lobes.",
    "XXXX opacity in the XXXX lobe; ___ was told.",
    "Degenerative changes of the thoracic spine.",
    "1. Mild pulmonary edema. 2. Cardiomegaly.",
    "Recommend CT for the nodule.",
    "Patchy opacities in the right middle and left lower lobes are worse.",
    "Nothing acute – “otherwise” normal.",
    "Purple monkeys dishwasher.",
)


def said(result: Result) -> str:
    """What a failing command says, on one line."""
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def lines(output: Path) -> list[dict[str, Any]]:
    return list(read_lines(output))


def extracted(folder: Path, *options: object, code: int = 0) -> list[dict[str, Any]]:
    """The lines of a run over ``folder`` beside it."""
    output = folder.parent / f"{folder.name}.jsonl"
    call("extract", folder, "-o", output, *options, code=code)
    return lines(output)


def report_text(chance: random.Random) -> str:
    findings, impression = (" ".join(chance.sample(STATEMENTS, count)) for count in (chance.randint(2, 7), 2))
    return chance.choice(
        (
            f"INDICATION: pneumothorax?\n\nFINDINGS: {findings}\n\nIMPRESSION: {impression}\n",
            f"FINAL REPORT\n EXAMINATION: CHEST\n\n COMPARISON: film with mass.\n\n FINDINGS:\n\n {findings}\n",
            findings,
            f"PA AND LATERAL CHEST:\n{findings}\nRECOMMENDATION: CT for mass.",
        )
    )


# -- more than a thousand reports --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 1,650 reports in five shapes, and three things that are none."""
    folder = tmp_path_factory.mktemp("corpus") / "reports"
    (folder / "loose").mkdir(parents=True)
    chance = random.Random(11)
    many = [json.dumps({"id": f"j{k}", "text": report_text(chance)}) for k in range(1350)]
    many.insert(617, '{"id": "torn')
    (folder / "a.jsonl").write_text("\n".join(many), encoding="utf-8")
    for k in range(100):
        (folder / "loose" / f"größe-{k}.txt").write_text(report_text(chance), encoding="utf-8")
    (folder / "loose" / "empty.txt").touch()
    with (folder / "m.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("study_id", "report_text"), *((f"c{k}", report_text(chance)) for k in range(100))])
    with zipfile.ZipFile(folder / "n.zip", "w") as archive:
        for k in range(100):
            archive.writestr(f"p{k}/s{k}.txt", report_text(chance))
    (folder / "z.xml").write_bytes(b"<none>")
    return folder


TOTAL, UNREAD = 1653, 3


@pytest.fixture(scope="module")
def expected(corpus: Path) -> bytes:
    """The output of an untroubled run in this process."""
    output = corpus.parent / "expected.jsonl"
    run_extraction([corpus], output, Options())
    return output.read_bytes()


def arguments(corpus: Path, output: Path, *options: object) -> list[str]:
    return [str(part) for part in (COMMAND, "extract", corpus, "-o", output, *options)]


def started(corpus: Path, output: Path, *options: object, **kwargs: Any) -> subprocess.Popen[bytes]:
    # a test run in the background of a shell may have interrupts ignored, and its children with it
    return subprocess.Popen(
        arguments(corpus, output, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **kwargs,
    )


def wait_for_size(process: subprocess.Popen[bytes], output: Path, size: int) -> None:
    while process.poll() is None and (not output.exists() or output.stat().st_size < size):
        time.sleep(0.001)


def all_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=10)[1]


def test_every_report_is_accounted_for_in_order(corpus: Path, expected: bytes):
    written = [json.loads(line) for line in expected.splitlines()]
    read = list(read_reports(report_files([corpus])))
    assert len(written) == len(read) == TOTAL
    assert [line["source"] for line in written] == [report.source for report in read]
    assert len({line["source"] for line in written}) == TOTAL
    unread = [line for line in written if line.get("error") == "unread"]
    assert [Path(line["source"].split(".jsonl:")[0]).name for line in unread] == ["a", "empty.txt", "z.xml"]
    assert all(line["reason"] for line in unread)


def test_every_sentence_is_valid_parses_back_and_says_where_it_was_said(corpus: Path, expected: bytes):
    reports = {report.source: report for report in read_reports(report_files([corpus]))}
    count = 0
    for line in map(json.loads, expected.splitlines()):
        report = reports[line["source"]]
        if isinstance(report, Unread):
            continue
        texts = {section.name: section.text for section in report.film_sections}
        sentences = sentences_of(line)
        assert len(set(sentences)) == len(sentences), "no sentence twice"
        for sentence, entry in zip(sentences, line["sentences"], strict=True):
            parsed = FindingSentence.parse(entry["text"])
            assert parsed == sentence
            assert [parsed.polarity, parsed.finding, list(parsed.descriptors), parsed.side, parsed.site] == [
                entry[key] for key in ("polarity", "finding", "descriptors", "side", "site")
            ]
            assert not TEMPORAL.search(entry["text"])
            assert not re.search(r"X{3,}|_", entry["text"])
            assert len(entry["text"].split()) <= MAX_WORDS
            provenance = sentence.provenance
            assert provenance is not None
            assert (provenance.report, provenance.engine, provenance.model) == (line["report"], "rules", line["model"])
            assert (provenance.prompt, provenance.time) == ("", "")
            span = texts[provenance.section][provenance.start : provenance.end]
            assert len(span) == provenance.end - provenance.start > 0, "it lies in the section"
            assert span == span.strip()
            count += 1
        for aside in line["set_aside"]:
            assert aside["reason"]
            assert texts[aside["section"]][aside["start"] : aside["end"]] == aside["text"]
    assert count > 5000


def test_lines_say_what_the_engine_says(corpus: Path, expected: bytes):
    engine = RulesEngine()
    reports = [r for r in read_reports(report_files([corpus])) if isinstance(r, Report)]
    written = {line["source"]: line for line in map(json.loads, expected.splitlines())}
    for report in reports[::50]:
        extraction = engine.extract(report)
        line = written[report.source]
        assert sentences_of(line) == list(extraction.sentences)
        assert [s.provenance for s in sentences_of(line)] == [s.provenance for s in extraction.sentences]
        assert line["merged"] == extraction.merged
        assert [a["text"] for a in line["set_aside"]] == [a.text for a in extraction.set_aside]


def test_the_summary_counts_what_is_in_the_file(corpus: Path, expected: bytes, tmp_path: Path):
    output = tmp_path / "out.jsonl"
    output.write_bytes(expected)  # nothing is left to do, and all is counted
    done: list[tuple[int, int | None]] = []
    result = run_extraction([corpus], output, Options(), on_report=lambda *args: done.append(args))
    assert done == [(k + 1, None) for k in range(TOTAL)]
    written = [json.loads(line) for line in expected.splitlines()]
    sentences = [s for line in written for s in line.get("sentences", [])]
    s = result.summary
    assert (s.reports, s.unread, s.resumed) == (TOTAL - UNREAD, UNREAD, TOTAL)
    assert s.sentences == len(sentences)
    assert s.polarities == Counter(x["polarity"] for x in sentences)
    assert set(s.polarities) == {"affirmed", "uncertain", "negated"}
    assert s.empty == sum(line.get("sentences") == [] for line in written)
    assert s.merged == sum(line.get("merged", 0) for line in written)
    assert sum(s.set_aside.values()) == sum(len(line.get("set_aside", [])) for line in written)
    assert not s.failed
    assert output.read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_any_number_of_processes_writes_the_same_bytes(corpus: Path, expected: bytes, tmp_path: Path, processes: int):
    output = tmp_path / "out.jsonl"
    environment = os.environ | {"PYTHONHASHSEED": str(processes)}
    command = arguments(corpus, output, "--processes", processes)
    result = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    assert result.returncode == 1, result.stderr
    assert output.read_bytes() == expected


# -- kills -------------------------------------------------------------------------------------------------


def killed(corpus: Path, output: Path, size: int, later: float, processes: int) -> bool:
    """Kills a run some time after its output has reached a size; whether it was still running."""
    with started(corpus, output, "--processes", processes) as process:
        wait_for_size(process, output, size)
        time.sleep(later)
        if process.poll() is not None:
            return False
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert all_gone(children), "a killed run leaves no process behind"
    return True


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_in_the_same_bytes(corpus: Path, expected: bytes, tmp_path: Path):
    output = tmp_path / "out.jsonl"
    chance = random.Random(5)
    moments = sorted(chance.uniform(0, 0.9) for _ in range(10))
    sizes = []
    for k, moment in enumerate(moments):
        while not killed(corpus, output, int(moment * len(expected)), chance.uniform(0, 0.03), 1 + k % 2):
            os.truncate(output, int(moment * len(expected)))  # it came to its end before it was killed: once more
        kept = output.read_bytes() if output.exists() else b""
        assert expected.startswith(kept)
        sizes.append(len(kept))
        if kept and chance.random() < 0.5:  # and what the disk had not taken yet is gone too
            os.truncate(output, len(kept) - chance.randint(1, min(len(kept), 3000)))
    assert len(set(sizes)) > 5
    with started(corpus, output) as process:
        assert process.wait(60) == 1
    assert output.read_bytes() == expected


@pytest.mark.slow
def test_a_killed_process_of_several_ends_the_run_with_a_message_and_it_can_be_gone_on_with(
    corpus: Path, expected: bytes, tmp_path: Path
):
    output = tmp_path / "out.jsonl"
    with started(corpus, output, "--processes", 2) as process:
        wait_for_size(process, output, 1000)
        workers = [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]
        assert len(workers) == 2
        workers[0].kill()
        assert process.wait(60) == 2
        assert process.stderr is not None
        message = " ".join(process.stderr.read().decode().split())
        assert "a process of the rules engine was killed" in message
        assert "run again to go on" in message
        assert "Traceback" not in message
        assert all_gone(workers)
    assert expected.startswith(output.read_bytes())
    with started(corpus, output) as process:
        assert process.wait(60) == 1
    assert output.read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupted_run_says_so_and_can_be_gone_on_with(
    corpus: Path, expected: bytes, tmp_path: Path, processes: int
):
    output = tmp_path / "out.jsonl"
    with started(corpus, output, "--processes", processes, start_new_session=True) as process:
        wait_for_size(process, output, len(expected) // 4)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
        assert process.wait(60) == 130
        assert process.stderr is not None
        message = process.stderr.read().decode()
        assert "interrupted; run the same command again to go on" in message
        assert "Traceback" not in message
    kept = output.read_bytes()
    assert expected.startswith(kept)
    assert kept.endswith(b"\n")
    assert len(kept) < len(expected)


# -- outputs that are there already ------------------------------------------------------------------------


@pytest.fixture
def few(tmp_path: Path) -> Path:
    folder = tmp_path / "few"
    folder.mkdir()
    chance = random.Random(2)
    for name in ("ä", "b", "c", "d"):
        (folder / f"{name}.txt").write_text(report_text(chance), encoding="utf-8")
    return folder


def test_a_torn_last_line_is_cut_off_and_written_again(few: Path, tmp_path: Path):
    output = tmp_path / "few.jsonl"
    extracted(few)
    whole = output.read_bytes()
    ends = [k + 1 for k, byte in enumerate(whole) if byte == ord("\n")]
    cuts = {
        0,
        1,
        5,
        12,
        13,
        60,
        whole.index("ä".encode()) + 1,
        *ends,
        *(end - 1 for end in ends),
        *(end + 3 for end in ends),
    }
    for cut in sorted(cuts):
        output.write_bytes(whole[:cut])
        extracted(few)
        assert output.read_bytes() == whole, cut
    output.write_bytes(whole)
    before = output.stat().st_mtime_ns
    assert "4" in call("extract", few, "-o", output).stdout
    assert output.read_bytes() == whole
    assert before <= output.stat().st_mtime_ns


def test_lines_that_are_there_are_not_made_again(few: Path, tmp_path: Path):
    output = tmp_path / "few.jsonl"
    extracted(few)
    first, *others = output.read_text(encoding="utf-8").splitlines(keepends=True)
    marked = first.replace('"merged": ', '"marked": 1, "merged": ')
    output.write_text(marked + others[0], encoding="utf-8")
    extracted(few)
    assert output.read_text(encoding="utf-8") == "".join((marked, *others))


def test_reports_that_came_at_the_end_are_added(few: Path, tmp_path: Path):
    extracted(few)
    before = (tmp_path / "few.jsonl").read_bytes()
    (few / "é.txt").write_text("Cardiomegaly.", encoding="utf-8")
    names = [line["report"] for line in extracted(few)]
    assert sorted(names) == sorted(["ä", "b", "c", "d", "é"])
    assert (tmp_path / "few.jsonl").read_bytes().startswith(before)


def refused(few: Path, *options: object) -> str:
    """What is said of an output that does not fit, and is left as it is."""
    output = few.parent / "few.jsonl"
    before = output.read_bytes()
    message = said(call("extract", few, "-o", output, *options, code=2))
    assert output.read_bytes() == before
    assert str(output) in message
    assert "give another output" in message
    return message


def test_an_output_of_another_engine_or_vocabulary_is_refused_by_name(few: Path, tmp_path: Path):
    from radzero.reports.vocabulary import FOLDER

    (line, *_) = extracted(few)
    message = refused(few, "--engine", "llm", "--model", "m", "--url", "http://127.0.0.1:9/v1", "--tries", 1)
    assert "'engine': 'rules'" in message
    assert "'engine': 'llm'" in message
    for option, file in (("--vocabulary", "vocabulary.yaml"), ("--cues", "cues.yaml")):
        mine = tmp_path / file
        mine.write_text((FOLDER / file).read_text(encoding="utf-8") + "\n# mine\n", encoding="utf-8")
        assert f"'model': '{line['model']}'" in refused(few, option, mine)


def test_an_output_of_other_reports_is_refused_by_name(few: Path):
    extracted(few)
    (few / "aa.txt").write_text("Clear lungs.", encoding="utf-8")
    message = refused(few)
    assert f"line 1 is of {few / 'b.txt'}, but the input's report 1 is {few / 'aa.txt'}" in message
    (few / "aa.txt").unlink()
    (few / "ä.txt").unlink()
    assert "more reports than the input" in refused(few)


@pytest.mark.parametrize(
    "content",
    [
        b"my notes\n",
        b"my notes without an end of line",
        b'{"report": "x"}\n',
        b'{"report": "x", "source": "y", "engine": "rules"}\n',
        b"[]\n",
        b'"source"\n',
        b"\xff\xfe\n",
        b'{"precious": true}',
    ],
)
def test_a_file_that_is_no_output_is_refused_and_left_alone(few: Path, tmp_path: Path, content: bytes):
    (tmp_path / "few.jsonl").write_bytes(content)
    assert "line 1 is not of an extraction" in refused(few)


def test_an_output_that_cannot_be_written_is_said(few: Path, tmp_path: Path):
    assert str(tmp_path) in said(call("extract", few, "-o", tmp_path, code=2))
    (tmp_path / "file").touch()
    assert "file" in said(call("extract", few, "-o", tmp_path / "file" / "out.jsonl", code=2))


def test_folders_of_the_output_are_made(few: Path, tmp_path: Path):
    call("extract", few, "-o", tmp_path / "x" / "y" / "out.jsonl")
    assert len(lines(tmp_path / "x" / "y" / "out.jsonl")) == 4


def test_the_output_may_lie_in_the_folder_of_the_reports(few: Path):
    output = few / "c.jsonl"
    for _ in range(2):
        call("extract", few, few, "-o", output, "--audit", 4)
        assert [Path(line["source"]).name for line in lines(output)] == ["b.txt", "c.txt", "d.txt", "ä.txt"]
    message = said(call("extract", output, "-o", output, code=2))
    assert "is the only input" in message
    assert len(lines(output)) == 4


# -- what cannot be read -----------------------------------------------------------------------------------


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


def tarred(mode: str = "w", **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def encrypted(content: bytes) -> bytes:
    """A zip archive whose headers say so."""
    changed = bytearray(content)
    changed[6] |= 1
    changed[content.index(b"PK\1\2") + 8] |= 1
    return bytes(changed)


CLEAR = b"FINDINGS: The lungs are clear."
LONG = CLEAR * 2000
ENTITIES = (
    b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><r><AbstractText>&b;</AbstractText></r>'
)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.txt", b"", "the file is empty"),
        ("blank.txt", b" \n\n\t", "the file is empty"),
        ("bom.txt", b"\xef\xbb\xbf", "the file is empty"),
        ("image.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not text: it holds NUL bytes"),
        ("broken.xml", b"<eCitation><MedlineCitation>", "not well-formed XML: .*line 1"),
        ("empty.xml", b"", "not well-formed XML"),
        ("text.xml", CLEAR, "not well-formed XML"),
        ("entities.xml", ENTITIES, "declares entities"),
        ("undefined.xml", b"<r><AbstractText>&nbsp;</AbstractText></r>", "not well-formed XML: undefined entity"),
        ("encoding.xml", b'<?xml version="1.0" encoding="klingon"?><r/>', "not well-formed XML: unknown encoding"),
        ("japanese.xml", b'<?xml version="1.0" encoding="shift_jis"?><r/>', "not well-formed XML: multi-byte"),
        ("other.xml", b"<note><to>you</to></note>", "no AbstractText element"),
        ("table.csv", b"patient,age\n1,50\n", r"name one with --text-column, of: patient, age"),
        ("table.tsv", b"patient\tage\n1\t50\n", r"name one with --text-column, of: patient, age"),
        ("empty.csv", b"", "the file is empty"),
        ("lines.jsonl", b'{"text": "Clear', "not JSON: Unterminated string"),
        ("deep.jsonl", b"[" * 100_000, "not JSON: .*recursion"),
        ("list.jsonl", b'["Clear"]', "not a JSON object"),
        ("keys.ndjson", b'{"age": 50}', "name one with --text-column, of: age"),
        ("null.jsonl", b'{"text": null}', "the report is empty"),
        ("empty.jsonl", b"", "the file is empty"),
        ("broken.zip", b"PK\3\4 and no more", "cannot be read: File is not a zip file"),
        ("cut.zip", zipped(a_txt=CLEAR)[:-10], "cannot be read: File is not a zip file"),
        ("flate.zip", zipped(a_txt=LONG).replace(zipped(a_txt=LONG)[40:50], b"\xff" * 10), "cannot be read: "),
        ("locked.zip", encrypted(zipped(a_txt=CLEAR)), "it is encrypted"),
        ("images.zip", zipped(a_png=b"x"), "no report file .* in this archive"),
        ("nothing.zip", zipped(), "no report file .* in this archive"),
        ("nested.zip", zipped(b_zip=zipped(a_txt=CLEAR)), "an archive inside an archive"),
        ("nested.tar", tarred(b_tgz=tarred("w:gz", a_txt=CLEAR)), "an archive inside an archive"),
        ("broken.tar", b"nothing of the kind", "cannot be read: "),
        ("broken.tgz", b"\x1f\x8b nothing of the kind", "cannot be read: "),
        ("cut.tgz", tarred("w:gz", a_txt=LONG)[:60], "cannot be read: "),
        ("empty.tar", b"", "cannot be read: "),
        ("images.tar.gz", tarred("w:gz", a_png=b"x"), "no report file .* in this archive"),
        ("inside.tar", tarred(a_txt=b"\0\0"), "not text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # archives hold the time
)
def test_what_cannot_be_read_gets_a_line_with_the_reason(tmp_path: Path, name: str, content: bytes, reason: str):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(content)
    (folder / "~good.txt").write_bytes(CLEAR)
    bad, good = extracted(folder, "--audit", 5, code=1)
    assert set(bad) == {"report", "source", "error", "reason"}
    assert (bad["report"], bad["error"]) == (None, "unread")
    assert bad["source"].startswith(str(folder / name))
    assert re.search(reason, bad["reason"]), bad["reason"]
    assert [s["text"] for s in good["sentences"]] == ["There is no opacity"]
    first = (tmp_path / "in.jsonl").read_bytes()
    extracted(folder, code=1)
    assert (tmp_path / "in.jsonl").read_bytes() == first, "and again"


def test_bad_members_and_lines_cost_their_neighbours_nothing(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    good = json.dumps({"id": "x", "text": CLEAR.decode()}).encode()
    (folder / "a.jsonl").write_bytes(b"\n".join((good, b"{", b"", b"   ", good, b"7", good, b"")))
    (folder / "b.csv").write_bytes(b"id,text\n1,Clear lungs.\n2,\n3,Clear lungs.,too,many\n4\n\n5,Clear lungs.\n")
    content = zipped(a_txt=LONG, b_txt=CLEAR, c_txt=b"", d_txt=CLEAR, e_png=b"")
    (folder / "c.zip").write_bytes(content[:45] + b"\xff" * 5 + content[50:])
    cut = tarred(a_txt=CLEAR, b_txt=CLEAR, c_txt=CLEAR)
    (folder / "d.tar").write_bytes(cut[:1024])
    (folder / "e.tar").write_bytes(cut[:1024] + b"\xff" * 300 + cut[1324:])
    (folder / "f.tgz").write_bytes(gzip.compress(cut[:1536]))
    written = extracted(folder, code=1)
    assert [(Path(line["source"]).name, "error" in line) for line in written] == [
        ("a.jsonl:1", False), ("a.jsonl:2", True), ("a.jsonl:5", False), ("a.jsonl:6", True), ("a.jsonl:7", False),
        ("b.csv:2", False), ("b.csv:3", True), ("b.csv:4", False), ("b.csv:5", True), ("b.csv:7", False),
        ("c.zip!a.txt", True), ("c.zip!b.txt", False), ("c.zip!c.txt", True), ("c.zip!d.txt", False),
        ("d.tar!a.txt", False), ("d.tar", True),
        ("e.tar!a.txt", False), ("e.tar", True),
        ("f.tgz!a.txt", False), ("f.tgz", True),
    ]  # fmt: skip
    for line in (written[15], written[17], written[19]):
        assert re.search("damaged or cut off after these reports|unexpected end of data", line["reason"])


def test_where_nothing_can_be_done_it_is_said(tmp_path: Path):
    output = tmp_path / "out.jsonl"
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "film.png").touch()
    for missing, message in (("none", "no report file"), ("nowhere", "no such file or folder")):
        text = said(call("extract", tmp_path / missing, "-o", output, code=2))
        assert f"{tmp_path / missing}: {message}" in text
    assert not output.exists()


def test_options_that_make_no_sense_are_refused(few: Path, tmp_path: Path):
    for option in ("--processes", "--audit", "--concurrency", "--tries"):
        assert option in said(call("extract", few, "-o", tmp_path / "o.jsonl", option, -1, code=2))
    assert "--engine" in said(call("extract", few, "-o", tmp_path / "o.jsonl", "--engine", "magic", code=2))


# -- shapes of reports -------------------------------------------------------------------------------------

TEXT = (
    "INDICATION: pneumothorax?\n"
    "FINDINGS: The heart is enlarged – “mildly”. No pneumothorax or effusion.\n"
    "IMPRESSION: Small nodule\nin the right upper lobe."
)
FINDINGS = "The heart is enlarged – “mildly”. No pneumothorax or effusion."
IMPRESSION = "Small nodule\nin the right upper lobe."
SENTENCES = [s.text for s in RulesEngine().extract(Report.from_text("r", TEXT)).sentences]


def open_i(encoding: str) -> bytes:
    return f"""<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE eCitation SYSTEM "nlm.dtd">
<eCitation><uId id="CXR17"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">film with a mass</AbstractText>
<AbstractText Label="INDICATION">pneumothorax?</AbstractText>
<AbstractText Label="FINDINGS">{FINDINGS}</AbstractText>
<AbstractText Label="IMPRESSION">{IMPRESSION}</AbstractText>
</Abstract></Article></MedlineCitation></eCitation>""".encode(encoding)


def table(delimiter: str, *rows: tuple[str, ...]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter).writerows(rows)
    return buffer.getvalue().encode()


@pytest.mark.parametrize(
    ("name", "content", "report"),
    [
        ("r.txt", TEXT.encode(), "r"),
        ("R.TXT", TEXT.encode(), "R"),
        ("r.txt", b"\xef\xbb\xbf" + TEXT.encode(), "r"),
        ("r.txt", TEXT.replace("\n", "\r\n").encode(), "r"),
        ("r.txt", TEXT.encode("cp1252"), "r"),
        ("r.txt", TEXT.encode("utf-16"), "r"),
        ("r.txt", b"\xfe\xff" + TEXT.encode("utf-16-be"), "r"),
        ("r.xml", open_i("utf-8"), "CXR17"),
        ("r.xml", open_i("utf-16"), "CXR17"),
        ("r.xml", open_i("cp1252"), "CXR17"),
        ("r.csv", table(",", ("study_id", "report"), ("s5", TEXT)), "s5"),
        ("r.csv", b"\xef\xbb\xbf" + table(",", ("Study_ID", " TEXT "), ("s5", TEXT)), "s5"),
        ("r.csv", table(",", ("uid", "findings", "impression"), ("7", FINDINGS, IMPRESSION)), "7"),
        ("r.csv", table(",", ("report", "text"), ("7", TEXT)), "7"),
        ("r.csv", table(",", ("report",), (TEXT,)), None),
        ("r.csv", table(",", ("text", "indication"), (TEXT, "mass")), None),
        (
            "r.tsv",
            table("\t", ("uid", "Findings", "IMPRESSION", "indication"), ("7", FINDINGS, IMPRESSION, "mass")),
            "7",
        ),
        ("r.jsonl", json.dumps({"id": 9, "text": TEXT}).encode(), "9"),
        ("r.jsonl", json.dumps({"id": 9, "text": TEXT}, ensure_ascii=False).encode() + b"\r\n\r\n", "9"),
        ("r.jsonl", b"\xef\xbb\xbf" + json.dumps({"id": 9, "text": TEXT}).encode(), "9"),
        ("r.ndjson", json.dumps({"uid": "u", "findings": FINDINGS, "impression": IMPRESSION, "x": []}).encode(), "u"),
        ("r.zip", zipped(x_txt=TEXT.encode()), "x"),
        ("r.zip", zipped(x_csv=table(",", ("id", "text"), ("a", TEXT))), "a"),
        ("r.tar", tarred(x_xml=open_i("utf-8")), "CXR17"),
        ("r.tgz", tarred("w:gz", x_txt=TEXT.encode("utf-16")), "x"),
        ("r.tar.gz", tarred("w:gz", x_jsonl=json.dumps({"id": 9, "text": TEXT}).encode()), "9"),
        ("r.tar", tarred("w:xz", x_txt=TEXT.encode()), "x"),
    ],
)
def test_every_shape_of_a_report_gives_the_same_sentences(
    tmp_path: Path, name: str, content: bytes, report: str | None
):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(content)
    (line,) = extracted(folder)
    assert [s["text"] for s in line["sentences"]] == SENTENCES
    assert line["report"] == (report or line["source"])
    assert line["source"].startswith(str(folder / name))
    (read,) = read_reports(report_files([folder]))
    assert isinstance(read, Report)
    texts = {section.name: section.text for section in read.film_sections}
    spans = [texts[s["section"]][s["start"] : s["end"]] for s in line["sentences"]]
    assert spans[0] == "heart is enlarged"
    assert all(SENTENCES)


def test_the_sentences_of_that_text():
    assert SENTENCES == [
        "There is cardiomegaly",
        "There is no pneumothorax",
        "There is no pleural effusion",
        "There is small nodule in the right upper lobe",
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_columns_can_be_named(tmp_path: Path, suffix: str):
    folder = tmp_path / "in"
    folder.mkdir()
    row = {"Nummer": "17", "id": "other", "text": "mass", "Befund": FINDINGS, "Beurteilung": IMPRESSION, "Alles": TEXT}
    content = json.dumps(row).encode() if suffix == ".jsonl" else table(",", tuple(row), tuple(row.values()))
    (folder / f"r{suffix}").write_bytes(content)

    def run(*options: str, code: int = 0) -> dict[str, Any]:
        (tmp_path / "in.jsonl").unlink(missing_ok=True)
        (line,) = extracted(folder, *options, code=code)
        return line

    both = run("--name-column", "Nummer", "--findings-column", "Befund", "--impression-column", "Beurteilung")
    assert both["report"] == "17"
    assert [s["text"] for s in both["sentences"]] == SENTENCES
    whole = run("--name-column", "Nummer", "--text-column", "Alles")
    assert [s["text"] for s in whole["sentences"]] == SENTENCES
    one = run("--impression-column", "Beurteilung")
    assert (one["report"], [s["text"] for s in one["sentences"]]) == ("other", SENTENCES[-1:])
    assert [s["text"] for s in run()["sentences"]] == ["There is mass"]
    for option in ("--name-column", "--text-column", "--findings-column", "--impression-column"):
        reason = run(option, "befund", code=1)["reason"]
        assert reason == f"there is no column 'befund'; there are: {', '.join(row)}"


def test_line_separators_of_unicode_inside_a_string_do_not_cut_a_line_of_json(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    text = "Cardiomegaly.\u2028No\x85pneumothorax.\u2029Clear\x1clungs."
    content = "\n".join(json.dumps({"id": k, "text": text.replace("\x1c", " ")}, ensure_ascii=False) for k in "ab")
    (folder / "r.jsonl").write_text(content, encoding="utf-8")
    assert [line["report"] for line in extracted(folder)] == ["a", "b"]


def test_reports_of_the_same_name_are_kept_twice(tmp_path: Path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "x.txt").write_bytes(b"Cardiomegaly.")
    (folder / "deep" / "x.txt").write_bytes(b"Nodule.")
    (folder / "x.zip").write_bytes(zipped(x_txt=b"Mass."))
    (folder / "x.csv").write_bytes(b"id,text\nx,Fracture.\nx,Scoliosis.\n")
    written = extracted(folder, "--audit", 9)
    assert [line["report"] for line in written] == ["x"] * 5
    assert len({line["source"] for line in written}) == 5
    found = [line["sentences"][0]["finding"] for line in written]
    assert found == ["nodule", "fracture", "scoliosis", "cardiomegaly", "mass"]
    assert (tmp_path / "in.html").read_text(encoding="utf-8").count("<article>") == 5


def test_inputs_keep_their_order_and_count_once(few: Path, tmp_path: Path):
    output = tmp_path / "out.jsonl"
    call("extract", few / "d.txt", few, few / "b.txt", few / "d.txt", "-o", output)
    assert [Path(line["source"]).stem for line in lines(output)] == ["d", "b", "c", "ä"]


def test_files_of_other_kinds_are_read_as_text_only_where_named(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "report.rpt").write_bytes(b"Cardiomegaly.")
    (folder / "report.txt").write_bytes(b"Nodule.")
    assert [line["source"] for line in extracted(folder)] == [str(folder / "report.txt")]
    call("extract", folder / "report.rpt", "-o", tmp_path / "out.jsonl")
    assert lines(tmp_path / "out.jsonl")[0]["sentences"][0]["finding"] == "cardiomegaly"


def test_names_that_are_no_unicode_are_kept(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    name = os.fsdecode(b"r\xff\xfe.txt")
    try:
        (folder / name).write_bytes(CLEAR)
    except OSError:
        pytest.skip("this file system takes only unicode names")
    (folder / "s.jsonl").write_bytes(rb'{"id": "\ud800x", "text": "Cardiomegaly \udfff."}')
    for _ in range(2):
        one, other = extracted(folder, "--audit", 2)
        assert one["source"] == str(folder / name)
        assert one["report"] == Path(name).stem
        assert other["report"] == "?x"
        assert other["sentences"][0]["text"] == "There is cardiomegaly"
    assert (tmp_path / "in.html").read_bytes().decode("utf-8").count("<article>") == 2


def test_every_kind_of_archive_is_known():
    assert ARCHIVES == (".tgz", ".tar", ".tar.gz", ".zip")
    assert Columns() == Columns("", "", "", "")


# -- the audit page ----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The texts, marks and sentences of an audit page; fails where its elements do not nest."""

    VOID = ("meta", "br")

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.others: list[str] = []
        self.marks: list[tuple[str, str]] = []
        self.numbers: list[str] = []
        self.items: list[str] = []
        self.tags: Counter[str] = Counter()
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert not {"src", "href", "onload", "onclick"} & set(values)
        self.tags[tag] += 1
        if tag in self.VOID:
            return
        kind = values.get("class") or ""
        self.open.append((tag, kind))
        if (tag, kind) == ("div", "text"):
            self.texts.append("")
        elif (tag, kind) == ("div", "text other"):
            self.others.append("")
        elif tag == "mark":
            self.marks.append((kind, ""))
        elif tag == "li":
            self.items.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if "sup" in tags:
            self.numbers.append(data)
            return
        if ("div", "text") in self.open:
            self.texts[-1] += data
        if ("div", "text other") in self.open:
            self.others[-1] += data
        if "mark" in tags:
            self.marks[-1] = (self.marks[-1][0], self.marks[-1][1] + data)
        if "li" in tags:
            self.items[-1] += data


NASTY = (
    'INDICATION: <script>alert("1")</script> & "mass"?\n'
    "FINDINGS: Small <b>left</b> pleural effusion & cardiomegaly; no <i>pneumothorax</i>.\n"
    "Possible </div> pneumonia.\n"
    "IMPRESSION: See http://example.org/?a=1&amp;b <img src=x onerror=alert(1)>. Cardiomegaly."
)


def test_the_audit_page_shows_reports_with_their_words_marked(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "<i>&nasty.txt").write_text(NASTY, encoding="utf-8")
    call("extract", folder, "-o", tmp_path / "in.jsonl", "--audit", 1)
    content = (tmp_path / "in.html").read_text(encoding="utf-8")
    (line,) = lines(tmp_path / "in.jsonl")
    page = Page(content)
    report = Report.from_text("r", NASTY)
    assert page.texts == [section.text for section in report.film_sections]
    assert page.others == [section.text for section in report.sections if section.name == "indication"]
    assert not {"script", "b", "i", "img", "a", "link", "iframe"} & set(page.tags)
    assert "<script" not in content
    outside_the_report = content.replace("See http://example.org", "")
    assert "http" not in outside_the_report, "self-contained"
    assert not re.search(r"url\(|@import", content)
    for k, sentence in enumerate(line["sentences"], 1):
        assert f"{k}{sentence['polarity']}{sentence['text']}" == page.items[k - 1]
    assert len(page.items) == len(line["sentences"])
    assert sorted(int(n) for number in page.numbers for n in number.split(",")) == list(
        range(1, len(line["sentences"]) + 1)
    )
    texts = {section.name: section.text for section in report.film_sections}
    marked = [mark for mark in page.marks if mark[1] != mark[0] and mark[1] != "set aside"]
    for sentence in line["sentences"]:
        words = texts[sentence["section"]][sentence["start"] : sentence["end"]]
        assert any(kind == sentence["polarity"] and text and text in words for kind, text in marked), sentence["text"]
    assert ("negated", "no <i>pneumothorax") in marked or ("negated", "pneumothorax") in marked
    assert ("affirmed", "cardiomegaly") in marked


def test_the_audit_page_shows_as_many_as_asked_for_and_the_same_ones_again(
    corpus: Path, expected: bytes, tmp_path: Path
):
    output = tmp_path / "out.jsonl"
    output.write_bytes(expected)
    pages = []
    for _ in range(2):
        result = call("extract", corpus, "-o", output, "--audit", 7, code=1)
        assert str(tmp_path / "out.html") in result.stdout
        pages.append((tmp_path / "out.html").read_text(encoding="utf-8"))
        (tmp_path / "out.html").unlink()
    assert pages[0] == pages[1]
    page = Page(pages[0])
    assert page.tags["article"] == 7
    assert f"7 of {TOTAL - UNREAD} reports of out.jsonl" in pages[0]
    assert page.texts
    call("extract", corpus, "-o", output, code=1)
    assert not (tmp_path / "out.html").exists(), "only where asked for"


def test_the_audit_page_of_all_reports_marks_every_sentence_once(few: Path, tmp_path: Path):
    written = extracted(few, "--audit", 100)
    page = Page((tmp_path / "few.html").read_text(encoding="utf-8"))
    assert page.tags["article"] == len(written)
    assert len(page.items) == sum(len(line["sentences"]) for line in written)
    numbers = Counter(int(n) for number in page.numbers for n in number.split(","))
    assert numbers == Counter(k for line in written for k in range(1, len(line["sentences"]) + 1))


def test_a_quotation_mark_that_is_never_closed_takes_no_report_along(tmp_path: Path):
    table = 'id,text\n1,Clear lungs.\n2,"Nodule.\n3,Left effusion.\n4,Cardiomegaly.\n'
    (tmp_path / "t.csv").write_text(table, encoding="utf-8")
    result = call("extract", tmp_path / "t.csv", "-o", tmp_path / "out.jsonl", code=1)
    first, second = lines(tmp_path / "out.jsonl")
    assert [s["text"] for s in first["sentences"]] == ["There is no opacity"]
    assert second["error"] == "unread"
    assert "a quotation mark is never closed" in second["reason"]
    assert "a quotation mark is never closed" in result.stderr.replace("\n", " "), "and the console says so"


@pytest.mark.slow
def test_the_whole_of_open_i(shared_data: Path, tmp_path: Path):
    """Every report of the folder accounted for, every sentence valid, the same bytes from one process and from two."""
    folder = shared_data / "reports/openi"
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert run_extraction([folder], one, Options()).summary.failed == {}
    run_extraction([folder], two, Options(processes=2))
    assert one.read_bytes() == two.read_bytes()
    read = list(read_reports(report_files([folder])))
    rows = lines(one)
    assert [row["source"] for row in rows] == [report.source for report in read]
    assert {row["source"].rsplit("/", 1)[-1].split(":")[0] for row in rows if "error" in row} == {
        "indiana_projections.shared.csv",
        "nlmcxr_view_labels.shared.csv",
    }  # tables of films, not of reports
    sentences = [s for row in rows for s in row.get("sentences", ())]
    assert len(sentences) > 20_000
    for sentence in sentences:
        assert not TEMPORAL.search(sentence["text"])
        assert FindingSentence.parse(sentence["text"]).text == sentence["text"]
