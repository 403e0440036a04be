"""The words of the rules engine: what the package holds is whole, and what a radiologist breaks is named."""

import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from radzero.cli import app
from radzero.reports.rules import RulesEngine
from radzero.reports.sections import Report
from radzero.reports.sentences import DESCRIPTORS, SIDES, FindingSentence, Polarity
from radzero.reports.vocabulary import FOLDER, Vocabulary, singular, words_of


@pytest.fixture(scope="module")
def packaged() -> Vocabulary:
    return Vocabulary()


@cache
def _content(name: str) -> str:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return json.dumps(yaml.load((FOLDER / name).read_text(encoding="utf-8"), loader))


def content_of(name: str) -> dict[str, Any]:
    return json.loads(_content(name))


def written(path: Path, content: object) -> Path:
    """JSON is YAML, and quicker."""
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def sentences(vocabulary: Vocabulary, text: str) -> list[str]:
    return [s.text for s in RulesEngine(vocabulary).extract(Report.from_text("r", text)).sentences]


# -- what the package holds -------------------------------------------------------------------------------


def test_every_name_that_an_entry_mentions_exists(packaged: Vocabulary):
    content, findings = content_of("vocabulary.yaml"), set(packaged.findings)
    for name, entry in content["anatomy"].items():
        assert entry["terms"], name
        assert set(entry.get("normal") or ()) <= findings, name
        assert set((entry.get("becomes") or {}).values()) <= findings, name
        assert set(entry.get("becomes") or ()) <= set(content["properties"]), name
        assert entry.get("abnormality", "") in {"", *findings}, name
        assert entry.get("side", "") in {"", *SIDES}, name
    for finding, by_place in content["narrower"].items():
        assert {finding, *by_place.values()} <= findings
        assert set(by_place) <= set(content["anatomy"])
    for finding, places in content["silent"].items():
        assert finding in findings
        assert set(places) <= set(content["anatomy"]), finding
    assert {*content["unlocated"], *content["explanations"]} <= findings


def test_every_finding_and_place_makes_a_sentence_that_parses_back(packaged: Vocabulary):
    for finding, polarity, side in product(packaged.findings, Polarity, ("", "left")):
        for descriptors, site in (((), ""), (("small",), "lower lobe"), (("mild", "patchy"), "lung base")):
            sentence = FindingSentence(polarity, finding, descriptors, side, site)
            assert FindingSentence.parse(sentence.text) == sentence
            assert (sentence.finding, sentence.polarity) == (finding, polarity)
    sites = sorted({(a.side, a.site) for a in packaged.anatomy.values()})
    for (implied, site), polarity, side in product(sites, Polarity, SIDES):
        sentence = FindingSentence(polarity, "opacity", (), implied or side, site)
        assert FindingSentence.parse(sentence.text) == sentence


def test_every_term_leads_to_its_one_finding(packaged: Vocabulary):
    owners: dict[tuple[str, ...], str] = {}
    for finding, terms in packaged.findings.items():
        assert packaged.canonical(finding) == finding
        for term in terms:
            assert packaged.canonical(term) == finding, term
            assert owners.setdefault(tuple(words_of(term)), finding) == finding, term
            words = words_of(term)
            end, meanings = packaged.longest(words, 0)
            assert end == len(words)
            assert ("finding", finding) in {(m.kind, m.value) for m in meanings}, term


def test_what_is_no_term_is_left_as_it_is(packaged: Vocabulary):
    assert packaged.canonical("purple elephant") == "purple elephant"
    assert packaged.longest(["purple", "elephant"], 0) == (0, ())


def test_the_longest_term_wins(packaged: Vocabulary):
    words = words_of("Enlarged cardiac silhouettes")
    end, meanings = packaged.longest(words, 0)
    assert end == 3
    assert [m.value for m in meanings if m.kind == "finding"] == ["cardiomegaly"]


def test_every_descriptor_and_side_is_known(packaged: Vocabulary):
    for word in (*DESCRIPTORS, *SIDES):
        words = words_of(word)
        end, meanings = packaged.longest(words, 0)
        assert end == len(words)
        assert {"descriptor", "side"} & {m.kind for m in meanings}, word


