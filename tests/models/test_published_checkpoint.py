"""Checkpoints in the published format: the same numbers as a slow independent implementation, or a clear refusal."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import (
    MAX_TOKENS,
    Published,
    make_published,
    make_tokenizer,
    write_json,
    write_published,
    write_tensors,
)
from reference import LOSS, answer, bilinear, sigmoid
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from radzero.models.checkpoints import CheckpointError, load_processor, open_checkpoint
from radzero.models.configuration import ConvStemConfig
from radzero.models.processor import RadZeroProcessor
from radzero.models.radzero import RadZeroConfig, RadZeroModel
from radzero.prediction.model import RadZero, Reading, describe, load

pytestmark = pytest.mark.slow

SENTENCES = ("There is no pleural effusions in the left lung.", "Cardiomegaly")
TOLERANCE = 1e-4


def make_film(height: int = 41, width: int = 57, seed: int = 0) -> np.ndarray:
    """Noise on a ramp: no two places alike."""
    noise = np.random.default_rng(seed).integers(0, 120, (height, width))
    return (noise + np.linspace(0, 130, width)[None, :]).astype(np.uint8)


FILM = make_film()


def assert_equals_slow(
    reading: Reading, published: Published, film: np.ndarray, ids: Callable[[str], list[int]] | None = None
) -> None:
    height, width = film.shape
    assert reading.logits.shape == reading.probabilities.shape == (len(reading.sentences),)
    assert reading.maps.shape == (len(reading.sentences), height, width)
    assert reading.peaks.shape == (len(reading.sentences), 2)
    for k, sentence in enumerate(reading.sentences):
        logit, similarity, image_map = answer(
            film, (ids or published.ids)(sentence), published.weights, published.config, published.preprocessor
        )
        assert similarity.std() > 0.1  # or the comparison would say little
        assert reading.logits[k] == pytest.approx(logit, abs=TOLERANCE)
        assert reading.probabilities[k] == pytest.approx(sigmoid(logit), abs=TOLERANCE)
        np.testing.assert_allclose(reading.similarity[k], similarity, atol=TOLERANCE)
        np.testing.assert_allclose(reading.maps[k], image_map, atol=TOLERANCE)
        x, y = reading.peaks[k]
        upsampled = bilinear(similarity, height, width)
        assert upsampled[y, x] == pytest.approx(upsampled.max(), abs=TOLERANCE)
        threshold = 0.6
        clear = np.abs(image_map - threshold) > TOLERANCE
        assert np.array_equal(reading.region(k, threshold)[clear], (image_map >= threshold)[clear])


@pytest.fixture(scope="module")
def published() -> Published:
    return make_published()


@pytest.fixture(scope="module")
def folder(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(published, tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def model(folder: Path) -> RadZero:
    return load(folder, "cpu")


@pytest.fixture
def fresh(published: Published, tmp_path: Path) -> Path:
    """A folder of this test's own, to be damaged."""
    return write_published(published, tmp_path / "checkpoint")


# -- the numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "write"),
    [
        pytest.param({}, {}, id="as published"),
        pytest.param({"seed": 1, "heads": 4}, {"naming": "new"}, id="new DINOv2 names"),
        pytest.param(
            {"seed": 2}, {"loss_name": "KeyPhraseAlignmentLoss", "auto_map": True}, id="as the copy on the hub"
        ),
        pytest.param({"seed": 3, "attention_temperature": 0.2}, {}, id="separate attention temperature"),
        pytest.param({"seed": 4, "sim_op": "dot"}, {}, id="dot"),
        pytest.param(
            {"seed": 5, "sim_op": "dot", "attention_temperature": 0.7},
            {"temperature_shape": (1,)},
            id="dot with attention temperature",
        ),
        pytest.param({"seed": 6}, {"temperature_shape": (1,)}, id="temperature of shape (1,)"),
        pytest.param({"seed": 7}, {"shards": 3}, id="sharded"),
        pytest.param({"seed": 8, "swiglu": True}, {}, id="SwiGLU"),
        pytest.param({"seed": 9, "swiglu": True}, {"naming": "new"}, id="SwiGLU, new names"),
        pytest.param({"seed": 10, "run_at": (24, 36)}, {}, id="input that is not square"),
        pytest.param({"seed": 11, "run_at": (18, 18)}, {}, id="trained grid"),
        pytest.param({"seed": 12, "trained_at": 30, "run_at": (18, 24)}, {}, id="smaller grid than trained"),
        pytest.param({"seed": 13, "qkv_bias": False, "mask_token": False}, {}, id="no biases, no mask token"),
    ],
)
def test_equals_the_slow_implementation(make: dict, write: dict, tmp_path: Path) -> None:
    published = make_published(**make)
    model = load(write_published(published, tmp_path, **write), "cpu")
    [reading] = model.predict(FILM, SENTENCES)
    assert reading.sentences == SENTENCES
    assert_equals_slow(reading, published, FILM)
    assert open_checkpoint(tmp_path).published


