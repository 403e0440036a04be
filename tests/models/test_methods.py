"""Every method against numpy, slow loops, its saved self, and itself in other company."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import layer_norm, linear, normed, softmax, vl_cabs
from torch import Tensor
from transformers import BertConfig, Dinov2Config, ViTConfig
from transformers.configuration_utils import PreTrainedConfig

from radzero.models import registry
from radzero.models.base import Features, VisionLanguageModel, chunked, register_method
from radzero.models.carzero import CarZeroConfig, CarZeroModel
from radzero.models.carzero import network as carzero_network
from radzero.models.checkpoints import CheckpointError
from radzero.models.clip import ClipModel
from radzero.models.configuration import AlignedConfig, ConvStemConfig
from radzero.models.loading import build_model, load_model
from radzero.models.radzero import RadZeroModel

SIZE, WORDS, POSITIONS, PIECES, HEADS = 16, 40, 7, 30, 4  # token ids from PIECES on go on with a word
SIDES = {"conv": 48, "dinov2": 56, "vit": 48}
PATCHES = {"conv": (3, 3), "dinov2": (4, 4), "vit": (3, 3)}
METHODS: dict[str, dict[str, Any]] = {name: {} for name in registry.METHODS} | {
    "radzero-dot": {"similarity": "dot", "text_l2_norm": True},
    "radzero-linear": {"align_linear": True},
    "radzero-separate": {"attention_temperature": 0.3, "logit_bias": -3.0},
    "radzero-separate-dot": {"attention_temperature": 0.3, "similarity": "dot"},
    "clip": {"logit_bias": -2.0},
    "dinotxt": {"logit_bias": 1.5},
    "carzero": {"fusion_layers": 3},
    "carzero-linear-local": {"simr": "linear", "memory": "local", "logit_bias": -1.0},
    "carzero-cos": {"simr": "cos", "logit_bias": 0.5},
    "carzero-own-local": {"fusion_layers": 1, "simr": "cos_own", "memory": "local"},
    "carzero-patches-global": {"memory": "global", "map_kind": "logits", "logit_bias": -1.0},
    "carzero-patches-linear": {"simr": "linear", "map_kind": "logits"},
}
"""A method of the registry, or one with settings behind its name and a dash."""
FUSED = {
    "fusion_layers": 2, "fusion_heads": HEADS, "fusion_mlp": 24, "simr_widths": (12, 8), "text_layers": 2,
    "text_positions": POSITIONS,
}  # fmt: skip
CARZERO = [name for name in METHODS if name.startswith("carzero")]
EVERY = pytest.mark.parametrize("name", METHODS)
EVERY_CARZERO = pytest.mark.parametrize("name", CARZERO)
ENCODERS = pytest.mark.parametrize(("encoder", "text_width"), [("conv", 16), ("dinov2", 24), ("vit", 24)])


def vision(encoder: str) -> PreTrainedConfig:
    size = {"hidden_size": SIZE, "num_hidden_layers": 1, "num_attention_heads": 2}
    if encoder == "conv":
        return ConvStemConfig(widths=(8, 8, SIZE), image_size=48, num_hidden_layers=1, num_attention_heads=2)
    if encoder == "dinov2":
        return Dinov2Config(image_size=28, patch_size=14, mlp_ratio=2, **size)
    return ViTConfig(image_size=48, patch_size=16, intermediate_size=32, **size)


def tiny(name: str, encoder: str = "conv", text_width: int = 16, dtype: torch.dtype = torch.float64) -> Any:
    """A model whose parameters all matter: none is left at its zero or one."""
    config = registry.METHODS[name.split("-")[0]].config_class
    options = METHODS[name] if config is not CarZeroConfig else FUSED | METHODS[name]
    text = BertConfig(
        vocab_size=WORDS, hidden_size=text_width, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    parts: dict[str, Any] = {"vision_config": vision(encoder), "text_config": text, "image_size": SIDES[encoder]}
    if issubclass(config, AlignedConfig):
        layers = 0 if name == "radzero-linear" else 1
        size = {"hidden_size": SIZE, "num_hidden_layers": layers, "num_attention_heads": 2}
        parts["align_config"] = Dinov2Config(mlp_ratio=2, **size)
    torch.manual_seed(5)
    model = build_model(config(**parts, temperature=0.5, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    if isinstance(model, CarZeroModel):
        model.set_vocabulary({f"{'##' if k >= PIECES else ''}word{k}": k for k in range(WORDS)})
    return model.to(dtype).eval()


def asked(encoder: str = "conv", dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Three images and five sentences of different lengths; what lies beyond a sentence's end is not zero."""
    chance = torch.Generator().manual_seed(9)
    images = torch.randn(3, 3, SIDES[encoder], SIDES[encoder], generator=chance, dtype=torch.float64).to(dtype)
    ids = torch.randint(5, WORDS, (5, 10), generator=chance)
    ids[:, 0] = 2  # no sentence begins within a word
    return images, ids, (torch.arange(10)[None] < torch.tensor([[4], [10], [1], [7], [2]])).long()


