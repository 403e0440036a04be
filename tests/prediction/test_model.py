"""The front door: films and sentences in, readings out, in order, and the same however they are asked."""

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import radzero
from radzero import Radiograph, RadiographError, RadZero, Reading
from radzero.images.geometry import Geometry
from radzero.phantom.film import Film
from radzero.prediction.maps import MapGrid
from radzero.prediction.model import PACKAGED, describe, load
from radzero.prediction.reading import EmbeddedFilm

SENTENCES = ("There is pleural effusion", "There is no nodule", "There is left pneumothorax")


@pytest.fixture(scope="module")
def films(phantoms: list[Film]) -> list[Radiograph]:
    """Films of different sizes and formats."""
    out = []
    for film, (height, width) in zip(phantoms, [(96, 80), (64, 64), (70, 130), (96, 96)], strict=False):
        pixels = np.asarray(Image.fromarray(film.pixels).resize((width, height)), dtype=np.float32)
        out.append(Radiograph(pixels=np.ascontiguousarray(pixels.clip(0, 1)), source=f"{height} x {width}"))
    return out


def same(a: Reading, b: Reading, tolerance: float = 1e-5) -> None:
    assert a.sentences == b.sentences
    assert np.allclose(a.logits, b.logits, atol=tolerance)
    assert np.allclose(a.similarity, b.similarity, atol=tolerance)
    assert np.array_equal(a.film, b.film)
    assert a.geometry == b.geometry


# -- what goes in --------------------------------------------------------------------------------------


def test_every_kind_of_image(tiny_model: RadZero, phantoms: list[Film], tmp_path: Path):
    grey = phantoms[0].to_uint8()
    path = tmp_path / "film.png"
    Image.fromarray(grey).save(path)
    (wanted,) = tiny_model.predict(path, SENTENCES)
    assert wanted.source == str(path)
    radiograph = radzero.read_radiograph(path)
    with Image.open(path) as opened:
        for image in (str(path), grey, np.dstack([grey] * 3), Image.fromarray(grey), opened, radiograph):
            (reading,) = tiny_model.predict(image, SENTENCES)
            same(reading, wanted)
    (reading,) = tiny_model.predict(grey.astype(np.float32) / 255, SENTENCES)
    same(reading, wanted)


@pytest.mark.parametrize("container", [list, tuple, iter, lambda items: (item for item in items)])
def test_many_images_give_readings_in_their_order(tiny_model: RadZero, films: list[Radiograph], container):
    readings = tiny_model.predict(container(films), SENTENCES, batch_size=3)
    assert isinstance(readings, list)
    assert [reading.source for reading in readings] == [film.source for film in films]
    mixed = tiny_model.predict([films[1], films[0].to_uint8(), films[1].to_rgb()], SENTENCES[0])
    assert [reading.film.shape for reading in mixed] == [(64, 64), (96, 80), (64, 64)]


def test_no_image_and_no_sentence_are_ordinary(tiny_model: RadZero, films: list[Radiograph]):
    assert tiny_model.predict([], SENTENCES) == []
    (reading,) = tiny_model.predict(films[0], [])
    assert reading.logits.shape == reading.probabilities.shape == (0,)
    assert reading.maps.shape == (0, 96, 80)
    assert reading.peaks.shape == (0, 2)
    assert reading.to_dict()["sentences"] == []


@pytest.mark.parametrize("bad", ["", "   ", ["There is nodule", ""], ["\n"], [None], [3]])
def test_empty_sentences_are_refused(bad, tiny_model: RadZero, films: list[Radiograph]):
    with pytest.raises(ValueError, match=r"sentence \d is empty or not text"):
        tiny_model.predict(films[0], bad)


