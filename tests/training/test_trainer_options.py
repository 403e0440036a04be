"""What a run may do besides: adapters, means, compiling, weights in parts, cached tokens, pictures, cards."""

import gc
import json
from collections import namedtuple
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file

import forked
import radzero
from command_line import call
from radzero.phantom.writing import FilmFormat, write_phantoms
from radzero.training import token_cache as caching
from radzero.training.config import TrainConfig, load_config
from radzero.training.dry_run import dry_run
from radzero.training.gradient_cache import Towers
from radzero.training.lora import merged
from radzero.training.manifest import Manifest
from radzero.training.model_building import build_start
from radzero.training.preparation import phantoms as phantom_rows
from radzero.training.preparation import prepare
from radzero.training.sources import ManifestSource
from radzero.training.token_cache import CachedDataset, TokenCache, TokenCacheError
from radzero.training.trainer import Trainer, TrainingError
from radzero.training.vocabulary import phantom_words
from ranks import assert_no_gloo_thread_is_left

pytestmark = pytest.mark.slow

RECIPE = """
seed: 1
model: {start: none}
data: {manifest: ./m.jsonl, workers: 0}
loss: {ignore: stated}
loop: {epochs: 2, images_per_rank: 8, learning_rate: 1.0e-3, warmup_steps: 3, precision: fp32}
"""
RUN = (
    "import sys; from pathlib import Path\n"
    "from radzero.training.config import load_config\n"
    "from radzero.training.trainer import Trainer\n"
    "if __name__ == '__main__':\n"
    "    trainer = Trainer(load_config(Path(sys.argv[1]), sys.argv[3:]), Path(sys.argv[2]))\n"
    "    trainer.train()\n"
    "    trainer.close()\n"
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder / "films", count=30, seed=6, size=80, film_format=FilmFormat.PNG)
    prepare(phantom_rows(folder / "films", shares=(0.2, 0.0)), folder / "m.jsonl")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "run.py").write_text(RUN, encoding="utf-8")
    return folder / "recipe.yaml"


def config(recipe: Path, *overrides: str) -> TrainConfig:
    return load_config(recipe, list(overrides))


def choice(encoders: str, **settings: object) -> str:
    return encoders[:-1] + "".join(f", {key}: {value}" for key, value in settings.items()) + "}"


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [r.get("loss", r.get("validation_loss")) for r in records]


# -- adapters ------------------------------------------------------------------------------------------


def test_adapters_are_trained_and_merged(recipe: Path, tiny_encoders: str, tmp_path: Path):
    settings = config(recipe, choice(tiny_encoders, train_vision="lora", lora_rank=4))
    trainer = Trainer(settings, tmp_path / "run")
    vision = trainer.model.vision_model
    trained = {name for name, p in vision.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    base = {name: p.clone() for name, p in vision.named_parameters() if "lora_" not in name}
    trainer.train()
    for name, parameter in vision.named_parameters():
        assert "lora_" in name or torch.equal(parameter, base[name]), "the encoder itself stays"
    assert not any("lora_" in name for name in load_file(tmp_path / "run/model/model.safetensors"))
    saved = radzero.load(tmp_path / "run/model", device="cpu").model
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trainer.model.eval()
        whole = merged(trainer.model)
        assert whole is not trainer.model
        torch.testing.assert_close(saved.encode_images(pixels), trainer.model.encode_images(pixels), atol=1e-5, rtol=0)
        torch.testing.assert_close(saved.encode_images(pixels), whole.encode_images(pixels), atol=1e-6, rtol=0)
    again = Trainer(settings, tmp_path / "run")
    assert again.step == trainer.step, "adapters are part of the state"


def test_adapters_need_transformer_blocks(recipe: Path, tiny_checkpoint: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="lora is for transformer blocks"):
        Trainer(config(recipe, f"model={{start: {tiny_checkpoint}, train_vision: lora}}"), tmp_path / "run")


# -- means of weights ----------------------------------------------------------------------------------


def test_the_mean_of_the_weights_is_what_is_saved(recipe: Path, tiny_checkpoint: Path, tmp_path: Path):
    settings = config(recipe, f"model={{start: {tiny_checkpoint}}}", "loop.ema=0.5", "loop.save_every=1")
    trainer = Trainer(settings, tmp_path / "run")
    name = "layer_norm.weight"
    mean: list[torch.Tensor] = []

    def follow(record: dict[str, float]) -> None:
        weight = trainer.model.get_parameter(name).detach().clone()
        mean.append(weight if not mean else 0.5 * mean[-1] + 0.5 * weight)

    trainer.train(follow)
    torch.testing.assert_close(trainer.averaged.get_parameter(name).detach(), mean[-1])
    assert not torch.equal(trainer.model.get_parameter(name), mean[-1])
    assert any(torch.allclose(load_file(tmp_path / "run/model/model.safetensors")[name], m) for m in mean)
    again = Trainer(settings, tmp_path / "run")
    torch.testing.assert_close(again.averaged.get_parameter(name).detach(), mean[-1])


# -- compiling -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of dynamo's own
def test_a_compiled_run_is_the_same_run(
    recipe: Path, tiny_encoders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Traced and run by the backend that needs no C++ compiler; what inductor makes of the trace is PyTorch's."""
    original, compiled = torch.nn.Module.compile, []

    def compile_eagerly(module: torch.nn.Module) -> None:
        compiled.append(type(module).__name__)
        original(module, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    for wanted in ("false", "true"):
        Trainer(config(recipe, tiny_encoders, "loop.epochs=1", f"loop.compile={wanted}"), tmp_path / wanted).train()
    assert compiled == ["Dinov2Model", "Dinov2Encoder", "BertModel"]
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), abs=2e-4)
    plain, fast = (load_file(tmp_path / run / "model/model.safetensors") for run in ("false", "true"))
    assert plain.keys() == fast.keys()


# -- recomputed activations ----------------------------------------------------------------------------


def test_recomputed_activations_change_nothing(recipe: Path, tiny_encoders: str, tmp_path: Path):
    for again in ("false", "true"):
        Trainer(config(recipe, choice(tiny_encoders, recompute=again), "loop.epochs=1"), tmp_path / again).train()
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), abs=1e-5)


