"""Checkpoint folders as carelessness leaves them: one CheckpointError each, with file, cause and remedy."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import make_published, write_json, write_published, write_tensors
from reference import interpolated_positions
from safetensors.torch import load_file, save_file
from test_published_checkpoint import FILM, SENTENCES, assert_equals_slow
from transformers import AutoConfig, AutoModel

import radzero
from radzero.models.checkpoints import CheckpointError
from radzero.models.conversion import convert_checkpoint
from radzero.models.vision import interpolate_positions
from radzero.prediction.model import describe, load

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_published(make_published(seed=60), tmp_path / "checkpoint", form="saved")


def edit(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) | fields
    write_json(path, {key: value for key, value in content.items() if value is not ...})


def edit_part(folder: Path, part: str, **fields: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    content[part] = {key: value for key, value in (content[part] | fields).items() if value is not ...}
    write_json(folder / "config.json", content)


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    write_tensors(folder, change(load_file(folder / "model.safetensors")))


def refusal(folder: Path, match: str) -> str:
    with pytest.raises(CheckpointError, match=match) as error:
        load(folder, "cpu").predict(FILM, SENTENCES)
    assert len(str(error.value)) < 2000
    return str(error.value)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"size": {"height": 0, "width": 30}}, "cannot be used"),
        ({"size": {"height": 3, "width": 3}}, "3 x 3"),
        ({"size": {"height": 10**12, "width": 30}}, "cannot be used"),
        ({"size": {"height": 10**5, "width": 10**5}}, "100000 x 100000"),
        ({"size": {"height": "x", "width": 30}}, "cannot be"),
        ({"size": {"longest_edge": 30}}, "cannot be used"),
        ({"image_mean": [0.5]}, "cannot be used"),
        ({"image_std": [0.0, 0.0, 0.0]}, "deviation of 0"),
        ({"rescale_factor": "x"}, "cannot be used"),
        ({"resample": 99}, "cannot be"),
        ({"image_mean": ...}, "states no image_mean"),
        ({"image_mean": ..., "image_std": None}, "states no image_mean and no image_std"),
    ],
)
def test_preprocessors_that_cannot_serve_are_found_at_load(fields: dict, shown: str, folder: Path) -> None:
    edit(folder / "preprocessor_config.json", **fields)
    assert "preprocessor_config.json" in refusal(folder, shown)


def test_a_preprocessor_that_is_missing_is_said_with_what_it_is_for(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    refusal(folder, "has no preprocessor_config.json, which says how films become inputs")


def test_a_preprocessor_of_another_size_is_said_with_every_reading(folder: Path) -> None:
    assert load(folder, "cpu").notice is None
    edit(folder / "preprocessor_config.json", size={"height": 18, "width": 18})
    [reading] = load(folder, "cpu").predict(FILM, SENTENCES)
    assert reading.notice is not None
    assert "inputs of 18 x 18 pixels" in reading.notice
    assert "run at 30" in reading.notice


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"model_max_length": -1}, "cannot be used"),
        ({"model_max_length": "x"}, "cannot be"),
        ({"model_max_length": 2}, "2 tokens at most"),
    ],
)
def test_tokenizer_settings_that_cannot_serve(fields: dict, shown: str, folder: Path) -> None:
    edit(folder / "tokenizer_config.json", **fields)
    assert "tokenizer" in refusal(folder, shown)


def test_a_tokenizer_of_a_later_version_is_named(folder: Path) -> None:
    edit(folder / "tokenizer.json", version="9.0")
    refusal(folder, r"its tokenizer .* cannot be read")


def test_a_tokenizer_with_more_words_than_embeddings_is_refused(folder: Path) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        words = "text_model.embeddings.word_embeddings.weight"
        return tensors | {words: tensors[words][:20].clone()}

    edit_tensors(folder, cut)
    refusal(folder, "has ids up to 44, and the text encoder has 20 word embeddings")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["vision_model.layernorm.weight"][3] = value
        return tensors

    edit_tensors(folder, spoil)
    refusal(folder, r"vision_model\.layernorm\.weight hold values that are not finite")


@pytest.mark.parametrize("value", [-200.0, 200.0])
def test_a_temperature_out_of_range_is_refused(value: float, folder: Path) -> None:
    name = "loss_fns.RadZeroLoss.loss_temperature"
    edit_tensors(folder, lambda tensors: tensors | {name: torch.tensor([value])})
    refusal(folder, "is no temperature")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("loss_fns.RadZeroLoss.layer_norm.weight", ()),
        ("text_model.embeddings.word_embeddings.weight", (0, 16)),
        ("text_model.embeddings.position_embeddings.weight", (0, 16)),
        ("text_model.embeddings.position_embeddings.weight", (3, 16)),
        ("text_model.encoder.relative_attention_bias.weight", (32, 0)),
        ("vision_model.embeddings.patch_embeddings.projection.weight", (16, 1, 6, 6)),
        ("vision_model.embeddings.position_embeddings", (1, 11, 16)),
    ],
)
def test_tensors_of_odd_shapes(name: str, shape: tuple[int, ...], folder: Path) -> None:
    edit_part(folder, "vision_config", num_channels=...)
    edit_tensors(folder, lambda tensors: tensors | {name: torch.ones(shape)})
    refusal(folder, "config.json|tensors do not fit|tokens at most|word embeddings")


def test_a_shard_that_lacks_what_the_index_names_is_no_smaller_model(tmp_path: Path) -> None:
    """Without the aligner's tensors a checkpoint would be one of another kind."""
    folder = write_published(make_published(), tmp_path, shards=2, form="saved")
    for path in folder.glob("*.safetensors"):
        tensors = {k: v for k, v in load_file(path).items() if not k.startswith("align_transformer.")}
        save_file(tensors, path, metadata={"format": "pt"})
    refusal(folder, r"index\.json: names tensors that no shard holds, such as align_transformer\.")


