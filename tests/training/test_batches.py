"""Batches: every image once per epoch and to one rank, the same from any step and with any number of workers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import radzero
from radzero.images import Radiograph
from radzero.training.batches import (
    Augmentation,
    EpochPlan,
    FilmBatch,
    ManifestDataset,
    Quarantine,
    TooManyUnreadableError,
    Unreadable,
    loader,
)
from radzero.training.manifest import Manifest, ManifestRow, write_manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path):
    return radzero.load(tiny_checkpoint).processor


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Eleven images of one grey each, the seventh damaged."""
    folder = tmp_path_factory.mktemp("films")
    rows = []
    for k in range(11):
        pixels = np.full((40, 50), 20 * k + 10, dtype=np.uint8)
        pixels[:20] += 5
        Image.fromarray(pixels).save(folder / f"{k}.png")
        rows.append(ManifestRow(f"{k}.png", ("There is nodule", f"There is mass {k}")[: 1 + k % 2], f"p{k}"))
    (folder / "6.png").write_bytes((folder / "6.png").read_bytes()[:60])
    write_manifest(folder / "m.jsonl", rows)
    return Manifest(folder / "m.jsonl", "train")


def contents(batch: FilmBatch) -> tuple:
    """What a batch holds, comparable."""
    return (
        batch.pixel_values.numpy().tobytes(),
        [batch.texts[k] for k in batch.text_n],
        batch.owner_n.tolist(),
        [Path(u.image).name for u in batch.unreadable],
    )


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 5), st.integers(0, 3), st.booleans())
def test_an_epoch_deals_every_image_once(images: int, per_rank: int, world: int, epoch: int, shuffle: bool):
    steps = EpochPlan(images, per_rank, world=world, last=1).steps_per_epoch
    dealt: list[int] = []
    for rank in range(world):
        plan = EpochPlan(
            images,
            per_rank,
            rank=rank,
            world=world,
            seed=9,
            shuffle=shuffle,
            first=epoch * steps,
            last=(epoch + 1) * steps,
        )
        batches = list(plan)
        assert len(batches) == len(plan) == steps
        assert all(len(batch) <= per_rank for batch in batches)
        assert {key[0] for batch in batches for key in batch} <= {epoch}
        dealt += [index for batch in batches for _, index in batch]
    assert sorted(dealt) == list(range(images))


def test_epochs_differ_and_seeds_differ():
    def order(seed: int, epoch: int) -> list[int]:
        plan = EpochPlan(30, 5, seed=seed, first=6 * epoch, last=6 * epoch + 6)
        return [index for batch in plan for _, index in batch]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_a_plan_goes_on_where_another_stopped():
    whole = list(EpochPlan(23, 3, rank=1, world=2, last=13))
    assert list(EpochPlan(23, 3, rank=1, world=2, first=5, last=13)) == whole[5:]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(manifest: Manifest, processor, workers: int):
    films = ManifestDataset(
        manifest, processor, Augmentation(shift=0.1, gamma=0.3, rotate=5), one_sentence=True, seed=2
    )
    here = [contents(b) for b in loader(films, EpochPlan(len(films), 4, last=7), workers=0)]
    there = [contents(b) for b in loader(films, EpochPlan(len(films), 4, first=2, last=7), workers=workers)]
    assert there == here[2:]


def test_a_batch_says_whose_every_sentence_is(manifest: Manifest, processor):
    films = ManifestDataset(manifest, processor)
    (batch,) = loader(films, EpochPlan(len(films), 11, last=1, shuffle=False), workers=0)
    assert batch.pixel_values.shape == (10, 3, 64, 64)
    assert [Path(u.image).name for u in batch.unreadable] == ["6.png"]
    assert "6.png" in batch.unreadable[0].reason
    order = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    wanted = [
        (row, text) for row, k in enumerate(order) for text in ("There is nodule", f"There is mass {k}")[: 1 + k % 2]
    ]
    assert [(int(o), batch.texts[t]) for o, t in zip(batch.owner_n, batch.text_n, strict=True)] == wanted
    assert len(batch.texts) == len(set(batch.texts)) == len(batch.input_ids) == len(batch.attention_mask)


def test_a_rank_without_images_gets_an_empty_batch(manifest: Manifest, processor):
    films = ManifestDataset(manifest, processor)
    plan = EpochPlan(len(films), 5, rank=1, world=2, first=1, last=2)  # one image is left for two ranks
    (batch,) = loader(films, plan, workers=0)
    assert batch.pixel_values.shape == (0, 3, 64, 64)
    assert (len(batch.texts), len(batch.input_ids), len(batch.owner_n)) == (0, 0, 0)