def test_text_l2_norm_comes_before_the_shared_layer_norm(tmp_path: Path) -> None:
    """Seen where sentence embeddings are so short that the LayerNorm's epsilon counts."""
    found = {}
    for normalised in (False, True):
        published = make_published(text_features_l2_norm=normalised)
        for part in ("weight", "bias"):
            published.weights[f"text_model.encoder.layer.1.output.LayerNorm.{part}"] *= 0.003
        model = load(write_published(published, tmp_path / str(normalised)), "cpu")
        [reading] = model.predict(FILM, SENTENCES)
        assert_equals_slow(reading, published, FILM)
        found[normalised] = reading.logits
    assert np.abs(found[True] - found[False]).min() > 0.01


def test_the_old_position_rule_is_used_and_matters(published: Published, model: RadZero) -> None:
    config = copy.deepcopy(model.model.config)
    assert config.position_rule == "offset"
    config.position_rule = "size"
    other = RadZeroModel(config).eval()
    other.load_state_dict(model.model.state_dict())
    [old] = model.predict(FILM, SENTENCES)
    [new] = RadZero(other, model.processor, name="size").predict(FILM, SENTENCES)
    assert np.abs(old.similarity - new.similarity).max() > 10 * TOLERANCE


@pytest.mark.parametrize("align", [None, {}, {"num_hidden_layers": 2}])
def test_align_layers_take_their_sizes_from_the_vision_config(align: dict | None, tmp_path: Path) -> None:
    published = make_published(seed=20, swiglu=True)
    model_config = copy.deepcopy(published.config)
    published.config["align_transformer_config"] = align
    write_published(published, tmp_path)
    published.config = model_config
    [reading] = load(tmp_path, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)


