"""Train every row of a comparison with every seed, run each in the same benchmark, and resume after an interrupt.

A comparison's folder has ``films/`` (train and test phantoms), ``encoder/``, ``tokens/``, ``rows/NAME/SEED`` (a run of
``radzero train`` each, with ``benchmark-K`` for the K-th prompt in it, from 0), ``probes/``, and at its end the table.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from radzero._files import write_whole
from radzero._processes import end_with_parent
from radzero.ablation.encoder import train_encoder
from radzero.ablation.probes import Probe, chosen_films, read_labels
from radzero.ablation.recipe import Ablation, Row
from radzero.evaluation.benchmark import Benchmark
from radzero.evaluation.contrasts import with_contrasts
from radzero.evaluation.models import RadZeroInBenchmark, ZeroShotModel
from radzero.evaluation.public import phantom
from radzero.evaluation.run import run_benchmark
from radzero.evaluation.scoring import score
from radzero.prediction.model import load
from radzero.training.config import TrainConfig
from radzero.training.model_building import build_start
from radzero.training.preparation import phantoms, prepare
from radzero.training.sources import ManifestSource
from radzero.training.token_cache import CachedDataset, TokenCache
from radzero.training.trainer import Trainer

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Place:
    """Paths in a comparison's folder."""

    folder: Path

    @property
    def encoder(self) -> Path:
        """Folder of the vision encoder that all rows share."""
        return self.folder / "encoder"

    @property
    def train(self) -> Path:
        """Folder of the training images, with their ``manifest.jsonl``."""
        return self.folder / "films" / "train"

    @property
    def test(self) -> Path:
        """Folder of the test images."""
        return self.folder / "films" / "test"

    @property
    def manifest(self) -> Path:
        """Manifest of the training images."""
        return self.train / "manifest.jsonl"

    @property
    def tokens(self) -> Path:
        """Folder of the cached tokens, by image size, token stride and views."""
        return self.folder / "tokens"

    def row(self, row: Row, seed: int) -> Path:
        """Return the folder of a row's training run."""
        return self.folder / "rows" / slug(row.name) / str(seed)

    def probe(self, share: float, seed: int) -> Path:
        """Return the folder of a probe's benchmark run."""
        return self.folder / "probes" / f"{share:g}" / str(seed)


def slug(name: str) -> str:
    """Return a name in a form that suits a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@dataclass(frozen=True)
class Job:
    """Training and evaluation of a row (its index in the comparison) with one seed."""

    row: int
    seed: int


def run_ablation(
    ablation: Ablation,
    output: Path,
    *,
    workers: int = 2,
    jobs: int = 0,
    progress: Progress = lambda phase, done, total: None,
) -> Path:
    """Train and evaluate every row, or resume an interrupted comparison, and return its folder.

    Args:
        ablation: the comparison.
        output: folder of the comparison.
        workers: number of processes that draw images.
        jobs: number of rows at a time; 0 for one per GPU, or one without a GPU.
        progress: called with the phase, the number done and the total.

    Raises:
        ValueError: when the folder holds another comparison.
        TrainingError: see :class:`~radzero.training.trainer.Trainer`.
    """
    place = Place(output)
    _take(ablation, output)
    films = ablation.films
    for folder, count, seed in (
        (place.train, films.train, films.train_seed),
        (place.test, films.test, films.test_seed),
    ):
        drawn = partial(_told, progress, f"drawing {folder.name} films", count)
        phantom.draw(folder, count, seed, films.size, workers, drawn)
    if not place.manifest.exists():
        prepare(phantoms(place.train, shares=(0.0, 0.0)), place.manifest)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_encoder(place.encoder, ablation.encoder, films, workers=workers, device=device, progress=progress)

    work = [Job(row, seed) for seed in ablation.seeds for row in range(len(ablation.rows))]
    missing = [job for job in work if not _done(ablation, place, job)]
    at_once = jobs or max(1, torch.cuda.device_count())
    progress("rows", len(work) - len(missing), len(work))
    for number, _ in enumerate(_worked(ablation, output, missing, at_once, progress), start=1):
        progress("rows", len(work) - len(missing) + number, len(work))
    _run_probes(ablation, place, progress)
    return output


def _told(progress: Progress, phase: str, total: int, done: int) -> None:
    progress(phase, done, total)


def _take(ablation: Ablation, output: Path) -> None:
    """Record what the folder compares.

    Seeds, claims, label shares and pictures may change later, and rows may be added; what is trained may not change.

    Raises:
        ValueError: when the folder holds another comparison.
    """
    output.mkdir(parents=True, exist_ok=True)
    note = output / "ablation.json"
    identity: dict[str, Any] = {
        "films": repr(ablation.films),
        "encoder": repr(ablation.encoder),
        "base": ablation.base,
        "rows": {row.name: row.set for row in ablation.rows},
        "prompts": {row.name: list(prompts_of(ablation, row)) for row in ablation.rows},
    }
    if note.exists():
        known = json.loads(note.read_text(encoding="utf-8"))
        changed = [key for key in ("films", "encoder", "base") if known[key] != json.loads(json.dumps(identity[key]))]
        rows = json.loads(json.dumps(identity["rows"]))
        changed += [f"row {name!r}" for name, old in known["rows"].items() if name in rows and rows[name] != old]
        asked = known.get("prompts", {})
        changed += [f"prompts of {n!r}" for n, old in asked.items() if identity["prompts"].get(n, old) != old]
        if changed:
            raise ValueError(f"{output}: holds another comparison (other {', '.join(changed)}); name another folder")
        identity["rows"] = known["rows"] | rows
        identity["prompts"] = asked | identity["prompts"]
    write_whole(note, json.dumps(identity, indent=1).encode())


def prompts_of(ablation: Ablation, row: Row) -> tuple[str, ...]:
    """Return the templates of a row's prompts."""
    return row.prompts or ablation.prompts


