"""The gold sets: what is in them, how engines are scored, and how the rules do."""

import json
from collections import Counter
from pathlib import Path

import pytest

from radzero.reports.gold import Gold, GoldSet, phantom_gold, score_engine
from radzero.reports.rules import RulesEngine
from radzero.reports.sections import Report
from radzero.reports.sentences import SIDES, Polarity
from radzero.reports.vocabulary import FOLDER

pytestmark = pytest.mark.slow

AFFIRMED, UNCERTAIN, NEGATED = Polarity.AFFIRMED, Polarity.UNCERTAIN, Polarity.NEGATED


@pytest.fixture(scope="module")
def engine() -> RulesEngine:
    return RulesEngine()


def test_the_gold_file_has_numbers_and_sentences_and_no_text():
    rows = [json.loads(line) for line in (FOLDER / "gold_openi.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter(row["half"] for row in rows) == {"development": 960, "test": 160}
    assert len({row["report"] for row in rows}) == 1120
    assert all(row.keys() == {"report", "half", "sentences"} for row in rows)
    for row in rows:
        for polarity, finding, side, site in row["sentences"]:
            assert Polarity(polarity)
            assert side in ("", *SIDES)
            assert 0 < len(finding.split()) <= 5
            assert len(site.split()) <= 14


def test_scores_by_hand(engine: RulesEngine):
    """Two reports, counted by hand."""
    reports = (
        Report.from_text("a", "Left pleural effusion. No pneumothorax. Cardiomegaly."),
        Report.from_text("b", "Possible pneumonia. Right nodule."),
    )
    stated = (
        (
            Gold(AFFIRMED, "pleural effusion", "right", ""),  # found, but the other side
            Gold(NEGATED, "pneumothorax", "", ""),  # found
            Gold(AFFIRMED, "mass", "", ""),  # missed; cardiomegaly is extra
        ),
        (
            Gold(AFFIRMED, "pneumonia", "", ""),  # missed as affirmed, extra as uncertain: the polarity is wrong
            Gold(AFFIRMED, "nodule", "right", "lung"),  # found
        ),
    )
    score = score_engine(engine, GoldSet("by hand", reports, stated))
    assert (score.found, score.extra, score.missed) == (3, 2, 2)
    assert score.precision == score.recall == score.f1 == pytest.approx(3 / 5)
    assert (score.polarity, score.matched) == (pytest.approx(3 / 4), 4)
    assert score.laterality == pytest.approx(2 / 3)
    assert (score.sided_laterality, score.sided) == (pytest.approx(1 / 2), 2)
    assert score.errors == (
        "a: extra: cardiomegaly, affirmed",
        "a: missed: mass, affirmed",
        "a: side: pleural effusion: left, not right",
        "b: extra: pneumonia, uncertain",
        "b: missed: pneumonia, affirmed",
    )


def test_left_and_right_are_bilateral_and_the_lingula_is_left(engine: RulesEngine):
    report = Report.from_text("r", "Left effusion. Right effusion. Opacity in the lingula.")
    stated = (Gold(AFFIRMED, "pleural effusion", "bilateral", ""), Gold(AFFIRMED, "opacity", "left", "lingula"))
    score = score_engine(engine, GoldSet("sides", (report,), (stated,)))
    assert (score.sided_laterality, score.sided, score.f1) == (1.0, 2, 1.0)


def test_nothing_found_and_nothing_stated(engine: RulesEngine):
    score = score_engine(engine, GoldSet("empty", (Report.from_text("r", ""),), ((),)))
    assert score.f1 == 0.0
    assert score.precision != score.precision  # not a number: nothing was said
    assert score.table().row_count == 7


def test_phantom_reports(engine: RulesEngine):
    score = score_engine(engine, phantom_gold(100, seed=991))
    assert score.f1 >= 0.95
    assert score.polarity >= 0.97
    assert score.laterality >= 0.95


@pytest.mark.parametrize("half", ["development", "test"])
def test_open_i(engine: RulesEngine, shared_data: Path, half: str):
    score = score_engine(engine, GoldSet.open_i([shared_data / "reports/openi"], half))
    assert score.f1 >= 0.85
    assert score.polarity >= 0.97
    assert score.laterality >= 0.95


def test_missing_reports_are_named(tmp_path: Path):
    (tmp_path / "a.txt").write_text("FINDINGS: Clear lungs.")
    with pytest.raises(ValueError, match=r"160 of 160 gold reports are not in the inputs, CXR\d+ for one"):
        GoldSet.open_i([tmp_path], "test")
    with pytest.raises(ValueError, match="--half is development or test"):
        GoldSet.open_i([tmp_path], "all")