def test_loss_options_under_kwargs_only(tmp_path: Path) -> None:
    published = make_published(seed=21, sim_op="dot")
    write_published(published, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["loss"], config["compute_logits_type"]
    write_json(tmp_path / "config.json", config)
    [reading] = load(tmp_path, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)


def test_buffers_of_older_checkpoints_are_left_out(fresh: Path, published: Published) -> None:
    """``transformers`` before 4.31 saved MPNet's position ids, a constant of integers."""
    tensors = load_file(fresh / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = torch.arange(MAX_TOKENS + 2)[None]
    write_tensors(fresh, tensors)
    [reading] = load(fresh, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)


@pytest.mark.parametrize("naming", ["old", "new"])
def test_weights_without_a_pooler(naming: str, published: Published, tmp_path: Path) -> None:
    weights = {k: v for k, v in published.weights.items() if "pooler" not in k}
    assert len(weights) == len(published.weights) - 2
    bare = Published(published.config, weights, published.preprocessor)
    [reading] = load(write_published(bare, tmp_path, naming=naming), "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, bare, FILM)


def test_preprocessing_follows_the_checkpoint(published: Published, tmp_path: Path) -> None:
    other = copy.deepcopy(published)
    other.preprocessor |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.9, 0.5, 0.7]}
    [reading] = load(write_published(other, tmp_path), "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, other, FILM)


def test_tokens_are_the_tokenizers_own(published: Published, model: RadZero) -> None:
    texts = [*SENTENCES, "Pneumothorax!", "  There may be\tEDEMAS, mass.  ", "zebra of the heart"]
    encoded = model.processor.sentences(texts)
    for k, text in enumerate(texts):
        kept = encoded["attention_mask"][k].bool()
        assert encoded["input_ids"][k][kept].tolist() == published.ids(text)
        assert (encoded["input_ids"][k][~kept] == 1).all()
    assert encoded["input_ids"].shape == (len(texts), max(len(published.ids(t)) for t in texts))


def test_a_vocabulary_in_the_old_form_is_enough(published: Published, fresh: Path) -> None:
    (fresh / "tokenizer.json").unlink()  # vocab.txt is left
    [reading] = load(fresh, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)


def test_a_long_sentence_is_cut_at_the_tokenizers_limit(published: Published, model: RadZero) -> None:
    sentence = "There is a small nodule " * 20
    ids = published.ids(sentence)
    assert len(ids) > 2 * MAX_TOKENS
    cut = [*ids[: MAX_TOKENS - 1], ids[-1]]
    assert len(set(cut[:1] + cut[-1:]) - {0, 2}) == 0
    [reading] = model.predict(FILM, sentence)
    assert_equals_slow(reading, published, FILM, ids=lambda _: cut)


# -- batches -------------------------------------------------------------------------------------------------


def test_one_film_with_one_sentence_keeps_its_dimensions(published: Published, model: RadZero) -> None:
    [reading] = model.predict(FILM, SENTENCES[1])
    assert reading.logits.shape == (1,)
    assert reading.similarity.shape == (1, 5, 5)
    assert_equals_slow(reading, published, FILM)


def test_films_of_several_shapes_equal_each_alone(published: Published, folder: Path) -> None:
    films = [make_film(32, 90, 1), make_film(75, 33, 2), make_film(64, 64, 3), make_film(40, 40, 4)]
    model = load(folder, "cpu")
    together = model.predict(films, SENTENCES, batch_size=3)
    assert [r.film.shape for r in together] == [f.shape for f in films]
    for film, reading in zip(films, together, strict=True):
        assert np.array_equal(reading.film, film)
        [alone] = model.predict(film, SENTENCES)
        np.testing.assert_allclose(reading.logits, alone.logits, atol=2e-5)
        np.testing.assert_allclose(reading.similarity, alone.similarity, atol=2e-5)
        np.testing.assert_allclose(reading.maps, alone.maps, atol=2e-5)
    assert_equals_slow(together[1], published, films[1])


def test_sentences_together_equal_each_alone(published: Published, folder: Path) -> None:
    """From 1 to 30 words: padding must change nothing."""
    text = "there is a small opacity in the left lower lobe of the lung base there may be no edema"
    words = 2 * text.split()
    sentences = [" ".join(words[: 1 + 2 * k]) for k in range(16)]
    [together] = load(folder, "cpu").predict(FILM, sentences)
    assert len({len(published.ids(s)) for s in sentences}) == 16
    for k, sentence in enumerate(sentences):
        [alone] = load(folder, "cpu").predict(FILM, sentence)  # a fresh model: no cached embedding
        assert together.logits[k] == pytest.approx(alone.logits[0], abs=2e-5)
        np.testing.assert_allclose(together.similarity[k], alone.similarity[0], atol=2e-5)
    assert together.logits.std() > 0.1


def test_cached_sentences_give_the_same_answers_in_any_order(folder: Path) -> None:
    model = load(folder, "cpu")
    [first] = model.predict(FILM, SENTENCES)
    [second] = model.predict(FILM, (*SENTENCES[::-1], "There is edema", SENTENCES[0]))
    np.testing.assert_allclose(second.logits[[1, 0, 3]], first.logits[[0, 1, 0]], atol=2e-5)
    assert abs(second.logits[2] - first.logits).min() > 0.01


def test_the_models_forward_equals_predict(model: RadZero) -> None:
    batch = model.processor(images=[FILM[..., None].repeat(3, axis=-1)] * 2, text=list(SENTENCES))
    with torch.inference_mode():
        out = model.model(**batch)
    [reading] = model.predict(FILM, SENTENCES)
    assert out.logits.shape == (2, 2)
    assert out.similarity.shape == (2, 2, 25)
    np.testing.assert_allclose(out.logits[1].numpy(), reading.logits, atol=2e-5)
    np.testing.assert_allclose(out.similarity[1].numpy(), reading.similarity.reshape(2, 25), atol=2e-5)


# -- precision -----------------------------------------------------------------------------------------------


def test_bfloat16_within_its_precision(folder: Path, model: RadZero) -> None:
    coarse = load(folder, "cpu", "bfloat16")
    named = dict(coarse.model.named_parameters())
    assert {p.dtype for name, p in named.items() if not name.endswith("temperature")} == {torch.bfloat16}
    [reading], [exact] = (m.predict(FILM, SENTENCES) for m in (coarse, model))
    assert reading.logits.dtype == reading.similarity.dtype == reading.maps.dtype == np.float32
    tau = model.model.temperature.item()
    difference = np.abs(reading.similarity - exact.similarity) * tau
    assert 1e-5 < difference.max() < 0.06  # of cosines
    np.testing.assert_allclose(reading.logits * tau, exact.logits * tau, atol=0.06)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_stored_in_half_precision_are_run_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    published = make_published(seed=22)
    rounded = {k: torch.from_numpy(v).to(dtype).float().numpy() for k, v in published.weights.items()}
    model = load(write_published(published, tmp_path, dtype=dtype), "cpu")
    assert {p.dtype for p in model.model.parameters()} == {torch.float32}
    [reading] = model.predict(FILM, SENTENCES)
    assert_equals_slow(reading, Published(published.config, rounded, published.preprocessor), FILM)


def test_parameters_can_be_trained_after_loading(folder: Path) -> None:
    model = RadZeroModel.from_pretrained(folder)
    assert not model.training
    out = model(torch.randn(1, 3, 30, 30), torch.tensor([[0, 5, 6, 2]]))
    out.logits.sum().backward()
    untouched = {name for name, p in model.named_parameters() if p.grad is None}
    assert untouched <= {"vision_model.embeddings.mask_token"}


# -- nothing is executed -------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> str:
        raise AssertionError("something asked the user a question")

    monkeypatch.setattr("builtins.input", asked)


@pytest.mark.usefixtures("no_questions")
@pytest.mark.parametrize("present", [False, True], ids=["code absent", "code present"])
def test_remote_code_is_neither_asked_for_nor_run(present: bool, published: Published, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    folder = write_published(published, tmp_path / "hub", loss_name="KeyPhraseAlignmentLoss", auto_map=True, shards=2)
    (folder / "data").mkdir()  # the hub copy has folders of sentences
    (folder / "data" / "sentences.json").write_text("{}")
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        settings = json.loads((folder / name).read_text())
        settings["auto_map"] = {
            "AutoTokenizer": ["modeling_cxr_align.CxrTokenizer", None],
            "AutoImageProcessor": "modeling_cxr_align.CxrImageProcessor",
        }
        write_json(folder / name, settings)
    if present:
        for name in ("modeling_cxr_align.py", "configuration_cxr_align.py"):
            (folder / name).write_text(f"open({str(marker)!r}, 'w').close()\n")
        with (folder / "pytorch_model.bin").open("wb") as file:
            pickle.dump(Bomb(marker), file)
    [reading] = load(folder, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)
    assert not marker.exists()


def test_the_hub_copy_is_described(published: Published, tmp_path: Path) -> None:
    write_published(published, tmp_path, loss_name="KeyPhraseAlignmentLoss", auto_map=True)
    facts = describe(tmp_path)
    assert facts["format"].startswith("published")
    assert facts["temperature"] == pytest.approx(0.083, rel=1e-6)
    assert facts["attention_temperature"] is None
    assert facts["patch_grid"] == [5, 5]
    assert facts["position_rule"] == "offset"
    counted = sum(v.size for k, v in published.weights.items() if "pooler" not in k)
    assert facts["parameters"]["total"] == counted
    assert "CC BY-NC" in facts["licence"]


def test_pickled_weights_are_refused_unread(fresh: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (fresh / "model.safetensors").unlink()
    with (fresh / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Bomb(marker), file)
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*pytorch_model\.bin is a pickle"):
        load(fresh, "cpu")
    assert not marker.exists()


# -- strictness ----------------------------------------------------------------------------------------------


OLD_QUERY = "vision_model.encoder.layer.1.attention.attention.query.weight"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (OLD_QUERY, r"vision_model\.encoder\.layer\.1\.attention\."),
        ("align_transformer.transformer_layers.layer.0.layer_scale2.lambda1", r"align_transformer\."),
        ("vision_model.embeddings.position_embeddings", r"vision_model\.embeddings\.position_embeddings"),
        ("text_model.encoder.relative_attention_bias.weight", r"text_model\.encoder\.relative_attention_bias"),
        (f"{LOSS}loss_temperature", "temperature"),
        (f"{LOSS}layer_norm.bias", r"layer_norm\.bias"),
    ],
)
def test_missing_and_misshapen_tensors_are_named(name: str, shown: str, fresh: Path) -> None:
    tensors = load_file(fresh / "model.safetensors")
    taken = tensors.pop(name)
    write_tensors(fresh, tensors)
    with pytest.raises(CheckpointError, match=rf"missing: .*{shown}"):
        load(fresh, "cpu")
    tensors[name] = torch.zeros(*taken.shape, 2)
    write_tensors(fresh, tensors)
    with pytest.raises(CheckpointError, match=rf"{shown}.*shape \(.*2,?\), not \("):
        load(fresh, "cpu")


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.embeddings.register_tokens",
        "vision_model.encoder.layer.2.norm1.weight",
        "text_model.encoder.layer.0.attention.attn.q.scale",
        f"{LOSS}attn_temperature",  # the config says null
        f"{LOSS}new_thing",
        "loss_fns.OtherLoss.loss_temperature",
        "extra",
    ],
)
def test_unexpected_tensors_are_named(name: str, fresh: Path) -> None:
    tensors = load_file(fresh / "model.safetensors")
    write_tensors(fresh, tensors | {name: torch.zeros(())})
    last = name.rsplit(".", 1)[-1].replace("attn_", "attention_")
    with pytest.raises(CheckpointError, match=rf"unexpected: .*{last}"):
        load(fresh, "cpu")


