"""The grammar: what it accepts comes back from its own text, what it refuses says why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radzero.reports.repair import repaired
from radzero.reports.sentences import DESCRIPTORS, MAX_WORDS, SIDES, FindingSentence, InvalidSentenceError, Polarity

FINDINGS = st.sampled_from(
    ["pleural effusion", "opacity", "cardiomegaly", "COPD", "endotracheal tube", "right-sided aortic arch"]
)
SITES = st.sampled_from(["", "lower lobe", "lung base", "lung apex", "thoracic spine", "superior vena cava"])
SENTENCES = st.builds(
    FindingSentence,
    st.sampled_from(Polarity),
    FINDINGS,
    st.lists(st.sampled_from(DESCRIPTORS), max_size=2, unique=True).map(tuple),
    st.sampled_from(["", *SIDES]),
    SITES,
)


@given(SENTENCES)
def test_a_sentence_comes_back_from_its_text(sentence: FindingSentence):
    assert FindingSentence.parse(sentence.text) == sentence
    assert FindingSentence.parse(f"  {sentence.text}. ") == sentence
    assert repaired(sentence.text) == [sentence]


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        (
            FindingSentence(Polarity.AFFIRMED, "pleural effusion", ("small",), "right"),
            "There is small right pleural effusion",
        ),
        (FindingSentence(Polarity.NEGATED, "pneumothorax"), "There is no pneumothorax"),
        (
            FindingSentence(Polarity.UNCERTAIN, "pneumonia", (), "right", "lung base"),
            "There may be pneumonia at the right lung base",
        ),
        (
            FindingSentence(Polarity.AFFIRMED, "opacity", ("patchy",), "left", "lower lobe"),
            "There is patchy opacity in the left lower lobe",
        ),
    ],
)
def test_the_three_templates(sentence: FindingSentence, text: str):
    assert sentence.text == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The heart is enlarged", "does not begin"),
        ("There is new pleural effusion", "another time"),
        ("There is unchanged opacity in the left lower lobe", "another time"),
        ("There is opacity since the film of yesterday", "another time"),
        ("There is effusion and atelectasis", "more than one finding"),
        ("There is cardiomegaly with congestion", "more than one finding"),
        ("There is no effusion, pneumothorax", "more than one finding"),
        ("There is XXXX opacity", "not a word"),
        ("There is ___ opacity", "not a word"),
        ("There is left opacity in the right lower lobe", "more than one side"),
        ("There is 42", "no finding"),
        ("There is", "does not begin"),
        ("There is " + "very " * MAX_WORDS + "opacity", "longer"),
    ],
)
def test_what_is_no_finding_sentence_is_refused_with_the_reason(text: str, reason: str):
    with pytest.raises(InvalidSentenceError, match=reason):
        FindingSentence.parse(text)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"finding": "left effusion"},
        {"finding": "small effusion"},
        {"finding": "blunting of the angle"},
        {"finding": "effusion", "side": "both"},
        {"finding": "effusion", "descriptors": ("huge",)},
        {"finding": "effusion", "site": "left base"},
        {"finding": "effusion", "site": "the base"},
        {"finding": "  effusion"},
        {"finding": ""},
    ],
)
def test_an_invalid_sentence_cannot_be_made(kwargs: dict[str, object]):
    with pytest.raises(InvalidSentenceError):
        FindingSentence(Polarity.AFFIRMED, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is a new small left pleural effusion.", ["There is small left pleural effusion"]),
        ("There are bilateral pleural effusions", ["There is bilateral pleural effusions"]),
        (
            "There is cardiomegaly with pulmonary vascular congestion",
            ["There is cardiomegaly", "There is pulmonary vascular congestion"],
        ),
        (
            "There is no pneumothorax, effusion or consolidation",
            ["There is no pneumothorax", "There is no effusion", "There is no consolidation"],
        ),
        (
            "There is atelectasis and scarring in the left lower lobe",
            ["There is atelectasis in the left lower lobe", "There is scarring in the left lower lobe"],
        ),
        ("There has been resolution of the right effusion", ["There is no right effusion"]),
        ("There is resolved pneumothorax", ["There is no pneumothorax"]),
        ("No evidence of pneumothorax", ["There is no pneumothorax"]),
        ("Possible pneumonia at the right base", ["There may be pneumonia at the right base"]),
        ("There is opacity overlying the left lower lobe", ["There is opacity in the left lower lobe"]),
        ("There is unchanged mild cardiomegaly", ["There is mild cardiomegaly"]),
    ],
)
def test_repairs(text: str, expected: list[str]):
    assert [s.text for s in repaired(text)] == expected


@pytest.mark.parametrize("text", ["The patient is well.", "", "There is unchanged", "There is no ___", "Recommend CT."])
def test_what_no_rule_can_repair_is_refused(text: str):
    with pytest.raises(InvalidSentenceError):
        repaired(text)


@given(st.text(max_size=80))
def test_repair_gives_valid_sentences_or_refuses(text: str):
    try:
        sentences = repaired("There is " + text)
    except InvalidSentenceError:
        return
    assert sentences
    for sentence in sentences:
        assert FindingSentence.parse(sentence.text) == sentence
