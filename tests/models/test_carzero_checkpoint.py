"""CARZero's released format: the same scores as an independent implementation; what is not weights is refused unrun."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoProcessor, BertConfig, BertModel

from command_line import call
from radzero.images import read_radiograph
from radzero.images.geometry import MapGeometry
from radzero.models.carzero import CarZeroConfig, CarZeroImageProcessor
from radzero.models.carzero.checkpoint import FUSION_HEADS, convert_lightning, read_lightning
from radzero.models.checkpoints import CheckpointError, load_processor, open_checkpoint
from radzero.models.conversion import convert_checkpoint
from radzero.models.processor import RadZeroProcessor
from radzero.prediction.model import RadZero, describe, load

pytestmark = pytest.mark.slow

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = "there is no a in the left right lung pleural effusion nodule card ##io ##megaly ##s pneumo ##thorax . edema"
VOCABULARY = (*SPECIALS, *PIECES.split())
SENTENCES = ("There is cardiomegaly.", "Edema", "There is no pneumothorax, pleural effusions in the left lung nodules.")
POSITIONS = 97
TOLERANCE = 1e-5


# -- an independent CARZero, in the released naming ------------------------------------------------------------


class Block(nn.Module):
    """A transformer block under timm's names."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width, bias=qkv_bias), nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        size = width // self.heads
        found = []
        q, k, v = self.attn.qkv(self.norm1(x)).reshape(batch, count, 3, width).unbind(2)
        for h in range(self.heads):
            part = slice(h * size, (h + 1) * size)
            weights = (q[..., part] @ k[..., part].mT / size**0.5).softmax(-1)
            found.append(weights @ v[..., part])
        x = x + self.attn.proj(torch.cat(found, -1))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    def __init__(self, width: int, heads: int, side: int, patch: int, qkv_bias: bool) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias) for _ in range(2)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed.proj(pixels).flatten(2).mT
        x = torch.cat((self.cls_token.expand(len(pixels), -1, -1), patches), 1) + self.pos_embed
        return self.norm(self.blocks(x))


class FusionModule(nn.Module):
    """``nn.TransformerDecoder`` for the names of its parts; its own forward would attend to itself."""

    def __init__(self, width: int, heads: int, layers: int, mlp: int, widths: tuple[int, ...], head: str) -> None:
        super().__init__()
        self.decoder_norm = nn.LayerNorm(width)
        layer = nn.TransformerDecoderLayer(width, heads, mlp)
        self.decoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        parts: list[nn.Module] = []
        for before, after in zip((width, *widths), (*widths, 1), strict=True):
            parts += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.1)]
        self.add_module(head, nn.Sequential(*parts[:-2]) if widths else parts[0])
        self.heads, self.head = heads, head

    def forward(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (Q,) of queries (Q, D), and their attention (Q, K) to the memory (K, D)."""
        x, memory, total = self.decoder_norm(queries), self.decoder_norm(memory), 0
        for layer in self.decoder.layers:
            attention, bias = layer.multihead_attn, layer.multihead_attn.in_proj_bias.chunk(3)
            (q, k, v), found = attention.in_proj_weight.chunk(3), []
            size = q.shape[0] // self.heads
            for h in range(self.heads):
                part = slice(h * size, (h + 1) * size)
                asked = F.linear(layer.norm2(x), q[part], bias[0][part])
                weights = (asked @ F.linear(memory, k[part], bias[1][part]).mT / size**0.5).softmax(-1)
                found.append(weights @ F.linear(memory, v[part], bias[2][part]))
                total = total + weights / self.heads / len(self.decoder.layers)
            x = x + attention.out_proj(torch.cat(found, -1))
            x = x + layer.linear2(F.relu(layer.linear1(layer.norm3(x))))
        return self.get_submodule(self.head)(self.decoder.norm(x)).squeeze(-1), total


class Reference(nn.Module):
    """What a Lightning module's ``CARZero`` attribute holds."""

    def __init__(
        self,
        *,
        width: int = 32,
        vision_heads: int = 4,
        fusion_heads: int = 2,
        head: str = "mlp_head",
        widths: tuple[int, ...] = (24, 12),
        qkv_bias: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.img_encoder, self.text_encoder = nn.Module(), nn.Module()
        self.img_encoder.model = VisionTransformer(width, vision_heads, 4, 8, qkv_bias)
        config = BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=width,
            num_hidden_layers=5,
            num_attention_heads=max(1, width // 64) if width % 64 == 0 else 2,
            intermediate_size=40,
            max_position_embeddings=POSITIONS + 15,
        )
        self.text_encoder.model = BertModel(config)  # with a pooler
        self.fusion_module = FusionModule(width, fusion_heads, 3, 48, widths, head)
        for name, parameter in self.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                nn.init.uniform_(parameter, 0.5, 1.5)
            elif parameter.ndim < 2:
                nn.init.normal_(parameter, std=0.2)
            else:
                nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
        self.eval()

    def texts(self, ids: list[int]) -> Tensor:
        """[sentence ; words] (97, D) of one sentence: its last four layers, pieces summed into words."""
        hidden = self.text_encoder.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        states = sum(hidden[-4:])[0]
        words: list[Tensor] = []
        for token, state in zip(ids, states, strict=True):
            if VOCABULARY[token].startswith("##"):
                words[-1] = words[-1] + state
            else:
                words.append(state)
        rows = [torch.stack(words).mean(0), *words]
        return torch.stack(rows + [torch.zeros_like(rows[0])] * (POSITIONS - len(rows)))

    @torch.no_grad()
    def scores(self, pixels: Tensor, sentences: Iterable[list[int]]) -> tuple[Tensor, Tensor]:
        """(B, N) scores, and (B, N, L) attention of i2t without the global token, one pair after another."""
        texts = [self.texts(ids) for ids in sentences]
        scores, maps = [], []
        for image in self.img_encoder.model(pixels):
            for text in texts:
                i2t, attention = self.fusion_module(text[:1], image)
                t2i, _ = self.fusion_module(image[:1], text)
                scores.append((i2t + t2i) / 2)
                maps.append(attention[0, 1:])
        shape = (len(pixels), len(texts))
        return torch.stack(scores).reshape(shape), torch.stack(maps).reshape(*shape, -1)


HYPER_PARAMETERS = {
    "model": {"vision": {"num_heads": 4}, "text": {"num_attention_heads": 2}, "fusion": {"nhead": 2}},
    "lr": 5e-5,
}


def lightning(reference: nn.Module, **changes: Any) -> dict[str, Any]:
    """What Lightning saves."""
    state = OrderedDict((f"CARZero.{key}", value) for key, value in reference.state_dict().items())
    state["CARZero.text_encoder.model.embeddings.position_ids"] = torch.arange(POSITIONS + 15)[None]
    return {
        "epoch": 14,
        "global_step": 1234,
        "pytorch-lightning_version": "1.4.9",
        "state_dict": state,
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 5e-5}]}],
        "lr_schedulers": [{"best": torch.tensor(0.5), "mode_worse": float("inf"), "patience": 5}],
        "hparams_name": "hparams",
        "hyper_parameters": HYPER_PARAMETERS,
        **changes,
    }


