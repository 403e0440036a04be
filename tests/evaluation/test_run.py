"""Runs of a benchmark: kept in parts, gone on with, scored from what was saved, reported."""

import json
import re
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from command_line import call
from forked import Forked
from radzero.evaluation import models
from radzero.evaluation.benchmark import Benchmark, BenchmarkError, BenchmarkImage, Region
from radzero.evaluation.masks import ArrayMask, BoxMask, FileMask, RunLengthMask
from radzero.evaluation.metrics import auc, dice_sweep
from radzero.evaluation.models import RadZeroInBenchmark, ScoresFromFile
from radzero.evaluation.report import write_report
from radzero.evaluation.run import batched, check, run_benchmark
from radzero.evaluation.scoring import WeightedAuc, read_scores, score
from radzero.prediction.model import RadZero

pytestmark = pytest.mark.slow

FILMS, SENTENCES = 70, ("There is mass", "There is nodule", "There is edema")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy small films of two sizes."""
    folder, chance = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    for k in range(FILMS):
        shape = (40, 50) if k % 3 else (60, 44)
        Image.fromarray(chance.integers(0, 255, shape).astype(np.uint8)).save(folder / f"{k}.png")
    return folder


def benchmark(folder: Path, name: str = "made") -> Benchmark:
    chance = np.random.default_rng(1)
    images = tuple(
        BenchmarkImage(f"{k}.png", f"patient {k // 2}", p if (p := folder / f"{k}.png").exists() else None)
        for k in range(FILMS)
    )
    truth = chance.integers(0, 2, (FILMS, 2)).astype(np.int8)
    truth[5, 0] = -1
    regions = []
    for k in range(0, FILMS, 2):
        mask = np.zeros((40, 50) if k % 3 else (60, 44), dtype=bool)
        mask[5:20, 8:30] = True
        regions.append(Region(k, 0, "Mass", ((8.0, 5.0, 29.0, 19.0),), ArrayMask(mask)))
    tasks = ("classification", "pointing", "segmentation")
    return Benchmark(name, images, SENTENCES, ("Mass", "Nodule"), (0, 1), truth, tuple(regions), tasks)


class Fixed:
    """Scores and maps that depend on the film alone."""

    name, sha256 = "fixed", "abc"

    def __init__(self, fails_at: int = 10**9) -> None:
        self.seen, self.embedded, self.fails_at = 0, 0, fails_at

    def embed_sentences(self, sentences):
        self.embedded += 1
        return sentences

    def embed_images(self, films):
        assert len({film.pixels.shape for film in films}) == 1, "alike in a batch"
        self.seen += len(films)
        if self.seen > self.fails_at:
            raise KeyboardInterrupt
        return films

    def logits(self, images, sentences):
        means = np.array([film.pixels.mean() for film in images])
        return (means[:, None] * [10, -7, 3]).astype(np.float32)

    def raw_map(self, images, sentences, film, sentence):
        return ((images[film].pixels - 0.5) * 6 + sentence).astype(np.float32)


def contents(run: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes() for p in run.iterdir() if p.suffix in (".parquet", ".npz") or p.name == "metrics.json"
    }


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    model = Fixed()
    run_benchmark(benchmark(folder), model, run, command=["radzero", "evaluate"])
    assert (model.seen, model.embedded) == (FILMS, 1), "every film once, the sentences once"
    score(run, resamples=100)
    return run


def test_saved_scores_are_the_model_s(finished: Path, folder: Path):
    scores = read_scores(finished)
    assert scores.images == [f"{k}.png" for k in range(FILMS)]
    assert scores.patients[:3] == ["patient 0", "patient 0", "patient 1"]
    assert scores.sentences == list(SENTENCES)
    means = [np.asarray(Image.open(folder / name)).mean() / 255 for name in scores.images]
    assert scores.logits[:, 1] == pytest.approx(-7 * np.array(means), abs=1e-3)
    made = benchmark(folder)
    assert np.array_equal(scores.truth[:, :2], made.truth)
    assert (scores.truth[:, 2] == -1).all(), "nobody knows of edema"
    assert not (finished / "parts").exists()
    record = json.loads((finished / "run.json").read_text())
    assert record["command"] == ["radzero", "evaluate"]
    assert set(record["versions"]) == {"radzero", "torch", "transformers", "numpy", "python"}


def test_figures_are_those_of_slow_loops(finished: Path, folder: Path):
    metrics = json.loads((finished / "metrics.json").read_text())
    made, scores = benchmark(folder), read_scores(finished)
    expected = []
    for column in range(2):
        known = made.truth[:, column] >= 0
        expected.append(roc_auc_score(made.truth[known, column], scores.logits[known, column]))
    assert [metrics["classification"]["classes"][c]["AUC"][0] for c in made.classes] == pytest.approx(expected)
    assert metrics["classification"]["macro AUC"][0] == pytest.approx(np.mean(expected))
    assert metrics["classification"]["classes"]["Mass"]["images"] == FILMS - 1, "one is unknown"
    model, hits, sweeps, pixels, truths = Fixed(), [], [], [], []
    for k, image in enumerate(made.images):
        film = image.film()
        values = model.raw_map([film], SENTENCES, 0, 0)
        own = [r for r in made.regions if r.image == k]
        if own:
            y, x = np.unravel_index(values.argmax(), values.shape)
            hits.append(8 <= x <= 29 and 5 <= y <= 19)
            mask = own[0].mask.load(*values.shape)
            sweeps.append(dice_sweep(1 / (1 + np.exp(-values)), mask))
        elif made.truth[k, 0] == 0:
            mask = np.zeros(values.shape, dtype=bool)
        else:
            continue
        pixels.append(values.ravel())
        truths.append(mask.ravel())
    assert metrics["pointing"]["over pairs"][0] == pytest.approx(np.mean(hits))
    mean = np.mean(sweeps, axis=0)
    segmentation = metrics["segmentation"]["classes"]["Mass"]
    assert segmentation["Dice"][0] == pytest.approx(mean.max())
    assert segmentation["threshold"] == mean.argmax() / 100
    exact = roc_auc_score(np.concatenate(truths), np.concatenate(pixels))
    assert abs(segmentation["pixel AUC"] - exact) <= segmentation["pixel AUC bound"] + 1e-9
    assert segmentation["pixel AUC bound"] < 5e-3, "films of 256 grey values have many ties"
    low, high = metrics["classification"]["macro AUC"][1:]
    assert low < np.mean(expected) < high


@pytest.mark.parametrize("fails_at", [0, 20, 40, 68])
def test_an_interrupted_run_ends_with_the_same_files(fails_at: int, folder: Path, finished: Path, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(benchmark(folder), Fixed(fails_at), tmp_path)
    with pytest.raises(ValueError, match="holds no finished run"):
        score(tmp_path)
    told: list[int] = []
    model = Fixed()
    run_benchmark(benchmark(folder), model, tmp_path, progress=told.append)
    assert model.seen == FILMS - fails_at // 32 * 32, "whole parts are kept"
    assert told[-1] == FILMS
    score(tmp_path, resamples=100)
    assert contents(tmp_path) == contents(finished)
    run_benchmark(benchmark(folder), Fixed(0), tmp_path)  # finished: asks nothing


def test_a_run_that_was_killed_ends_with_the_same_files(folder: Path, finished: Path, tmp_path: Path):
    """SIGKILL, at moments that differ from machine to machine."""
    script = (
        "import sys, time; from pathlib import Path; sys.path[:0] = sys.argv[1:3]\n"
        "from test_run import Fixed, benchmark\n"
        "from radzero.evaluation.run import run_benchmark\n"
        "class Slow(Fixed):\n"
        "    def embed_images(self, films): print('films', flush=True); time.sleep(0.01); return films\n"
        "run_benchmark(benchmark(Path(sys.argv[3])), Slow(), Path(sys.argv[4]))\n"
    )
    tests = Path(__file__).resolve().parent
    outputs = tmp_path.parent / f"{tmp_path.name}-outputs"
    outputs.mkdir()
    for lines in (3, 14, 30):
        process = Forked(["-c", script, tests, tests.parent, folder, tmp_path], outputs)
        process.wait_for_lines(lines)
        time.sleep(0.005)
        process.kill()
        process.wait()
    run_benchmark(benchmark(folder), Fixed(), tmp_path)
    score(tmp_path, resamples=100)
    assert contents(tmp_path) == contents(finished)


def test_another_model_or_truth_needs_another_folder(folder: Path, finished: Path):
    other = Fixed()
    other.name = "other"
    with pytest.raises(BenchmarkError, match=r"holds another run \(other model\)"):
        run_benchmark(benchmark(folder), other, finished)
    with pytest.raises(BenchmarkError, match=r"\(other benchmark\)"):
        run_benchmark(benchmark(folder, "another"), Fixed(), finished)


def test_missing_and_unreadable_images(folder: Path, tmp_path: Path):
    some = tmp_path / "some"
    some.mkdir()
    for k in range(1, FILMS):
        (some / f"{k}.png").symlink_to(folder / f"{k}.png")
    made = benchmark(some)
    assert made.missing == ("0.png",)
    with pytest.raises(BenchmarkError, match=r"1 of 70 images are missing, 0\.png for one; --skip-unreadable"):
        run_benchmark(made, Fixed(), tmp_path / "run")
    (some / "7.png").unlink()
    (some / "7.png").write_bytes(b"no image")
    made = benchmark(some)
    with pytest.raises(BenchmarkError, match=r"7\.png.*--skip-unreadable scores without it"):
        run_benchmark(made.without(["0.png"]), Fixed(), tmp_path / "other")
    run_benchmark(made, Fixed(), tmp_path / "run", skip_unreadable=True)
    metrics = score(tmp_path / "run", resamples=25)
    assert (metrics["images"], metrics["left out"]) == (FILMS - 2, 2)
    markdown, page = write_report([tmp_path / "run"], tmp_path / "report")
    assert "68 images), 2 left out" in markdown.read_text()
    assert "missing: 1 images: 0.png" in markdown.read_text()
    assert "2 left out" in page.read_text()
    assert [problem.name for problem in check(made.without(made.missing))] == ["7.png"]


def test_scores_that_are_no_numbers_are_refused(folder: Path, tmp_path: Path):
    class Nan(Fixed):
        def logits(self, images, sentences):
            out = super().logits(images, sentences)
            out[-1, 1] = np.nan
            return out

    with pytest.raises(ValueError, match=r"\d+\.png: fixed gives 'There is nodule' a score that is not finite"):
        run_benchmark(benchmark(folder), Nan(), tmp_path)


def test_a_model_without_maps_or_without_scores(folder: Path, tmp_path: Path):
    class NoMaps(Fixed):
        def raw_map(self, images, sentences, film, sentence):
            return None

    class NoScores(Fixed):
        def logits(self, images, sentences):
            return None

    assert score(run_benchmark(benchmark(folder), NoMaps(), tmp_path / "a"), resamples=25).keys() >= {"classification"}
    without = score(run_benchmark(benchmark(folder), NoScores(), tmp_path / "b"), resamples=25)
    assert "classification" not in without
    assert without["pointing"]["pairs"] == FILMS // 2


def test_masks_of_another_size_are_refused(folder: Path, tmp_path: Path):
    made = benchmark(folder)
    wrong = Region(0, 0, "Mass", ((1.0, 1.0, 2.0, 2.0),), ArrayMask(np.zeros((40, 50), dtype=bool)), (1024, 1024))
    framed = Benchmark(
        made.name, made.images, made.sentences, made.classes, made.prompts, made.truth, (wrong,), made.tasks
    )
    with pytest.raises(BenchmarkError, match=r"0\.png: is 60 x 44, and its boxes or mask are drawn on 1024 x 1024"):
        run_benchmark(framed, Fixed(), tmp_path)
    assert "1024" in check(framed)[0].reason


def test_a_radzero_answers_as_its_readings_do(folder: Path, tiny_model: RadZero):
    made = benchmark(folder)
    films = [made.images[k].film() for k in (1, 2)]
    model = RadZeroInBenchmark(tiny_model)
    embedded = model.embed_sentences(SENTENCES)
    seen = model.embed_images(films)
    logits = model.logits(seen, embedded)
    for row, reading in enumerate(tiny_model.predict(films, SENTENCES)):
        assert logits[row] == pytest.approx(reading.logits, abs=1e-4)
        raw = model.raw_map(seen, embedded, row, 2)
        assert 1 / (1 + np.exp(-raw)) == pytest.approx(reading.map(2), abs=1e-4)
    again = model.embed_images(films)
    assert np.array_equal(model.raw_map(again, embedded, 1, 2), raw), "also when nobody asked for scores"


# -- scores from a file ----------------------------------------------------------------------------------


def table(path: Path, rows: list[tuple[str, str, object]]) -> Path:
    path.write_text("image,sentence,score\n" + "\n".join(f"{i},{s},{v}" for i, s, v in rows))
    return path


def test_scores_from_a_file(folder: Path, finished: Path, tmp_path: Path):
    scores = read_scores(finished)
    rows = [
        (name, sentence, scores.logits[k, j])
        for k, name in enumerate(scores.images)
        for j, sentence in enumerate(SENTENCES)
    ]
    model = ScoresFromFile(table(tmp_path / "theirs.csv", rows))
    metrics = score(run_benchmark(benchmark(folder), model, tmp_path / "run"), resamples=25)
    known = json.loads((finished / "metrics.json").read_text())
    assert metrics["model"] == "theirs"
    assert metrics["classification"]["macro AUC"][0] == pytest.approx(known["classification"]["macro AUC"][0], abs=1e-6)
    assert "segmentation" not in metrics
    short = ScoresFromFile(table(tmp_path / "short.csv", rows[:-1]))
    with pytest.raises(ValueError, match=r"short\.csv: has no score of 69\.png with 'There is edema'"):
        run_benchmark(benchmark(folder), short, tmp_path / "other")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a.png", "x", "nan")], r"row 2: the score of a\.png is nan"),
        ([("a.png", "x", "high")], "row 2: 'high' is no number"),
        ([("a.png", "x", 1), ("a.png", "x", 2)], r"row 3: a\.png and 'x' have a score already"),
    ],
)
def test_wrong_scores_are_named(rows: list[tuple[str, str, object]], said: str, tmp_path: Path):
    with pytest.raises(ValueError, match=said):
        ScoresFromFile(table(tmp_path / "s.csv", rows))


def test_a_package_offers_a_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry = EntryPoint("fixed", "test_run:Fixed", models.PLUGINS)
    monkeypatch.setattr(models, "entry_points", lambda group: [entry] if group == "radzero.zero_shot" else [])
    monkeypatch.setattr(EntryPoint, "load", lambda self: Fixed)
    assert models.plugin("fixed").name == "fixed"
    with pytest.raises(ValueError, match=r"no installed package offers a model 'other' .*there are: fixed"):
        models.plugin("other")


# -- parts -------------------------------------------------------------------------------------------------


def test_weighted_auc_is_that_of_repeated_samples():
    chance = np.random.default_rng(4)
    for _ in range(30):
        truth = chance.integers(-1, 2, 25).astype(np.int8)
        logits = chance.integers(0, 6, 25).astype(np.float32)  # with ties
        weights = chance.integers(0, 4, 25)
        rows = np.repeat(np.arange(25), weights)
        rows = rows[truth[rows] >= 0]
        expected = auc(truth[rows] == 1, logits[rows])
        found = WeightedAuc(truth, logits)(weights.astype(float))
        assert found == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_batches():
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []


def test_masks(tmp_path: Path):
    box = BoxMask(((1.0, 2.0, 3.0, 5.0), (-4.0, 0.0, 1.0, 1.0))).load(6, 4)
    assert box.sum() == 2 * 3 + 1
    assert box[2:5, 1:3].all()
    runs = RunLengthMask(((1, 2), (3, 1)), relative=True)
    assert np.flatnonzero(runs.load(3, 4).T.reshape(-1)).tolist() == [1, 2, 6]
    assert (runs.last, RunLengthMask(((1, 2), (6, 1)), relative=False).last) == (7, 7)
    with pytest.raises(ValueError, match="goes beyond an image of 2 x 2"):
        runs.load(2, 2)
    Image.fromarray(np.array([[0, 127], [128, 255]], dtype=np.uint8)).save(tmp_path / "m.png")
    assert FileMask(tmp_path / "m.png").load(2, 2).tolist() == [[False, False], [True, True]]
    with pytest.raises(ValueError, match=r"m\.png: is 2 x 2, its image 3 x 2"):
        FileMask(tmp_path / "m.png").load(3, 2)


# -- reports and commands ----------------------------------------------------------------------------------


def test_a_report_says_everything(finished: Path, tmp_path: Path):
    markdown, page = (path.read_text() for path in write_report([finished, finished], tmp_path))
    for text in (markdown, page):
        assert text.count("fixed (measured, 70 images)") == 2
        assert "SHA-256 abc" in text
    assert re.search(r"\| Mass \| 69 \| \d+ \| 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\) \|", markdown)
    assert "<svg" in page
    assert not re.search(r"(src|href)=['\"]https?:", page), "self-contained"


def test_the_commands(tmp_path: Path, tiny_checkpoint: Path):
    data, ramp = tmp_path / "data", (np.add.outer(np.arange(1024), np.arange(1024)) // 9).astype(np.uint8)
    data.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(ramp).save(data / name)
    entries = [
        {"file_name": "a.png", "syms": ["Mass"], "boxes": [[100, 100, 300, 300]]},
        {"file_name": "b.png", "syms": [], "boxes": []},
    ]
    (data / "test.json").write_text(json.dumps(entries))
    listed = call("evaluate", "--list").stdout
    assert all(name in listed for name in ("openi", "rsna", "mscxr"))
    checked = call("evaluate", "chestxdet10", "--data", data, "--check").stdout
    assert "images missing" in checked
    assert "differs" in checked, "two images are not 542"
    run = tmp_path / "run"
    said = call("evaluate", "chestxdet10", "--data", data, "-m", tiny_checkpoint, "-o", run).stdout
    assert "pointing: over classes" in said
    assert {p.name for p in run.iterdir()} >= {"report.html", "report.md", "scores.parquet", "gallery", "metrics.json"}
    notes = json.loads((run / "gallery/gallery.json").read_text())
    assert [(n["rank"], n["label"]) for n in notes] == [("best", "Mass")], "one case is shown once"
    with Image.open(run / "gallery" / notes[0]["file"]) as picture:
        green = (np.asarray(picture).astype(int) - (0, 255, 160)).__abs__().sum(axis=2) < 60
    rows, columns = np.nonzero(green)
    scale = 360 / 1024
    assert (columns.min(), rows.min()) == pytest.approx((100 * scale, 100 * scale), abs=2)
    assert (columns.max(), rows.max()) == pytest.approx((300 * scale, 300 * scale), abs=2)
    call("report", run, "-o", tmp_path / "report")
    assert "ChestX-Det10" in (tmp_path / "report/report.md").read_text()
    (data / "b.png").unlink()
    assert "b.png" in call("evaluate", "chestxdet10", "--data", data, "--check", code=1).stdout
    error = call("evaluate", "chestxdet10", "--data", data, "-m", tiny_checkpoint, "-o", tmp_path / "x", code=2).stderr
    assert "1 of 2 images are missing" in error.replace("\n", " ")
    assert "give --output" in call("evaluate", "chestxdet10", "--data", data, code=2).stderr.replace("\n", " ")
