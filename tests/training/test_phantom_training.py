"""Training on phantoms: films and their sentences, stages, and going on to the same bytes."""

import dataclasses
import json
import pickle
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import forked
import radzero
from conftest import TINY, tiny_start
from radzero.phantom.film import make_film
from radzero.phantom.findings import DEVICES, FINDINGS, sample_findings
from radzero.phantom.sentences import FindingSentence, Polarity, every_sentence, training_sentences
from radzero.training.batches import Augmentation, Collate, EpochPlan, loader
from radzero.training.config import DataChoice, LoopChoice, LossChoice, PhantomChoice, Stage, TrainConfig
from radzero.training.phantom_pool import PhantomPool, build_pool
from radzero.training.sources import NOTICE, PhantomDataset
from radzero.training.trainer import Trainer
from radzero.training.vocabulary import phantom_words, word_tokenizer

pytestmark = pytest.mark.slow

FILMS, SIZE, FILM_SEED = 250, 64, 5
CHOICE = DataChoice(
    phantoms=PhantomChoice(FILMS, FILM_SEED, (0, 0)), augmentation=Augmentation(shift=0.05, gamma=0.2), workers=0
)
CONFIG = TrainConfig(
    dataclasses.replace(TINY, small=dataclasses.replace(TINY.small, token_stride=16)),
    CHOICE,
    LossChoice(binary_weight=0.2, ignore="true"),
    LoopChoice(images_per_rank=4, learning_rate=1e-3, warmup_steps=2, precision="fp32", save_every=4),
    (
        Stage(7),
        Stage(3, {"data.phantoms.negations": [1, 3], "loss.binary_weight": 1.0, "model.small.token_stride": 8}),
        Stage(2, {"loop.images_per_rank": 3, "loss.quiet_weight": 0.5, "loop.learning_rate": 3e-4}),
    ),
    seed=3,
)


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    progress: list[int] = []
    build_pool(folder, films=FILMS, seed=FILM_SEED, size=SIZE, workers=1, progress=progress.append)
    assert progress == [0, FILMS]
    return folder


@pytest.fixture(scope="module")
def pool(pool_folder: Path) -> PhantomPool:
    return build_pool(pool_folder, films=FILMS, seed=FILM_SEED, size=SIZE)


def begin(run: Path, pool_folder: Path, config: TrainConfig = CONFIG) -> Trainer:
    """A run on films that are drawn already."""
    run.mkdir(exist_ok=True, parents=True)
    if not (run / "films").exists():
        (run / "films").symlink_to(pool_folder)
    return Trainer(config, run)


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in records] == [*range(len(records))]
    return [record["loss"] for record in records]