def write(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT tokenizer's folder as old ones on the hub are: its vocabulary and a configuration."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def file(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("released") / "CARZero_best_model.ckpt", lightning(reference))


@pytest.fixture(scope="module")
def folder(file: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, converted by the command."""
    output = tmp_path_factory.mktemp("converted") / "carzero"
    said = call("convert", file, output, "--text", text).output
    assert f"{output}: written" in said
    return output


@pytest.fixture(scope="module")
def model(folder: Path) -> RadZero:
    return load(folder, "cpu")


def ids(model: RadZero, sentences: Iterable[str] = SENTENCES) -> list[list[int]]:
    return [model.processor.tokenizer(sentence)["input_ids"] for sentence in sentences]


def make_film(height: int = 61, width: int = 80, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 120, (height, width))
    return (noise + np.linspace(0, 130, width)[None, :]).astype(np.uint8)


# -- the numbers -----------------------------------------------------------------------------------------------


def assert_same(model: RadZero, reference: Reference) -> None:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    scores, maps = reference.scores(pixels, ids(model))
    batch = model.processor.sentences(SENTENCES)
    with torch.no_grad():
        output = model.model(pixels, **batch)
    assert scores.std() > 0.05  # or the comparison would say little
    torch.testing.assert_close(output.logits, scores, atol=TOLERANCE, rtol=1e-4)
    torch.testing.assert_close(output.similarity, maps * 17, atol=TOLERANCE, rtol=1e-4)


def test_the_converted_model_gives_the_same_scores(model: RadZero, reference: Reference) -> None:
    assert "##megaly" in model.processor.tokenizer.tokenize(SENTENCES[0])
    assert len(ids(model)[2]) > 12
    assert_same(model, reference)


def test_films_give_the_same_scores(model: RadZero, reference: Reference) -> None:
    film = make_film()
    [reading] = model.predict(film, SENTENCES)
    pixels, _ = model.processor.films([read_radiograph(film)])
    scores, maps = reference.scores(pixels, ids(model))
    np.testing.assert_allclose(reading.logits, scores[0], atol=TOLERANCE, rtol=1e-4)
    np.testing.assert_allclose(reading.similarity.reshape(len(SENTENCES), -1), maps[0] * 17, atol=1e-4)
    assert reading.maps.shape == (len(SENTENCES), *film.shape)
    [alone] = model.predict(film, SENTENCES[1])
    np.testing.assert_allclose(alone.logits, scores[0, 1:2], atol=TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"widths": (), "head": "classifier"}, id="one linear layer"),
        pytest.param({"widths": (8,), "head": "classifier", "seed": 1}, id="another name"),
        pytest.param({"qkv_bias": False, "seed": 2}, id="no bias of queries, keys and values"),
    ],
)
def test_variants_give_the_same_scores(options: dict, text: Path, tmp_path: Path) -> None:
    reference = Reference(**options)
    model, processor = read_lightning(write(tmp_path / "a.ckpt", lightning(reference)), text)
    assert model.config.simr == ("mlp" if options.get("widths", (1,)) else "linear")
    assert_same(RadZero(model, processor, name="variant"), reference)


def test_heads_that_hyper_parameters_do_not_name(text: Path, tmp_path: Path) -> None:
    reference = Reference(width=64, vision_heads=1, fusion_heads=FUSION_HEADS)
    content = lightning(reference)
    del content["hyper_parameters"]
    model, processor = read_lightning(write(tmp_path / "a.ckpt", content), text)
    assert_same(RadZero(model, processor, name="no hyper-parameters"), reference)


def test_half_precision_becomes_float32(text: Path, tmp_path: Path) -> None:
    reference = Reference(seed=4).half().float()
    content = lightning(reference)
    content["state_dict"] = {k: v.half() if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    model, processor = read_lightning(write(tmp_path / "a.ckpt", content), text)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert_same(RadZero(model, processor, name="half"), reference)


def test_files_of_before_zip_archives(reference: Reference, text: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ckpt", lightning(reference), _use_new_zipfile_serialization=False)
    model, processor = read_lightning(path, text)
    assert_same(RadZero(model, processor, name="legacy"), reference)


def test_the_converted_folder_says_what_it_is(folder: Path) -> None:
    config = open_checkpoint(folder).config
    assert isinstance(config, CarZeroConfig)
    assert config.card == {
        "data": "as its publisher states",
        "licence": "as its publisher states",
        "converted_from": "CARZero (PyTorch Lightning)",
    }
    assert (config.image_size, config.vision_config.patch_size, config.vision_config.layer_norm_eps) == (32, 8, 1e-6)
    assert (config.fusion_layers, config.fusion_heads, config.fusion_mlp) == (3, 2, 48)
    assert (config.simr, config.simr_widths) == ("mlp", [24, 12])
    assert describe(folder)["licence"] == "as its publisher states"
    written = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= written
    assert not {path for path in written if path.endswith((".bin", ".ckpt", ".pt", ".py"))}


# -- OmegaConf's and Lightning's classes -----------------------------------------------------------------------


@contextmanager
def fake_packages(*names: str) -> Iterator[Callable[[str], type]]:
    """Modules of these names that are there only within, and a way to make classes in them."""

    def make(path: str, *bases: type) -> type:
        module, name = path.rsplit(".", 1)
        made = type(name, bases, {"__module__": module})
        setattr(sys.modules[module], name, made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, ModuleType(name))
        yield make
    assert not set(names) & set(sys.modules)


def omega(make: Callable[..., type], content: Any) -> Any:
    """A configuration as OmegaConf 2 pickles it: containers, nodes, metadata, parents."""
    kinds = {
        name.rsplit(".", 1)[1]: make(f"omegaconf.{name}")
        for name in (
            *("dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode"),
            *("base.ContainerMetadata", "base.Metadata"),
        )
    }

    def wrap(value: Any, key: Any, parent: Any) -> Any:
        kind = {dict: "DictConfig", list: "ListConfig"}.get(type(value), "AnyNode")
        node, metadata = kinds[kind](), kinds["Metadata" if kind == "AnyNode" else "ContainerMetadata"]()
        metadata.__dict__ |= {"ref_type": Any, "object_type": None, "optional": True, "key": key, "flags": {}}
        node.__dict__ |= {"_metadata": metadata, "_parent": parent}
        if kind == "AnyNode":
            node._val = value
        else:
            metadata.__dict__ |= {
                "object_type": type(value),
                "key_type": int,
                "element_type": Any,
                "resolver_cache": defaultdict(dict),
            }
            items = value.items() if kind == "DictConfig" else enumerate(value)
            wrapped = [(k, wrap(v, k, node)) for k, v in items]
            node._content = dict(wrapped) if kind == "DictConfig" else [v for _, v in wrapped]
        return node

    return wrap(content, None, None)


OMEGACONF = ("omegaconf", "omegaconf.base", "omegaconf.dictconfig", "omegaconf.listconfig", "omegaconf.nodes")
PLAIN = {"norm": [0.5, None, {"deep": True}], "path": "/data"}


def test_omegaconf_is_read_without_omegaconf(reference: Reference, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with fake_packages(*OMEGACONF) as make:
        parameters = omega(make, HYPER_PARAMETERS | PLAIN)
        write(path, lightning(reference, hyper_parameters=parameters, hparams_type=type(parameters)))
    model, processor = read_lightning(path, text)
    assert (model.config.vision_config.num_attention_heads, model.config.fusion_heads) == (4, 2)
    assert_same(RadZero(model, processor, name="omegaconf"), reference)
    assert not {name for name in sys.modules if name.startswith(("omegaconf", "pytorch_lightning"))}


def test_lightnings_classes_are_read_without_lightning(reference: Reference, text: Path, tmp_path: Path) -> None:
    path, names = tmp_path / "a.ckpt", ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
    lightning_modules = [f"pytorch_lightning.{name}" for name in ("callbacks", "utilities", "utilities.parsing")]
    lightning_modules += [f"pytorch_lightning.callbacks.{name.split('.')[0]}" for name in names]
    with fake_packages("pytorch_lightning", *lightning_modules) as make:
        callbacks = {make(f"pytorch_lightning.callbacks.{name}"): {"best": np.float64(0.5)} for name in names}
        callbacks[next(iter(callbacks))] |= {"dirpath": Path("/runs"), "best_model_score": torch.tensor(0.5)}
        parameters = make("pytorch_lightning.utilities.parsing.AttributeDict", dict)()
        parameters.update(HYPER_PARAMETERS, folder=Path("/runs"), counts=defaultdict(list, {"a": [1]}))
        write(path, lightning(reference, callbacks=callbacks, hyper_parameters=parameters))
    model, _ = read_lightning(path, text)
    assert (model.config.vision_config.num_attention_heads, model.config.fusion_heads) == (4, 2)


def test_a_namespace_of_hyper_parameters(reference: Reference, text: Path, tmp_path: Path) -> None:
    content = lightning(reference, hyper_parameters=Namespace(**HYPER_PARAMETERS))
    model, _ = read_lightning(write(tmp_path / "a.ckpt", content), text)
    assert model.config.vision_config.num_attention_heads == 4


@pytest.mark.parametrize("heads", [0, 5, -2, True, "4", [4], 2.0])
def test_heads_that_cannot_be(heads: Any, reference: Reference, text: Path, tmp_path: Path) -> None:
    content = lightning(reference, hyper_parameters={"model": {"vision": {"num_heads": heads}}})
    with pytest.raises(CheckpointError, match=r"vision of size 32 with .*heads"):
        read_lightning(write(tmp_path / "a.ckpt", content), text)


def test_heads_have_to_be_known(reference: Reference, text: Path, tmp_path: Path) -> None:
    content = lightning(reference, hyper_parameters={})
    with pytest.raises(CheckpointError, match=r"vision of size 32 with 0 heads.*model\.vision\.num_heads"):
        read_lightning(write(tmp_path / "a.ckpt", content), text)


# -- nothing is executed ---------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


class Trigger:
    """Setting its state writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __setstate__(self, state: dict[str, Any]) -> None:
        make_marker(state["marker"])


def make_marker(path: str) -> None:
    Path(path).touch()


BOMBS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "os.system": (lambda marker: Bomb(os.system, f"touch '{marker}'"), r"(posix|nt)\.system"),
    "eval": (lambda marker: Bomb(eval, f"open({str(marker)!r}, 'w').close()"), r"builtins\.eval"),
    "exec": (lambda marker: Bomb(exec, f"open({str(marker)!r}, 'w').close()"), r"builtins\.exec"),
    "subprocess": (
        lambda marker: Bomb(subprocess.check_call, ["touch", str(marker)]),
        r"(subprocess|commands)\.check_call",
    ),
    "a function": (lambda marker: Bomb(make_marker, str(marker)), r"test_carzero_checkpoint\.make_marker"),
    "a class": (Trigger, r"test_carzero_checkpoint\.Trigger"),
}


def hide(bomb: Any, where: str, content: dict[str, Any]) -> Any:
    """The content with a bomb in some place."""
    if where == "alone":
        return bomb
    if where == "hyper_parameters":
        content["hyper_parameters"] = {"model": {"vision": {"num_heads": 4, "norm": [0.5, {"deep": bomb}]}}}
    elif where == "state_dict":
        content["state_dict"]["CARZero.img_encoder.model.cls_token"] = bomb
    elif where == "key":
        content["callbacks"] = {bomb: {}}
    else:
        content["optimizer_states"][0]["param_groups"].append({"params": bomb})
    return content


@pytest.mark.parametrize("where", ["alone", "hyper_parameters", "state_dict", "key", "optimizer"])
@pytest.mark.parametrize("kind", BOMBS)
def test_what_is_not_weights_is_refused_unrun(
    kind: str, where: str, reference: Reference, text: Path, tmp_path: Path
) -> None:
    make, wanted = BOMBS[kind]
    path, marker, output = tmp_path / "bad.ckpt", tmp_path / "executed", tmp_path / "output"
    write(path, hide(make(marker), where, lightning(reference)))
    with pytest.raises(CheckpointError, match=rf"bad\.ckpt: wants {wanted}, which weights do not need"):
        convert_lightning(path, output, text)
    assert not marker.exists()
    assert not output.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_the_bombs_above_work(kind: str, tmp_path: Path) -> None:
    """Or their absence would say little."""
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(BOMBS[kind][0](marker), protocol=2))
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_bare_pickles_are_refused_unrun(protocol: int, text: Path, tmp_path: Path) -> None:
    path, marker = tmp_path / "bad.ckpt", tmp_path / "executed"
    path.write_bytes(pickle.dumps(BOMBS["os.system"][0](marker), protocol=protocol))
    with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
        read_lightning(path, text)
    assert not marker.exists()