def test_mixed_namings_are_refused(fresh: Path) -> None:
    tensors = load_file(fresh / "model.safetensors")
    new = OLD_QUERY.replace("attention.attention.query", "attention.q_proj")
    write_tensors(fresh, tensors | {new: torch.zeros_like(tensors[OLD_QUERY])})
    with pytest.raises(CheckpointError, match=r"two tensors for .*layer\.1\.attention\.q_proj"):
        load(fresh, "cpu")


def test_integer_weights_are_refused(fresh: Path) -> None:
    tensors = load_file(fresh / "model.safetensors")
    tensors[OLD_QUERY] = tensors[OLD_QUERY].to(torch.int8)
    write_tensors(fresh, tensors)
    with pytest.raises(CheckpointError, match=r"q_proj\.weight: torch\.int8"):
        load(fresh, "cpu")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights_are_refused(kept: int, fresh: Path) -> None:
    path = fresh / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(fresh, "cpu")


def test_a_missing_shard_is_named(published: Published, tmp_path: Path) -> None:
    write_published(published, tmp_path, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors"):
        load(tmp_path, "cpu")


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '"text"', "", b"\xff\xfe\x00"]
)
def test_a_damaged_index_is_named(content: str | bytes, published: Published, tmp_path: Path) -> None:
    write_published(published, tmp_path, shards=2)
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        load(tmp_path, "cpu")