@pytest.fixture(scope="module")
def uninterrupted(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted")
    begin(run, pool_folder).train()
    return run


def assert_same(run: Path, expected: Path) -> None:
    assert losses(run) == losses(expected), "bit for bit"
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (run / "model" / name).read_bytes() == (expected / "model" / name).read_bytes()


# -- training ----------------------------------------------------------------------------------------


def test_a_run_of_stages_changes_the_weights_and_says_where_it_comes_from(uninterrupted: Path):
    assert len(losses(uninterrupted)) == 12
    assert np.isfinite(losses(uninterrupted)).all()
    torch.manual_seed(3)
    fresh, trained = tiny_start()[0].state_dict(), load_file(uninterrupted / "model/model.safetensors")
    moved = [name for name, tensor in trained.items() if not torch.equal(tensor, fresh[name])]
    assert "log_temperature" in moved
    assert len(moved) > 0.9 * len(trained)
    model = radzero.load(uninterrupted / "model", device="cpu")
    assert model.notice == NOTICE
    assert model.model.config.vision_config.token_stride == 8, "the last stage's, so that it is what a checkpoint says"
    film = np.random.default_rng(0).integers(0, 255, (80, 70)).astype(np.uint8)
    assert model.predict(film, "There is mass")[0].similarity.shape == (1, 8, 8)


def test_images_and_learning_rates_follow_the_stages(uninterrupted: Path):
    records = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    assert [r["images"] for r in records] == [4] * 10 + [3] * 2
    rates = [r["lr"] for r in records]
    assert rates[:2] == [0.5e-3, 1e-3]
    assert all(a > b for a, b in pairwise(rates[2:10])), "one cosine over the first two stages"
    assert rates[10] == 3e-4
    assert rates[11] < rates[10]


def test_the_same_run_again_is_the_same(pool_folder: Path, uninterrupted: Path, tmp_path: Path):
    steps: list[int] = []
    begin(tmp_path, pool_folder).train(lambda record: steps.append(record["step"]))
    assert steps == [*range(12)]
    assert_same(tmp_path, uninterrupted)
    steps.clear()
    begin(tmp_path, pool_folder).train(lambda record: steps.append(record["step"]))
    assert steps == []
    assert_same(tmp_path, uninterrupted)


def test_another_seed_is_another_run(pool_folder: Path, uninterrupted: Path, tmp_path: Path):
    begin(tmp_path, pool_folder, dataclasses.replace(CONFIG, seed=4)).train()
    assert not set(losses(tmp_path)) & set(losses(uninterrupted))


class CrashError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize(("at", "saved"), [(0, 0), (2, 0), (4, 4), (7, 7), (8, 8), (9, 8), (11, 10)])
def test_an_interrupted_run_ends_with_the_same_weights(
    at: int, saved: int, pool_folder: Path, uninterrupted: Path, tmp_path: Path
):
    """Also at the borders of stages, whose ends are saved."""

    def stop(record: dict[str, float]) -> None:
        if record["step"] == at:
            raise CrashError

    with pytest.raises(CrashError):
        begin(tmp_path, pool_folder).train(stop)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        metrics.write('{"step": 99, "lo')  # a torn line
    resumed: list[int] = []
    begin(tmp_path, pool_folder).train(lambda record: resumed.append(record["step"]))
    assert resumed == [*range(saved, 12)]
    assert_same(tmp_path, uninterrupted)


def test_ten_kills_change_nothing(pool_folder: Path, uninterrupted: Path, tmp_path: Path):
    """SIGKILL at ten random moments of the run."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.to_yaml(), encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    (run / "films").symlink_to(pool_folder)
    script = (
        "import sys; from pathlib import Path\n"
        "from radzero.training.config import load_config\n"
        "from radzero.training.trainer import Trainer\n"
        "trainer = Trainer(load_config(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "while True:\n"
        "    trainer.train(lambda record: print(record['step'], flush=True))\n"
        "    break\n"
    )
    chance = np.random.default_rng(8)
    command = ["-c", script, config, run]
    for _ in range(10):
        process = forked.Forked(command, tmp_path)
        process.wait_for_lines(int(chance.integers(0, 3)))
        time.sleep(float(chance.uniform(0, 0.05)))
        process.kill()
        process.wait()
    assert forked.run(command, tmp_path).returncode == 0
    assert_same(run, uninterrupted)


def test_another_token_stride_or_loss_needs_another_folder(pool_folder: Path, uninterrupted: Path):
    for change in ({"seed": 4}, {"stages": CONFIG.stages[:1]}, {"loss": LossChoice()}):
        with pytest.raises(ValueError, match="another configuration"):
            Trainer(dataclasses.replace(CONFIG, **change), uninterrupted)  # type: ignore[arg-type]


def test_a_stage_of_several_epochs_sees_every_film_once_in_each(pool: PhantomPool):
    films = PhantomDataset(pool, tiny_start()[1], CHOICE, 0)
    first = [index for batch in EpochPlan(len(films), 25, last=10) for _, index in batch]
    second = [index for batch in EpochPlan(len(films), 25, last=10, first_epoch=1) for _, index in batch]
    both = [key for batch in EpochPlan(len(films), 25, last=20) for key in batch]
    assert sorted(first) == sorted(second) == [*range(FILMS)]
    assert both == [(0, k) for k in first] + [(1, k) for k in second], "a later stage goes on with the epochs"


# -- films and sentences -------------------------------------------------------------------------------


class Ramps:
    """Films that are dark on the left, bright on the right, darker at the top: a mirror image would show."""

    ramp = np.add.outer(np.arange(SIZE), 2 * np.arange(SIZE)).astype(np.uint8)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.findings = [sample_findings(rng) for _ in range(8)]

    def __len__(self) -> int:
        return 8

    def pixels(self, index: int) -> np.ndarray:
        return self.ramp


def test_films_are_shifted_but_never_mirrored_or_turned():
    processor = tiny_start()[1]
    choice = dataclasses.replace(CHOICE, augmentation=Augmentation(shift=0.05))
    films = PhantomDataset(Ramps(), processor, choice, 0)  # type: ignore[arg-type]
    centres = set()
    for epoch in range(40):
        values = films[epoch, epoch % 8].pixel_values[0].numpy() * 0.25 + 0.5
        assert (np.diff(values, axis=1) >= -1e-6).all(), "left to right"
        assert (np.diff(values, axis=0) >= -1e-6).all(), "top to bottom"
        centres.add(round(float(values[SIZE // 2, SIZE // 2]) * 255))
    assert len(centres) > 8
    assert max(abs(c - 3 * SIZE // 2) for c in centres) <= 3 * 0.05 * SIZE + 1
    still = PhantomDataset(Ramps(), processor, dataclasses.replace(CHOICE, augmentation=Augmentation()), 0)  # type: ignore[arg-type]
    assert np.allclose(still[0, 0].pixel_values[1].numpy() * 0.25 + 0.5, Ramps.ramp / 255, atol=1e-6)


def test_an_item_depends_on_seed_epoch_and_film_alone(pool: PhantomPool):
    processor = tiny_start()[1]
    choice = dataclasses.replace(CHOICE, phantoms=PhantomChoice(FILMS, FILM_SEED, (1, 3)))
    films, again = (PhantomDataset(pool, processor, choice, 0) for _ in range(2))
    first, second = films[2, 17], again[2, 17]
    assert torch.equal(first.pixel_values, second.pixel_values)
    assert first.sentences == second.sentences
    other = PhantomDataset(pool, processor, choice, 1)
    for differs in (films[3, 17], other[2, 17]):
        assert not torch.equal(first.pixel_values, differs.pixel_values)
    assert len({films[epoch, 17].sentences for epoch in range(8)}) > 2, "said differently each time"
    one = PhantomDataset(pool, processor, dataclasses.replace(choice, sentences="one"), 0)
    assert all(len(one[0, index].sentences) == 1 for index in range(10))


def test_workers_change_nothing(pool: PhantomPool):
    films = PhantomDataset(pool, tiny_start()[1], CHOICE, 0)
    for here, there in zip(*(loader(films, EpochPlan(FILMS, 6, last=3), workers=n) for n in (0, 2)), strict=True):
        assert torch.equal(here.pixel_values, there.pixel_values)
        assert (here.texts, here.films) == (there.texts, there.films)


def test_sentences_of_a_batch_belong_to_their_films(pool: PhantomPool):
    choice = dataclasses.replace(CHOICE, phantoms=PhantomChoice(FILMS, FILM_SEED, (1, 3)))
    films = PhantomDataset(pool, tiny_start()[1], choice, 0)
    batch = Collate(films.processor, (3, SIZE, SIZE))([films[0, k] for k in range(12)])
    assert batch.pixel_values.shape == (12, 3, SIZE, SIZE)
    assert batch.films == [*range(12)]
    assert len(set(batch.texts)) == len(batch.texts)
    assert set(batch.owner_n.tolist()) == {*range(12)}, "with negations no film is without a sentence"
    for text, owner in zip(batch.text_n.tolist(), batch.owner_n.tolist(), strict=True):
        words = batch.texts[text]
        assert films.is_true(batch.films[owner], words)
        present = {finding.name for finding in pool.findings[owner]}
        stated = [name for name in (*FINDINGS, *DEVICES) if words.endswith(name) or f" {name} in the " in words]
        if stated and words.startswith("There is no "):
            sides = {f.side for f in pool.findings[owner] if f.name == stated[0]}
            assert stated[0] not in present or any(f" {side} " in words for side in {"right", "left"} - sides)
        elif stated:
            assert set(stated) & present


def test_every_sentence_is_known_by_its_text():
    known = every_sentence()
    assert known["There is no left nodule"] == FindingSentence(Polarity.NEGATED, "nodule", "left")
    for index in range(300):
        rng = np.random.default_rng(index)
        for sentence in training_sentences(sample_findings(rng), rng, (2, 6)):
            assert known[sentence.text] == sentence


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
    assert len(pool) == len(pool.findings) == FILMS
    assert pool.pixels(0).shape == (SIZE, SIZE)
    assert pool.pixels(0).dtype == np.uint8
    for index in (0, 117, FILMS - 1):
        film = make_film(FILM_SEED, index, shape=(SIZE, SIZE))
        assert np.array_equal(pool.pixels(index), film.to_uint8())
        assert pool.findings[index] == film.findings


def same_films(pool: PhantomPool, films: list[np.ndarray], count: int) -> bool:
    return all(np.array_equal(pool.pixels(k), films[k]) for k in range(count))


def test_a_pool_goes_to_a_worker_without_its_films(pool: PhantomPool):
    pool.pixels(3)
    sent = pickle.dumps(pool)
    assert len(sent) < 100_000
    assert np.array_equal(pickle.loads(sent).pixels(3), pool.pixels(3))


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

    before = [pool.pixels(k) for k in range(14)]
    monkeypatch.setattr(phantom_pool, "_BLOCK", 4)
    monkeypatch.setattr(phantom_pool, "process_pool", InThisProcess)
    monkeypatch.setattr(phantom_pool, "make_film", small_film)
    folder = pool_folder.parent / "blocks"
    whole = build_pool(folder, films=10, seed=FILM_SEED, size=SIZE)
    assert made == [*range(12)], "whole blocks"
    assert len(whole) == len(whole.findings) == 10
    assert same_films(whole, before, 10)
    made.clear()
    # as a kill leaves it: one block gone, one with findings but no films, scraps of both
    (folder / "films-000004.npy").unlink()
    (folder / "films-000004.partial").write_bytes(b"half")
    (folder / "films-000000.json.partial").write_bytes(b"[")
    again = build_pool(folder, films=10, seed=FILM_SEED, size=SIZE)
    assert made == [4, 5, 6, 7], "only what is missing"
    assert same_films(again, before, 10)
    assert again.findings == whole.findings
    made.clear()
    longer = build_pool(folder, films=14, seed=FILM_SEED, size=SIZE)
    assert made == [12, 13, 14, 15]
    assert same_films(longer, before, 14)
    assert len(build_pool(folder, films=3, seed=FILM_SEED, size=SIZE).findings) == 3


def test_words_about_the_code_do_not_make_it_other_code():
    from radzero.training.phantom_pool import _without_words

    plain = "def f(x):\n    a = '# no comment'\n    return x + 1\n"
    worded = "'''File.'''\n# why\ndef f(x):  # what\n    \"Add.\"\n    a = '# no comment'\n    return x + 1\n"
    assert _without_words(plain) == _without_words(worded) != _without_words(plain.replace("+ 1", "+ 2"))


def test_a_pool_of_0_1_0_is_gone_on_with(pool: PhantomPool, tmp_path: Path):
    from radzero.training.phantom_pool import _SAME_CODE

    for file in pool.folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    note = json.loads((tmp_path / "pool.json").read_text())
    (tmp_path / "pool.json").unlink()
    (tmp_path / "pool.json").write_text(json.dumps(note | {"code": _SAME_CODE[note["code"]]}))
    assert same_films(build_pool(tmp_path, films=4, seed=FILM_SEED, size=SIZE), [pool.pixels(k) for k in range(4)], 4)
    (tmp_path / "pool.json").write_text(json.dumps(note | {"code": "0123456789abcdef"}))
    with pytest.raises(ValueError, match=r"holds other films \(other code\); delete it"):
        build_pool(tmp_path, films=4, seed=FILM_SEED, size=SIZE)


@pytest.mark.parametrize("change", [{"seed": 6}, {"size": 80}])
def test_a_pool_of_other_films_is_left_alone(change: dict[str, int], pool_folder: Path, pool: PhantomPool):
    before = sorted((p.name, p.stat().st_mtime_ns) for p in pool_folder.iterdir())
    with pytest.raises(ValueError, match="another folder"):
        build_pool(pool_folder, **({"films": FILMS, "seed": FILM_SEED, "size": SIZE} | change))
    assert sorted((p.name, p.stat().st_mtime_ns) for p in pool_folder.iterdir()) == before