def test_a_stack_must_be_a_list(tiny_model: RadZero, films: list[Radiograph]):
    stack = np.stack([films[1].to_uint8()] * 4)
    with pytest.raises(RadiographError, match=r"numpy array \(4, 64, 64\)") as caught:
        tiny_model.predict(stack, SENTENCES)
    assert caught.value.reason.value == "bad_shape"
    assert len(tiny_model.predict(list(stack), SENTENCES)) == 4


@pytest.mark.parametrize("bad", [3, None, 2.5])
def test_what_is_no_image_is_refused(bad, tiny_model: RadZero):
    with pytest.raises(TypeError, match=type(bad).__name__):
        tiny_model.predict(bad, SENTENCES)
    with pytest.raises(TypeError, match=type(bad).__name__):
        tiny_model.predict([bad], SENTENCES)


def test_a_missing_file_is_named(tiny_model: RadZero, tmp_path: Path):
    with pytest.raises(RadiographError, match=r"gone\.png: no such file"):
        tiny_model.predict([tmp_path / "gone.png"], SENTENCES)


@pytest.mark.parametrize("size", [0, -1])
def test_batches_hold_at_least_one_film(size: int, tiny_model: RadZero, films: list[Radiograph]):
    with pytest.raises(ValueError, match="batch_size"):
        tiny_model.predict(films, SENTENCES, batch_size=size)


# -- what comes out ------------------------------------------------------------------------------------


def test_shapes_and_types(tiny_model: RadZero, films: list[Radiograph]):
    for film, reading in zip(films, tiny_model.predict(films, SENTENCES), strict=True):
        n, shape = len(SENTENCES), film.pixels.shape
        for value, size, dtype in (
            (reading.logits, (n,), np.float32),
            (reading.probabilities, (n,), np.float32),
            (reading.similarity, (n, 8, 8), np.float32),
            (reading.maps, (n, *shape), np.float32),
            (reading.map(1), shape, np.float32),
            (reading.peaks, (n, 2), np.int64),
            (reading.region(0), shape, np.bool_),
            (reading.film, shape, np.uint8),
        ):
            assert value.shape == size
            assert value.dtype == dtype
        assert reading.sentences == SENTENCES
        assert (reading.model, reading.grid.patch) == (tiny_model.name, (8, 8))
        assert reading.notice == tiny_model.notice == "Tiny, of random weights: for tests, not for radiographs."
        assert np.array_equal(reading.film, film.to_uint8())


def test_numbers_belong_together(tiny_model: RadZero, films: list[Radiograph]):
    for reading in tiny_model.predict(films, SENTENCES):
        assert reading.probabilities == pytest.approx(1 / (1 + np.exp(-reading.logits.astype(np.float64))), abs=1e-6)
        assert reading.maps.min() >= 0
        assert reading.maps.max() <= 1
        assert reading.maps.std() > 0.01
        for k in range(len(SENTENCES)):
            assert np.array_equal(reading.maps[k], reading.map(k))
            height, width = reading.film.shape
            grid = torch.from_numpy(reading.similarity[k])[None, None]
            full = torch.nn.functional.interpolate(grid, (height, width), mode="bilinear", align_corners=False)[0, 0]
            assert reading.map(k) == pytest.approx(torch.sigmoid(full).numpy(), abs=1e-5)
            x, y = reading.peaks[k]
            assert float(full[y, x]) == pytest.approx(float(full.max()), abs=1e-5)
            row, column = divmod(int(reading.map(k).argmax()), width)
            assert reading.map(k)[row, column] == pytest.approx(reading.map(k)[y, x], abs=1e-6)
            assert np.array_equal(reading.region(k, 0.7), reading.map(k) >= 0.7)
        assert reading.region(0, 0.0).all()
        for threshold in (1.01, -0.1, float("nan")):
            with pytest.raises(ValueError, match="a threshold is between 0 and 1"):
                reading.region(0, threshold)


def test_extreme_similarities_do_not_overflow():
    similarity = np.array([[[-1e30, 1e30], [0, 800]]], dtype=np.float32)
    reading = hand_made(similarity, np.array([-1e30], dtype=np.float32))
    assert reading.probabilities.tolist() == [0.0]
    assert np.isfinite(reading.maps).all()