def features(model: VisionLanguageModel, encoder: str = "conv") -> Features:
    images, ids, mask = asked(encoder, model.dtype)
    return Features(model.encode_images(images), model.encode_sentences(ids, mask), model.score_parameters())


# -- any method --------------------------------------------------------------------------------------------


@ENCODERS
@EVERY
@torch.no_grad()
def test_a_saved_model_is_the_same_bit_for_bit(name: str, encoder: str, text_width: int, tmp_path: Path) -> None:
    model = tiny(name, encoder, text_width, torch.float32)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is type(model)
    assert not again.training
    assert again.config.to_diff_dict() == model.config.to_diff_dict() | {"dtype": "float32"}
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
    # a file's tensors are aligned in memory as they come, which BLAS may round otherwise: copied, as the model's are
    before, after = (m(*asked(encoder, torch.float32)) for m in (model, deepcopy(again)))
    assert torch.equal(after.logits, before.logits)
    assert before.logits.std() > 0.01
    if model.has_maps:
        assert torch.equal(after.similarity, before.similarity)
        assert before.similarity.std() > 0.01
    else:
        assert after.similarity is before.similarity is None


@ENCODERS
@EVERY
@torch.no_grad()
def test_company_and_padding_have_no_influence(name: str, encoder: str, text_width: int) -> None:
    """Each pair alone, its sentence without padding, is what it is among the others; and keeps its dimensions."""
    model = tiny(name, encoder, text_width)
    images, ids, mask = asked(encoder)
    many = model(images, ids, mask)
    assert many.logits.shape == (3, 5)
    for i in range(3):
        for n in range(5):
            alone = model(images[i : i + 1], ids[n : n + 1, : int(mask[n].sum())])
            assert alone.logits.shape == (1, 1)
            torch.testing.assert_close(alone.logits[0, 0], many.logits[i, n], atol=1e-6, rtol=0)
            if model.has_maps:
                rows, columns = PATCHES[encoder]
                assert model.token_grid(images.shape[-2:]) == (rows, columns)
                assert alone.similarity.shape == (1, 1, rows * columns)
                torch.testing.assert_close(alone.similarity[0, 0], many.similarity[i, n], atol=1e-5, rtol=0)


@EVERY
@torch.no_grad()
def test_bfloat16(name: str, tmp_path: Path) -> None:
    model = tiny(name, "dinov2", 24, torch.float32)
    model.save_pretrained(tmp_path)
    coarse = load_model(tmp_path, dtype="bfloat16")
    assert coarse.dtype is torch.bfloat16
    for key in ("log_temperature", "log_attention_temperature", "logit_bias"):  # they scale and move every logit
        assert getattr(coarse, key, None) == getattr(model, key, None)
    images, ids, mask = asked("dinov2", torch.float32)
    exact, output = model(images, ids, mask), coarse(images.bfloat16(), ids, mask)
    assert output.logits.dtype is torch.float32
    torch.testing.assert_close(output.logits, exact.logits, atol=0.1, rtol=0.1)
    if model.has_maps:
        assert output.similarity.dtype is torch.float32
        torch.testing.assert_close(output.similarity, exact.similarity, atol=0.1, rtol=0.1)