# -- parts of weights ----------------------------------------------------------------------------------


def two_processes(*arguments: str, folder: Path) -> None:
    """Two processes on the CPU.

    PyTorch's own code has aborted there (a corrupted heap) once in some 150 runs, where no one trains in earnest: a
    process that a signal ended is started again once, and its traceback is shown. Its caches hold the process group of
    weights in parts, whose threads outlive it; whether that is the cause is not known.
    """
    try:
        forked.run_world(arguments, 2, folder)
    except forked.CrashedError as error:
        print(error)
        forked.run_world(arguments, 2, folder)


@pytest.fixture(scope="module")
def single(recipe: Path, tiny_encoders: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    run = tmp_path_factory.mktemp("single") / "run"
    Trainer(config(recipe, tiny_encoders, *LONG, "loop.images_per_rank=6"), run).train()
    return run


LONG = ("loop.epochs=2", "loop.save_every=2")


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_weights_in_parts_train_the_same_model(
    recipe: Path, tiny_encoders: str, single: Path, micro_batches: int, tmp_path: Path
):
    """FSDP on two processes against one process, and going on from its state."""
    command = [
        *(str(recipe.parent / "run.py"), str(recipe), str(tmp_path / "many"), tiny_encoders, *LONG),
        *("loop.images_per_rank=3", "loop.sharding=fsdp", f"loop.micro_batches={micro_batches}"),
    ]
    two_processes(*command, folder=tmp_path)
    assert losses(tmp_path / "many") == pytest.approx(losses(single), abs=5e-4)
    one, many = (load_file(run / "model/model.safetensors") for run in (single, tmp_path / "many"))
    for name, tensor in one.items():
        torch.testing.assert_close(many[name], tensor, atol=3e-3, rtol=1e-2)
    if micro_batches == 2:  # as after a kill: the last lines and the model are gone, the state is of step 6
        before = losses(tmp_path / "many")
        state = torch.load(tmp_path / "many/state/last.pt", weights_only=True)
        assert all(not hasattr(t, "full_tensor") for t in state["model"].values())
        two_processes(*command, folder=tmp_path)
        assert losses(tmp_path / "many") == before


def test_weights_in_parts_are_trained_in_bfloat16_too(recipe: Path, tiny_encoders: str, single: Path, tmp_path: Path):
    two_processes(
        *(str(recipe.parent / "run.py"), str(recipe), str(tmp_path / "bf16"), tiny_encoders, "loop.epochs=1"),
        *("loop.images_per_rank=3", "loop.sharding=fsdp", "loop.precision=bf16"),
        folder=tmp_path,
    )
    exact, rounded = losses(single)[0], losses(tmp_path / "bf16")[0]
    assert rounded == pytest.approx(exact, rel=0.02)
    assert abs(rounded - exact) > 1e-4, "rounded at all, and not as sums over processes are"


def test_parts_need_several_processes(recipe: Path, tiny_encoders: str, tmp_path: Path):
    with pytest.raises(ValueError, match="fsdp needs several processes"):
        Trainer(config(recipe, tiny_encoders, "loop.sharding=fsdp"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"loop\.ema must be"):
        config(recipe, tiny_encoders, "loop.sharding=fsdp", "loop.ema=0.9")


# -- cached tokens -------------------------------------------------------------------------------------


def test_cached_tokens_train_the_same_model(recipe: Path, tiny_encoders: str, tmp_path: Path):
    frozen = choice(tiny_encoders, train_vision="frozen")
    Trainer(config(recipe, frozen), tmp_path / "plain").train()
    told: list[tuple[str, int, int]] = []
    settings = config(recipe, frozen, f"data.token_cache={tmp_path / 'tokens'}", "data.workers=1")
    Trainer(settings, tmp_path / "cached", on_progress=lambda *step: told.append(step)).train()
    assert [phase for phase, _, _ in told] == ["encoding images"] * 2, "train and validate"
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "plain"), abs=5e-3), "to bfloat16"
    told.clear()
    again = config(recipe, frozen, f"data.token_cache={tmp_path / 'tokens'}", "data.workers=0")
    Trainer(again, tmp_path / "again", on_progress=lambda *step: told.append(step)).train()
    assert told == [], "nothing is computed again"
    assert losses(tmp_path / "again") == losses(tmp_path / "cached")
    model = radzero.load(tmp_path / "cached/model", device="cpu")
    assert model.predict(np.zeros((60, 60), np.uint8) + np.arange(60, dtype=np.uint8), "There is mass")