def hand_made(similarity: np.ndarray, logits: np.ndarray, side: int = 64) -> Reading:
    size = (similarity.shape[1] * 8, similarity.shape[2] * 8)
    return Reading(
        source="hand",
        model="none",
        sentences=tuple(f"sentence {k}" for k in range(len(logits))),
        logits=logits,
        film=np.zeros((side, side), dtype=np.uint8),
        geometry=(geometry := Geometry.squash((side, side), size)),
        grid=MapGrid(similarity, geometry, (8, 8)),
    )


def test_together_or_one_at_a_time(tiny_model: RadZero, films: list[Radiograph]):
    together = tiny_model.predict(films, SENTENCES)
    for film, reading in zip(films, together, strict=True):
        for k, text in enumerate(SENTENCES):
            (alone,) = tiny_model.predict(film, text)
            assert alone.logits[0] == pytest.approx(reading.logits[k], abs=1e-4)
            assert np.allclose(alone.similarity[0], reading.similarity[k], atol=1e-4)
    assert np.std([reading.logits for reading in together]) > 0.01


def test_the_order_of_sentences_and_duplicates(tiny_model: RadZero, films: list[Radiograph]):
    (straight,) = tiny_model.predict(films[0], SENTENCES)
    turned_sentences = [SENTENCES[2], SENTENCES[0], SENTENCES[2], SENTENCES[1]]
    (turned,) = tiny_model.predict(films[0], turned_sentences)
    assert turned.sentences == tuple(turned_sentences)
    assert turned.logits == pytest.approx(straight.logits[[2, 0, 2, 1]], abs=1e-5)
    assert np.allclose(turned.similarity, straight.similarity[[2, 0, 2, 1]], atol=1e-5)


def test_unknown_words_are_named(tiny_model: RadZero, films: list[Radiograph]):
    (reading,) = tiny_model.predict(films[0], ["There is nodule", "There is zebra, and lion", "Is There NODULE."])
    (warning,) = reading.warnings
    assert warning.startswith("'There is zebra, and lion'")
    assert "the words zebra, and, lion;" in warning, "without the comma"
    unknown = tiny_model.processor.unknown_words
    assert unknown("„Zebra“ (zebra's) zebra; -- «Löwe»!") == ["Zebra", "zebra's", "zebra", "Löwe"]
    assert unknown("nodule, (nodule). -") == []
    assert tiny_model.predict(films[0], "There is nodule")[0].warnings == ()


# -- what can be made of it ----------------------------------------------------------------------------


def test_overlays_by_index_and_by_sentence(tiny_model: RadZero, films: list[Radiograph]):
    (reading,) = tiny_model.predict(films[0], SENTENCES[:2])
    first, second = reading.overlay(0), reading.overlay(1)
    assert first.mode == "RGB"
    assert reading.overlay(SENTENCES[1]).tobytes() == second.tobytes() != first.tobytes()
    assert reading.overlay(-1).tobytes() == second.tobytes()
    with pytest.raises(ValueError, match="was not asked"):
        reading.overlay("There is mass")
    for index in (2, -3):
        with pytest.raises(ValueError, match=f"no sentence {index}"):
            reading.overlay(index)