@EVERY
@pytest.mark.parametrize(("images", "sentences"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_on_one_side(name: str, images: int, sentences: int) -> None:
    model = tiny(name)
    whole = features(model)
    some = Features(whole.images[:images], whole.sentences[:sentences], whole.score_parameters)
    output = model.similarity(some.images, some.sentences)
    assert output.logits.shape == (images, sentences)
    if model.has_maps:
        assert output.similarity.shape == (images, sentences, 9)
    pairs = model.training_scores(some)
    assert pairs.logits.shape == (images, sentences)
    assert pairs.directions is None or pairs.directions.shape[1:] == (images, sentences)
    parts = [some.images, some.sentences, *some.score_parameters]
    gradients = torch.autograd.grad(pairs.logits.sum(), parts, materialize_grads=True)
    assert all(not gradient.any() for gradient in gradients)


def weighted(logits: Tensor) -> Tensor:
    chance = torch.Generator().manual_seed(1)
    return (logits * torch.randn(logits.shape, generator=chance, dtype=torch.float64)).sum()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("limit", [1, 6000, 25_000, 2**26])
def test_pairs_are_the_similarity_s_logits_peaks_and_gradients(
    name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of chunks (CARZero's; RadZero's are in test_sharding), for every parameter."""
    monkeypatch.setattr(carzero_network, "chunked", partial(chunked, limit=limit))
    model = tiny(name, "dinov2", 24)
    given = features(model, "dinov2")
    output, pairs = model.similarity(given.images, given.sentences), model.training_scores(given)
    if pairs.directions is not None:
        torch.testing.assert_close(pairs.directions.mean(dim=0), output.logits, atol=1e-6, rtol=0)
    assert (pairs.peaks is not None) is registry.METHODS[name.split("-")[0]].gives_peaks
    both = [(pairs.logits, output.logits)]
    if pairs.peaks is not None:
        both.append((pairs.peaks, output.similarity.amax(dim=-1)))
    leaves = [given.images, given.sentences, *(p for n, p in model.named_parameters() if "mask_token" not in n)]
    for scores, truth in both:
        torch.testing.assert_close(scores, truth, atol=1e-6, rtol=0)
        got, wanted = (
            torch.autograd.grad(weighted(some), leaves, retain_graph=True, materialize_grads=True)
            for some in (scores, truth)
        )
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_registers_before_the_patches_take_no_words_from_a_sentence() -> None:
    model = tiny("carzero-own-local")
    scores = carzero_network._Scores(model.config, model.fusion_module, prefix=5)
    images, texts = (torch.randn(2, 5 + 9, SIZE).double(), torch.randn(3, 6, SIZE).double().requires_grad_())
    scores(images, texts, torch.tensor(0.5).double()).pow(2).sum().backward()
    assert (texts.grad.norm(dim=-1) > 0).all(), "every word is attended to"


@EVERY_CARZERO
def test_dropout_is_the_same_when_a_chunk_is_computed_again(name: str) -> None:
    """The gradient is that of the logits that were given: shown against plain autograd with the same seed."""
    model = tiny(name)
    model.fusion_module.train()
    given = features(model)
    results = []
    for score in (
        lambda: model.similarity(given.images, given.sentences).logits,
        lambda: model.training_scores(given).logits,
    ):
        torch.manual_seed(3)
        logits = score()
        torch.manual_seed(4)  # what comes between is no matter
        parts = [given.images, given.sentences, *model.fusion_module.parameters()]
        gradients = torch.autograd.grad(weighted(logits), parts, retain_graph=True, materialize_grads=True)
        results.append([logits, *gradients])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    model.eval()
    assert (model.training_scores(given).logits - results[1][0]).abs().max() > 1e-3, "there is dropout"


@EVERY
@torch.no_grad()
def test_float64_is_float64_to_the_end(name: str) -> None:
    """Gradients are checked to 1e-9 elsewhere, which float32 anywhere between would spoil."""
    model = tiny(name)
    output = model(*asked())
    assert output.logits.dtype is torch.float64
    assert model.training_scores(features(model)).logits.dtype is torch.float64


def test_another_method_s_checkpoint_is_named(tmp_path: Path) -> None:
    tiny("clip", dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"is a CLIP checkpoint, not RadZero"):
        RadZeroModel.from_pretrained(tmp_path)
    assert isinstance(ClipModel.from_pretrained(tmp_path), ClipModel)


def test_a_type_that_transformers_would_not_be_told_of_is_refused() -> None:
    class OtherConfig(ClipModel.config_class):  # type: ignore[name-defined, misc]
        model_type = "mine"

    with pytest.raises(ValueError, match="model_type must begin with radzero or carzero: mine"):
        register_method(OtherConfig, ClipModel)


@pytest.mark.slow
def test_transformers_reads_every_method_after_importing_radzero(tmp_path: Path) -> None:
    """In a process that has imported none of our models: AutoConfig learns of them from the name of the type."""
    wanted = {}
    for spec in registry.METHODS.values():
        config = tiny(spec.name, dtype=torch.float32).config
        config.save_pretrained(tmp_path / spec.name)
        wanted[spec.name] = type(config).__name__
    code = (
        "import sys, pathlib, json, radzero; from transformers import AutoConfig\n"
        "folders = pathlib.Path(sys.argv[1]).iterdir()\n"
        "print(json.dumps({f.name: type(AutoConfig.from_pretrained(f)).__name__ for f in folders}))"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True)
    assert json.loads(ran.stdout) == wanted


# -- RadZero, CLIP, dino.txt ---------------------------------------------------------------------------------


def numbers(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}


def states(model: VisionLanguageModel) -> tuple[np.ndarray, np.ndarray]:
    """The encoders' outputs: vision tokens (B, T, D), and token states averaged over each sentence (N, W)."""
    images, ids, mask = asked("dinov2")
    found = []
    for row, length in zip(ids, mask.sum(dim=1), strict=True):
        found.append(model.text_model(input_ids=row[None, :length]).last_hidden_state[0].numpy().mean(axis=0))
    return model.vision_model(images).last_hidden_state.numpy(), np.array(found)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("text_width", [16, 24])
@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("radzero")])
@torch.no_grad()
def test_radzero_against_loops(name: str, text_width: int) -> None:
    model = tiny(name, "dinov2", text_width)
    config, w = model.config, numbers(model)
    tokens, sentences = states(model)
    if config.align_linear:
        tokens = np.array([[linear(row, w, "align_linear") for row in image] for image in tokens])
    else:
        tokens = model.align_transformer(torch.tensor(tokens)).last_hidden_state.numpy()
    if text_width != SIZE:
        sentences = np.array([linear(row, w, "text_projection") for row in sentences])
    if config.text_l2_norm:
        sentences = unit(sentences)
    tau = np.exp(w["log_temperature"])
    separate = np.exp(w["log_attention_temperature"]) if config.attention_temperature else None
    output = model(*asked("dinov2"))
    for i, image in enumerate(tokens):
        vectors = np.array([normed(row, w, "layer_norm", 1e-5) for row in image])
        for n, text in enumerate(sentences):
            logit, similarity = vl_cabs(vectors, normed(text, w, "layer_norm", 1e-5), tau, config.similarity, separate)
            assert output.logits[i, n].item() == pytest.approx(logit + w.get("logit_bias", 0.0), abs=1e-9)
            np.testing.assert_allclose(output.similarity[i, n], similarity, atol=1e-9)


@torch.no_grad()
def test_clip_against_numpy() -> None:
    model = tiny("clip", "dinov2", 24)
    w = numbers(model)
    tokens, sentences = states(model)
    x = tokens[:, 0] @ w["vision_projection.weight"].T + w["vision_projection.bias"]
    t = sentences @ w["text_projection.weight"].T + w["text_projection.bias"]
    output = model(*asked("dinov2"))
    wanted = unit(x) @ unit(t).T / np.exp(w["log_temperature"]) + w["logit_bias"]
    np.testing.assert_allclose(output.logits, wanted, atol=1e-9)
    assert output.similarity is None


@torch.no_grad()
def test_dinotxt_against_numpy() -> None:
    model = tiny("dinotxt", "dinov2", 24)
    w = numbers(model)
    tokens, sentences = states(model)
    tokens = model.align_transformer(torch.tensor(tokens)).last_hidden_state.numpy()
    v = np.array([[normed(row, w, "layer_norm", 1e-5) for row in image] for image in tokens])
    t = sentences @ w["text_projection.weight"].T + w["text_projection.bias"]
    x = np.concatenate((v[:, 0], v[:, 1:].mean(axis=1)), axis=1)
    tau = np.exp(w["log_temperature"])
    output = model(*asked("dinov2"))
    np.testing.assert_allclose(output.logits, unit(x) @ unit(t).T / tau + w["logit_bias"], atol=1e-9)
    facing = unit(t[:, SIZE:])
    wanted = np.einsum("nd,bld->bnl", facing, unit(v[:, 1:])) / tau
    np.testing.assert_allclose(output.similarity, wanted, atol=1e-9)


# -- CARZero -------------------------------------------------------------------------------------------------


def slow_fusion(query: np.ndarray, memory: np.ndarray, w: dict[str, np.ndarray], layers: int) -> Any:
    """SimR (D,) and attention weights (layers, heads, K) of one query with one memory (K, D)."""
    keys = [normed(row, w, "decoder_norm", 1e-5) for row in memory]
    x = normed(query, w, "decoder_norm", 1e-5)
    width = len(x) // HEADS
    shares = np.zeros((layers, HEADS, len(keys)))
    for i in range(layers):
        at = f"layers.{i}"
        inner = normed(x, w, f"{at}.norm2", 1e-5)
        parts = [w[f"{at}.multihead_attn.in_proj_{kind}"] for kind in ("weight", "bias")]
        wq, wk, wv = np.split(parts[0], 3)
        bq, bk, bv = np.split(parts[1], 3)
        attended = np.zeros(len(x))
        for head in range(HEADS):
            span = slice(head * width, (head + 1) * width)
            asks = (wq @ inner + bq)[span]
            shares[i, head] = softmax(np.array([asks @ (wk @ key + bk)[span] / np.sqrt(width) for key in keys]))
            for share, key in zip(shares[i, head], keys, strict=True):
                attended[span] += share * (wv @ key + bv)[span]
        x = x + linear(attended, w, f"{at}.multihead_attn.out_proj")
        widened = np.maximum(linear(normed(x, w, f"{at}.norm3", 1e-5), w, f"{at}.linear1"), 0)
        x = x + linear(widened, w, f"{at}.linear2")
    return layer_norm(x, w["final_norm.weight"], w["final_norm.bias"], 1e-5), shares


def slow_logit(found: np.ndarray, w: dict[str, np.ndarray], simr: str) -> float:
    if simr == "linear":
        return linear(found, w, "head")[0]
    for name in ("head.0", "head.3"):
        found = np.maximum(linear(found, w, name), 0)
    return linear(found, w, "head.6")[0]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(unit(a) @ unit(b))


def attended_to(tokens: np.ndarray, memory: str) -> np.ndarray:
    return {"both": tokens, "local": tokens[1:], "global": tokens[:1]}[memory]


@EVERY_CARZERO
@torch.no_grad()
def test_carzero_against_loops_over_pairs_heads_and_layers(name: str) -> None:
    model = tiny(name, text_width=24)
    config, w = model.config, numbers(model.fusion_module)
    given = features(model)
    output, pairs = model.similarity(given.images, given.sentences), model.training_scores(given)
    bias = 0.0 if model.logit_bias is None else model.logit_bias.item()
    for i, tokens in enumerate(given.images.numpy()):
        for n, text in enumerate(given.sentences.numpy()):
            of_text, shares = slow_fusion(text[0], attended_to(tokens, config.memory), w, config.fusion_layers)
            of_image, _ = slow_fusion(tokens[0], attended_to(text, config.memory), w, config.fusion_layers)
            if config.simr == "cos":
                wanted = [cosine(of_text, of_image) / model.temperature.item()]
            elif config.simr == "cos_own":
                both = (cosine(of_text, tokens[0]), cosine(of_image, text[0]))
                wanted = [c / model.temperature.item() for c in both]
            else:
                wanted = [slow_logit(found, w, config.simr) for found in (of_text, of_image)]
            assert len(pairs.directions) == len(wanted)
            np.testing.assert_allclose(pairs.directions[:, i, n], np.array(wanted) + bias, atol=1e-5)
            assert output.logits[i, n].item() == pytest.approx(np.mean(wanted) + bias, abs=1e-5)
            if config.map_kind == "logits":
                patches = [slow_fusion(text[0], patch[None], w, config.fusion_layers)[0] for patch in tokens[1:]]
                truth = np.array([slow_logit(found, w, config.simr) for found in patches]) + bias
            else:
                weights = shares.mean(axis=(0, 1))
                truth = weights[-(len(tokens) - 1) :] * len(weights)  # the global token, if it is there, is the first
            np.testing.assert_allclose(output.similarity[i, n], truth, atol=1e-5)


@EVERY_CARZERO
@torch.no_grad()
def test_the_fusion_module_s_representations_and_attention(name: str) -> None:
    model = tiny(name)
    chance = torch.Generator().manual_seed(2)
    queries, memory = (torch.randn(2, n, SIZE, generator=chance, dtype=torch.float64) for n in (3, 6))
    found, attention = model.fusion_module(queries, memory, weights=True)
    assert attention.shape == (2, 3, 6)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 3, dtype=torch.float64), atol=1e-12, rtol=0)
    for m in range(2):
        for q in range(3):
            wanted, shares = slow_fusion(
                queries[m, q].numpy(), memory[m].numpy(), numbers(model.fusion_module), len(model.fusion_module.layers)
            )
            np.testing.assert_allclose(found[m, q], wanted, atol=1e-10)
            np.testing.assert_allclose(attention[m, q], shares.mean(axis=(0, 1)), atol=1e-12)


