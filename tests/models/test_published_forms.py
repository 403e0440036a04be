"""``config.json`` of published checkpoints as files have it: untyped or typed parts, no architecture, ablations.

Answers are compared with the slow implementation in reference.py, which reads the whole configuration that the files
leave out.
"""

from __future__ import annotations

import copy
import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import (
    VOCABULARY,
    Published,
    as_saved,
    make_published,
    write_json,
    write_published,
    write_tensors,
)
from reference import answer
from safetensors.torch import load_file, save_file
from test_published_checkpoint import FILM, SENTENCES, TOLERANCE, assert_equals_slow, assert_same_answers
from transformers import BertConfig, BertModel, MPNetConfig

from radzero.models import tensors as tensors_module
from radzero.models.checkpoints import CheckpointError, open_checkpoint
from radzero.models.clip import ClipModel
from radzero.models.conversion import convert_checkpoint
from radzero.models.dinotxt import DinoTxtModel
from radzero.models.radzero import RadZeroConfig, RadZeroModel
from radzero.prediction.model import RadZero, describe, load

pytestmark = pytest.mark.slow

FORMS = ("saved", "hub")
PUBLISHED_CONFIGS = Path(__file__).resolve().parents[3] / "shared" / "design" / "published_config"


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder of this test's own, as the training code saves it."""
    return write_published(make_published(seed=40), tmp_path / "saved", form="saved")


def change(folder: Path, part: str, **fields: Any) -> None:
    """Set fields of a part of ``config.json`` ("" for the top)."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config[part] if part else config).update(fields)
    write_json(path, config)


def drop(folder: Path, part: str, *fields: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for field in fields:
        (config[part] if part else config).pop(field, None)
    write_json(path, config)


# -- the forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("make", "write"),
    [
        pytest.param({}, {"temperature_shape": (1,)}, id="as published"),
        pytest.param(
            {"heads": 4}, {"naming": "new", "loss_name": "KeyPhraseAlignmentLoss"}, id="as the copy on the hub"
        ),
        pytest.param({"attention_temperature": 0.2, "sim_op": "dot"}, {}, id="other options"),
        pytest.param({"swiglu": True, "qkv_bias": False, "mask_token": False}, {}, id="another DINOv2"),
        pytest.param({"use_cls_token": True}, {}, id="first token"),
    ],
)
def test_the_forms_equal_the_slow_implementation(form: str, make: dict, write: dict, tmp_path: Path) -> None:
    published = make_published(seed=41, **make)
    model = load(write_published(published, tmp_path, form=form, **write), "cpu")
    assert isinstance(model.model, RadZeroModel)
    [reading] = model.predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)


@pytest.mark.parametrize("typed", [None, "", "right"])
def test_parts_without_a_type_with_an_empty_one_and_with_the_right_one(typed: str | None, fresh: Path) -> None:
    types = {"vision_config": "dinov2", "text_config": "mpnet", "align_transformer_config": "align_transformer"}
    [before] = load(fresh, "cpu").predict(FILM, SENTENCES)
    for part, right in types.items():
        if typed is None:
            drop(fresh, part, "model_type")
        else:
            change(fresh, part, model_type=right if typed == "right" else "")
    [after] = load(fresh, "cpu").predict(FILM, SENTENCES)
    assert np.array_equal(before.logits, after.logits)


@pytest.mark.parametrize(
    "sizes",
    [
        {"text_layers": 1, "text_heads": 8},
        {"text_layers": 4, "text_heads": 1, "text_mlp": 40},
        {"text_heads": 4, "tokens": 61},
        {"text_width": 24, "text_heads": 3, "projector": True},
        {"width": 24, "heads": 3, "text_layers": 3},
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_text_encoder_of_any_shape_without_a_stated_architecture(form: str, sizes: dict, tmp_path: Path) -> None:
    published = make_published(seed=42, **sizes)
    model = load(write_published(published, tmp_path, form=form), "cpu")
    [reading] = model.predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)


def with_short_states(**options: Any) -> Published:
    """Embeddings so short that the epsilon of the text encoder's LayerNorms counts."""
    published = make_published(seed=43, **options)
    for name, weight in published.weights.items():
        if name.startswith("text_model.embeddings.") and "LayerNorm" not in name:
            weight *= 0.003
    return published


