"""Every method trained and asked: losses, gradients over processes, what is refused, and the front door."""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from scipy.special import expit
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import radzero
from radzero.evaluation.models import RadZeroInBenchmark
from radzero.models import registry
from radzero.models.base import Features, VisionLanguageModel
from radzero.models.configuration import AlignedConfig
from radzero.models.conversion import save_processor
from radzero.prediction.model import RadZero
from radzero.training.batches import FilmBatch, TrainingDataset
from radzero.training.config import (
    DataChoice,
    LoopChoice,
    LossChoice,
    ModelChoice,
    ModelSizes,
    PhantomChoice,
    TrainConfig,
)
from radzero.training.gradient_cache import Towers, backward, split_batch
from radzero.training.losses import binary_pair_loss, clip_loss, multi_positive_loss, siglip_loss
from radzero.training.model_building import build_start
from radzero.training.step_loss import batch_loss
from radzero.training.vocabulary import phantom_words
from ranks import run_ranks

pytestmark = pytest.mark.slow

FUSED = {"fusion_layers": 2, "fusion_mlp": 24, "simr_widths": [12, 8], "text_layers": 2, "text_positions": 7}
METHODS: dict[str, dict[str, Any]] = {name: {} for name in registry.METHODS} | {
    "radzero-dot": {"similarity": "dot", "attention_temperature": 0.7},
    "radzero-linear": {"align_linear": True, "align_layers": 0},
    "lit": {"train_vision": "frozen"},
    "carzero": {"options": FUSED},
    "carzero-local": {"options": {"simr": "linear", "memory": "local", **FUSED}},
    "carzero-cos": {"options": {"simr": "cos", **FUSED}},
    "carzero-own": {"options": {"simr": "cos_own", **FUSED}},
    "carzero-patches": {"options": {"memory": "global", "map_kind": "logits", **FUSED}},
}
"""A method of the registry, or one with settings behind its name and a dash."""
WITHOUT_MAPS = tuple(name for name, spec in registry.METHODS.items() if not spec.model_class.has_maps)
ATTENTION = ("carzero", "carzero-local", "carzero-cos", "carzero-own")
EVERY = pytest.mark.parametrize("name", METHODS)


def start(name: str, encoders: str) -> tuple[VisionLanguageModel, Any]:
    """A model as a run builds it, whose parameters all matter, without dropout."""
    settings = yaml.safe_load(encoders.partition("=")[2]) | {"temperature": 0.5, "logit_bias": -2.0} | METHODS[name]
    torch.manual_seed(6)
    model, processor = build_start(ModelChoice(**settings, method=name.split("-")[0]), phantom_words)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return model, processor


# -- losses ------------------------------------------------------------------------------------------------


def drawn(images: int, sentences: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return (torch.randn(images, sentences, generator=chance, dtype=torch.float64) * scale).requires_grad_()


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_clip_loss_is_the_mean_of_both_cross_entropies(count: int, masked: bool):
    logits = drawn(count, count)
    ignore = torch.rand(count, count, generator=torch.Generator().manual_seed(1)) < 0.4 if masked else None
    left = logits if ignore is None else logits.masked_fill(ignore & ~torch.eye(count, dtype=torch.bool), -torch.inf)
    target = torch.arange(count)
    wanted = (F.cross_entropy(left, target) + F.cross_entropy(left.mT, target)) / 2
    loss = clip_loss(logits, ignore_BB=ignore)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, wanted)))
    assert torch.autograd.gradcheck(lambda x: clip_loss(x, ignore_BB=ignore), [logits])


