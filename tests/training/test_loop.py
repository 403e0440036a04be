"""Training: the same every time, wherever it is interrupted, and never on mirrored films."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from conftest import tiny_recipe
from radzero import load
from radzero.phantom.film import make_film
from radzero.phantom.findings import DEVICES, FINDINGS, sample_findings
from radzero.phantom.sentences import training_sentences
from radzero.training.loop import (
    IMAGE_MEAN,
    IMAGE_STD,
    batch_loss,
    build_model,
    film_order,
    learning_rate,
    make_batch,
    stage_at,
    train,
)
from radzero.training.phantom_pool import PhantomPool, build_pool
from radzero.training.phantom_run import NOTICE, run_recipe
from radzero.training.recipe import PhantomRecipe, Stage
from radzero.training.vocabulary import phantom_words, word_tokenizer

FILMS, SIZE = 250, 64
STAGES = (
    Stage(steps=7, batch=4, token_stride=16, negations=(0, 0), binary_weight=0.2),
    Stage(steps=5, batch=3, token_stride=8, negations=(1, 3), binary_weight=1.0),
)
RECIPE = tiny_recipe(stages=STAGES, image_size=SIZE)


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    progress: list[int] = []
    build_pool(folder, films=FILMS, seed=RECIPE.film_seed, size=SIZE, workers=1, progress=progress.append)
    assert progress == [0, FILMS]
    return folder


@pytest.fixture(scope="module")
def pool(pool_folder: Path) -> PhantomPool:
    return build_pool(pool_folder, films=FILMS, seed=RECIPE.film_seed, size=SIZE)


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in records] == [*range(len(records))]
    return [record["loss"] for record in records]


@dataclasses.dataclass
class Trained:
    losses: list[float]
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def uninterrupted(pool: PhantomPool, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run = tmp_path_factory.mktemp("uninterrupted")
    model, _ = train(RECIPE, pool, run)
    assert not model.training
    return Trained(losses(run), model.state_dict())


def assert_same(model: torch.nn.Module, run: Path, expected: Trained) -> None:
    assert losses(run) == expected.losses, "bit for bit"
    weights = model.state_dict()
    assert set(weights) == set(expected.weights)
    assert all(torch.equal(tensor, expected.weights[name]) for name, tensor in weights.items())


# -- training ----------------------------------------------------------------------------------------


def test_training_is_deterministic_and_changes_the_weights(pool: PhantomPool, uninterrupted: Trained, tmp_path: Path):
    steps: list[int] = []
    model, _ = train(RECIPE, pool, tmp_path, on_step=lambda step, parts: steps.append(step))
    assert steps == [*range(12)]
    assert_same(model, tmp_path, uninterrupted)
    fresh = build_model(RECIPE)[0].state_dict()
    moved = [name for name, tensor in fresh.items() if not torch.equal(tensor, uninterrupted.weights[name])]
    assert "log_temperature" in moved
    assert len(moved) > 0.9 * len(fresh)
    assert np.isfinite(uninterrupted.losses).all()
    assert model.vision_model.config.token_stride == 8, "the last stage's, so that it is what a checkpoint says"


def test_another_seed_is_another_run(pool: PhantomPool, uninterrupted: Trained, tmp_path: Path):
    train(dataclasses.replace(RECIPE, seed=4, stages=STAGES[1:]), pool, tmp_path)
    assert not set(losses(tmp_path)) & set(uninterrupted.losses)


class CrashError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize(("at", "saved"), [(0, 0), (2, 0), (4, 4), (8, 8), (11, 8)])
def test_an_interrupted_run_ends_with_the_same_weights(
    at: int, saved: int, pool: PhantomPool, uninterrupted: Trained, tmp_path: Path
):
    def on_step(step: int, parts: dict[str, float]) -> None:
        if step == at:
            raise CrashError

    with pytest.raises(CrashError):
        train(RECIPE, pool, tmp_path, save_every=4, on_step=on_step)
    assert (tmp_path / "state.pt").exists() == (saved > 0)
    resumed: list[int] = []
    model, _ = train(RECIPE, pool, tmp_path, save_every=4, on_step=lambda step, parts: resumed.append(step))
    assert resumed == [*range(saved, 12)]
    assert_same(model, tmp_path, uninterrupted)


def test_many_interruptions_and_torn_files(pool: PhantomPool, uninterrupted: Trained, tmp_path: Path):
    for stop in (1, 3, 4, 9):

        def on_step(step: int, parts: dict[str, float], stop: int = stop) -> None:
            if step == stop:
                raise CrashError

        with pytest.raises(CrashError):
            train(RECIPE, pool, tmp_path, save_every=2, on_step=on_step)
        with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
            metrics.write('{"step": 99, "lo')  # a torn line
        (tmp_path / "state.pt.partial").write_bytes(b"half a state")
    model, _ = train(RECIPE, pool, tmp_path, save_every=2)
    assert_same(model, tmp_path, uninterrupted)


def test_a_finished_run_does_nothing(pool: PhantomPool, uninterrupted: Trained, tmp_path: Path):
    train(RECIPE, pool, tmp_path)
    steps: list[int] = []
    model, _ = train(RECIPE, pool, tmp_path, on_step=lambda step, parts: steps.append(step))
    assert steps == []
    assert_same(model, tmp_path, uninterrupted)
    assert model.vision_model.config.token_stride == 8


@pytest.mark.parametrize("change", [{"learning_rate": 2e-3}, {"seed": 4}, {"stages": STAGES[:1]}, {"ignore": "none"}])
def test_a_changed_recipe_needs_another_folder(change: dict[str, object], pool: PhantomPool, tmp_path: Path):
    train(dataclasses.replace(RECIPE, stages=(dataclasses.replace(STAGES[0], steps=1),)), pool, tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(ValueError, match="another recipe"):
        train(dataclasses.replace(RECIPE, **change), pool, tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run(pool: PhantomPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from radzero.training import loop

    original = loop.multi_positive_loss
    calls: list[int] = []

    def spoiled(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        return original(*args, **kwargs) * (float("nan") if len(calls) == 6 else 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "multi_positive_loss", spoiled)
    with pytest.raises(FloatingPointError, match="step 5"):
        train(RECIPE, pool, tmp_path, save_every=4)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4
    assert all(np.isfinite(losses(tmp_path)))


def test_the_learning_rate_warms_up_and_cools_down():
    recipe = tiny_recipe(stages=(dataclasses.replace(STAGES[0], steps=100),), warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0.01 <= rates[-1] < 0.02
    assert learning_rate(dataclasses.replace(recipe, warmup_steps=0), 0) == 1.0


def test_a_stage_with_its_own_learning_rate_leaves_the_others_as_they_were():
    first = dataclasses.replace(STAGES[0], steps=100)
    last = dataclasses.replace(STAGES[1], steps=20, learning_rate=0.3)
    short = tiny_recipe(stages=(first,), warmup_steps=10, learning_rate=1.0)
    long = dataclasses.replace(short, stages=(first, last))
    rates = [learning_rate(long, step) for step in range(120)]
    assert rates[:100] == [learning_rate(short, step) for step in range(100)]
    assert rates[100] == 0.3
    assert all(a > b for a, b in pairwise(rates[100:]))
    assert rates[-1] == pytest.approx(0.003, rel=0.7)


def test_stages_with_their_own_learning_rate_come_last():
    own = dataclasses.replace(STAGES[1], learning_rate=0.3)
    for stages in ((own,), (own, STAGES[0])):
        with pytest.raises(ValueError, match="come last"):
            tiny_recipe(stages=stages)
    with pytest.raises(ValueError, match="stages: there is none"):
        tiny_recipe(stages=())


def test_the_quiet_weight_adds_the_quiet_map_loss():
    def loss_and_parts(weight: float) -> tuple[float, dict[str, float]]:
        torch.manual_seed(0)
        model, tokenizer = build_model(RECIPE)
        stage = dataclasses.replace(STAGES[0], quiet_weight=weight)
        loss, parts = batch_loss(
            model, tokenizer, make_batch(ramp_pool(), [0, 1, 2, 3], RECIPE, stage, 0), RECIPE, stage
        )
        return loss.item(), parts

    plain, quiet = loss_and_parts(0.0), loss_and_parts(0.5)
    assert "quiet" not in plain[1]
    assert quiet[1]["quiet"] > 0
    assert quiet[0] == pytest.approx(plain[0] + 0.5 * quiet[1]["quiet"], abs=1e-5)


def test_stages_follow_each_other():
    expected = [(STAGES[0], step) for step in range(7)] + [(STAGES[1], step) for step in range(5)]
    assert [stage_at(RECIPE, step) for step in range(12)] == expected
    with pytest.raises(ValueError, match="end"):
        stage_at(RECIPE, 12)


def test_every_film_is_seen_once_per_epoch():
    order = film_order(RECIPE)
    epochs = [[next(order) for _ in range(FILMS)] for _ in range(3)]
    assert all(sorted(epoch) == [*range(FILMS)] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


# -- batches -------------------------------------------------------------------------------------------


def ramp_pool() -> PhantomPool:
    """Films that are dark on the left, bright on the right, darker at the top: a mirror image would show."""
    ramp = np.add.outer(np.arange(SIZE), 2 * np.arange(SIZE)).astype(np.uint8)
    rng = np.random.default_rng(0)
    return PhantomPool(np.stack([ramp] * 8), [sample_findings(rng) for _ in range(8)])


def test_films_are_shifted_but_never_mirrored_or_turned():
    pool, centres = ramp_pool(), set()
    plain = dataclasses.replace(RECIPE, gamma=0.0)
    for step in range(40):
        batch = make_batch(pool, [*range(8)], plain, STAGES[0], step)
        films = (batch.pixel_values[:, 0] * IMAGE_STD + IMAGE_MEAN).numpy() * 255
        assert (np.diff(films, axis=2) >= -1e-3).all(), "left to right"
        assert (np.diff(films, axis=1) >= -1e-3).all(), "top to bottom"
        inner = pool.pixels[0, 10:-10, 10:-10] - float(pool.pixels[0, 10, 10])
        assert films[:, 10:-10, 10:-10] - films[:, 10:11, 10:11] == pytest.approx(np.stack([inner] * 8), abs=1e-3)
        centres |= {round(float(film[SIZE // 2, SIZE // 2])) for film in films}
    # down and right by up to three pixels each way: the ramp's centre, give or take nine
    assert centres == {SIZE // 2 * 3 + change for change in range(-9, 10)}
    still = make_batch(pool, [0], dataclasses.replace(plain, shift=0), STAGES[0], 0)
    assert np.allclose(still.pixel_values[0, 1].numpy() * IMAGE_STD + IMAGE_MEAN, pool.pixels[0] / 255, atol=1e-6)


def test_a_batch_depends_on_its_step_alone(pool: PhantomPool):
    films = [3, 1, 4, 15]
    first, again = (make_batch(pool, films, RECIPE, STAGES[1], 9) for _ in range(2))
    assert torch.equal(first.pixel_values, again.pixel_values)
    assert first.texts == again.texts
    assert torch.equal(first.owner_N, again.owner_N)
    assert not torch.equal(first.pixel_values, make_batch(pool, films, RECIPE, STAGES[1], 10).pixel_values)


def test_sentences_of_a_batch_belong_to_their_films(pool: PhantomPool):
    films = [*range(12)]
    batch = make_batch(pool, films, RECIPE, STAGES[1], 0)
    assert batch.pixel_values.shape == (12, 3, SIZE, SIZE)
    assert torch.equal(batch.pixel_values[:, 0], batch.pixel_values[:, 2])
    assert len(set(batch.texts)) == len(batch.texts)
    assert set(batch.text_N.tolist()) == {*range(len(batch.texts))}
    assert set(batch.owner_N.tolist()) == {*range(12)}, "with negations no film is without a sentence"
    for text, owner in zip(batch.text_N.tolist(), batch.owner_N.tolist(), strict=True):
        words = batch.texts[text]
        present = {finding.name for finding in pool.findings[films[owner]]}
        stated = [name for name in (*FINDINGS, *DEVICES) if words.endswith(name) or f" {name} in the " in words]
        if stated and words.startswith("There is no "):
            sides = {f.side for f in pool.findings[films[owner]] if f.name == stated[0]}
            assert stated[0] not in present or any(f" {side} " in words for side in {"right", "left"} - sides)
        elif stated:
            assert set(stated) & present


# -- vocabulary ----------------------------------------------------------------------------------------


def test_the_vocabulary_holds_every_training_word():
    words = phantom_words()
    assert words == sorted(set(words))
    seen: set[str] = set()
    for index in range(1500):
        rng = np.random.default_rng(index)
        for text in (s.text for s in training_sentences(sample_findings(rng), rng, (2, 6))):
            seen |= set(text.lower().split())
    assert seen <= set(words), "nothing is unknown"
    assert set(words) <= seen, "nothing is never trained"


def test_the_tokenizer_knows_words_not_their_case_or_punctuation():
    tokenizer = word_tokenizer(phantom_words(), 12)
    ids = tokenizer("There is pleural effusion")["input_ids"]
    assert tokenizer("there IS, Pleural effusion.")["input_ids"] == ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "there", "is", "pleural", "effusion", "[SEP]"]
    assert tokenizer.unk_token_id in tokenizer("There is zebra")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    padded = tokenizer(["there", "there is no left nodule"], padding=True)
    assert padded["attention_mask"][0] == [1, 1, 1, 0, 0, 0, 0]
    assert len(tokenizer("no " * 40, truncation=True)["input_ids"]) == 12


# -- the pool --------------------------------------------------------------------------------------------


def test_the_pool_holds_the_films_and_their_findings(pool: PhantomPool):
    assert pool.pixels.shape == (FILMS, SIZE, SIZE)
    assert pool.pixels.dtype == np.uint8
    assert len(pool.findings) == FILMS
    for index in (0, 117, FILMS - 1):
        film = make_film(RECIPE.film_seed, index, shape=(SIZE, SIZE))
        assert np.array_equal(pool.pixels[index], film.to_uint8())
        assert pool.findings[index] == film.findings


def test_a_pool_goes_on_from_whole_blocks(pool_folder: Path, pool: PhantomPool, monkeypatch: pytest.MonkeyPatch):
    from radzero.training import phantom_pool

    made: list[int] = []

    class InThisProcess:
        def __init__(self, *args: object, **kwargs: object) -> None: ...
        def __enter__(self) -> "InThisProcess":
            return self

        def __exit__(self, *args: object) -> None: ...
        def map(self, make, starts):
            return map(make, starts)

    def small_film(seed: int, index: int, *, shape: tuple[int, int]):
        made.append(index)
        return make_film(seed, index, shape=shape)

    monkeypatch.setattr(phantom_pool, "_BLOCK", 4)
    monkeypatch.setattr(phantom_pool, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(phantom_pool, "make_film", small_film)
    folder = pool_folder.parent / "blocks"
    whole = build_pool(folder, films=10, seed=RECIPE.film_seed, size=SIZE)
    assert made == [*range(12)], "whole blocks"
    assert len(whole.pixels) == len(whole.findings) == 10
    assert np.array_equal(whole.pixels, pool.pixels[:10])
    made.clear()
    # as a kill leaves it: one block gone, one with findings but no films, scraps of both
    (folder / "films-000004.npy").unlink()
    (folder / "films-000004.partial").write_bytes(b"half")
    (folder / "films-000000.json.partial").write_bytes(b"[")
    again = build_pool(folder, films=10, seed=RECIPE.film_seed, size=SIZE)
    assert made == [4, 5, 6, 7], "only what is missing"
    assert np.array_equal(again.pixels, whole.pixels)
    assert again.findings == whole.findings
    made.clear()
    longer = build_pool(folder, films=14, seed=RECIPE.film_seed, size=SIZE)
    assert made == [12, 13, 14, 15]
    assert np.array_equal(longer.pixels, pool.pixels[:14])
    assert len(build_pool(folder, films=3, seed=RECIPE.film_seed, size=SIZE).findings) == 3


@pytest.mark.parametrize("change", [{"seed": 6}, {"size": 80}])
def test_a_pool_of_other_films_is_left_alone(change: dict[str, int], pool_folder: Path, pool: PhantomPool):
    before = sorted((p.name, p.stat().st_mtime_ns) for p in pool_folder.iterdir())
    with pytest.raises(ValueError, match="another folder"):
        build_pool(pool_folder, **({"films": FILMS, "seed": RECIPE.film_seed, "size": SIZE} | change))
    assert sorted((p.name, p.stat().st_mtime_ns) for p in pool_folder.iterdir()) == before


# -- from recipe to checkpoint, through a kill -------------------------------------------------------------


def as_yaml(recipe: PhantomRecipe) -> str:
    return yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(recipe))))


def test_a_killed_process_is_continued_to_the_same_checkpoint(
    pool_folder: Path, uninterrupted: Trained, tmp_path: Path
):
    path = tmp_path / "tiny.yaml"
    path.write_text(as_yaml(RECIPE), encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    (run / "films").symlink_to(pool_folder)
    # a process that saves every second step, and hangs in the seventh for as long as it takes to kill it
    script = (
        "import sys, time; from functools import partial; from pathlib import Path\n"
        "from radzero.training import phantom_run\n"
        "phantom_run.train = partial(phantom_run.train, save_every=2)\n"
        "def on_progress(phase, done, total):\n"
        "    if phase == 'training' and done == 7: Path(sys.argv[2], 'reached').touch(); time.sleep(600)\n"
        "phantom_run.run_recipe(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=on_progress)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path), str(run)])
    try:
        while not (run / "reached").exists():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert torch.load(run / "state.pt", weights_only=True)["step"] == 6
    phases: list[tuple[str, int]] = []
    folder = run_recipe(path, run, on_progress=lambda phase, done, total: phases.append((phase, done)))
    assert folder == run / "model"
    assert [done for phase, done in phases if phase == "training"] == [*range(7, 13)]
    assert losses(run) == uninterrupted.losses
    model = load(folder, device="cpu")
    weights = model.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in uninterrupted.weights.items())
    assert model.notice == NOTICE
    assert model.model.config.vision_config.token_stride == 8
    assert (folder / "recipe.yaml").read_bytes() == path.read_bytes()
    assert model.predict(np.random.default_rng(0).integers(0, 255, (80, 70)).astype(np.uint8), "There is mass")[
        0
    ].similarity.shape == (1, 8, 8)
