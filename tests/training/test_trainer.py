"""The training loop over a manifest: it learns, goes on to the same bytes, and says what to do when it cannot."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import BertModel, Dinov2Model

import forked
import radzero
import ranks
from command_line import call
from radzero.models.radzero import RadZeroModel
from radzero.phantom.writing import FilmFormat, write_phantoms
from radzero.training.batches import TooManyUnreadableError
from radzero.training.config import TrainConfig, load_config
from radzero.training.preparation import phantoms as phantom_rows
from radzero.training.preparation import prepare
from radzero.training.stages import learning_rate
from radzero.training.trainer import Trainer, TrainingError
from radzero.training.vocabulary import word_tokenizer, words_of

pytestmark = pytest.mark.slow

RECIPE = """
seed: 1
model:
  small: {widths: [8, 16, 32], heads: 2, align_mlp_ratio: 2, text_layers: 1, max_words: 32}
  align_layers: 1
  image_size: 64
data: {manifest: ./m.jsonl, workers: 0}
loss: {binary_weight: 0.2, ignore: stated}
loop: {epochs: 2, images_per_rank: 8, learning_rate: 1.0e-3, warmup_steps: 3, precision: fp32, save_every: 2}
"""
RUN = (
    f"import sys; from pathlib import Path; sys.path.append({str(Path(ranks.__file__).parent)!r})\n"
    "from ranks import assert_no_gloo_thread_is_left\n"
    "from radzero.training.config import load_config\n"
    "from radzero.training.trainer import Trainer\n"
    "if __name__ == '__main__':\n"
    "    trainer = Trainer(load_config(Path(sys.argv[1]), sys.argv[3:]), Path(sys.argv[2]))\n"
    "    trainer.train()\n"
    "    trainer.close()\n"
    "    assert_no_gloo_thread_is_left()\n"
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe beside its manifest of 40 phantoms."""
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder / "films", count=40, seed=6, size=80, film_format=FilmFormat.PNG)
    prepare(phantom_rows(folder / "films", shares=(0.2, 0.0)), folder / "m.jsonl")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "run.py").write_text(RUN, encoding="utf-8")
    return folder / "recipe.yaml"


def config(recipe: Path, *overrides: str) -> TrainConfig:
    return load_config(recipe, list(overrides))


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [r.get("loss", r.get("validation_loss")) for r in records]


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    Trainer(config(recipe), run).train()
    return run


def test_a_run_ends_with_a_model_that_answers(recipe: Path, whole: Path):
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == list(range(len(steps)))
    assert [r["epoch"] for r in records if "validation_loss" in r] == [0, 1]
    assert sum(r["images"] for r in steps) == 2 * len(config_manifest(recipe))
    assert np.mean([r["loss"] for r in steps[-3:]]) < np.mean([r["loss"] for r in steps[:3]])
    model = radzero.load(whole / "model", device="cpu")
    (reading,) = model.predict([np.linspace(0, 1, 6400, dtype=np.float32).reshape(80, 80)], ["There is nodule"])
    assert np.isfinite(reading.logits).all()