def test_a_file_without_the_aligner_is_no_model_without_one(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("align_transformer.")})
    refusal(folder, r"missing: align_transformer\.\*.*model_type \"identity\"")


def test_what_is_not_stated_of_align_heads_is_shown_as_assumed(folder: Path) -> None:
    assert describe(folder)["assumed"] is None
    edit_part(folder, "align_transformer_config", num_attention_heads=..., hidden_act=None)
    assumed = describe(folder)["assumed"]
    assert assumed == {
        "align_transformer_config.num_attention_heads": 2,
        "align_transformer_config.hidden_act": "gelu",
    }


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("vision_config", "keep_something"),
        ("text_config", "use_other_tokens"),
        ("align_transformer_config", "use_other_blocks"),
        ("loss", "use_something"),
    ],
)
def test_an_option_that_is_not_understood_is_refused_by_name(part: str, field: str, folder: Path) -> None:
    edit_part(folder, part, **{field: None})
    load(folder, "cpu")
    if part == "loss":
        content = json.loads((folder / "config.json").read_text())
        for loss in (content["loss"], content["kwargs"]["loss"]):
            loss["RadZeroLoss"][field] = False
        write_json(folder / "config.json", content)
    else:
        edit_part(folder, part, **{field: True})
    refusal(folder, rf"{field}.* is (True|False)")