def test_a_bomb_within_an_omegaconf_node(reference: Reference, text: Path, tmp_path: Path) -> None:
    path, marker = tmp_path / "bad.ckpt", tmp_path / "executed"
    with fake_packages(*OMEGACONF) as make:
        parameters = omega(make, {"model": {"vision": Bomb(os.system, f"touch '{marker}'")}})
        write(path, lightning(reference, hyper_parameters=parameters))
    with pytest.raises(CheckpointError, match=r"wants (posix|nt)\.system"):
        read_lightning(path, text)
    assert not marker.exists()


def test_what_others_allow_is_not_allowed_here(reference: Reference, text: Path, tmp_path: Path) -> None:
    path, marker = tmp_path / "bad.ckpt", tmp_path / "executed"
    write(path, hide(Bomb(make_marker, str(marker)), "hyper_parameters", lightning(reference)))
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([make_marker]):
        with pytest.raises(CheckpointError, match=r"wants .*make_marker"):
            read_lightning(path, text)
        assert not marker.exists()
        assert set(torch.serialization.get_safe_globals()) == before | {make_marker}


def test_stand_ins_run_nothing(reference: Reference, text: Path, tmp_path: Path) -> None:
    """``pathlib.Path``, ``numpy`` scalars and the like are named by files, but not made."""
    content = lightning(reference, callbacks={"scale": np.float32(0.5), "bad": Bomb(dict, [("a", 1)])})
    content["lr_schedulers"] = [Bomb(int, "not a number"), Bomb(np.dtype, "no such type")]
    assert read_lightning(write(tmp_path / "a.ckpt", content), text)[0].config.fusion_heads == 2