def with_other_text_epsilon(model: RadZero, epsilon: float) -> RadZero:
    config = copy.deepcopy(model.model.config)
    assert config.text_config.layer_norm_eps == 1e-5
    config.text_config.layer_norm_eps = epsilon
    other = RadZeroModel(config).eval()
    other.load_state_dict(model.model.state_dict())
    return RadZero(other, model.processor, name="other epsilon")


@pytest.mark.parametrize("form", FORMS)
def test_the_text_encoders_epsilon_is_mpnets_and_not_transformers_default(form: str, tmp_path: Path) -> None:
    assert MPNetConfig().layer_norm_eps == 1e-12
    published = with_short_states()
    model = load(write_published(published, tmp_path, form=form), "cpu")
    [reading] = model.predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)
    [other] = with_other_text_epsilon(model, 1e-12).predict(FILM, SENTENCES)
    assert np.abs(reading.logits - other.logits).min() > 10 * TOLERANCE


@pytest.mark.parametrize(
    "name", ["/data/models/all-mpnet-base-v2", "microsoft/mpnet-base", "somebody/radiology-mpnet", None]
)
def test_what_leaves_no_trace_is_known_by_name_or_of_every_mpnet(name: str | None, tmp_path: Path) -> None:
    published = with_short_states()
    write_published(published, tmp_path, form="saved")
    change(tmp_path, "text_config", pretrained_name_or_path=name)
    [reading] = load(tmp_path, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)
    assumed = describe(tmp_path)["assumed"]
    if name and name.rsplit("/")[-1] in ("all-mpnet-base-v2", "mpnet-base"):
        assert assumed is None
    else:  # said, since it is known of the architecture alone
        assert assumed == {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "pad_token_id": 1}


def test_an_epsilon_that_is_stated_counts(tmp_path: Path) -> None:
    published = with_short_states()
    published.config["text_config"]["layer_norm_eps"] = 1e-3
    write_published(published, tmp_path, form="saved")
    change(tmp_path, "text_config", layer_norm_eps=1e-3)
    [reading] = load(tmp_path, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)


# -- ablations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("align_norm", [False, True])
@pytest.mark.parametrize("aligner", ["align_transformer", "linear", "identity", "mlp"])
def test_aligners(aligner: str, align_norm: bool, form: str, tmp_path: Path) -> None:
    published = make_published(seed=44, aligner=aligner, align_norm=align_norm)
    folder = write_published(published, tmp_path / "published", form=form)
    model = load(folder, "cpu")
    [reading] = model.predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)
    assert_same_answers(model, load(convert_checkpoint(folder, tmp_path / "ours"), "cpu"))


@pytest.mark.parametrize(
    ("first", "second"), [("mlp.fc1", "mlp.fc2"), ("layers.9", "layers.10"), ("linear1", "linear2")]
)
def test_an_mlp_is_told_by_what_it_is_whatever_its_layers_are_called(first: str, second: str, tmp_path: Path) -> None:
    published = make_published(seed=48, aligner="mlp", align_norm=True)
    write_published(published, tmp_path, form="saved")
    tensors = load_file(tmp_path / "model.safetensors")
    new = {
        "align_transformer.mlp.0.": f"align_transformer.{first}.",
        "align_transformer.mlp.2.": f"align_transformer.{second}.",
    }
    for old, name in new.items():
        tensors = {key.replace(old, name): tensor for key, tensor in tensors.items()}
    write_tensors(tmp_path, tensors)
    change(tmp_path, "align_transformer_config", model_type="", projector_config={"hidden_act": "gelu"})
    [reading] = load(tmp_path, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)
    change(tmp_path, "align_transformer_config", projector_config={"hidden_act": "relu"})
    [other] = load(tmp_path, "cpu").predict(FILM, SENTENCES)
    assert np.abs(reading.logits - other.logits).max() > 10 * TOLERANCE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", ["OpenClipLoss", "OpenSigLipLoss"])