def test_an_index_cannot_reach_outside_its_folder(published: Published, tmp_path: Path) -> None:
    folder = write_published(published, tmp_path / "inner", shards=2)
    outside = tmp_path / "outside.safetensors"
    (folder / "model-00001-of-00002.safetensors").rename(outside)
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("model-00001-of-00002.safetensors", "../outside.safetensors"))
    with pytest.raises(CheckpointError, match=r"outside\.safetensors"):
        load(folder, "cpu")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("preprocessor_config.json",), "preprocessor_config"),
        (("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"), "tokenizer"),
        (("tokenizer.json", "vocab.txt"), "tokenizer"),
        (("model.safetensors",), r"model\.safetensors"),
        (("config.json",), r"config\.json"),
    ],
)
def test_missing_files_are_named(names: tuple[str, ...], shown: str, fresh: Path) -> None:
    for name in names:
        (fresh / name).unlink()
    with pytest.raises(CheckpointError, match=shown):
        load(fresh, "cpu")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("config.json", r"config\.json"),
        ("preprocessor_config.json", "preprocessor_config"),
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "tokenizer"),
    ],
)
@pytest.mark.parametrize("content", ["", "{", "[1, 2]"])
def test_damaged_files_are_named(name: str, shown: str, content: str, fresh: Path) -> None:
    (fresh / name).write_text(content)
    with pytest.raises(CheckpointError, match=shown):
        load(fresh, "cpu")


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"architectures": ["BertModel"], "compute_logits_type": None, "model_type": "bert"}, "bert"),
        ({"compute_logits_type": "clip"}, "compute_logits_type"),
        ({"vision_config": None}, "vision_config"),
        ({"text_config": None}, "text_config"),
        ({"vision_config": "dinov2"}, "vision_config"),
        ({"loss": {"apply": ["CLIPLoss"], "CLIPLoss": {}}}, "CLIPLoss"),
        ({"loss": ["RadZeroLoss"]}, "loss"),
        ({"vision_config": {"model_type": "resnet"}}, "resnet"),
        ({"vision_config": {"model_type": "vit", "hidden_size": 16}}, "vit"),
        ({"text_config": {"model_type": "no_such_model"}}, "no_such_model"),
        ({"text_config": {"model_type": "resnet"}}, "(?i)resnet"),
        ({"text_config": {"model_type": "mpnet", "hidden_size": 16, "num_attention_heads": 3}}, "heads"),
        ({"architectures": None, "compute_logits_type": None, "model_type": "cxr_align"}, "cxr_align"),
    ],
)
def test_other_architectures_are_refused(change: dict, shown: str, fresh: Path) -> None:
    path = fresh / "config.json"
    config = json.loads(path.read_text()) | change
    write_json(path, {key: value for key, value in config.items() if value is not None})
    with pytest.raises(CheckpointError, match=shown):
        load(fresh, "cpu")