def test_a_pointer_of_git_lfs_says_how_to_fetch(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refusal(folder, "git lfs pull")


def test_names_and_values_of_files_are_shown_short_and_printable(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors | {"a\x1b[2Jb" + "x" * 5000: torch.ones(1)})
    assert "\x1b" not in refusal(folder, "unexpected")
    edit_part(folder, "vision_config", model_type="y" * 10**6)
    refusal(folder, "y{10}")


def test_missing_tensors_are_named_as_the_files_name_them(folder: Path) -> None:
    def without(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        del tensors["loss_fns.RadZeroLoss.loss_temperature"]
        del tensors["align_transformer.transformer_layers.layer.0.attention.attention.query.weight"]
        return tensors

    edit_tensors(folder, without)
    said = refusal(folder, "missing")
    assert "in the files: loss_fns.RadZeroLoss.loss_temperature" in said
    assert "in the files: align_transformer.transformer_layers.layer.0.attention.attention.query.weight" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_weights_that_may_not_be_read(folder: Path) -> None:
    (folder / "model.safetensors").chmod(0)
    refusal(folder, "may not be read by this user")


def test_what_is_written_may_be_read_by_others(folder: Path, tmp_path: Path) -> None:
    """As the process's mask says; safetensors writes for the owner alone."""
    before = os.umask(0o022)
    try:
        ours = convert_checkpoint(folder, tmp_path / "ours")
        back = convert_checkpoint(ours, tmp_path / "back", published=True)
    finally:
        os.umask(before)
    for path in (ours / "model.safetensors", back / "model.safetensors"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_names_that_are_too_long_or_no_files(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be looked for"):
        load("a" * 300, "cpu")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    refusal(folder, r"config\.json: is no file")


def test_a_device_map_of_auto_and_a_config_alone(folder: Path) -> None:
    assert isinstance(AutoModel.from_pretrained(folder, device_map="auto"), radzero.RadZeroModel)
    with pytest.raises(ValueError, match="load the checkpoint, with from_pretrained"):
        AutoModel.from_config(AutoConfig.from_pretrained(folder))


def test_lit_with_a_projector_of_both_halves_compares_cls_with_the_first(tmp_path: Path) -> None:
    """As dino.txt's vector is [CLS ; mean of the patches], whose first half faces CLS."""
    published = make_published(seed=61, method="cls_alignment", aligner="linear", projector=True)
    rng = np.random.default_rng(0)
    for end in ("weight", "bias"):
        first = published.weights[f"text_projector.{end}"]
        published.weights[f"text_projector.{end}"] = np.concatenate((first, rng.normal(0, 1, first.shape))).astype("f4")
    wide = load(write_published(published, tmp_path / "wide", form="saved"), "cpu").predict(FILM, SENTENCES)
    for end in ("weight", "bias"):
        published.weights[f"text_projector.{end}"] = published.weights[f"text_projector.{end}"][:16].copy()
    narrow = load(write_published(published, tmp_path / "narrow", form="saved"), "cpu").predict(FILM, SENTENCES)
    assert np.array_equal(wide[0].logits, narrow[0].logits)


def test_the_trained_grid_on_an_input_that_is_not_square_is_resampled_as_then() -> None:
    """transformers 4.39 left positions alone where rows and columns of pixels are as many, and not of patches."""
    positions = torch.randn(1, 17, 8, generator=torch.Generator().manual_seed(0))
    assert interpolate_positions(positions, (4, 4), "offset") is positions
    assert interpolate_positions(positions, (4, 4), "size", square=False) is positions
    found = interpolate_positions(positions, (4, 4), "offset", square=False)
    assert not torch.equal(found, positions)
    wider = interpolated_positions(positions[0].numpy(), (4, 5), "offset")  # by columns of its own
    assert found.shape == positions.shape
    assert wider.shape == (21, 8)


def test_a_published_model_keeps_its_encoders_names(folder: Path, tmp_path: Path) -> None:
    ours = convert_checkpoint(folder, tmp_path / "ours")
    back = convert_checkpoint(ours, tmp_path / "back", published=True)
    content = json.loads((back / "config.json").read_text())
    assert content["vision_config"]["pretrained_name_or_path"] == "StanfordAIMI/dinov2-base-xray-224"
    for key in ("pretrained_name_or_path", "pretrained_tokenizer_name_or_path"):
        assert content["text_config"][key] == "sentence-transformers/all-mpnet-base-v2"
    published = make_published(seed=60)
    [reading] = load(back, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)