@pytest.mark.parametrize(
    ("method", "options", "kind"),
    [
        ("global_alignment", {}, DinoTxtModel),
        ("global_alignment", {"align_norm": True}, DinoTxtModel),
        ("global_alignment", {"aligner": "linear", "text_width": 24, "text_heads": 3}, DinoTxtModel),
        ("cls_alignment", {"aligner": "linear"}, ClipModel),
        ("cls_alignment", {"aligner": "identity"}, ClipModel),
        ("cls_alignment", {"aligner": "linear", "projector": True, "text_width": 24, "text_heads": 3}, ClipModel),
    ],
)
def test_the_papers_other_methods(method: str, options: dict, kind: type, loss: str, form: str, tmp_path: Path) -> None:
    published = make_published(seed=45, method=method, loss=loss, **options)
    folder = write_published(published, tmp_path / "published", form=form, temperature_shape=(1,))
    model = load(folder, "cpu")
    assert isinstance(model.model, kind)
    [reading] = model.predict(FILM, SENTENCES)
    for k, sentence in enumerate(SENTENCES):
        logit, grid, _ = answer(
            FILM, published.ids(sentence), published.weights, published.config, published.preprocessor
        )
        assert reading.logits[k] == pytest.approx(logit, abs=TOLERANCE)
        if kind is ClipModel:
            assert reading.similarity is None
        else:
            np.testing.assert_allclose(reading.similarity[k], grid, atol=TOLERANCE)
    [again] = load(convert_checkpoint(folder, tmp_path / "ours"), "cpu").predict(FILM, SENTENCES)
    assert np.array_equal(reading.logits, again.logits)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"swiglu": True, "qkv_bias": False, "attention_temperature": 0.3, "sim_op": "dot"},
        {"aligner": "mlp", "align_norm": True, "use_cls_token": True},
        {"aligner": "linear", "text_width": 24, "text_heads": 3, "projector": True},
        {"aligner": "identity", "text_features_l2_norm": True},
    ],
)
def test_converted_there_and_back(options: dict, tmp_path: Path) -> None:
    """The same tensors under the same names, and the same answers in every step."""
    published = make_published(seed=47, **options)
    folder = write_published(published, tmp_path / "published", form="saved", temperature_shape=(1,))
    ours = convert_checkpoint(folder, tmp_path / "ours")
    back = convert_checkpoint(ours, tmp_path / "back", published=True)
    before, after = load_file(folder / "model.safetensors"), load_file(back / "model.safetensors")
    unused = {name for name in before if "pooler" in name}
    assert before.keys() - unused == after.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert open_checkpoint(back).published
    for other in (ours, back):
        assert_same_answers(load(folder, "cpu"), load(other, "cpu"))


@pytest.mark.parametrize(
    ("make", "shown"),
    [({"method": "global_alignment"}, "only a RadZero"), ({}, "positions are interpolated")],
)
def test_what_the_published_format_cannot_hold(make: dict, shown: str, tmp_path: Path) -> None:
    folder = write_published(make_published(**make), tmp_path / "published", form="saved")
    ours = convert_checkpoint(folder, tmp_path / "ours")
    if not make:
        change(ours, "", position_rule="size")
    with pytest.raises(ValueError, match=shown):
        convert_checkpoint(ours, tmp_path / "back", published=True)