@pytest.fixture
def cached(recipe: Path, tiny_encoders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cache of shards of four images, its films and its model."""
    monkeypatch.setattr(caching, "_SHARD", 4)
    settings = config(recipe, choice(tiny_encoders, train_vision="frozen"))
    source = ManifestSource(recipe.parent / "m.jsonl")
    model, processor = build_start(settings.model, source.words)
    return source.films(processor, settings.data, 0), model, tmp_path / "cache"


def test_tokens_are_those_of_the_encoder(cached):
    films, model, folder = cached
    cache = TokenCache(folder, films, model)
    assert cache.needed == len(films) * cache.shape[0] * cache.shape[1] * 2
    cache.fill(films, model, images_per_pass=3, precision="fp32")
    assert cache.needed == 0
    model.eval()
    for index in (0, 5, len(films) - 1):
        item = films[0, index]
        with torch.no_grad():
            expected = model.vision_model(item.pixel_values[None]).last_hidden_state[0]
        assert cache.read(index).dtype == torch.bfloat16
        torch.testing.assert_close(cache.read(index).float(), expected, atol=0.02, rtol=0.01)
        same = CachedDataset(films, cache)[0, index]
        assert (same.sentences, same.film) == (item.sentences, index)


def test_a_cache_goes_on_from_whole_shards(cached, monkeypatch: pytest.MonkeyPatch):
    films, model, folder = cached
    cache, encode, calls = TokenCache(folder, films, model), caching._encode, []

    def dies(*arguments):
        calls.append(arguments[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(caching, "_encode", dies)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(films, model)
    (folder / "tokens-000002.partial").write_bytes(b"half")
    monkeypatch.setattr(caching, "_encode", encode)
    told: list[tuple[int, int]] = []
    TokenCache(folder, films, model).fill(films, model, progress=lambda *step: told.append(step))
    assert told[-1] == (len(films) - 8, len(films) - 8)


def test_ranks_share_the_work(cached, monkeypatch: pytest.MonkeyPatch):
    films, model, folder = cached
    first = TokenCache(folder, films, model)._missing()
    for rank in range(3):
        cache = TokenCache(folder, films, model)
        assert {*first[rank::3]} <= {*cache._missing()}
        monkeypatch.setattr(cache, "_missing", lambda: first)  # ranks begin together
        cache.fill(films, model, rank=rank, world=3)
    assert TokenCache(folder, films, model).needed == 0


def test_a_damaged_shard_is_named(cached):
    films, model, folder = cached
    TokenCache(folder, films, model).fill(films, model)
    path = folder / "tokens-000001.bin"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(bytes(content))
    cache = TokenCache(folder, films, model)
    assert isinstance(cache.read(5), torch.Tensor)
    with pytest.raises(
        TokenCacheError, match=r"tokens-000001\.bin: is damaged \(image 4\)\. Delete it and tokens-000001\.json"
    ):
        cache.read(4)


def test_tokens_of_another_encoder_are_refused(cached, recipe: Path):
    films, model, folder = cached
    TokenCache(folder, films, model).fill(films, model)
    with torch.no_grad():
        model.vision_model.layernorm.bias += 1
    with pytest.raises(TokenCacheError, match=r"tokens of another run \(other encoder\); name another folder"):
        TokenCache(folder, films, model)


def test_a_small_disk_is_told_what_is_needed(cached, monkeypatch: pytest.MonkeyPatch):
    films, model, folder = cached
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: usage(100, 99, 1))
    with pytest.raises(TokenCacheError, match=r"the tokens of \d+ images take .* GB more, and 0\.0 GB are free"):
        TokenCache(folder, films, model).fill(films, model)


def test_an_unreadable_image_is_no_token(cached, recipe: Path, tmp_path: Path):
    films, model, folder = cached
    rows = [json.loads(line) for line in (recipe.parent / "m.jsonl").read_text().splitlines()]
    for row in rows:
        row["image"] = str(recipe.parent / row["image"])
    spoilt = next(k for k, row in enumerate(rows) if row["split"] == "train")
    rows[spoilt]["image"] = str(tmp_path / "gone.png")
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    films = ManifestSource(tmp_path / "m.jsonl").films(films.processor, config(recipe, "model={start: x}").data, 0)
    cache = TokenCache(folder, films, model)
    cache.fill(films, model)
    unreadable = CachedDataset(films, cache)[0, 0]
    assert "gone.png" in unreadable.image
    assert "gone.png" in unreadable.reason


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model={start: x}"], "needs model.train_vision: frozen"),
        (["model={start: x, train_vision: frozen}", "data.augmentation={shift: 0.1}"], "without augmentation"),
    ],
)
def test_what_cannot_be_cached_is_refused(recipe: Path, overrides: list[str], said: str):
    with pytest.raises(ValueError, match=said):
        config(recipe, *overrides, "data.token_cache=somewhere")


# -- pictures and cards --------------------------------------------------------------------------------


def test_a_run_leaves_curves_and_a_card(recipe: Path, tiny_checkpoint: Path, tmp_path: Path):
    Trainer(config(recipe, f"model={{start: {tiny_checkpoint}}}"), tmp_path / "run").train()
    with Image.open(tmp_path / "run/progress.png") as picture:
        assert picture.size == (800, 600)
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    blue, red = np.array([31, 119, 180]), np.array([214, 39, 40])
    assert all((np.abs(colours - line).sum(axis=1) < 30).sum() > 50 for line in (blue, red)), "both curves are drawn"
    card = (tmp_path / "run/model/README.md").read_text(encoding="utf-8")
    assert "best validation loss" in card
    assert "images of m.jsonl" in card
    assert "images_per_rank: 8" in card
    assert load_config(tmp_path / "run/model/recipe.yaml") == load_config(tmp_path / "run/config.yaml")


def test_trackers_that_are_missing_are_named(recipe: Path, tiny_checkpoint: Path, tmp_path: Path):
    with pytest.raises(ImportError, match=r"loop\.trackers: not all of aim are installed"):
        Trainer(config(recipe, f"model={{start: {tiny_checkpoint}}}", "loop.trackers=[aim]"), tmp_path / "run")


def test_tensorboard_gets_the_losses(recipe: Path, tiny_checkpoint: Path, tmp_path: Path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    overrides = [f"model={{start: {tiny_checkpoint}}}", "loop.trackers=[tensorboard]", "loop.epochs=1"]
    trainer = Trainer(config(recipe, *overrides), tmp_path / "run")
    trainer.train()
    trainer.close()
    events = EventAccumulator(str(tmp_path / "run/radzero"))
    events.Reload()
    steps = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    written = [s.value for s in events.Scalars("loss")]
    assert written == pytest.approx([r["loss"] for r in steps if "loss" in r], rel=1e-5)


def test_closing_ends_the_trackers_and_leaves_a_caller_s_own_process_group(
    recipe: Path, tiny_checkpoint: Path, tmp_path: Path
):
    class Tracker:
        finished = False

        def finish(self) -> None:
            self.finished = True

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        trainer = Trainer(config(recipe, f"model={{start: {tiny_checkpoint}}}"), tmp_path / "run")
        trainer.accelerator.trackers = [tracker := Tracker()]
        trainer.close()
        assert tracker.finished
        assert dist.is_initialized()
        del trainer
    finally:
        gc.collect()
        dist.destroy_process_group()
    assert_no_gloo_thread_is_left()  # none that could abort the tests' own process


# -- dry runs ------------------------------------------------------------------------------------------


def test_the_published_recipe_says_what_it_takes():
    published = dry_run(load_config(Path(__file__).resolve().parents[2] / "recipes/radzero.yaml"), processes=4)
    parts = {name: (count, trained) for name, count, trained in published.parts}
    assert parts["vision model"][1] == 0, "frozen"
    assert 85e6 < parts["vision model"][0] < 87e6
    assert parts["text model"] == (108_895_872, 108_895_872)
    assert parts["layer norm"] == (1536, 1536)
    assert parts["temperature"] == (1, 1)
    assert published.images_per_step == 256
    assert published.steps == 20 * -(-352_875 // 256)
    assert sum(published.memory.values()) < 25 * 2**30, "the reference takes 73.4 GB"


def test_a_dry_run_s_memory_is_what_autograd_keeps(recipe: Path, tiny_encoders: str, tmp_path: Path):
    settings = config(recipe, tiny_encoders, "loop.images_per_rank=4")
    estimate = dry_run(settings)
    manifest = Manifest(recipe.parent / "m.jsonl", "train")
    assert estimate.images == len(manifest)
    per_image = sum(len(manifest.sentences(k)) for k in range(len(manifest))) / len(manifest)
    assert estimate.sentences_per_image == pytest.approx(per_image)
    assert estimate.steps == 2 * -(-len(manifest) // 4)
    model, _ = build_start(settings.model, phantom_words)
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    assert estimate.memory["weights"] == sum(weights.values())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (estimate.memory["gradients"], estimate.memory["AdamW"]) == (4 * trained, 8 * trained)
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    sentences = int(np.ceil(4 * per_image))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ids = torch.zeros(sentences, 16, dtype=torch.long)
        output = Towers(model.train())(torch.zeros(4, 3, 56, 56), ids, torch.ones_like(ids))
    real = sum(storage.nbytes() for storage in kept.values())
    assert estimate.memory["activations"] == pytest.approx(real, rel=0.05)
    assert output.images.requires_grad


def test_the_command_makes_a_dry_run(recipe: Path, tiny_checkpoint: Path, tmp_path: Path):
    said = call("train", recipe, f"model={{start: {tiny_checkpoint}}}", "-o", tmp_path / "run", "--dry-run").stdout
    assert "optimiser steps" in said
    assert "frozen" not in said
    assert not (tmp_path / "run").exists()
    gone = ["data.manifest=gone.jsonl", f"model={{start: {tiny_checkpoint}}}"]
    error = call("train", recipe, *gone, "-o", tmp_path / "run", "--dry-run", code=2).stderr
    assert "gone.jsonl: there is no such manifest" in error.replace("\n", " ")


def test_another_number_of_images_is_refused(recipe: Path, tiny_checkpoint: Path, tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"its train split has \d+ images, and the recipe expects 7 .*data\.expected_images=0"
    ):
        Trainer(config(recipe, f"model={{start: {tiny_checkpoint}}}", "data.expected_images=7"), tmp_path / "run")


# -- what can go wrong ---------------------------------------------------------------------------------


def test_a_dead_worker_ends_the_run_with_a_remedy(recipe: Path, tiny_checkpoint: Path, tmp_path: Path):
    """A worker that is killed as the kernel does when memory is short."""
    settings = config(
        recipe, f"model={{start: {tiny_checkpoint}}}", "data.workers=1", "loop.save_every=1", "loop.epochs=4"
    )
    trainer = Trainer(settings, tmp_path / "run")

    def kill(record: dict[str, float]) -> None:
        if record["step"] == 1:
            for child in active_children():
                child.kill()

    with pytest.raises(TrainingError, match=r"a data worker died .*lower data\.workers \(now 1\)"):
        trainer.train(kill)
    again = Trainer(settings, tmp_path / "run")
    assert again.step >= 1, "the last state is whole"
    assert again.train().steps == again.steps