def test_one_sentence_is_drawn_anew_each_epoch(manifest: Manifest, processor):
    films = ManifestDataset(manifest, processor, one_sentence=True)
    drawn = {films[epoch, 1].sentences for epoch in range(20)}
    assert drawn == {("There is nodule",), ("There is mass 1",)}


def unread(count: int, read: int) -> FilmBatch:
    nothing = torch.empty(0, dtype=torch.long)
    bad = [Unreadable(f"{k}.png", f"{k}.png: cut short") for k in range(count)]
    return FilmBatch(torch.empty(read, 3, 4, 4), [], nothing, nothing, nothing, nothing, [], bad)


def test_a_quarantine_goes_on_with_what_it_had(tmp_path: Path):
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path, share=0.1).take(unread(3, 30))
    with path.open("a") as file:
        file.write('{"image": "9.png", "rea')  # torn by a kill
    again = Quarantine(path, share=0.1, seen=33)
    assert list(again.names) == ["0.png", "1.png", "2.png"]
    again.take(unread(3, 7))
    assert len(path.read_text().splitlines()) == 3, "each image once"


def test_quarantine_names_what_it_takes_and_ends_the_run_at_its_share(tmp_path: Path):
    quarantine = Quarantine(tmp_path / "run" / "quarantine.jsonl", share=0.1)
    quarantine.take(unread(3, 0))  # three are no share of anything yet
    quarantine.take(unread(3, 30))  # the same three, seen again
    assert quarantine.seen == 36
    assert [json.loads(line)["image"] for line in quarantine.path.read_text().splitlines()] == [
        "0.png",
        "1.png",
        "2.png",
    ]
    with pytest.raises(TooManyUnreadableError, match=r"5 of 41 images .* more than 10\.0%.*\n  0\.png: cut short"):
        quarantine.take(unread(5, 0))


def film() -> Radiograph:
    """Bright above on the left, grey below on the right."""
    pixels = np.zeros((80, 120), dtype=np.float32)
    pixels[10:30, 10:30], pixels[50:70, 90:110] = 1.0, 0.5
    return Radiograph(pixels=pixels, source="drawn")


def test_no_augmentation_changes_nothing():
    rng = np.random.default_rng(0)
    values = torch.randn(3, 8, 10)
    assert Augmentation().placed(values, rng) is values
    original = film()
    assert Augmentation().film(original, rng) is original


@pytest.mark.parametrize("change", [{"shift": 0.1}, {"scale": 0.2}, {"rotate": 20.0}, {"shift": 0.05, "rotate": 10.0}])
def test_left_stays_left(change: dict[str, float]):
    """The bright square stays above and left of the grey one, whatever is drawn."""
    rng = np.random.default_rng(1)
    values = torch.from_numpy(film().pixels)[None]
    for _ in range(50):
        placed = Augmentation(**change).placed(values, rng)[0]
        bright, grey = (placed > 0.75).nonzero().float(), ((placed > 0.4) & (placed < 0.6)).nonzero().float()
        assert len(bright) > 100
        assert (bright.mean(0) < grey.mean(0)).all()


def test_a_turn_keeps_shapes():
    """A square on a film that is not square keeps its area and its extent along its diagonal."""
    values = torch.zeros(1, 80, 120)
    values[0, 30:50, 50:70] = 1.0
    for k in range(20):
        placed = Augmentation(rotate=40).placed(values, np.random.default_rng(k))[0]
        assert float((placed > 0.5).sum()) == pytest.approx(400, rel=0.05)
        spread = (placed > 0.5).nonzero().float().std(dim=0)
        assert float(spread[0]) == pytest.approx(float(spread[1]), rel=0.05)


def test_grey_values_stay_in_their_range():
    rng = np.random.default_rng(2)
    for _ in range(20):
        changed = Augmentation(gamma=0.5, contrast=0.5, brightness=0.5).film(film(), rng).pixels
        assert changed.dtype == np.float32
        assert 0 <= changed.min() <= changed.max() <= 1


@pytest.mark.parametrize("change", [{"shift": -0.1}, {"shift": 1.0}, {"rotate": 180.0}, {"gamma": float("nan")}])
def test_augmentations_that_make_no_sense_are_refused(change: dict[str, float]):
    with pytest.raises(ValueError, match=f"augmentation.{next(iter(change))} must be"):
        Augmentation(**change)