@pytest.mark.parametrize("method", ["cls_alignment", "global_alignment"])
def test_projections_that_are_not_there_are_of_the_weights_type(method: str, tmp_path: Path) -> None:
    published = make_published(seed=49, method=method, aligner="identity")
    published.weights.pop("text_projector.bias", None)
    model = load(write_published(published, tmp_path, form="saved"), "cpu", "bfloat16")
    assert {p.dtype for n, p in model.model.named_parameters() if "temperature" not in n} == {torch.bfloat16}
    assert np.isfinite(model.predict(FILM, SENTENCES)[0].logits).all()


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "field", "value", "tensors_say"),
    [
        ("vision_config", "hidden_size", 32, "16"),
        ("vision_config", "num_hidden_layers", 3, "2"),
        ("vision_config", "patch_size", 14, "6"),
        ("vision_config", "image_size", 224, "3"),
        ("vision_config", "mlp_ratio", 4, "32"),
        ("vision_config", "num_channels", 1, "3"),
        ("vision_config", "qkv_bias", False, "True"),
        ("vision_config", "use_swiglu_ffn", True, "False"),
        ("text_config", "vocab_size", 30522, "45"),
        ("text_config", "hidden_size", 768, "16"),
        ("text_config", "num_hidden_layers", 12, "2"),
        ("text_config", "num_attention_heads", 4, "2"),
        ("text_config", "intermediate_size", 64, "32"),
        ("text_config", "max_position_embeddings", 512, "42"),
        ("text_config", "relative_attention_num_buckets", 64, "32"),
        ("text_config", "use_text_projection", True, "False"),
        ("text_config", "model_type", "bert", "mpnet"),
        ("align_transformer_config", "hidden_size", 768, "16"),
        ("align_transformer_config", "num_hidden_layers", 1, "2"),
        ("align_transformer_config", "use_layer_norm", True, "False"),
        ("align_transformer_config", "model_type", "linear", "align_transformer"),
    ],
)
def test_a_field_that_contradicts_the_tensors_is_named_with_what_they_say(
    part: str, field: str, value: Any, tensors_say: str, fresh: Path
) -> None:
    change(fresh, part, **{field: value})
    with pytest.raises(CheckpointError, match=rf"config\.json: {part}\.{field} is .*{value}.*tensors.*{tensors_say}"):
        load(fresh, "cpu")


