"""The vision encoders that users have: each by its folder, trained, saved, loaded, asked, its map in place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

import radzero
from radzero.models.base import Features
from radzero.models.configuration import registers
from radzero.models.radzero import RadZeroModel
from radzero.phantom.writing import FilmFormat, write_phantoms
from radzero.training.config import TrainConfig, load_config
from radzero.training.model_building import build_start
from radzero.training.preparation import phantoms as phantom_rows
from radzero.training.preparation import prepare
from radzero.training.trainer import Trainer
from radzero.training.vocabulary import phantom_words, word_tokenizer

pytestmark = pytest.mark.slow

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}
ENCODERS = {
    # as microsoft/rad-dino: no registers, Bit preprocessing with a centre crop
    "rad-dino": (Dinov2Model, Dinov2Config(patch_size=14, mlp_ratio=2, **SIZE), "BitImageProcessor"),
    "registers": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(patch_size=14, mlp_ratio=2, num_register_tokens=4, **SIZE),
        "BitImageProcessor",
    ),
    # its processor exists for torchvision alone
    "dinov3": (
        DINOv3ViTModel,
        DINOv3ViTConfig(patch_size=14, intermediate_size=64, num_register_tokens=4, **SIZE),
        "DINOv3ViTImageProcessorFast",
    ),
    "dinov3-no-registers": (
        DINOv3ViTModel,
        DINOv3ViTConfig(patch_size=[14, 14], intermediate_size=64, num_register_tokens=0, use_gated_mlp=True, **SIZE),
        "DINOv3ViTImageProcessorFast",
    ),
}


def write_encoder(name: str, folder: Path) -> Path:
    kind, config, processor = ENCODERS[name]
    torch.manual_seed(0)
    model: PreTrainedModel = kind(config)
    for parameter in model.parameters():  # nothing is trivially 0 or 1
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)  # in the naming of the hub's checkpoints
    statistics = {"image_mean": [0.4, 0.45, 0.5], "image_std": [0.3, 0.25, 0.2], "image_processor_type": processor}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    tokenizer = word_tokenizer(phantom_words(), 32)
    torch.manual_seed(1)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


RECIPE = """
seed: 1
model: {vision: none, text: none}
data: {manifest: ./m.jsonl, workers: 0}
loss: {ignore: stated}
loop: {epochs: 1, images_per_rank: 8, learning_rate: 1.0e-3, warmup_steps: 1, precision: fp32}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 16 phantoms to train on: two steps."""
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder / "films", count=16, seed=6, size=80, film_format=FilmFormat.PNG)
    prepare(phantom_rows(folder / "films", shares=(0.0, 0.0)), folder / "m.jsonl")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder / "recipe.yaml"


def settings(recipe: Path, vision: Path, text: Path, **model: object) -> TrainConfig:
    choice = {"vision": str(vision), "text": str(text), "image_size": 56, "align_layers": 1, **model}
    return load_config(recipe, [f"model={json.dumps(choice)}"])


@pytest.mark.parametrize("in_attention", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("train_vision", ["frozen", "full"])
def test_an_encoder_is_trained_saved_loaded_and_asked(
    train_vision: str, name: str, in_attention: bool, recipe: Path, text: Path, tmp_path: Path
) -> None:
    encoder = write_encoder(name, tmp_path / "encoder")
    count = registers(ENCODERS[name][1])
    config = settings(recipe, encoder, text, train_vision=train_vision, registers_in_attention=in_attention)
    if in_attention and not count:
        with pytest.raises(ValueError, match="has no register tokens"):
            build_start(config.model, phantom_words)
        return
    trainer = Trainer(config, tmp_path / "run")
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.step == 2
    for part, moves in (("vision_model.", train_vision == "full"), ("text_model.", True), ("align_transformer.", True)):
        changed = [not torch.equal(p, before[n]) for n, p in trainer.model.named_parameters() if n.startswith(part)]
        assert any(changed) == moves
    model = radzero.load(tmp_path / "run/model", device="cpu")
    assert model.model.prefix_tokens == 1 + (count if in_attention else 0)
    assert model.model.config.registers_in_attention == in_attention
    assert model.processor.image_processor.image_mean == (0.4, 0.45, 0.5)
    trainer.model.eval()
    film = np.random.default_rng(0).integers(0, 255, (112, 84), dtype=np.uint8)
    [reading] = model.predict(film, ["There is pleural effusion", "There is no nodule"])
    pixels, _ = trainer.processor.films([radzero.read_radiograph(film)])
    with torch.no_grad():
        whole = trainer.model(pixels, **trainer.processor.sentences(reading.sentences))
    np.testing.assert_allclose(reading.logits, whole.logits[0], atol=1e-5)
    np.testing.assert_allclose(reading.similarity.reshape(2, 16), whole.similarity[0], atol=1e-5)


@pytest.mark.parametrize("in_attention", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_tokens_are_those_of_transformers_and_registers_stay_out_of_the_map(
    name: str, in_attention: bool, recipe: Path, text: Path, tmp_path: Path
) -> None:
    encoder = write_encoder(name, tmp_path)
    kind, config, _ = ENCODERS[name]
    count = registers(config)
    kept = in_attention and count > 0
    model, _ = build_start(settings(recipe, encoder, text, registers_in_attention=kept).model, phantom_words)
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = kind.from_pretrained(tmp_path).eval()(pixels).last_hidden_state
        tokens = model.eval().vision_tokens(pixels)
        features = model.encode_images(pixels)
        sentences = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
        output = model.similarity(features, sentences)
        peaks = model.training_scores(Features(features, sentences, model.score_parameters())).peaks
    assert expected.shape[1] == 1 + count + 16
    if not kept:
        expected = torch.cat((expected[:, :1], expected[:, 1 + count :]), dim=1)
    torch.testing.assert_close(tokens, expected, atol=1e-6, rtol=0)
    assert output.similarity.shape == (2, 3, 16)
    # the last 16 tokens, by hand
    unit = torch.nn.functional.normalize
    scores = unit(sentences, dim=-1) @ unit(features, dim=-1).mT / model.temperature
    torch.testing.assert_close(output.similarity, scores[..., -16:], atol=1e-4, rtol=0)
    torch.testing.assert_close(peaks, scores[..., -16:].amax(dim=-1), atol=1e-4, rtol=0)
    attention = scores.softmax(dim=-1)  # of all tokens that are there, prefix too
    pooled = unit(attention @ unit(features, dim=-1), dim=-1)
    logits = (pooled * unit(sentences, dim=-1)).sum(dim=-1) / model.temperature
    torch.testing.assert_close(output.logits, logits, atol=1e-4, rtol=0)


def without_mixing(model: RadZeroModel) -> None:
    """Make every token know its own pixels alone: no attention, no positions."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "o_proj" in name or name.endswith("position_embeddings"):
                parameter.zero_()