def _done(ablation: Ablation, place: Place, job: Job) -> bool:
    row = ablation.rows[job.row]
    count = len(prompts_of(ablation, row))
    return all((place.row(row, job.seed) / f"benchmark-{k}" / "metrics.json").exists() for k in range(count))


def _worked(ablation: Ablation, output: Path, missing: list[Job], at_once: int, progress: Progress) -> Iterator[None]:
    """Run the missing jobs one after the other, or several at a time in processes; yield after each."""
    if at_once == 1:
        for job in missing:
            run_job(ablation, output, job, progress)
            yield
        return
    for job in missing:  # every token cache is filled once, before any process reads it
        _fill(ablation, Place(output), job, progress)
    context = get_context("spawn")
    devices = context.Manager().Queue()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [n for n in allowed.split(",") if n] if allowed else [str(k) for k in range(torch.cuda.device_count())]
    for k in range(at_once):
        devices.put(names[k % len(names)] if names else "")
    with ProcessPoolExecutor(at_once, mp_context=context, initializer=_take_device, initargs=(devices,)) as pool:
        yield from pool.map(run_job, *zip(*((ablation, output, job) for job in missing), strict=True))


def _take_device(devices: "Queue[str]") -> None:
    """Give this process one of the GPUs that the user allows, or one CPU thread where there is no GPU."""
    end_with_parent()
    transformers_logging.disable_progress_bar()  # every checkpoint written or read would show one
    if name := devices.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = name
    else:
        torch.set_num_threads(1)


def config_of(ablation: Ablation, place: Place, job: Job) -> TrainConfig:
    """Return the training recipe of a job."""
    row = ablation.rows[job.row]
    return ablation.train_config(row, job.seed, encoder=place.encoder, manifest=place.manifest, tokens=place.tokens)


def _fill(ablation: Ablation, place: Place, job: Job, progress: Progress) -> None:
    config = config_of(ablation, place, job)
    if config.data.token_cache:
        cached_films(config, progress)


def cached_films(config: TrainConfig, progress: Progress) -> CachedDataset:
    """Return the training images as cached tokens of the frozen encoder; tokens that are missing are computed."""
    source = ManifestSource(Path(config.data.manifest), texts=config.data.texts, views=config.data.views)
    model, processor = build_start(config.model, source.words)
    films = source.films(processor, config.data, config.seed)
    cache = TokenCache(Path(config.data.token_cache) / "train", films, model)
    cache.fill(
        films,
        model.to("cuda" if torch.cuda.is_available() else "cpu"),
        precision=config.loop.precision,
        progress=lambda done, total: progress("encoding films", done, total),
    )
    return CachedDataset(films, cache)


def run_job(ablation: Ablation, output: Path, job: Job, progress: Progress = lambda phase, done, total: None) -> None:
    """Train a row with a seed and run it in the benchmark on the test images, once per prompt."""
    place, row = Place(output), ablation.rows[job.row]
    folder, label = place.row(row, job.seed), f"{row.name}, seed {job.seed}"
    trainer = Trainer(config_of(ablation, place, job), folder, on_progress=progress)
    trainer.train(lambda record: progress(label, record["step"] + 1, trainer.steps))
    model = load(folder / "model")
    model.name = row.name
    for number, prompt in enumerate(prompts_of(ablation, row)):
        _ask(RadZeroInBenchmark(model), with_prompt(place.test, prompt), folder / f"benchmark-{number}")


def with_prompt(films: Path, prompt: str) -> Benchmark:
    """Return the phantom benchmark with contrasts, and with another template in place of "There is {}"."""
    benchmark = with_contrasts(phantom.read(films))
    sentences = tuple(
        prompt.replace("{}", sentence.removeprefix("There is ")) if k in benchmark.prompts else sentence
        for k, sentence in enumerate(benchmark.sentences)
    )
    return replace(benchmark, sentences=sentences)


def _ask(model: ZeroShotModel, benchmark: Benchmark, folder: Path) -> dict[str, Any]:
    run_benchmark(benchmark, model, folder)
    return score(folder, resamples=0)


def _run_probes(ablation: Ablation, place: Place, progress: Progress) -> None:
    """Train linear heads on the frozen encoder with shares of the labels, and run them in the benchmark.

    Image size and token stride are those of the base recipe.
    """
    wanted = [(share, seed) for share in ablation.label_shares for seed in ablation.seeds]
    missing = [(share, seed) for share, seed in wanted if not (place.probe(share, seed) / "metrics.json").exists()]
    if not missing:
        return
    base = Row("probes")
    config = ablation.train_config(base, 0, encoder=place.encoder, manifest=place.manifest, tokens=place.tokens)
    films = cached_films(config, progress)
    size = config.model.image_size
    stems = [films.films.manifest.image(k).stem for k in range(len(films))]
    benchmark = phantom.read(place.test)
    for number, (share, seed) in enumerate(missing):
        progress("probes", number, len(missing))
        chosen = chosen_films(len(films), share, seed)
        probe = Probe(place.encoder, films.processor, f"linear heads, {share:.0%}")
        probe.encoder.config.token_stride = config.model.token_stride or probe.encoder.config.token_stride
        grid = size // probe.encoder.config.patch_size
        probe.fit(films, chosen, read_labels(place.train, [stems[k] for k in chosen], (grid, grid)), seed)
        _ask(probe, benchmark, place.probe(share, seed))
    progress("probes", len(missing), len(missing))