# -- plurals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("effusions", "effusion"),
        ("opacities", "opacity"),
        ("masses", "mass"),
        ("mass", "mass"),
        ("bases", "base"),
        ("apices", "apex"),
        ("hila", "hilum"),
        ("pneumothoraces", "pneumothorax"),
        ("pneumothorax", "pneumothorax"),
        ("atelectases", "atelectasis"),
        ("atelectasis", "atelectasis"),
        ("metastases", "metastasis"),
        ("bullae", "bulla"),
        ("vertebrae", "vertebra"),
        ("thrombus", "thrombus"),
        ("gas", "gas"),
        ("boxes", "box"),
        ("patches", "patch"),
        ("processes", "process"),
        ("densities", "density"),
        ("diaphragm's", "diaphragm"),
        ("oedema", "edema"),
        ("haemothorax", "hemothorax"),
        ("tumours", "tumor"),
        ("was", "was"),
        ("is", "is"),
        ("rib", "rib"),
        ("ribs", "rib"),
    ],
)
def test_plurals_and_spellings_are_folded(word: str, expected: str):
    assert singular(word) == expected


def test_folding_twice_is_folding_once(packaged: Vocabulary):
    for terms in packaged.findings.values():
        for word in {word for term in terms for word in words_of(term)}:
            assert singular(word) == word


# -- files that are broken --------------------------------------------------------------------------------


def changed(**parts: object) -> dict[str, Any]:
    return content_of("vocabulary.yaml") | parts


def with_anatomy(**entry: object) -> dict[str, Any]:
    content = content_of("vocabulary.yaml")
    content["anatomy"]["spleen"] = {"terms": ["spleen"]} | entry
    return content


def with_finding(name: str, terms: object) -> dict[str, Any]:
    content = content_of("vocabulary.yaml")
    content["findings"][name] = terms
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["a", "list"], "expected a mapping at the top"),
        ("words", "expected a mapping at the top"),
        (None, "expected a mapping at the top"),
        ({"findings": {"opacity": []}}, "there is no entry 'anatomy'"),
        (changed(findigns={}), "'findigns' is none of"),
        (changed(findings=["opacity"]), "findings: expected a mapping"),
        (with_finding("splenomegaly", "large spleen"), "splenomegaly: expected a list of words"),
        (with_finding("splenomegaly", ["large spleen", False]), "splenomegaly: expected a list of words"),
        (with_finding("splenomegaly", ["..."]), "'...' has no word"),
        (with_finding("splenomegaly", ["cardiac enlargement"]), "also a term of another finding"),
        (with_finding("effusion of the spleen", []), "effusion of the spleen: a place inside the finding"),
        (with_finding("new spleen", []), "new spleen: speaks of another time"),
        (with_anatomy(normal=["splenomegaly"]), "spleen: 'splenomegaly' is not among the findings"),
        (with_anatomy(normal="opacity"), "spleen: expected a list of words"),
        (with_anatomy(becomes={"enlarged": "splenomegaly"}), "spleen: 'splenomegaly' is not among the findings"),
        (with_anatomy(becomes={"purple": "opacity"}), "spleen: 'purple' is not among the properties"),
        (with_anatomy(becomes={"enlarged": ["opacity"]}), "spleen: .* is not among the findings"),
        (with_anatomy(abnormality="splenomegaly"), "spleen: 'splenomegaly' is not among the findings"),
        (with_anatomy(site="left spleen"), "spleen: the site begins with"),
        (with_anatomy(site=5), "spleen: site is not a word"),
        (with_anatomy(side="top"), "spleen: the side is 'top'"),
        (with_anatomy(term=["spleen"]), "spleen: 'term' is none of"),
        (changed(unlocated=["splenomegaly"]), "unlocated: 'splenomegaly' is not among"),
        (changed(explanations=["splenomegaly"]), "explanations: 'splenomegaly' is not among"),
        (changed(silent={"opacity": ["tail"]}), "opacity: 'tail' is not among the anatomy"),
        (changed(narrower={"opacity": {"tail": "mass"}}), "opacity: 'tail' is not among the anatomy"),
        (changed(narrower={"opacity": {"aorta": "splenomegaly"}}), "narrower: 'splenomegaly' is not among"),
    ],
)
def test_a_broken_vocabulary_is_refused_by_file_and_entry(tmp_path: Path, content: object, message: str):
    path = written(tmp_path / "mine.yaml", content)
    with pytest.raises(ValueError, match=message) as caught:
        Vocabulary(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"negation": ["no"]}, "there is no entry 'negation_after'"),
        (content_of("cues.yaml") | {"negations": ["no"]}, "'negations' is none of"),
        (content_of("cues.yaml") | {"negation": [False, "not"]}, "negation: expected a list of words"),
        (content_of("cues.yaml") | {"negation": "no"}, "negation: expected a list of words"),
        (content_of("cues.yaml") | {"negation": ["--"]}, "'--' has no word"),
    ],
)
def test_broken_cues_are_refused_by_file_and_entry(tmp_path: Path, content: object, message: str):
    path = written(tmp_path / "cues.yaml", content)
    with pytest.raises(ValueError, match=message) as caught:
        Vocabulary(cues=path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"findings: {opacity: [", b"findings:\n\t- x", b"\xff\xfe\x00", b"a: *b"])