@EVERY_CARZERO
@torch.no_grad()
def test_one_module_serves_both_directions(name: str) -> None:
    """Images and texts in each other's places: the directions change places, and the score stays."""
    model = tiny(name)
    given = features(model)
    pairs = model.training_scores(given)
    swapped = model.training_scores(given._replace(images=given.sentences, sentences=given.images))
    torch.testing.assert_close(swapped.logits, pairs.logits.mT, atol=1e-6, rtol=0)
    torch.testing.assert_close(swapped.directions.flip(0), pairs.directions.mT, atol=1e-6, rtol=0)
    if len(pairs.directions) == 2:
        assert (pairs.directions[0] - pairs.directions[1]).abs().max() > 1e-3


@pytest.mark.parametrize("text_width", [16, 24])
@torch.no_grad()
def test_words_are_sums_of_pieces_and_a_sentence_is_their_mean(text_width: int) -> None:
    model = tiny("carzero", text_width=text_width)
    _, _, mask = asked()
    ids = torch.tensor(
        [
            [2, 8, 31, 32, 9, 3, 7, 33, 5, 34],  # [2] [8 31 32] [9] [3]; padding begins with a word, and a piece
            [2, 5, 6, 7, 35, 8, 9, 36, 10, 11],  # [2] [5] [6] [7 35] [8] [9 36]; two words have no place
            [2, 31, 8, 8, 8, 8, 8, 8, 8, 8],
            [2, 39, 39, 39, 39, 39, 39, 8, 8, 8],
            [2, 3, 39, 8, 8, 8, 8, 8, 8, 8],
        ]
    )
    mask[0] = (torch.arange(10) < 6).long()
    words = [
        [[0], [1, 2, 3], [4], [5]], [[0], [1], [2], [3, 4], [5], [6, 7]], [[0]], [[0, 1, 2, 3, 4, 5, 6]], [[0], [1]],
    ]  # fmt: skip
    given = model.encode_sentences(ids, mask).numpy()
    assert given.shape == (5, POSITIONS, SIZE)
    assert model.sentence_shape == (POSITIONS, SIZE)
    w = numbers(model)
    for n in range(5):
        hidden = model.text_model(input_ids=ids[n : n + 1, : int(mask[n].sum())], output_hidden_states=True)
        layers = hidden.hidden_states[-1][0].numpy() + hidden.hidden_states[-2][0].numpy()
        vectors = [sum(layers[k] for k in pieces) for pieces in words[n]]
        if text_width != SIZE:
            vectors = [linear(vector, w, "text_projection") for vector in vectors]
        count = len(vectors)
        np.testing.assert_allclose(given[n, 0], sum(vectors) / count, atol=1e-9)
        np.testing.assert_allclose(given[n, 1 : 1 + count], vectors, atol=1e-9)
        assert not given[n, 1 + count :].any()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"simr": "dot"}, "simr is one of"),
        ({"memory": "none"}, "memory is one of"),
        ({"map_kind": "heat"}, "map_kind is one of"),
        ({"memory": "global"}, "needs local tokens"),
        ({"map_kind": "logits", "simr": "cos"}, "simr mlp or linear"),
    ],
)
def test_what_carzero_cannot_be(options: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CarZeroConfig(vision_config=vision("conv"), text_config=BertConfig(), **options)


@pytest.mark.parametrize("size", [16, 128])
def test_a_fresh_fusion_module_tells_films_and_sentences_apart(size: int):
    """A plateau at the beginning would be a handicap: its logits must differ as much at 16 or 128 as at 768."""
    config = CarZeroConfig(
        vision_config=Dinov2Config(hidden_size=size, num_hidden_layers=1, num_attention_heads=4, image_size=28),
        text_config=BertConfig(vocab_size=WORDS, hidden_size=size, num_hidden_layers=1, num_attention_heads=4),
        fusion_mlp=2 * size, simr_widths=(size, size // 2), fusion_heads=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.no_grad():
        logits = model.similarity(torch.randn(6, 5, size), torch.randn(7, config.text_positions, size)).logits
    assert logits.std(dim=0).mean() > 0.004
    assert logits.std(dim=1).mean() > 0.004


def test_all_layers_of_a_short_text_encoder_are_summed_and_no_embeddings():
    model = tiny("carzero")
    model.config.text_layers = 4  # of an encoder with three
    _, ids, mask = asked()
    with torch.no_grad():
        hidden = model.text_model(input_ids=ids[1:2], output_hidden_states=True).hidden_states
        first = model.encode_sentences(ids[1:2], mask[1:2])[0, 1]
    pieces = 1 + int(np.argmin(np.append(model.word_start[ids[1, 1:]].numpy() == 0, False)))
    assert torch.allclose(first, sum(hidden[1:])[0, :pieces].sum(dim=0), atol=1e-9)


def test_tokenizers_without_word_pieces_are_refused():
    model = tiny("carzero")
    for token in ("\u0120there", "\u2581there"):
        with pytest.raises(ValueError, match="BERT's mark"):
            model.set_vocabulary({"there": 0, token: 1})