# -- strictness ------------------------------------------------------------------------------------------------


def changed(reference: Reference, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    content = lightning(reference)
    change(content["state_dict"])
    return write(tmp_path / "changed.ckpt", content)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("img_encoder.model.cls_token", r"vision_model\.embeddings\.cls_token"),
        ("img_encoder.model.pos_embed", r"vision_model\.embeddings\.position_embeddings"),
        ("img_encoder.model.patch_embed.proj.weight", r"patch_embeddings\.projection\.weight"),
        ("img_encoder.model.blocks.1.attn.qkv.weight", r"vision_model\.layers\.1\.attention\.q_proj\.weight"),
        ("img_encoder.model.blocks.0.mlp.fc1.weight", r"vision_model\.layers\.0\.mlp\.fc1\.weight"),
        ("img_encoder.model.norm.bias", r"vision_model\.layernorm\.bias"),
        ("text_encoder.model.embeddings.word_embeddings.weight", r"word_embeddings\.weight"),
        ("text_encoder.model.encoder.layer.3.output.dense.bias", r"layer\.3\.output\.dense\.bias"),
        ("fusion_module.decoder_norm.weight", r"decoder_norm\.weight"),
        ("fusion_module.decoder.norm.weight", r"final_norm\.weight"),
        ("fusion_module.decoder.layers.2.multihead_attn.in_proj_weight", r"layers\.2\.multihead_attn\.in_proj_weight"),
        ("fusion_module.decoder.layers.0.linear1.weight", r"layers\.0\.linear1\.weight"),
        ("fusion_module.mlp_head.3.weight", r"head\.3\.weight"),
        ("fusion_module.mlp_head.6.bias", r"head\.6\.bias"),
    ],
)
def test_missing_and_misshapen_tensors_are_named(
    name: str, shown: str, reference: Reference, text: Path, tmp_path: Path
) -> None:
    key = f"CARZero.{name}"
    with pytest.raises(CheckpointError, match=rf"changed\.ckpt: (?s:.)*missing: .*{shown}"):
        read_lightning(changed(reference, tmp_path, lambda tensors: tensors.pop(key)), text)
    for shape in ((*reference.get_parameter(name).shape, 2), ()):

        def misshape(tensors: dict[str, Tensor], shape: tuple[int, ...] = shape) -> None:
            tensors[key] = torch.zeros(shape)

        part = shown if "qkv" not in name else r"(vision_model\.layers\.1\.attention\.q_proj|attn\.qkv)\.weight"
        with pytest.raises(CheckpointError, match=rf"changed\.ckpt: (?s:.)*{part}: shape \("):
            read_lightning(changed(reference, tmp_path, misshape), text)