def test_overlays_carry_the_warnings_of_their_film_and_their_sentence_alone(
    tiny_model: RadZero, films: list[Radiograph], monkeypatch: pytest.MonkeyPatch
):
    film = replace(films[0], warnings=("the view is probably lateral",))
    asked = ["There is nodule", "There is zebra", "There is zebra 'lion'"]
    (reading,) = tiny_model.predict(film, asked)
    assert reading.film_warnings == ("the view is probably lateral",)
    assert [len(reading.warnings_of(text)) for text in asked] == [1, 2, 2]
    drawn = []
    monkeypatch.setattr(
        "radzero.prediction.reading.render_overlay", lambda *_, **options: drawn.append(options["warnings"])
    )
    for text in asked:
        reading.overlay(text)
    assert drawn[0] == ("the view is probably lateral",)
    assert drawn[1] == (
        "this model has never seen the word zebra; do not trust its answer",
        "the view is probably lateral",
    )
    monkeypatch.undo()
    assert (
        reading.overlay(1).height > reading.overlay(0).height > tiny_model.predict(films[0], asked)[0].overlay(0).height
    )


def test_saving(tiny_model: RadZero, films: list[Radiograph], tmp_path: Path):
    (reading,) = tiny_model.predict(films[0], [*SENTENCES[:1], "There is größer"])
    written = reading.save(tmp_path / "a" / "b")
    assert [path.name for path in written] == ["reading.json", "00.png", "01.png"]
    content = json.loads(written[0].read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(reading.to_dict()))
    assert set(content) == {"image", "model", "sentences", "warnings"}
    assert content["warnings"][0] == tiny_model.notice
    assert "größer" in content["warnings"][1]
    assert content["sentences"][0]["logit"] == pytest.approx(float(reading.logits[0]))
    with Image.open(written[1]) as saved:
        assert saved.tobytes() == reading.overlay(0).tobytes()


def test_too_many_maps_are_refused_and_one_at_a_time_is_not():
    count = 4 * 2**30 // (4 * 2048 * 2048) + 1
    similarity = np.zeros((count, 2, 2), dtype=np.float32)
    reading = hand_made(similarity, np.zeros(count, dtype=np.float32), side=2048)
    with pytest.raises(MemoryError, match=rf"{count} maps of 2048 x 2048 pixels take 4\.0 GiB.*reading\.map"):
        reading.maps  # noqa: B018
    assert reading.map(count - 1).shape == (2048, 2048)


def test_readings_cannot_be_changed(tiny_model: RadZero, films: list[Radiograph]):
    (reading,) = tiny_model.predict(films[0], SENTENCES)
    with pytest.raises(AttributeError):
        reading.source = "other"  # type: ignore[misc]


def test_what_is_printed_is_short(tiny_model: RadZero, films: list[Radiograph]):
    (reading,) = tiny_model.predict(films[0], SENTENCES)
    first, second, third = (f"{text!r}: {p:.3f}" for text, p in zip(SENTENCES, reading.probabilities, strict=True))
    assert repr(reading) == (
        f"Reading('96 x 80', model={tiny_model.name!r}, probabilities={{{first}, {second}, {third}}})"
    )
    (many,) = tiny_model.predict(films[0], [f"There is nodule {k}" for k in range(500)])
    assert len(repr(many)) < 800
    assert "'There is nodule 9': " in repr(many)
    assert repr(many).endswith(", ... 490 more})")
    assert repr(tiny_model.predict(films[0], [])[0]).endswith("probabilities={})")
    assert repr(films[0]) == "Radiograph('96 x 80', 96 x 80, view=None, warnings=())"
    seen = EmbeddedFilm("a.png", reading.film, reading.geometry, ("odd",))
    assert "a.png" in repr(seen)
    assert "('odd',)" in repr(seen)
    assert "array" not in repr(seen)


# -- how it works ----------------------------------------------------------------------------------------


def test_streaming_is_lazy(tiny_model: RadZero, films: list[Radiograph]):
    taken: list[int] = []

    def endless() -> Iterator[Radiograph]:
        while True:
            taken.append(1)
            yield films[0]

    stream = tiny_model.stream(endless(), SENTENCES, batch_size=2)
    assert inspect.isgenerator(stream)
    assert taken == []
    next(stream)
    assert len(taken) == 2
    next(stream)
    assert len(taken) == 2
    next(stream)
    assert len(taken) == 4