@pytest.mark.parametrize(
    ("part", "fields", "shown"),
    [
        (
            "align_transformer_config",
            {"model_type": "perceiver"},
            r"align_transformer_config\.model_type is 'perceiver'",
        ),
        ("vision_config", {"model_type": "dinov3_vit"}, "dinov3_vit"),
        ("vision_config", {"hidden_act": "glu2"}, r"vision_config\.hidden_act is 'glu2'"),
        ("vision_config", {"num_attention_heads": 3}, r"num_attention_heads is 3"),
        ("text_config", {"model_type": "xlnet-7"}, "xlnet-7"),
        ("text_config", {"use_cls_token": "yes"}, r"use_cls_token is 'yes'"),
        ("text_config", {"layer_norm_eps": "1e-5"}, r"layer_norm_eps is '1e-5'"),
        ("text_config", {"pad_token_id": -1}, r"pad_token_id is -1"),
        ("", {"compute_logits_type": "patchwise"}, r"compute_logits_type is 'patchwise'"),
        ("", {"loss": {"apply": ["TripletLoss"], "TripletLoss": {}}}, "TripletLoss"),
        ("", {"loss": {"apply": ["RadZeroLoss"], "RadZeroLoss": {"sim_op": "l2"}}}, r"sim_op is 'l2'"),
        (
            "",
            {"loss": {"apply": ["RadZeroLoss"], "RadZeroLoss": {"sim_op": "cos", "hidden_dim": 768}}},
            "hidden_dim is 768",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(part: str, fields: dict, shown: str, fresh: Path) -> None:
    drop(fresh, "", "kwargs")
    change(fresh, part, **fields)
    with pytest.raises(CheckpointError, match=shown):
        load(fresh, "cpu")


def test_two_statements_that_differ_are_refused(fresh: Path) -> None:
    config = json.loads((fresh / "config.json").read_text())
    config["kwargs"]["loss"]["RadZeroLoss"]["sim_op"] = "dot"
    write_json(fresh / "config.json", config)
    with pytest.raises(CheckpointError, match="under kwargs"):
        load(fresh, "cpu")


def test_heads_that_nothing_tells_are_refused(fresh: Path) -> None:
    """A DINOv2's tensors do not show them, and the named encoder is of another width."""
    drop(fresh, "vision_config", "num_attention_heads")
    with pytest.raises(CheckpointError, match=r"vision_config\.num_attention_heads is not stated"):
        load(fresh, "cpu")


def test_an_encoder_that_cannot_be_told_by_its_tensors_needs_a_type(fresh: Path) -> None:
    tensors = load_file(fresh / "model.safetensors")
    gone = ("text_model.encoder.relative_attention_bias", "text_model.encoder.layer.0.attention.attn")
    write_tensors(fresh, {name: t for name, t in tensors.items() if not name.startswith(gone)})
    change(fresh, "text_config", pretrained_name_or_path="somebody/encoder")
    with pytest.raises(CheckpointError, match=r"text_config states no model_type.*somebody/encoder"):
        load(fresh, "cpu")


def with_bert(folder: Path, **stated: Any) -> BertModel:
    """Put a BERT in place of the MPNet, untyped, under the name of one that is known here."""
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=24, max_position_embeddings=50,
        )
    ).eval()  # fmt: skip
    tensors = {n: t for n, t in load_file(folder / "model.safetensors").items() if not n.startswith("text_model.")}
    tensors |= {f"text_model.{name}": tensor.contiguous() for name, tensor in bert.state_dict().items()}
    write_tensors(folder, tensors)
    change(folder, "text_config", pretrained_name_or_path="emilyalsentzer/Bio_ClinicalBERT", **stated)
    return bert


def test_a_bert_is_told_by_its_name_and_its_heads_must_be_stated(fresh: Path) -> None:
    with_bert(fresh)
    with pytest.raises(CheckpointError, match=r"text_config\.num_attention_heads is not stated, and tensors do not"):
        load(fresh, "cpu")
    bert = with_bert(fresh, num_attention_heads=4)
    model = load(fresh, "cpu")
    ids = model.processor.sentences(SENTENCES)
    with torch.no_grad():
        states = bert(**ids).last_hidden_state
        mask = ids["attention_mask"][..., None].float()
        expected = (states * mask).sum(dim=1) / mask.sum(dim=1)
        torch.testing.assert_close(model.model.pooled_states(**ids), expected, atol=1e-5, rtol=0)
    change(fresh, "text_config", intermediate_size=3072)
    with pytest.raises(CheckpointError, match=r"intermediate_size is 3072, and the tensors say 24"):
        load(fresh, "cpu")


def test_lit_over_blocks_is_refused(tmp_path: Path) -> None:
    published = make_published(method="cls_alignment")
    with pytest.raises(CheckpointError, match="cls_alignment"):
        load(write_published(published, tmp_path, form="saved"), "cpu")


# -- loading -------------------------------------------------------------------------------------------------


def test_the_configuration_and_the_weights_are_opened_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = tensors_module.safe_open

    def counting(path: Path, **options: Any) -> Any:
        opened.append(Path(path).name)
        return original(path, **options)

    monkeypatch.setattr(tensors_module, "safe_open", counting)
    watched = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:  # cannot be taken away again
        if watched and event == "open" and str(arguments[0]) == str(fresh / "config.json"):
            opened.append("config.json")

    sys.addaudithook(hook)
    load(fresh, "cpu")
    watched.clear()
    assert sorted(opened) == ["config.json", "model.safetensors"]


def test_weights_are_aligned_and_so_the_answer_does_not_depend_on_the_file(fresh: Path, tmp_path: Path) -> None:
    """Matrix products round otherwise at other addresses; names of another length shift all tensors of a file."""
    expected = load(fresh, "cpu")
    tensors = load_file(fresh / "model.safetensors")
    for k in range(1, 8):
        save_file(tensors, fresh / "model.safetensors", metadata={"format": "pt", "note": "x" * (8 * k + 1)})
        model = load(fresh, "cpu")
        assert all(parameter.data_ptr() % 64 == 0 for parameter in model.model.parameters())
        assert_same_answers(expected, model)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_published(make_published(), tmp_path, shards=2, form="saved")
    one, two = sorted(tmp_path.glob("*.safetensors"))
    twice = load_file(two)
    save_file(load_file(one) | {next(iter(twice)): next(iter(twice.values()))}, one, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="which another shard holds too"):
        load(tmp_path, "cpu")


@pytest.mark.parametrize("layers", [999, 10**5, 10**12])
@pytest.mark.parametrize("part", ["vision_config", "text_config", "align_config"])
def test_absurd_numbers_of_layers_take_no_time(part: str, layers: int, fresh: Path, tmp_path: Path) -> None:
    ours = convert_checkpoint(fresh, tmp_path / "ours")
    change(ours, part, num_hidden_layers=layers)
    with pytest.raises(CheckpointError, match=str(layers)):
        load(ours, "cpu")


@pytest.mark.parametrize("size", [10**6, 10**9])
def test_absurd_sizes_take_no_memory(size: int, fresh: Path, tmp_path: Path) -> None:
    """In our own format, whose sizes the configuration states."""
    ours = convert_checkpoint(fresh, tmp_path / "ours")
    config = json.loads((ours / "config.json").read_text())
    config["text_config"]["vocab_size"] = size
    write_json(ours / "config.json", config)
    with pytest.raises(CheckpointError, match=rf"word_embeddings\.weight: shape .*not \({size}, 16\)"):
        load(ours, "cpu")


# -- mutations -----------------------------------------------------------------------------------------------

UNTRACED = {
    "hidden_act", "layer_norm_eps", "num_attention_heads", "sim_op", "text_features_l2_norm", "use_cls_token",
    "pad_token_id", "attn_temperature",
}  # fmt: skip
"""Fields that the tensors do not decide, so that another value may rightly give another answer."""
VALUES = (
    None,
    "",
    "768",
    "gelu",
    "relu",
    -1,
    0,
    1,
    2,
    3,
    16,
    768,
    10**30,
    0.5,
    16.0,
    math.nan,
    True,
    False,
    [],
    [16],
    {},
)


def leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in content.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


def mutate(config: dict[str, Any], chance: random.Random) -> list[str]:
    """Change one to three places; their names."""
    names = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        path = chance.choice(list(leaves(config)))
        place = config
        for key in path[:-1]:
            place = place[key]
        if chance.random() < 0.3:
            del place[path[-1]]
        else:
            place[path[-1]] = copy.deepcopy(chance.choice(VALUES))
        names.append(path[-1])
    return names


def told(config: RadZeroConfig) -> dict[str, Any]:
    """What of a configuration an answer depends on; ``image_size`` is told by the preprocessor's own file."""
    content = config.to_dict()
    for key in ("card", "temperature", "image_size", "mpnce_row_sum", "mpnce_col_sum"):
        del content[key]
    if content["attention_temperature"] is not None:
        content["attention_temperature"] = "a tensor's"
    for part in ("vision_config", "text_config", "align_config"):
        for key in [*content[part]]:
            if "dropout" in key or key in ("drop_path_rate", "layerscale_value", "image_size"):
                del content[part][key]
    return content


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_mutated_configs_load_with_the_same_answer_or_are_refused(form: str, tmp_path: Path) -> None:
    """Where the configuration comes out the same, the answer is; where not, it is compared."""
    published = make_published(seed=46, attention_temperature=0.3)
    write_published(published, tmp_path, form=form)
    model = load(tmp_path, "cpu")
    [expected] = model.predict(FILM, SENTENCES)
    expected_config = told(open_checkpoint(tmp_path).config)
    original = (tmp_path / "config.json").read_text()
    chance = random.Random(form)
    loaded, reasons = 0, set()
    for _ in range(1000):
        config = json.loads(original)
        names = mutate(config, chance)
        (tmp_path / "config.json").write_text(json.dumps(config))
        try:
            found = open_checkpoint(tmp_path)
        except CheckpointError as error:
            reasons.add(str(error))
            continue
        loaded += 1
        if told(found.config) != expected_config:
            assert UNTRACED & set(names), names
            try:
                [reading] = load(tmp_path, "cpu").predict(FILM, SENTENCES)
            except CheckpointError as error:
                reasons.add(str(error))
                continue
            assert np.isfinite(reading.logits).all()
    assert loaded > 200
    assert len(reasons) > 100
    assert all("config.json" in reason or "tensors do not fit" in reason for reason in reasons)
    (tmp_path / "config.json").write_text(original)
    [again] = load(tmp_path, "cpu").predict(FILM, SENTENCES)
    assert np.array_equal(again.logits, expected.logits)


# -- at full size --------------------------------------------------------------------------------------------


def full_size(content: dict[str, Any]) -> Published:
    """Random tensors that fit a published ``config.json`` of a ViT-B/14 and an MPNet, 24 blocks in all."""
    tiny = make_published()
    vision = content["vision_config"]
    width = vision["hidden_size"]
    whole = copy.deepcopy(content)
    whole["text_config"] |= {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    rng = np.random.default_rng(0)

    def values(*shape: int, scale: float = 1.0, around: float = 0.0) -> np.ndarray:
        return (rng.standard_normal(shape, dtype=np.float32) * scale + around).astype(np.float32)

    weights: dict[str, np.ndarray] = {}
    layers = {
        "vision_model.encoder.layer": 12,
        "align_transformer.transformer_layers.layer": 2,
        "text_model.encoder.layer": 12,
    }
    sizes = {16: width, 32: 4 * width}  # of the tiny model's tensors -> of these
    fixed = {
        "vision_model.embeddings.position_embeddings": (1, 1 + (224 // 14) ** 2, width),
        "vision_model.embeddings.patch_embeddings.projection.weight": (width, 3, 14, 14),
        "text_model.embeddings.word_embeddings.weight": (30527, width),
        "text_model.embeddings.position_embeddings.weight": (514, width),
        "text_model.encoder.relative_attention_bias.weight": (32, 12),
    }
    for name, tensor in tiny.weights.items():
        shape = fixed.get(name) or tuple(sizes.get(n, n) for n in tensor.shape)
        prefix = next((prefix for prefix in layers if name.startswith(f"{prefix}.")), None)
        if prefix and not name.startswith(f"{prefix}.0."):
            continue
        for k in range(layers[prefix] if prefix else 1):
            own = name.replace(f"{prefix}.0.", f"{prefix}.{k}.") if prefix else name
            if len(shape) == 1 and name.endswith("weight"):
                weights[own] = values(*shape, scale=0.1, around=1.0)
            elif name.endswith(("bias", "lambda1")) and len(shape) == 1:
                weights[own] = values(*shape, scale=0.1, around=0.3 if name.endswith("lambda1") else 0.0)
            else:
                weights[own] = values(*shape, scale=math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 1.0)
    weights["loss_fns.RadZeroLoss.loss_temperature"] = np.log(np.full(1, 0.083, dtype=np.float32))
    preprocessor = tiny.preprocessor | {"size": {"height": 70, "width": 98}}  # 5 x 7 patches, for the slow loops' sake
    return Published(whole, weights, preprocessor, tiny.tokenizer)


@pytest.mark.slow
def test_both_published_configs_load_at_full_size(tmp_path: Path) -> None:
    paths = {name: PUBLISHED_CONFIGS / f"{name}.json" for name in ("as_saved", "hub_copy")}
    if not all(path.exists() for path in paths.values()):
        pytest.skip(f"{PUBLISHED_CONFIGS} is not here: it is not part of the repository")
    contents = {name: json.loads(path.read_text()) for name, path in paths.items()}
    published = full_size(contents["as_saved"])
    readings = []
    for name, content in contents.items():
        [loss] = content["loss"]["apply"]
        write_published(published, tmp_path, loss_name=loss, temperature_shape=(1,))
        (tmp_path / "config.json").write_text(paths[name].read_text())
        model = load(tmp_path, "cpu")
        assert open_checkpoint(tmp_path).published
        assert sum(p.numel() for p in model.model.parameters()) > 200e6
        readings += model.predict(FILM, SENTENCES[1])
    assert np.array_equal(readings[0].logits, readings[1].logits)
    assert np.array_equal(readings[0].similarity, readings[1].similarity)
    assert_equals_slow(readings[0], published, FILM)


def test_the_maker_leaves_out_what_files_leave_out() -> None:
    if not PUBLISHED_CONFIGS.is_dir():
        pytest.skip(f"{PUBLISHED_CONFIGS} is not here: it is not part of the repository")
    whole = make_published().config
    for form, name in (("saved", "as_saved"), ("hub", "hub_copy")):
        real, ours = json.loads((PUBLISHED_CONFIGS / f"{name}.json").read_text()), as_saved(whole, form)
        assert set(ours["text_config"]) <= set(real["text_config"])
        for part in ("vision_config", "text_config", "align_transformer_config"):
            assert ours[part]["model_type"] == real[part]["model_type"]