def test_unknown_similarity_is_refused(tmp_path: Path) -> None:
    write_published(make_published(sim_op="euclid"), tmp_path)
    with pytest.raises(CheckpointError, match="euclid"):
        load(tmp_path, "cpu")


def test_what_is_no_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load(tmp_path / "not there", "cpu")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder / "config.json", "cpu")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load(tmp_path, "cpu")
    with pytest.raises(CheckpointError, match="radzero-tests/not-there"):
        load("radzero-tests/not-there", "cpu", local_files_only=True)


# -- our own format ------------------------------------------------------------------------------------------


def assert_same_answers(first: RadZero, second: RadZero) -> None:
    for a, b in zip(
        first.predict([FILM, make_film(60, 50, 5)], SENTENCES),
        second.predict([FILM, make_film(60, 50, 5)], SENTENCES),
        strict=True,
    ):
        assert np.array_equal(a.logits, b.logits)
        assert np.array_equal(a.similarity, b.similarity)
        assert np.array_equal(a.maps, b.maps)
        assert np.array_equal(a.peaks, b.peaks)
    assert np.isfinite(a.logits).all()


def save(model: RadZero, folder: Path, **options: Any) -> Path:
    model.model.save_pretrained(folder, **options)
    model.processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_temperature": 0.3, "sim_op": "dot", "swiglu": True, "text_features_l2_norm": True},
        {"run_at": (24, 36), "qkv_bias": False},
    ],
)
def test_a_published_checkpoint_saved_as_ours_answers_the_same(options: dict, tmp_path: Path) -> None:
    before = load(write_published(make_published(seed=30, **options), tmp_path / "published"), "cpu")
    after = load(save(before, tmp_path / "ours"), "cpu")
    assert not open_checkpoint(tmp_path / "ours").published
    assert after.model.config.position_rule == "offset"
    assert_same_answers(before, after)
    again = load(save(after, tmp_path / "again"), "cpu")
    assert_same_answers(before, again)
    assert {p.name for p in (tmp_path / "again").glob("*.bin")} == set()