def config_manifest(recipe: Path) -> list[dict]:
    rows = [json.loads(line) for line in (recipe.parent / "m.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == "train"]


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(recipe: Path, whole: Path, tmp_path: Path):
    """SIGKILL at several moments, and another number of workers when it goes on."""
    run, chance = tmp_path / "run", np.random.default_rng(5)
    command = [recipe.parent / "run.py", recipe, run]
    for kill in range(3):
        process = forked.Forked([*command, f"data.workers={kill % 2}"], tmp_path)
        already, wanted = len(losses(run)) if (run / "metrics.jsonl").exists() else 0, int(chance.integers(1, 4))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (run / "metrics.jsonl").exists() and len(losses_so_far(run)) >= already + wanted:
                workers = psutil.Process(process.pid).children(recursive=True)
                os.kill(process.pid, signal.SIGKILL)
                assert psutil.wait_procs(workers, timeout=20)[1] == [], "its data workers end too"
                break
            time.sleep(0.005)
        process.wait(60)
    assert forked.run(command, tmp_path).returncode == 0
    assert losses(run) == losses(whole)
    assert (run / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


def losses_so_far(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize(("processes", "torchrun"), [(2, True), (3, False)])
def test_several_processes_train_the_same_model(
    recipe: Path, tiny_checkpoint: Path, processes: int, torchrun: bool, tmp_path: Path
):
    """The batch of one process, dealt to several: the same losses and weights up to rounding."""
    start = [f"model={{start: {tiny_checkpoint}}}", "loop.epochs=1", "data.workers=0"]
    single = tmp_path / "single"
    Trainer(config(recipe, *start, "loop.images_per_rank=6"), single).train()
    command = [
        *(str(recipe.parent / "run.py"), str(recipe), str(tmp_path / "many")),
        *(*start, f"loop.images_per_rank={6 // processes}", "loop.micro_batches=2"),
    ]
    if torchrun:
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
        own = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*launcher, *command], env={**os.environ, **own}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        forked.run_world(command, processes, tmp_path)
    assert losses(tmp_path / "many") == pytest.approx(losses(single), abs=2e-4)
    one, many = (load_file(run / "model/model.safetensors") for run in (single, tmp_path / "many"))
    for name, tensor in one.items():
        torch.testing.assert_close(many[name], tensor, atol=2e-3, rtol=1e-2)


def test_micro_batches_change_nothing(recipe: Path, tiny_checkpoint: Path, tmp_path: Path):
    start = f"model={{start: {tiny_checkpoint}}}"
    for parts in (1, 4):
        Trainer(config(recipe, start, f"loop.micro_batches={parts}", "loop.epochs=1"), tmp_path / str(parts)).train()
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "4"), abs=2e-4)


def test_a_frozen_vision_encoder_stays_as_it_is(recipe: Path, tiny_checkpoint: Path, tmp_path: Path):
    choice = f"model={{start: {tiny_checkpoint}, train_vision: frozen}}"
    Trainer(config(recipe, choice, "loop.epochs=1"), tmp_path / "run").train()
    before, after = (
        load_file(tiny_checkpoint / "model.safetensors"),
        load_file(tmp_path / "run/model/model.safetensors"),
    )
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("vision_model.")} <= same
    assert not any(name.startswith(("align_transformer.", "text_model.encoder")) for name in same)


def test_pretrained_encoders_are_taken_whole(recipe: Path, tiny_encoders: str, tmp_path: Path):
    trainer = Trainer(config(recipe, tiny_encoders, "model.recompute=true", "loop.epochs=1"), tmp_path / "run")
    for part, kind in (("vision", Dinov2Model), ("text", BertModel)):
        folder = yaml.safe_load(tiny_encoders.partition("=")[2])[part]
        own = getattr(trainer.model, f"{part}_model").state_dict()
        for name, tensor in kind.from_pretrained(folder).state_dict().items():
            assert name.startswith("pooler.") or torch.equal(own[name], tensor)
    trainer.train()
    assert isinstance(RadZeroModel.from_pretrained(tmp_path / "run/model"), RadZeroModel)
    model = radzero.load(tmp_path / "run/model")
    assert list(model.processor.image_processor.image_mean) == [0.4] * 3


def test_the_command_trains_and_takes_overrides(recipe: Path, tmp_path: Path):
    result = call("train", recipe, "loop.epochs=1", "-o", tmp_path / "run")
    assert "a checkpoint, after" in result.stdout
    assert (tmp_path / "run/model/model.safetensors").exists()
    said = call("train", recipe, "loop.epochs=none", "-o", tmp_path / "other", code=2).stderr
    assert "loop.epochs must be int" in said.replace("\n", " ")


def test_words_are_cut_as_the_tokenizer_cuts_them():
    texts = ["There is left-sided effusion", "There is Edema, mild"]
    words = words_of(texts)
    assert words == ["edema", "effusion", "is", "left", "mild", "sided", "there"]
    tokenizer = word_tokenizer(words, 32)
    assert not any(tokenizer.unk_token_id in tokenizer(text)["input_ids"] for text in texts)


def test_norms_and_biases_do_not_decay(recipe: Path, tmp_path: Path):
    trainer = Trainer(config(recipe, "loop.weight_decay=0.3"), tmp_path / "run")
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(decay) == len(trained)
    for name, p in trained.items():
        assert decay[id(p)] == (0.3 if p.ndim > 1 else 0.0), name


# -- what can go wrong -------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_state(recipe: Path, tmp_path: Path):
    trainer = Trainer(config(recipe, "loop.learning_rate=1.0e-3"), tmp_path / "run")
    with torch.no_grad():
        trainer.model.log_temperature.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"the loss of step 0 is nan: lower loop\.learning_rate"):
        trainer.train()