def test_a_file_that_is_no_yaml_is_refused_by_name(tmp_path: Path, content: bytes):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a YAML file") as caught:
        Vocabulary(path)
    assert str(caught.value).startswith(f"{path}: ")


# -- an own vocabulary ------------------------------------------------------------------------------------


def test_a_vocabulary_may_be_small(tmp_path: Path):
    small = {
        "findings": {"splenomegaly": ["big spleen"]},
        "anatomy": {"spleen": {"terms": ["spleen"], "normal": ["splenomegaly"]}},
        "properties": {"enlarged": None},
    }
    vocabulary = Vocabulary(written(tmp_path / "mine.yaml", small))
    assert sentences(vocabulary, "There is a big spleen.") == ["There is splenomegaly"]
    assert sentences(vocabulary, "The spleen is normal.") == ["There is no splenomegaly"]
    assert vocabulary.hash != Vocabulary().hash


def test_the_command_takes_an_own_vocabulary_and_own_cues(tmp_path: Path):
    report = tmp_path / "report.txt"
    report.write_text("FINDINGS: Massive splenic purpleness. Nowhere a pneumothorax is to be found.", encoding="utf-8")
    content = with_finding("splenic purpleness", [])
    cues = content_of("cues.yaml")
    cues["negation"].append("nowhere")
    arguments = ["--vocabulary", written(tmp_path / "v.yaml", content), "--cues", written(tmp_path / "c.yaml", cues)]
    outputs = {}
    for name, options in (("package", []), ("own", arguments)):
        output = tmp_path / f"{name}.jsonl"
        result = CliRunner().invoke(app, ["extract", str(report), "-o", str(output), *map(str, options)])
        assert result.exit_code == 0, result.output
        outputs[name] = json.loads(output.read_text(encoding="utf-8"))
    own = [s["text"] for s in outputs["own"]["sentences"]]
    assert own == ["There is massive splenic purpleness", "There is no pneumothorax"]
    assert [s["text"] for s in outputs["package"]["sentences"]] == ["There is pneumothorax"]
    assert outputs["own"]["model"] != outputs["package"]["model"]


@pytest.mark.parametrize("option", ["--vocabulary", "--cues"])
def test_the_command_names_a_broken_or_missing_file(tmp_path: Path, option: str):
    (tmp_path / "report.txt").write_text("Clear lungs.", encoding="utf-8")
    for path in (written(tmp_path / "broken.yaml", {"no": "words"}), tmp_path / "missing.yaml", tmp_path):
        output = tmp_path / "out.jsonl"
        result = CliRunner().invoke(app, ["extract", str(tmp_path), "-o", str(output), option, str(path)])
        assert result.exit_code == 2
        assert str(path) in result.stderr
        assert "Traceback" not in result.output
        assert not output.exists()