def test_saved_in_shards(model: RadZero, tmp_path: Path) -> None:
    save(model, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same_answers(model, load(tmp_path, "cpu"))


def test_saved_in_bfloat16(folder: Path, tmp_path: Path) -> None:
    coarse = load(folder, "cpu", torch.bfloat16)
    assert_same_answers(coarse, load(save(coarse, tmp_path), "cpu", "bfloat16"))


def test_transformers_auto_classes_load_ours(model: RadZero, tmp_path: Path) -> None:
    save(model, tmp_path)
    network = AutoModel.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(network, RadZeroModel)
    assert isinstance(processor, RadZeroProcessor)
    assert not network.training
    assert_same_answers(model, RadZero(network, processor, name="auto"))
    assert_same_answers(model, RadZero(RadZeroModel.from_pretrained(tmp_path), load_processor(tmp_path), name="ours"))
    own = RadZeroProcessor.from_pretrained(tmp_path)
    assert_same_answers(model, RadZero(network, own, name="own"))
    for dtype in ("bfloat16", torch.bfloat16):
        half = AutoModel.from_pretrained(tmp_path, dtype=dtype)
        named = dict(half.named_parameters())
        assert {p.dtype for name, p in named.items() if not name.endswith("temperature")} == {torch.bfloat16}


def conv_stem_model(text_width: int = 16) -> RadZeroModel:
    torch.manual_seed(0)
    parts = make_published(width=16)
    text = {k: v for k, v in parts.config["text_config"].items() if not k.startswith("_")}
    text |= {"hidden_size": text_width, "intermediate_size": 2 * text_width}
    config = RadZeroConfig(
        vision_config=ConvStemConfig(widths=(8, 8, 16), token_stride=8, image_size=32),
        text_config=text,
        align_config={"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "mlp_ratio": 2},
        image_size=48,
        temperature=0.05,
        card={"data": "noise", "notice": "not for use"},
    )
    model = RadZeroModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("text_width", [16, 12])
def test_a_model_of_ours_survives_the_round_trip(text_width: int, folder: Path, tmp_path: Path) -> None:
    """Also with a text encoder of another width, which a projection brings to the vision tokens'."""
    processor = load_processor(folder)
    processor.image_processor.size = {"height": 48, "width": 48}
    before = RadZero(conv_stem_model(text_width), processor, name="before")
    save(before, tmp_path)
    after = load(tmp_path, "cpu")
    assert_same_answers(before, after)
    written, read = before.model.config.to_dict(), after.model.config.to_dict()
    assert {k: v for k, v in read.items() if k != "_name_or_path"} == {
        k: v for k, v in written.items() if k != "_name_or_path"
    }
    assert read["_name_or_path"] == str(tmp_path)
    assert after.model.config.position_rule == "size"
    assert after.notice == "not for use"
    assert_same_answers(before, RadZero(AutoModel.from_pretrained(tmp_path), processor, name="auto"))


def test_ours_is_loaded_strictly_too(model: RadZero, tmp_path: Path) -> None:
    save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    taken = tensors.pop("log_temperature")
    write_tensors(tmp_path, tensors)
    for loader in (load, AutoModel.from_pretrained, RadZeroModel.from_pretrained):
        with pytest.raises(CheckpointError, match="missing: log_temperature"):
            loader(tmp_path)
    write_tensors(tmp_path, tensors | {"log_temperature": taken, "more": taken.clone()})
    with pytest.raises(CheckpointError, match="unexpected: more"):
        AutoModel.from_pretrained(tmp_path)


# -- what a reading says -------------------------------------------------------------------------------------


def test_a_reading_is_saved_with_its_numbers(model: RadZero, tmp_path: Path) -> None:
    [reading] = model.predict(FILM, SENTENCES)
    written = reading.save(tmp_path / "out")
    assert [p.name for p in written] == ["reading.json", "00.png", "01.png"]
    content = json.loads(written[0].read_text())
    for k, entry in enumerate(content["sentences"]):
        assert entry["sentence"] == SENTENCES[k]
        assert entry["logit"] == pytest.approx(float(reading.logits[k]), rel=1e-6)
        assert entry["probability"] == pytest.approx(float(sigmoid(reading.logits[k])), abs=1e-6)
        assert entry["peak"] == reading.peaks[k].tolist()
    assert reading.overlay(SENTENCES[1]).tobytes() == reading.overlay(1).tobytes()


def test_unknown_words_are_reported(model: RadZero) -> None:
    [reading] = model.predict(FILM, ["There is zebra", "There is edema"])
    assert [w for w in reading.warnings if "zebra" in w]
    assert not [w for w in reading.warnings if "edema" in w and "zebra" not in w]


def test_no_sentence_gives_an_empty_reading(model: RadZero, tmp_path: Path) -> None:
    for reading in model.predict([FILM, make_film(33, 40)], []):
        assert reading.sentences == ()
        assert reading.logits.shape == reading.probabilities.shape == (0,)
        assert reading.similarity.shape == (0, 5, 5)
        assert reading.maps.shape == (0, *reading.film.shape)
        assert reading.peaks.shape == (0, 2)
        assert reading.to_dict()["sentences"] == []
        assert [path.name for path in reading.save(tmp_path)] == ["reading.json"]


@pytest.mark.parametrize("sentences", ["", ["There is edema", "  "], [3]])
def test_empty_sentences_are_refused(sentences: Any, model: RadZero) -> None:
    with pytest.raises(ValueError, match="sentence"):
        model.predict(FILM, sentences)


def test_the_makers_tokenizer_is_an_mpnets() -> None:
    assert make_tokenizer().encode("Effusions").tokens == ["<s>", "effusion", "##s", "</s>"]