@pytest.mark.parametrize(
    "name",
    [
        "CARZero.img_encoder.model.head.weight",
        "CARZero.img_encoder.model.mask_token",
        "CARZero.img_encoder.model.blocks.0.ls1.gamma",
        "CARZero.img_encoder.global_embedder.weight",
        "CARZero.text_encoder.emb_global",
        "CARZero.text_encoder.model.pooler.other.weight",
        "CARZero.text_encoder.model.encoder.layer.0.extra",
        "CARZero.fusion_module.decoder.layers.0.norm4.weight",
        "CARZero.fusion_module.decoder.layers.0.self_attn.bias_k",
        "CARZero.fusion_module.decoder.0.weight",
        "CARZero.fusion_module.other_head.weight",
        "CARZero.log_temperature",
        "CARZero.word_start",
        "loss.weight",
    ],
)
def test_unexpected_tensors_are_named(name: str, reference: Reference, text: Path, tmp_path: Path) -> None:
    shown = name.removeprefix("CARZero.").removeprefix("text_encoder.model.").rsplit(".", 1)[0]
    path = changed(reference, tmp_path, lambda tensors: tensors.update({name: torch.zeros(3)}))
    shown = "mlp_head, other_head" if "other_head" in name else shown
    with pytest.raises(CheckpointError, match=rf"changed\.ckpt: (?s:.)*{shown}"):
        read_lightning(path, text)


def test_an_encoder_of_another_naming_is_named(reference: Reference, text: Path, tmp_path: Path) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if "img_encoder" in key]:
            clip = key.replace("blocks", "transformer.resblocks").replace("norm", "ln_").replace("cls_token", "class")
            tensors[clip.replace("patch_embed.proj", "conv1").replace("pos_embed", "positions")] = tensors.pop(key)

    with pytest.raises(CheckpointError) as caught:
        read_lightning(changed(reference, tmp_path, rename), text)
    lines = str(caught.value).splitlines()
    assert "tensors are not understood; the image encoder must be a ViT" in lines[0]
    assert "  CARZero.img_encoder.model.class" in lines
    assert len(lines) == 10
    assert lines[-1].startswith("  and ")