def test_a_validation_loss_that_is_not_finite_ends_the_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Trainer, "_validation_loss", lambda self, stage: float("nan"))
    with pytest.raises(TrainingError, match=r"the validation loss after step \d+ is nan: lower loop\.learning_rate"):
        Trainer(config(recipe), tmp_path / "run").train()


def test_a_full_disk_leaves_the_earlier_state_whole(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, save, saved = tmp_path / "run", torch.save, []

    def full(state: object, path: Path) -> None:
        saved.append(path)
        if len(saved) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        TrainingError, match=r"cannot be saved .*No space left.*Make room and run the same command again"
    ):
        Trainer(config(recipe), run).train()
    assert sorted(p.name for p in (run / "state").iterdir()) == ["last.pt"]
    monkeypatch.undo()
    assert Trainer(config(recipe), run).step == 2
    Trainer(config(recipe), run).train()


def test_a_damaged_state_is_named(recipe: Path, whole: Path, tmp_path: Path):
    run = tmp_path / "run"
    (run / "state").mkdir(parents=True)
    content = (whole / "state/last.pt").read_bytes()
    (run / "state/last.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match=r"last\.pt: is damaged .*Remove it to begin again"):
        Trainer(config(recipe), run)


def test_images_that_are_gone_end_the_run(recipe: Path, tmp_path: Path):
    rows = [json.loads(line) for line in (recipe.parent / "m.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "image": f"gone-{k}.png"}) for k, row in enumerate(rows)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    with pytest.raises(TooManyUnreadableError, match=r"8 of 8 images cannot be read.*quarantine\.jsonl"):
        Trainer(config(recipe, f"data.manifest={tmp_path / 'm.jsonl'}"), tmp_path / "run").train()
    assert len((tmp_path / "run/quarantine.jsonl").read_text().splitlines()) == 8


def test_images_of_the_validate_split_that_are_gone_are_named_too(recipe: Path, tmp_path: Path):
    rows = [json.loads(line) for line in (recipe.parent / "m.jsonl").read_text().splitlines()]
    gone = next(row for row in rows if row["split"] == "validate")
    gone["image"] = str(tmp_path / "gone.png")
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Trainer(config(recipe, f"data.manifest={tmp_path / 'm.jsonl'}"), tmp_path / "run").train()
    assert "gone.png" in (tmp_path / "run/quarantine.jsonl").read_text()


def test_another_configuration_needs_another_folder(recipe: Path, whole: Path):
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        Trainer(config(recipe, "loop.learning_rate=0.5"), whole)
    assert Trainer(config(recipe, "data.workers=3", "loop.save_every=7"), whole).step > 0


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_a_run(recipe: Path, tmp_path: Path, patience: int):
    choices = ["loop.epochs=6", f"loop.patience={patience}", "loop.learning_rate=0.0"]
    result = Trainer(config(recipe, *choices), tmp_path / "run").train()
    assert result.stopped_early
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert len(losses) == 1 + patience, "the first epoch is the best, since nothing is learned"
    assert (tmp_path / "run/model/config.json").exists()


# -- configuration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loop.epoch=3", "unknown keys loop.epoch"),
        ("loop.epochs=many", "loop.epochs must be int"),
        ("loop.epochs=0", "loop.epochs must be at least 1"),
        ("model.train_vision=half", "model.train_vision is full, lora or frozen"),
        ("model.start=x", "give model.start, or model.vision and model.text"),
        ("data.augmentation={shift: 2}", r"augmentation\.shift must be"),
        ("data.manifest=3", "data.manifest must be str"),
        ("loss.ignore=true", "loss.ignore is"),
        ("loop", "an override is key=value"),
        ("seed.deep=1", "seed is no section"),
    ],
)
def test_wrong_settings_are_named(recipe: Path, override: str, said: str):
    with pytest.raises(ValueError, match=said):
        config(recipe, override)


def test_a_configuration_equals_its_file(recipe: Path, tmp_path: Path):
    first = config(recipe, "model.attention_temperature=0.2", "data.augmentation={rotate: 5}")
    (tmp_path / "c.yaml").write_text(first.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "c.yaml") == first
    assert first.data.manifest == str(recipe.parent / "m.jsonl"), "seen from the recipe's folder"


def test_learning_rate_warms_up_and_falls_to_nothing():
    rates = [learning_rate(k, 100, 1.0, 10) for k in range(101)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert rates[10:] == sorted(rates[10:], reverse=True)