@pytest.mark.parametrize("owners", [[0, 0, 2, 3, 3, 3], [1], []])
@pytest.mark.parametrize("masked", [False, True])
def test_siglip_loss_is_a_sum_over_pairs(owners: list[int], masked: bool):
    logits, owner = drawn(4, len(owners)), torch.tensor(owners, dtype=torch.long)
    ignore = torch.rand(4, len(owners), generator=torch.Generator().manual_seed(1)) < 0.4 if masked else None
    wanted = 0.0
    for i in range(4):
        for n, g in enumerate(owners):
            if g == i:
                wanted += math.log1p(math.exp(-logits[i, n].item())) / 4
            elif ignore is None or not ignore[i, n]:
                wanted += math.log1p(math.exp(logits[i, n].item())) / 4
    assert siglip_loss(logits, owner, ignore_BN=ignore).item() == pytest.approx(wanted, abs=1e-12)
    if owners:
        assert torch.autograd.gradcheck(lambda x: siglip_loss(x, owner, ignore_BN=ignore), [logits])


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_losses_are_finite_at_any_temperature(scale: float):
    logits = drawn(3, 3, scale=scale)
    for loss in (clip_loss(logits), siglip_loss(logits, torch.arange(3))):
        assert loss.isfinite()
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_no_images_and_wrong_shapes():
    nobody = torch.zeros(0, dtype=torch.long)
    assert clip_loss(torch.zeros(0, 0)).item() == siglip_loss(torch.zeros(0, 0), nobody).item() == 0
    for wrong in (torch.zeros(2, 3), torch.zeros(4), torch.zeros(2, 2, 2)):
        with pytest.raises(ValueError, match=r"must be \(B, B\), one sentence per image"):
            clip_loss(wrong)
    with pytest.raises(ValueError, match=r"logits must be \(B, N\) and owners \(N,\)"):
        siglip_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    for owner in (torch.tensor([0, 2]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match=r"owners must be images 0\.\.1"):
            siglip_loss(torch.zeros(2, 2), owner)


# -- over processes ----------------------------------------------------------------------------------------


def names_of(world: int) -> tuple[str, ...]:
    """Every method in every setting; over four processes, in its usual one."""
    return tuple(METHODS) if world < 4 else tuple(registry.METHODS)


EDGES = {1: [0, 5], 2: [0, 4, 5], 4: [0, 3, 5, 5, 5]}  # images of each rank; of four, two have nothing
MANY, ONE = [[0, 1], [], [1, 2, 3], [4], [0, 5, 6, 7]], [[0], [1], [0], [2], [3]]  # texts that each image states
KINDS = {
    "multi_positive": (LossChoice(), MANY),
    "stated": (LossChoice(ignore="stated", binary_weight=0.7), MANY),
    "clip": (LossChoice(kind="clip"), ONE),
    "siglip": (LossChoice(kind="siglip"), MANY),
}
PASSES = (1, 3)


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Images, and the token ids and masks of the texts."""
    chance = torch.Generator().manual_seed(4)
    images = torch.randn(5, 3, 56, 56, generator=chance, dtype=torch.float64)
    ids = torch.randint(5, 30, (8, 9), generator=chance)
    return images, ids, (torch.arange(9)[None] < torch.randint(2, 10, (8, 1), generator=chance)).long()


def share(stated: list[list[int]], first: int, last: int) -> FilmBatch:
    """What a rank is given of the batch: each of its texts once."""
    images, ids, mask = data()
    own = stated[first:last]
    texts = list(dict.fromkeys(text for texts in own for text in texts))
    return FilmBatch(
        images[first:last],
        [f"text {text}" for text in texts],
        ids[texts],
        mask[texts],
        torch.tensor([texts.index(text) for row in own for text in row], dtype=torch.long),
        torch.tensor([row for row, texts in enumerate(own) for _ in texts], dtype=torch.long),
        list(range(first, last)),
        [],
    )


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def run_world(rank: int, world: int, encoders: str, names: tuple[str, ...]) -> dict[tuple[str, str, int], Any]:
    """Loss and gradients of this rank, as the trainer gets them, of every method, kind and number of passes."""
    results = {}
    for name in names:
        model = start(name, encoders)[0].double()
        towers: Any = Towers(model)
        sync: dict[str, Any] = {}
        if world > 1:
            towers = DistributedDataParallel(towers, broadcast_buffers=False)
            sync = {"no_sync": towers.no_sync}
        for kind, (choice, stated) in KINDS.items():
            batch = share(stated, *list(pairwise(EDGES[world]))[rank])

            def loss_of(encoded: Features, model=model, batch=batch, choice=choice) -> Tensor:
                return batch_loss(model, encoded, batch, choice, cast(TrainingDataset, None)) * world

            for passes in PASSES:
                model.zero_grad()
                parts = split_batch(batch.pixel_values, batch.input_ids, batch.attention_mask, passes)
                loss = backward(towers, parts, loss_of, **sync) / world
                results[name, kind, passes] = (loss, {n: g.clone() for n, g in gradients(model).items()})
    return results


@pytest.fixture(scope="module")
def ranks(tiny_encoders: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict]]:
    """Results of every rank of a world, which is run once."""

    @cache
    def results(world: int) -> list[dict]:
        if world == 1:
            return [run_world(0, 1, tiny_encoders, names_of(world))]
        return run_ranks(run_world, world, tmp_path_factory.mktemp(f"world{world}"), tiny_encoders, names_of(world))

    return results


@cache
def whole(name: str, kind: str, encoders: str) -> tuple[float, dict[str, Tensor]]:
    """One process, one pass, plain autograd, every statement a column of its own."""
    model = start(name, encoders)[0].double()
    stated = KINDS[kind][1]
    images, ids, mask = data()
    tokens, texts = model.encode_images(images), model.encode_sentences(ids, mask)
    columns = torch.tensor([text for own in stated for text in own])
    owner = torch.tensor([i for i, own in enumerate(stated) for _ in own])
    logits = model.similarity(tokens, texts).logits[:, columns]
    directions = model.training_scores(Features(tokens, texts, model.score_parameters())).directions
    ignore = torch.tensor([[int(text) in own for text in columns] for own in stated])
    loss = torch.zeros((), dtype=torch.float64)
    for scores in [logits] if directions is None else directions[:, :, columns]:
        if kind == "clip":
            loss = loss + clip_loss(scores)
        elif kind == "siglip":
            loss = loss + siglip_loss(scores, owner)
        else:
            loss = loss + multi_positive_loss(scores, owner, ignore_BN=ignore if kind == "stated" else None)
    if kind == "stated":
        loss = loss + 0.7 * binary_pair_loss(logits, owner, ignore_BN=ignore, negative_weight=2.0)
    loss.backward()
    return loss.item(), gradients(model)


@pytest.mark.parametrize(("name", "world"), [(name, world) for world in EDGES for name in names_of(world)])
def test_any_number_of_processes_and_passes_gives_one_process_s_gradient(
    name: str, world: int, ranks: Callable[[int], list[dict]], tiny_encoders: str
):
    for kind in KINDS:
        wanted_loss, wanted = whole(name, kind, tiny_encoders)
        size = max(gradient.abs().max().item() for gradient in wanted.values())
        assert size > 1e-3
        for passes in PASSES:
            results = [rank[name, kind, passes] for rank in ranks(world)]
            assert sum(loss for loss, _ in results).item() == pytest.approx(wanted_loss, abs=1e-9), kind
            for _, own in results:  # the wrapper has summed them
                assert own.keys() == wanted.keys()
                for parameter, gradient in own.items():
                    torch.testing.assert_close(gradient, wanted[parameter], atol=1e-9 * size, rtol=1e-9)


@EVERY
def test_every_trained_parameter_has_a_gradient(name: str, ranks: Callable[[int], list[dict]], tiny_encoders: str):
    own = ranks(1)[0][name, "siglip", 1][1]
    model, _ = start(name, tiny_encoders)
    trained = {n for n, parameter in model.named_parameters() if parameter.requires_grad}
    assert own.keys() == trained
    assert any(n.startswith("vision_model.") for n in trained) is (name != "lit")
    still = {n for n, gradient in own.items() if gradient.abs().max() < 1e-12}
    shifts = {n for n in trained if n.endswith(("k_proj.bias", "key.bias"))}  # a softmax does not see them
    nothing = set()
    if name in ("carzero", "carzero-local", "carzero-patches"):  # plain logits, as published
        nothing = {"log_temperature"}
    if name == "carzero-patches":  # one token to attend to, whatever the query
        nothing |= {n for n in trained if n.startswith("fusion_module.") and ".norm2." in n}
    assert still - shifts == nothing


# -- what is refused ---------------------------------------------------------------------------------------

SMALL = ModelSizes(widths=(8, 16, 32), heads=2, text_layers=1, token_stride=8, vision_layers=1)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "gloria"}, f"model.method is one of {', '.join(registry.METHODS)}, not 'gloria'"),
        ({"method": "lit"}, "lit locks its encoder: model.train_vision: frozen"),
        ({"method": "lit", "train_vision": "lora"}, "lit locks its encoder: model.train_vision: frozen"),
        ({"align_linear": True}, "model.align_linear: is in place of blocks"),
        ({"align_linear": True, "align_layers": 0, "method": "dinotxt"}, "model.align_linear: is for radzero"),
    ],
)
def test_models_that_are_refused(settings: dict[str, Any], named: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ModelChoice(small=SMALL, **settings)
    assert named in str(caught.value)


@pytest.mark.parametrize("method", registry.METHODS)
def test_runs_that_are_refused(method: str):
    model = ModelChoice(small=SMALL, method=method, train_vision="frozen")
    data = DataChoice(manifest="m.jsonl")
    assert TrainConfig(model, data, LossChoice()).model.method == method
    if registry.METHODS[method].gives_peaks:
        assert TrainConfig(model, data, LossChoice(quiet_weight=0.1)).loss.quiet_weight == 0.1
    else:
        with pytest.raises(ValueError, match=r"loss\.quiet_weight: is for the maps of radzero"):
            TrainConfig(model, data, LossChoice(quiet_weight=0.1))
    with pytest.raises(ValueError, match=r"clip has one sentence per image: data\.sentences: one"):
        TrainConfig(model, data, LossChoice(kind="clip"))
    one = DataChoice(manifest="m.jsonl", sentences="one")
    assert TrainConfig(model, one, LossChoice(kind="clip")).data.sentences == "one"
    if not registry.METHODS[method].shards:
        with pytest.raises(ValueError, match=r"loop\.sharding: fsdp is not for carzero"):
            TrainConfig(model, data, loop=LoopChoice(sharding="fsdp"))
    else:
        assert TrainConfig(model, data, loop=LoopChoice(sharding="fsdp")).loop.sharding == "fsdp"


@pytest.mark.parametrize("texts", ["report", "merged"])
def test_phantoms_have_no_reports(texts: str):
    assert DataChoice(manifest="m.jsonl", texts=texts).texts == texts
    with pytest.raises(ValueError, match=r"data\.texts.* of a manifest"):
        DataChoice(phantoms=PhantomChoice(3), texts=texts)
    with pytest.raises(ValueError, match=r"data\.texts is findings, report or merged, not 'impression'"):
        DataChoice(manifest="m.jsonl", texts="impression")


@pytest.mark.parametrize(
    ("method", "has"),
    [("radzero", "similarity, text_l2_norm"), ("carzero", "simr, simr_widths"), ("dinotxt", "align_config"),
     ("clip", "none"), ("lit", "none")],
)  # fmt: skip
def test_an_option_that_a_method_does_not_have_is_named(method: str, has: str):
    settings = {"small": SMALL, "method": method, "train_vision": "frozen", "image_size": 64}
    with pytest.raises(ValueError, match=rf"model\.options\.depth: {method} has no such setting; it has .*{has}"):
        build_start(ModelChoice(options={"depth": 3}, **settings), phantom_words)


def test_an_option_arrives():
    choice = ModelChoice(small=SMALL, method="carzero", options=FUSED | {"simr": "linear"}, image_size=64)
    config = build_start(choice, phantom_words)[0].config
    assert (config.simr, config.text_positions, config.fusion_layers, config.memory) == ("linear", 7, 2, "both")


@pytest.mark.parametrize("method", ["clip", "lit", "carzero"])
@torch.no_grad()
def test_a_small_model_s_score_depends_on_the_image(method: str):
    choice = ModelChoice(small=replace(SMALL, vision_layers=0), method=method, image_size=64, train_vision="frozen")
    with pytest.raises(ValueError, match=r"CLS, which knows nothing of the film .*: give model.small.vision_layers"):
        build_start(choice, phantom_words)
    choice = replace(choice, small=SMALL)
    model = build_start(choice, phantom_words)[0].eval()
    vectors = model.encode_images(torch.randn(2, 3, 64, 64))
    assert not torch.allclose(vectors[0, 0], vectors[1, 0])


def test_a_start_of_another_method_is_refused(loaded: dict[str, RadZero]):
    """What TrainConfig refuses of a method (quiet_weight, fsdp) is otherwise let through."""
    with pytest.raises(ValueError, match="CARZero"):
        build_start(ModelChoice(start=str(loaded["carzero"].folder), method="radzero"), phantom_words)


# -- the front door ------------------------------------------------------------------------------------------

ASKED = ("There is edema", "There is no pneumothorax in the left lung", "There may be a nodule")


@pytest.fixture(scope="module")
def loaded(tiny_encoders: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RadZero]:
    """Checkpoints of every method, saved as a run saves them and loaded by their folders."""
    found = {}
    for name in METHODS:
        folder = tmp_path_factory.mktemp("methods") / name
        model, processor = start(name, tiny_encoders)
        model.config.card = {"notice": "Tiny."}
        model.save_pretrained(folder)
        save_processor(processor, folder)
        found[name] = radzero.load(folder, device="cpu")
    return found


def films() -> list[np.ndarray]:
    rng = np.random.default_rng(8)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((70, 50), (56, 56), (40, 90))]


@EVERY
@torch.no_grad()
def test_readings_of_every_method(name: str, loaded: dict[str, RadZero]):
    asker = loaded[name]
    readings = asker.predict(films(), ASKED)
    pixels = asker.processor(images=films())["pixel_values"]
    for reading, own in zip(readings, pixels, strict=True):
        for n, text in enumerate(ASKED):
            output = asker.model(own[None], **asker.processor.sentences([text]))
            assert reading.logits[n] == pytest.approx(output.logits.item(), rel=1e-5, abs=1e-5)
            assert reading.probabilities[n] == pytest.approx(expit(output.logits.item()), abs=1e-5)
    logits = np.array([reading.logits for reading in readings])
    assert (logits.std(axis=0) > 1e-4).all(), "films differ"
    assert (logits.std(axis=1) > 1e-4).all(), "sentences differ"
    alone = asker.predict(films()[2], ASKED[1])[0]
    assert alone.logits.shape == (1,)
    assert alone.logits[0] == pytest.approx(logits[2, 1], abs=1e-5)
    assert asker.predict([], ASKED) == []
    assert asker.predict(films()[0], [])[0].logits.shape == (0,)


@pytest.mark.parametrize("name", WITHOUT_MAPS)
def test_a_method_without_maps_says_so(name: str, loaded: dict[str, RadZero], tmp_path: Path):
    reading = loaded[name].predict(films()[0], ASKED)[0]
    assert reading.similarity is None
    for ask in (lambda: reading.maps, lambda: reading.map(0), lambda: reading.peaks, reading.overlay):
        with pytest.raises(ValueError, match=r"without maps .* gives probabilities alone"):
            ask()
    assert [set(s) for s in reading.to_dict()["sentences"]] == [{"sentence", "logit", "probability"}] * 3
    assert reading.save(tmp_path / "out") == [tmp_path / "out" / "reading.json"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["reading.json"]
    written = json.loads((tmp_path / "out" / "reading.json").read_text(encoding="utf-8"))
    assert written["sentences"][1]["probability"] == pytest.approx(float(reading.probabilities[1]))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in WITHOUT_MAPS])
def test_maps_and_peaks(name: str, loaded: dict[str, RadZero], tmp_path: Path):
    reading = loaded[name].predict(films()[0], ASKED)[0]
    assert reading.attention is (name in ATTENTION)
    assert reading.maps.shape == (3, 70, 50)
    assert reading.maps.min() >= 0
    assert reading.maps.max() <= 1
    assert reading.maps.std() > 1e-3
    for n, entry in enumerate(reading.to_dict()["sentences"]):
        x, y = entry["peak"]
        assert reading.maps[n, y, x] == reading.maps[n].max()
    written = [path.name for path in reading.save(tmp_path / "out")]
    assert written == ["reading.json", "00.png", "01.png", "02.png"]


@pytest.mark.parametrize("name", ATTENTION)
@torch.no_grad()
def test_an_even_share_of_attention_is_one_half(name: str, loaded: dict[str, RadZero]):
    asker = loaded[name]
    even = RadZero(deepcopy(asker.model), asker.processor, name="even")
    for layer in even.model.fusion_module.layers:
        layer.multihead_attn.in_proj_weight[:64] = 0.0  # neither queries nor keys
    np.testing.assert_allclose(even.predict(films(), ASKED)[1].maps, 0.5, atol=1e-6)
    reading = asker.predict(films()[1], ASKED)[0]  # as large as the input: a patch's centre is between four pixels
    assert reading.similarity.min() > 0
    corner = reading.similarity[:, 0, 0]
    np.testing.assert_allclose(reading.maps[:, 0, 0], corner / (1 + corner), atol=1e-6)
    assert ((reading.maps[:, 0, 0] > 0.5) == (corner > 1)).all()


@EVERY
def test_described(name: str, loaded: dict[str, RadZero]):
    asker = loaded[name]
    told = radzero.describe(asker.folder)
    config = registry.METHODS[name.split("-")[0]].config_class
    assert told["architecture"] == config.method
    assert told["parameters"]["total"] == sum(p.numel() for p in asker.model.parameters())
    assert told["align_layers"] == (1 if issubclass(config, AlignedConfig) and name != "radzero-linear" else 0)
    assert told["similarity"] == getattr(asker.model.config, "similarity", None)
    assert told["temperature"] == pytest.approx(asker.model.log_temperature.exp().item())
    assert (told["patch_grid"], told["notice"]) == ([4, 4], "Tiny.")
    json.dumps(told)


@EVERY
@torch.no_grad()
def test_in_benchmarks(name: str, loaded: dict[str, RadZero]):
    model = RadZeroInBenchmark(loaded[name])
    sentences = model.embed_sentences(ASKED)
    seen = model.embed_images([radzero.read_radiograph(film) for film in films()])
    readings = loaded[name].predict(films(), ASKED)
    np.testing.assert_allclose(model.logits(seen, sentences), [r.logits for r in readings], atol=1e-6)
    for film, reading in enumerate(readings):
        for n in range(len(ASKED)):
            values = model.raw_map(seen, sentences, film, n)
            if name in WITHOUT_MAPS:
                assert values is None
            else:
                np.testing.assert_allclose(expit(values), reading.map(n), atol=1e-6)