def test_the_head_has_to_be_there_and_give_one_value(reference: Reference, text: Path, tmp_path: Path) -> None:
    def without(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if "mlp_head" in key]:
            del tensors[key]

    with pytest.raises(CheckpointError, match=r"head that makes logits.*it is missing"):
        read_lightning(changed(reference, tmp_path, without), text)

    def two(tensors: dict[str, Tensor]) -> None:
        tensors["CARZero.fusion_module.mlp_head.6.weight"] = torch.zeros(2, 12)

    with pytest.raises(CheckpointError, match="gives 2 values, not 1"):
        read_lightning(changed(reference, tmp_path, two), text)


@pytest.mark.parametrize(
    "value",
    [torch.zeros(1, 1, 32).to_sparse(), torch.zeros(1).expand(1, 1, 32), 3.0, None, torch.zeros(1, 1, 32).long()],
    ids=["sparse", "repeated", "number", "none", "integers"],
)
def test_what_is_no_plain_tensor_is_named(value: Any, reference: Reference, text: Path, tmp_path: Path) -> None:
    path = changed(reference, tmp_path, lambda t: t.update({"CARZero.img_encoder.model.cls_token": value}))
    with pytest.raises(CheckpointError, match="cls_token"):
        read_lightning(path, text)


def test_parameters_and_other_layouts_are_plain(text: Path, tmp_path: Path) -> None:
    reference = Reference(seed=5)
    content = lightning(reference)
    key = "CARZero.img_encoder.model.patch_embed.proj.weight"
    content["state_dict"][key] = content["state_dict"][key].to(memory_format=torch.channels_last)
    content["state_dict"]["CARZero.img_encoder.model.cls_token"] = reference.img_encoder.model.cls_token
    model, processor = read_lightning(write(tmp_path / "a.ckpt", content), text)
    assert_same(RadZero(model, processor, name="layouts"), reference)


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_are_refused(
    share: float, zipped: bool, reference: Reference, text: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "cut.ckpt", lightning(reference), _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: ceil(share * len(whole)) - 1 if share else 0])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt: is damaged, or no checkpoint"):
        read_lightning(path, text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds no state_dict"),
        ({"epoch": 3}, "holds no state_dict"),
        ({"state_dict": [torch.zeros(3)]}, "holds no state_dict"),
        ({"state_dict": {}}, "has no tensors named CARZero"),
        ({"state_dict": {"model.weight": torch.zeros(3)}}, r"has no tensors named CARZero\.(?s:.)*model\.weight"),
        ({"state_dict": {3: torch.zeros(3)}}, "has no tensors named CARZero"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, text: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"a\.ckpt: {message}"):
        read_lightning(write(tmp_path / "a.ckpt", content), text)


@pytest.mark.parametrize("content", [b"text", b"PK\x03\x04", b"\x80\x02.", bytes(1000)])
def test_files_of_other_kinds_are_refused(content: bytes, text: Path, tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.ckpt: is damaged, or no checkpoint"):
        convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "output", text)
    assert not (tmp_path / "output").exists()


def test_folders_and_nothing_are_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder; a Lightning checkpoint is a file"):
        convert_lightning(tmp_path, tmp_path / "output", text)
    with pytest.raises(CheckpointError, match="no such file"):
        convert_lightning(tmp_path / "none.ckpt", tmp_path / "output", text)


def test_an_output_that_holds_a_checkpoint_is_kept(file: Path, folder: Path, text: Path) -> None:
    before = (folder / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match="holds a checkpoint already"):
        convert_lightning(file, folder, text)
    assert "holds a checkpoint already" in " ".join(call("convert", file, folder, code=2).output.split())
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_the_tokenizer_has_to_be_the_text_encoders(file: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"emilyalsentzer/Bio_ClinicalBERT: its tokenizer cannot be read.*--text"):
        convert_lightning(file, tmp_path / "output")  # tests are offline
    with pytest.raises(CheckpointError, match=r"nowhere: its tokenizer cannot be read"):
        convert_lightning(file, tmp_path / "output", tmp_path / "nowhere")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text((text / "config.json").read_text())
    with pytest.raises(CheckpointError, match=rf"other: its tokenizer .*{len(VOCABULARY)}.*--text"):
        convert_lightning(file, tmp_path / "output", other)
    (other / "vocab.txt").write_text("\n".join((*VOCABULARY, "more")) + "\n")
    with pytest.raises(CheckpointError, match=rf"has {len(VOCABULARY) + 1} tokens, the text encoder {len(VOCABULARY)}"):
        convert_lightning(file, tmp_path / "output", other)
    assert not (tmp_path / "output").exists()


def test_a_tokenizer_is_for_files_alone(folder: Path, text: Path, tmp_path: Path) -> None:
    output = call("convert", folder, tmp_path / "output", "--text", text, code=2).output
    assert "has its own tokenizer" in " ".join(output.split())


def test_a_converted_folder_converts_again(folder: Path, model: RadZero, tmp_path: Path) -> None:
    again = load(convert_checkpoint(folder, tmp_path / "again"), "cpu")
    film = make_film()
    np.testing.assert_array_equal(
        again.predict(film, SENTENCES)[0].logits, load(folder, "cpu").predict(film, SENTENCES)[0].logits
    )


# -- preprocessing ---------------------------------------------------------------------------------------------


def grey_levels(processor: CarZeroImageProcessor, film: np.ndarray) -> np.ndarray:
    """(h, w) grey levels 0..255 of the input."""
    values = processor(film)["pixel_values"]
    assert values.dtype == torch.float32
    assert torch.equal(values[0, 0], values[0, 1])
    assert torch.equal(values[0, 0], values[0, 2])
    return (values[0, 0].numpy().astype(np.float64) * 0.2449 + 0.4978) * 255


def placed(small: np.ndarray, edge: int, crop: int) -> np.ndarray:
    """Zeros around, then the centre: the published order."""
    square = np.pad(small, [(floor(free / 2), ceil(free / 2)) for free in np.subtract(edge, small.shape)])
    start = (edge - crop) // 2
    return square[start : start + crop, start : start + crop]


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(512, 512, 2), (768, 600, 3), (600, 768, 3), (1024, 804, 4), (804, 1024, 4), (2560, 2110, 10), (256, 201, 1)],
)
def test_whole_factors_equal_means(height: int, width: int, factor: int) -> None:
    film = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
    assert height % factor == width % factor == 0
    blocks = film.reshape(height // factor, factor, width // factor, factor).astype(np.float64)
    means = np.rint(blocks.mean(axis=(1, 3)))
    found = grey_levels(CarZeroImageProcessor(), film)
    expected = placed(means, 256, 224)
    ties = 0 if factor % 2 else 1  # .5 is rounded to even here, but float32 may not see that it is .5
    np.testing.assert_allclose(found, expected, atol=1e-3 + (ties if factor == 10 else 0))


def slow_area(film: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every new pixel's exact mean, in fractions."""

    def shares(before: int, after: int, k: int) -> dict[int, Fraction]:
        low, high = Fraction(k * before, after), Fraction((k + 1) * before, after)
        overlaps = {i: min(high, Fraction(i + 1)) - max(low, Fraction(i)) for i in range(before)}
        return {i: part / (high - low) for i, part in overlaps.items() if part > 0}

    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            rows, columns = shares(film.shape[0], height, y), shares(film.shape[1], width, x)
            out[y, x] = float(sum(int(film[i, j]) * a * b for i, a in rows.items() for j, b in columns.items()))
    return out


@pytest.mark.parametrize("shape", [(17, 11), (11, 17), (13, 12), (12, 12), (40, 23), (9, 7), (3, 5), (2, 2), (1, 1)])
def test_other_factors_equal_exact_means(shape: tuple[int, int]) -> None:
    """Shrinking and enlarging, non-square both ways, tiny."""
    film = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    processor = CarZeroImageProcessor({"longest_edge": 12}, {"height": 9, "width": 9})
    small = (12 * shape[0] // max(shape), 12 * shape[1] // max(shape))
    exact = placed(slow_area(film, *small), 12, 9)
    found = grey_levels(processor, film)
    assert np.abs(found - exact).max() <= 0.5 + 1e-3
    np.testing.assert_allclose(found, np.rint(found), atol=1e-3)


def test_the_area_mean_is_opencvs() -> None:
    """What ``cv2.resize(film, size, interpolation=cv2.INTER_AREA)`` of OpenCV 5.0.0 gives."""
    film = (np.arange(35).reshape(7, 5) ** 2 * 37 % 251).astype(np.uint8)
    shrunk = [
        [28, 80, 105, 106],
        [164, 92, 108, 215],
        [139, 158, 167, 163],
        [141, 94, 179, 167],
        [98, 113, 147, 226],
        [152, 188, 169, 125],
    ]
    enlarged = [
        [0, 0, 19, 37, 37],
        [0, 0, 19, 37, 37],
        [57, 57, 54, 50, 50],
        [172, 172, 125, 77, 77],
        [172, 172, 125, 77, 77],
        [181, 181, 173, 165, 165],
        [186, 186, 198, 210, 210],
        [186, 186, 198, 210, 210],
    ]
    for source, expected, edge in ((film, shrunk, 6), (film[:3, :2], enlarged, 8)):
        processor = CarZeroImageProcessor({"longest_edge": edge}, {"height": edge, "width": edge})
        found = grey_levels(processor, np.ascontiguousarray(source))
        assert np.abs(found - placed(np.array(expected), edge, edge)).max() <= 1 + 1e-3  # ties, fixed point
        assert np.abs(found - placed(np.array(expected), edge, edge)).mean() < 0.2


@pytest.fixture(scope="module")
def films_to_inputs(model: RadZero) -> RadZeroProcessor:
    """A processor with the released sizes."""
    return RadZeroProcessor(CarZeroImageProcessor(), model.processor.tokenizer)


@pytest.mark.parametrize(
    ("height", "width"),
    [(300, 200), (200, 300), (256, 256), (255, 256), (256, 253), (64, 64), (40, 33), (900, 350), (350, 900), (97, 101)],
)
def test_a_bright_square_is_found_again(height: int, width: int, films_to_inputs: RadZeroProcessor) -> None:
    for share_y, share_x in ((0.5, 0.5), (0.25, 0.7), (0.8, 0.3)):
        side = max(5, min(height, width) // 8)
        top, left = int(share_y * height) - side // 2, int(share_x * width) - side // 2
        film = np.full((height, width), 30, dtype=np.uint8)
        film[top : top + side, left : left + side] = 250
        pixels, [geometry] = films_to_inputs.films([read_radiograph(film)])
        assert pixels.shape == (1, 3, 224, 224)
        assert geometry.original == (height, width)
        assert max(geometry.resized) == 256
        bright = (pixels[0, 0].numpy() * 0.2449 + 0.4978) * 255 > 140
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        box = geometry.to_original([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        pixel = max(height, width) / 256  # of the input, on the film
        np.testing.assert_allclose(box, [left, top, left + side, top + side], atol=0.51 * pixel + 0.5 * (pixel < 1))
        values = pixels[0, 0].numpy()[:224, :224].reshape(28, 8, 28, 8).mean(axis=(1, 3))
        x, y = MapGeometry(geometry, (28, 28), (8, 8)).peak(values)
        assert left - 4 * pixel <= x <= left + side + 4 * pixel
        assert top - 4 * pixel <= y <= top + side + 4 * pixel


@pytest.mark.parametrize(
    ("shape", "resized", "top_left"),
    [
        ((3000, 2500), (256, 213), (-16, 5)),  # 43 pixels too few: 21 before, 22 after; 16 cut
        ((2500, 3000), (213, 256), (5, -16)),
        ((512, 512), (256, 256), (-16, -16)),
        ((100, 50), (256, 128), (-16, 48)),
        ((32, 10000), (1, 256), (111, -16)),
    ],
)
def test_geometry(
    shape: tuple[int, int], resized: tuple[int, int], top_left: tuple[int, int], films_to_inputs: RadZeroProcessor
) -> None:
    geometry = films_to_inputs.geometry(shape)
    assert (geometry.resized, geometry.placed, geometry.input) == (resized, top_left, (224, 224))
    white = grey_levels(films_to_inputs.image_processor, np.full(shape, 255, dtype=np.uint8))
    for axis in (0, 1):
        at = np.flatnonzero((white > 128).any(axis=1 - axis))
        assert (at[0], len(at)) == (max(0, top_left[axis]), min(224, resized[axis]))
        assert at[-1] - at[0] == len(at) - 1
    assert set(np.rint(white).ravel()) <= {0.0, 255.0}  # black is black before the normalisation


def test_what_the_crop_hides_is_not_covered(model: RadZero) -> None:
    [reading] = model.predict(make_film(80, 80), SENTENCES[0])
    x0, y0, x1, y1 = reading.geometry.covered
    assert min(x0, y0) > 0
    assert max(x1, y1) < 80
    assert reading.maps[0, 0, 0] == 0 < reading.maps[0, 40, 40]


def test_colours_become_grey_and_many_images_a_batch() -> None:
    processor = CarZeroImageProcessor()
    film = make_film(70, 60)
    many = processor([film, np.repeat(film[..., None], 3, axis=2), make_film(50, 64)], return_tensors="pt")
    assert many["pixel_values"].shape == (3, 3, 224, 224)
    assert torch.equal(many["pixel_values"][0], many["pixel_values"][1])
    assert torch.equal(many["pixel_values"][0], processor(film)["pixel_values"][0])
    with pytest.raises(ValueError, match="8-bit"):
        processor(film.astype(np.uint16))
    with pytest.raises(ValueError, match="PyTorch"):
        processor(film, return_tensors="np")


def test_the_image_processor_is_saved_and_loaded(folder: Path, model: RadZero, tmp_path: Path) -> None:
    processor = CarZeroImageProcessor({"longest_edge": 40}, {"height": 32, "width": 24}, (0.1, 0.2, 0.3), (0.4,) * 3)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved == processor.to_dict() == json.loads(processor.to_json_string())
    assert saved["image_processor_type"] == "CarZeroImageProcessor"
    for loaded in (
        CarZeroImageProcessor.from_pretrained(tmp_path),
        AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True),
    ):
        assert isinstance(loaded, CarZeroImageProcessor)
        assert loaded.to_dict() == saved
        assert torch.equal(loaded(make_film())["pixel_values"], processor(make_film())["pixel_values"])
    for whole in (load_processor(folder), AutoProcessor.from_pretrained(folder), model.processor):
        assert isinstance(whole.image_processor, CarZeroImageProcessor)
        assert whole.image_processor.size == {"longest_edge": 37}
        assert whole.image_processor.crop_size == {"height": 32, "width": 32}


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 256, "width": 256}},
        {"size": {"longest_edge": 200}},
        {"size": 256},
        {"crop_size": {"height": 224}},
        {"crop_size": {"height": 0, "width": 224}},
        {"image_std": [0.0, 0.0, 0.0]},
        {"image_mean": [0.5]},
        {"image_mean": "black"},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "preprocessor_config.json").unlink()
    content = CarZeroImageProcessor().to_dict() | settings
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        load_processor(tmp_path)
