"""How a model places sentences against each other: the matrix, its figures by slow counting, its picture."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import radzero
from command_line import call
from radzero.prediction.wordings import (
    WORDINGS,
    Wording,
    cosine_colour,
    cosines_as_csv,
    draw_cosines,
    sentence_cosines,
    wording_figures,
)


def test_cosines_are_those_of_the_vectors_that_images_are_compared_with(tiny_model: radzero.RadZero):
    sentences = ["There is nodule", "There is no nodule", "There is left pleural effusion"]
    found = sentence_cosines(tiny_model, sentences)
    vectors = tiny_model.embed_sentences(sentences).double().numpy()
    for i in range(3):
        for j in range(3):
            expected = vectors[i] @ vectors[j] / math.sqrt(vectors[i] @ vectors[i] * (vectors[j] @ vectors[j]))
            assert found[i, j] == pytest.approx(expected, abs=1e-6)


def test_one_sentence_is_refused(tiny_model: radzero.RadZero):
    with pytest.raises(ValueError, match="two sentences"):
        sentence_cosines(tiny_model, ["There is nodule"])


SMALL = (
    Wording("a1", "a"),
    Wording("a2", "a"),
    Wording("no a", "a", "denied"),
    Wording("b1", "b"),
    Wording("b2", "b"),
    Wording("no b", "b", "denied"),
    Wording("left b", "b", "left"),
    Wording("right b", "b", "right"),
)


def test_figures_by_hand():
    matrix = np.eye(8, dtype=np.float32)

    def put(i: int, j: int, value: float) -> None:
        matrix[i, j] = matrix[j, i] = value

    put(0, 1, 0.9)  # paraphrases of a
    put(3, 4, 0.1)  # of b
    put(0, 3, 0.2), put(0, 4, 0.4), put(1, 3, 0.0), put(1, 4, 0.2)  # a with b
    put(0, 2, 0.8), put(1, 2, 0.95), put(3, 5, 0.3), put(4, 5, 0.0)  # denials
    put(6, 7, 0.7)
    figures = wording_figures(matrix, SMALL)
    assert figures.paraphrases == pytest.approx(0.5)
    assert figures.other_findings == pytest.approx(0.2)
    assert figures.denials == pytest.approx((0.8 + 0.95 + 0.3 + 0.0) / 4)
    assert figures.sides == pytest.approx(0.7)
    # a1 and a2 find each other; b1 is nearest to a1 (0.2), b2 to a1 (0.4)
    assert figures.nearest_is_paraphrase == pytest.approx(0.5)
    # 0.9 > 0.8 for a1, not > 0.95 for a2; 0.1 not > 0.3 for b1, > 0 for b2
    assert figures.paraphrase_before_denial == pytest.approx(0.5)


def test_a_perfect_encoder_and_one_that_knows_words_alone():
    names = sorted({w.finding for w in WORDINGS})
    perfect, deaf = [], []
    for wording in WORDINGS:
        vector = np.zeros(4 * len(names))
        offset = {"affirmed": 0, "denied": 1, "left": 2, "right": 3}[wording.kind]
        vector[4 * names.index(wording.finding) + offset] = 1
        perfect.append(vector)
        deaf.append(np.ones(4) / 2)
    figures = wording_figures(np.array(perfect) @ np.array(perfect).T)
    assert (figures.paraphrases, figures.denials, figures.sides) == (1, 0, 0)
    assert figures.nearest_is_paraphrase == figures.paraphrase_before_denial == 1
    figures = wording_figures(np.array(deaf) @ np.array(deaf).T)
    assert figures.denials == figures.sides == 1
    assert figures.paraphrase_before_denial == 0


def test_every_finding_of_the_standard_set_is_worded_and_denied():
    for finding in {w.finding for w in WORDINGS}:
        kinds = [w.kind for w in WORDINGS if w.finding == finding]
        assert kinds.count("affirmed") == 3
        assert kinds.count("denied") == 2
    assert len({w.sentence for w in WORDINGS}) == len(WORDINGS)


def test_colours_are_fixed():
    assert cosine_colour(0) == (247, 247, 247)
    assert cosine_colour(1) == cosine_colour(1.0001) == (178, 24, 43)
    assert cosine_colour(-1) == (33, 102, 172)


def test_the_picture_has_the_matrix_in_its_place():
    matrix = np.array([[1, -1, 0], [-1, 1, 0.5], [0, 0.5, 1]], dtype=np.float32)
    picture = draw_cosines(matrix, ["one", "a much longer sentence", "Größe"], "Sentences", ["x", "x", "y"])
    pixels = np.asarray(picture)
    colours = {cosine_colour(value) for value in (1, -1, 0, 0.5)}
    found = {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
    assert colours <= found
    reds = np.argwhere((pixels == cosine_colour(1)).all(axis=2))
    blues = np.argwhere((pixels == cosine_colour(-1)).all(axis=2))
    middle = (blues[:, 0].min() + blues[:, 0].max()) / 2
    assert reds[reds[:, 1] > 0, 0].min() < middle, "the diagonal begins above"


@pytest.mark.parametrize("sentences", [["a", "b"], ["x" * 400, "There is cardiomegaly", "y"]])
def test_a_picture_of_few_or_long_sentences_shows_its_whole_legend(sentences: list[str]):
    picture = draw_cosines(np.eye(len(sentences), dtype=np.float32), sentences, "")
    assert 620 < picture.width < 1500
    pixels = np.asarray(picture)[-60:]
    assert (pixels[:, -8:] == 255).all(), "nothing reaches the edge"
    assert (pixels < 128).any()


@pytest.mark.parametrize("name", ["x.csv", "noext", "."])
def test_another_kind_of_file_is_refused_before_the_model_is_loaded(name: str, tmp_path: Path):
    assert "ends in .png" in call("wordings", "-o", tmp_path / name, "--model", "no/such", code=2).output


def test_a_picture_has_an_end():
    with pytest.raises(ValueError, match="151 sentences are too many"):
        draw_cosines(np.eye(151, dtype=np.float32), [str(k) for k in range(151)], "")


def test_the_matrix_as_csv():
    text = cosines_as_csv(np.array([[1, 0.12345], [0.12345, 1]]), ['say "a, b"', "c"])
    rows = list(csv.reader(text.splitlines()))
    assert rows == [["sentence", 'say "a, b"', "c"], ['say "a, b"', "1.0000", "0.1235"], ["c", "0.1235", "1.0000"]]


def test_the_command(tiny_checkpoint: Path, tmp_path: Path):
    shown = call("wordings", "-o", tmp_path / "standard.png", "--model", tiny_checkpoint).output
    for figure in ("two wordings of a finding", "finding and its denial", "left and right"):
        assert figure in shown
    assert "words this model has never seen" in shown
    with Image.open(tmp_path / "standard.png") as picture:
        assert picture.width > 1000
    rows = list(csv.reader((tmp_path / "standard.csv").read_text().splitlines()))
    assert [row[0] for row in rows[1:]] == [w.sentence for w in WORDINGS]
    own = call(
        "wordings", "-s", "There is nodule", "-s", "There is mass", "-o", tmp_path / "own.png", "-m", tiny_checkpoint
    )
    assert "finding and its denial" not in own.output
    one = call("wordings", "-s", "There is nodule", "-o", tmp_path / "one.png", "-m", tiny_checkpoint, code=2)
    assert "two sentences" in one.output
    assert not (tmp_path / "one.png").exists()