def test_a_sentence_is_encoded_once(tiny_checkpoint: Path, films: list[Radiograph], monkeypatch: pytest.MonkeyPatch):
    model = load(tiny_checkpoint, device="cpu")
    encoded: list[int] = []
    encode = model.model.encode_sentences

    def counted(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        encoded.append(len(input_ids))
        return encode(input_ids, attention_mask)

    monkeypatch.setattr(model.model, "encode_sentences", counted)
    model.predict(films, SENTENCES, batch_size=1)
    assert sum(encoded) == len(SENTENCES)
    model.predict(films[0], [*SENTENCES, *SENTENCES])
    assert sum(encoded) == len(SENTENCES)
    model.predict(films[0], ["There is mass", SENTENCES[1], "There is mass"])
    assert sum(encoded) == len(SENTENCES) + 1


@pytest.mark.parametrize(("bound", "value"), [("_SENTENCE_CACHE", 3), ("_SENTENCE_CACHE_BYTES", 3 * 32 * 4 + 1)])
def test_old_embeddings_are_let_go(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int):
    monkeypatch.setattr(f"radzero.prediction.model.{bound}", value)
    model = load(tiny_checkpoint, device="cpu")
    asked = [f"There is nodule {'left ' * k}" for k in range(5)]
    first = model.embed_sentences(asked)
    assert first.shape == (5, 32)
    assert len(model._embeddings) == 3
    assert torch.allclose(model.embed_sentences(asked), first, atol=1e-5)


def test_bfloat16_reads_about_the_same(tiny_checkpoint: Path, films: list[Radiograph]):
    exact, rough = (load(tiny_checkpoint, device="cpu", dtype=d) for d in ("float32", "bfloat16"))
    assert rough.model.dtype == torch.bfloat16
    (a,), (b,) = (model.predict(films[0], SENTENCES) for model in (exact, rough))
    assert b.logits.dtype == b.similarity.dtype == np.float32
    assert not np.array_equal(a.logits, b.logits)
    assert a.probabilities == pytest.approx(b.probabilities, abs=0.15)


@pytest.mark.parametrize("dtype", ["int8", "float33", "Tensor"])
def test_types_that_are_not_floating_are_refused(dtype: str, tiny_checkpoint: Path):
    with pytest.raises(ValueError, match=dtype):
        load(tiny_checkpoint, dtype=dtype)


def test_describe(tiny_checkpoint: Path):
    facts = describe(tiny_checkpoint)
    assert facts["model"] == str(tiny_checkpoint)
    assert (facts["image_size"], facts["patch_grid"], facts["hidden_size"]) == (64, [8, 8], 32)
    parts = facts["parameters"]
    assert parts["total"] > parts["vision"] + parts["align"] + parts["text"]
    assert len(facts["sha256"]) == 64
    assert json.loads(json.dumps(facts)) == facts
    assert PACKAGED == "packaged"


_MANY = """
import sys
import numpy as np
import radzero

def peak():  # resident bytes of this process alone: getrusage would count what the parent had when it forked
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

model = radzero.load(sys.argv[1], device="cpu")
rng = np.random.default_rng(0)
films = [(rng.random((512, 448)) * 255).astype(np.uint8) for _ in range(4)]
sides, zones = ("left", "right"), ("upper", "mid", "lower")
sentences = [f"There is nodule {k} in the {sides[k % 2]} {zones[k % 3]} lung zone" for k in range(10_000)]
model.predict(films[0], sentences[:2])
before = peak()
readings = model.predict(films, sentences)
assert len(readings) == 4 and readings[3].logits.shape == (10_000,) and readings[0].peaks.shape == (10_000, 2)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_ten_thousand_sentences_take_less_than_two_gibibytes(tiny_checkpoint: Path):
    command = [sys.executable, "-c", _MANY, str(tiny_checkpoint)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0 < grown < 2 * 2**30


# -- what was found in review --------------------------------------------------------------------------


def test_films_that_become_inputs_of_different_sizes_go_together(tiny_model: RadZero, films: list[Radiograph]):
    """A checkpoint that resizes the shortest edge and crops nothing: every film keeps its format."""
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    processor = type(tiny_model.processor)(
        BitImageProcessorPil(
            size={"shortest_edge": 64}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.25] * 3
        ),
        tiny_model.processor.tokenizer,
    )
    model = RadZero(tiny_model.model, processor, name="shortest edge")
    together = model.predict([films[1], films[1], films[2], films[1]], SENTENCES)
    for reading, film in zip(together, (films[1], films[1], films[2], films[1]), strict=True):
        same(reading, model.predict(film, SENTENCES)[0])
    assert together[2].similarity.shape != together[1].similarity.shape


def test_a_sentence_that_is_cut_is_named(tiny_model: RadZero, films: list[Radiograph]):
    limit = tiny_model.processor.max_tokens
    long = "There is nodule " * limit
    (reading,) = tiny_model.predict(films[0], ["There is nodule", long])
    (warning,) = reading.warnings
    assert f"reads the first {limit} only" in warning
    assert warning.startswith(repr(long))


def test_the_processor_is_called_like_any_other(tiny_model: RadZero, films: list[Radiograph], tmp_path: Path):
    path = tmp_path / "film.png"
    Image.fromarray(films[0].to_uint8()).save(path)
    processor = tiny_model.processor
    grey = films[0].to_uint8()
    called = processor(images=[grey, path, Image.fromarray(grey)], text="There is nodule", return_tensors="pt")
    assert called["pixel_values"].shape == (3, 3, 64, 64)
    assert torch.equal(called["pixel_values"][0], called["pixel_values"][1])
    output = tiny_model.model(**called)
    (reading,) = tiny_model.predict(path, "There is nodule")
    assert output.logits[:, 0].detach().numpy() == pytest.approx(np.repeat(reading.logits, 3), abs=1e-4)
    padded = processor(text=["There is nodule"], padding="max_length", max_length=12)
    assert padded["input_ids"].shape == (1, 12)
    with pytest.raises(TypeError, match="colour"):
        processor(images=grey, colour="red")
    with pytest.raises(ValueError, match="PyTorch"):
        processor(images=grey, return_tensors="np")


def test_temperatures_stay_exact_in_bfloat16(tiny_checkpoint: Path):
    exact, rounded = load(tiny_checkpoint), load(tiny_checkpoint, dtype="bfloat16")
    assert rounded.dtype is torch.bfloat16
    assert torch.equal(exact.model.temperature, rounded.model.temperature)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_named(tiny_checkpoint: Path):
    with pytest.raises(ValueError, match=r"device 'cuda' cannot be used.*cpu"):
        load(tiny_checkpoint, device="cuda")


def test_readings_are_compared_by_identity(tiny_model: RadZero, films: list[Radiograph]):
    first, second = tiny_model.predict(films[:2], SENTENCES)
    assert first in [second, first]
    assert first != second
    assert len({first, second}) == 2


def test_transformers_options_of_loading(tiny_checkpoint: Path):
    model = radzero.RadZeroModel.from_pretrained(
        pretrained_model_name_or_path=tiny_checkpoint, attn_implementation="eager"
    )
    assert model.config._attn_implementation == "eager"
    with pytest.raises(TypeError, match="colour"):
        radzero.RadZeroModel.from_pretrained(tiny_checkpoint, colour="red")


def test_larger_films_can_be_allowed(tiny_model: RadZero):
    film = np.arange(2000, dtype=np.uint16).reshape(40, 50)
    with pytest.raises(RadiographError, match="max_pixels"):
        tiny_model.predict(film, SENTENCES, limits=radzero.ReadLimits(max_pixels=1999))
    assert tiny_model.predict(film, SENTENCES, limits=radzero.ReadLimits(max_pixels=2000))