@pytest.mark.parametrize("in_attention", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_the_peak_of_a_marked_patch_lands_on_it(
    name: str, in_attention: bool, recipe: Path, text: Path, tmp_path: Path
) -> None:
    encoder = write_encoder(name, tmp_path)
    kept = in_attention and registers(ENCODERS[name][1]) > 0
    choice = settings(recipe, encoder, text, registers_in_attention=kept).model
    network, processor = build_start(choice, phantom_words)
    assert isinstance(network, RadZeroModel)
    without_mixing(network)
    model = radzero.RadZero(network, processor, name="unmixed")
    for row, column in ((0, 0), (0, 3), (1, 2), (3, 0), (3, 3)):
        film = np.full((112, 224), 60, dtype=np.uint8)  # a patch is 28 x 56 of its pixels
        film[28 * row : 28 * row + 28, 56 * column : 56 * column + 56] = 200
        tokens, _ = model.embed_films([radzero.read_radiograph(film)])
        sentence = "There is a mark"
        model._embeddings.keep([sentence], tokens[:, network.prefix_tokens + 4 * row + column])
        [reading] = model.predict(film, sentence)
        x, y = reading.peaks[0]
        assert (y // 28, x // 56) == (row, column)
        assert reading.similarity[0].argmax() == 4 * row + column


@pytest.mark.parametrize("part", ["vision", "text"])
def test_an_encoder_whose_weights_are_not_whole_is_refused(part: str, recipe: Path, text: Path, tmp_path: Path) -> None:
    """transformers would leave what is missing at random values, and drop what it has no place for."""
    encoder, words = write_encoder("registers", tmp_path / "encoder"), tmp_path / "text"
    shutil.copytree(text, words)
    path = (encoder if part == "vision" else words) / "model.safetensors"
    tensors = load_file(path)
    gone = next(name for name in sorted(tensors) if "layer.0" in name and name.endswith("weight"))
    save_file({name: t for name, t in tensors.items() if name != gone}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"its weights lack.*layer\.0"):
        build_start(settings(recipe, encoder, words).model, phantom_words)
    extra = {gone.replace("layer.0", "layer.7"): tensors[gone].clone()}
    save_file(tensors | extra, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no place for.*layer\.7"):
        build_start(settings(recipe, encoder, words).model, phantom_words)


def test_a_processor_without_statistics_is_refused(recipe: Path, text: Path, tmp_path: Path) -> None:
    encoder = write_encoder("dinov3", tmp_path)
    (encoder / "preprocessor_config.json").write_text('{"image_processor_type": "DINOv3ViTImageProcessorFast"}')
    with pytest.raises(ValueError, match="states no image_mean"):
        build_start(settings(recipe, encoder, text).model, phantom_words)


def test_an_input_that_the_patches_do_not_fill_is_refused(recipe: Path, text: Path, tmp_path: Path) -> None:
    """The published 518 pixels are no multiple of DINOv3's 16."""
    encoder = write_encoder("dinov3", tmp_path)
    with pytest.raises(ValueError, match=r"model\.image_size: 60 is no multiple .* 14 pixels, as 56 and 70 are"):
        build_start(settings(recipe, encoder, text, image_size=60).model, phantom_words)


def test_a_whole_model_is_no_encoder(recipe: Path, text: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"is a whole RadZero and no encoder; name it as model\.start"):
        build_start(settings(recipe, tiny_checkpoint, text).model, phantom_words)


def test_a_cut_encoder_is_named_in_a_line(recipe: Path, text: Path, tmp_path: Path) -> None:
    encoder = write_encoder("rad-dino", tmp_path)
    path = encoder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="an encoder cannot be loaded") as error:
        build_start(settings(recipe, encoder, text).model, phantom_words)
    assert str(encoder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_vit_of_another_size_is_refused_with_its_own(recipe: Path, text: Path, tmp_path: Path) -> None:
    size = SIZE | {"intermediate_size": 64, "image_size": 112}
    ViTModel(ViTConfig(patch_size=14, **size)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    with pytest.raises(ValueError, match=r"model\.image_size: is 56, and a ViT runs at .* 112"):
        build_start(settings(recipe, tmp_path, text).model, phantom_words)
    model, _ = build_start(settings(recipe, tmp_path, text, image_size=112).model, phantom_words)
    assert model.vision_tokens(torch.zeros(1, 3, 112, 112)).shape == (1, 65, 32)


def test_a_run_that_failed_at_once_does_not_keep_its_folder(recipe: Path, text: Path, tmp_path: Path) -> None:
    encoder = write_encoder("rad-dino", tmp_path / "encoder")
    with pytest.raises(ValueError, match="no such folder"):
        Trainer(settings(recipe, tmp_path / "encodre", text), tmp_path / "run")
    Trainer(settings(recipe, encoder, text), tmp_path / "run").train()
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        Trainer(settings(recipe, encoder, text, align_layers=2), tmp_path / "run")
