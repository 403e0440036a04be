"""The training loop: one process or many, restartable at any moment, exact.

Built on Accelerate, which transformers' users know and which brings data parallelism, mixed precision and launching by
torchrun without a framework around the loop. The loss is not its business: see :mod:`radzero.training.sharding`.
"""

import gc
import hashlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from radzero._files import replacing, replacing_folder, write_whole
from radzero.errors import RadZeroError
from radzero.models.base import Features, VisionLanguageModel
from radzero.models.conversion import save_processor
from radzero.training.batches import EpochPlan, FilmBatch, Quarantine, TrainingFilms, loader
from radzero.training.config import WITHOUT_INFLUENCE, LossChoice, TrainConfig, load_config
from radzero.training.fsdp import average_unsharded, full, set_whole_states, shard_model, unsynchronised, whole_states
from radzero.training.gradient_cache import MicroBatch, Towers, backward, joined, split_batch
from radzero.training.lora import merged
from radzero.training.model_building import build_start
from radzero.training.progress import draw_progress, model_card
from radzero.training.sharding import (
    Shards,
    gather_rows,
    sharded_binary_pair_loss,
    sharded_multi_positive_loss,
    sharded_quiet_map_loss,
    sharded_siglip_loss,
)
from radzero.training.sources import PhantomFilms, open_source
from radzero.training.token_cache import CachedFilms, TokenCache

if TYPE_CHECKING:
    from accelerate import Accelerator


class TrainingError(RadZeroError, RuntimeError):
    """A run that cannot go on; the message says what to do. The last saved state is whole."""


@dataclass(frozen=True)
class Result:
    """What a run ended with.

    Attributes:
        folder: a checkpoint that ``radzero.load`` reads: the best by validation loss.
        steps: optimiser steps taken, earlier ones of the run included.
        best: validation loss of the checkpoint.
        stopped_early: whether patience ran out.
    """

    folder: Path
    steps: int
    best: float
    stopped_early: bool


def learning_rate(step: int, steps: int, highest: float, warmup: int) -> float:
    """Linear warm-up over ``warmup`` steps, then a cosine to 0 at ``steps``."""
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def batch_loss(
    model: VisionLanguageModel, encoded: Features, batch: FilmBatch, choice: LossChoice, films: TrainingFilms
) -> Tensor:
    """A rank's share of the loss of a batch; collective."""
    device = encoded.images.device
    shards = Shards.of(len(encoded.images), len(encoded.sentences), device)
    texts = gather_rows(encoded.sentences, shards.sentences, shards.rank)
    pairs = model.training_scores(encoded._replace(sentences=texts))

    # sentences are encoded once however many images state them; the loss counts every statement
    said = Shards.of(len(encoded.images), len(batch.text_n), device)
    first_text = sum(shards.sentences[: shards.rank])
    rows = torch.stack((batch.owner_n + said.first_image, batch.text_n + first_text), dim=1).to(device)
    with torch.no_grad():
        owner_N, text_N = gather_rows(rows, said.sentences, said.rank).unbind(dim=1)
    ignore = None
    if choice.ignore == "stated":
        ignore = _stated(batch, shards, device)[:, text_N]
    elif choice.ignore == "true":
        ignore = _true(batch, films, device)[:, text_N]
    directions = pairs.logits[None] if pairs.directions is None else pairs.directions
    loss = sum(
        (_contrast(logits[:, text_N], owner_N, said, ignore, choice) for logits in directions),
        torch.zeros((), device=device),
    )
    logits = pairs.logits[:, text_N]
    if choice.binary_weight:
        loss = loss + choice.binary_weight * sharded_binary_pair_loss(
            logits, owner_N, said, ignore_bN=ignore, negative_weight=choice.binary_negative_weight
        )
    if choice.quiet_weight:
        assert pairs.peaks is not None, "the configuration sees to it"
        loss = loss + choice.quiet_weight * sharded_quiet_map_loss(
            pairs.peaks[:, text_N], owner_N, said, ignore_bN=ignore
        )
    return loss


def _contrast(logits_bN: Tensor, owner_N: Tensor, shards: Shards, ignore: Tensor | None, choice: LossChoice) -> Tensor:
    if choice.kind == "siglip":
        return sharded_siglip_loss(logits_bN, owner_N, shards, ignore_bN=ignore)
    return sharded_multi_positive_loss(
        logits_bN, owner_N, shards, ignore_bN=ignore, row_sum=choice.row_sum, col_sum=choice.col_sum
    )


def _stated(batch: FilmBatch, shards: Shards, device: torch.device) -> Tensor:
    """(b, all ranks' texts): whether an image of this rank states a text in the same words."""
    names = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big", signed=True) for t in batch.texts]
    own = torch.tensor(names, dtype=torch.long, device=device)
    with torch.no_grad():
        every = gather_rows(own[:, None], shards.sentences, shards.rank)[:, 0]
    states = torch.zeros(len(batch.pixel_values), len(own), dtype=torch.bool, device=device)
    states[batch.owner_n.to(device), batch.text_n.to(device)] = True
    return (states.float() @ (own[:, None] == every).float()) > 0


def _true(batch: FilmBatch, films: TrainingFilms, device: torch.device) -> Tensor:
    """(b, all ranks' texts): whether a text is true of an image of this rank."""
    assert isinstance(films, PhantomFilms), "the configuration sees to it"
    texts = [batch.texts]
    if dist.is_available() and dist.is_initialized():
        texts = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(texts, batch.texts)
    every = [text for part in texts for text in part]
    rows = [[films.is_true(film, text) for text in every] for film in batch.films]
    return torch.tensor(rows, dtype=torch.bool, device=device).reshape(len(rows), len(every))


@dataclass(frozen=True)
class _Stretch:
    """A stage with its place in the run.

    Attributes:
        config: what is in force.
        films: those of its data choice.
        first, last: steps, ``last`` excluded.
        first_epoch: number of its first epoch.
        rate: steps that its learning rate's cosine spans, where it begins, and its warm-up.
    """

    config: TrainConfig
    films: TrainingFilms
    first: int
    last: int
    first_epoch: int
    rate: tuple[int, int, float, int]

    def learning_rate(self, step: int) -> float:
        first, last, highest, warmup = self.rate
        return learning_rate(step - first, last - first, highest, warmup)


class Trainer:
    """A run in a folder: ``config.yaml``, ``metrics.jsonl``, ``quarantine.jsonl``, ``state/``; at its end ``model/``.

    Args:
        config: what to do.
        run: the folder; a run of the same configuration there goes on.
        on_progress: called with "drawing phantoms" or "encoding images", what is done, and of how much, where there is
            such a thing to do before the run.

    Raises:
        ValueError: when the folder holds a run of another configuration, or something cannot be loaded.
        ImportError: when Accelerate is not installed.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        *,
        on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
    ) -> None:
        self.config, self.run = config, run
        self._own_group = not dist.is_initialized()
        self.accelerator = _accelerator(config, run)
        self._take_folder()
        films = config.data.phantoms.films if config.data.phantoms else 0
        with self.accelerator.main_process_first():
            self.source = open_source(
                config.data,
                config.model.image_size,
                run,
                progress=lambda done: on_progress("drawing phantoms", done, films),
            )
        torch.manual_seed(config.seed)
        self.model, self.processor = build_start(config.model, self.source.words)
        self.towers, self.optimizer = self._prepared()
        decay = config.loop.ema
        mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.ema = AveragedModel(self.model, multi_avg_fn=mean) if decay else None
        self._on_progress = on_progress
        checked = self.source.validation(self.processor, config.data, config.seed)
        self.validation = None if checked is None else self._cached(checked, "validate")
        self.quarantine = Quarantine(run / f"quarantine{self._rank_suffix}.jsonl", config.data.unreadable_share)
        self.stretches = self._stretches()
        self.step, self.epoch, self.best, self.best_epoch, self.seconds = 0, 0, math.inf, -1, 0.0
        self._load_state()
        if config.loop.trackers:
            self.accelerator.init_trackers("radzero", {"recipe": config.to_yaml()})

    def _prepared(self) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        """The model's towers as they run on this process, and AdamW for what is trained."""
        loop, towers = self.config.loop, Towers(self.model)
        if loop.compile:
            for name in ("vision_model", "align_transformer", "text_model"):
                if (encoder := getattr(self.model, name, None)) is not None:
                    encoder.compile()
        if loop.sharding == "fsdp":
            towers.to(self.accelerator.device)
            shard_model(towers)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": loop.weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=loop.learning_rate,
        )
        if loop.sharding == "fsdp":
            return towers, optimizer
        with warnings.catch_warnings():  # Accelerate does not know the argument's new name yet
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return self.accelerator.prepare(towers, optimizer)

    def _cached(self, films: Any, split: str) -> TrainingFilms:
        """The films, or their vision tokens where those are kept on disk."""
        folder = self.config.data.token_cache
        if not folder:
            return films
        cache = TokenCache(Path(folder) / split, films, self.model)
        cache.fill(
            films,
            self.model,
            images_per_pass=math.ceil(self.config.loop.images_per_rank / self.config.loop.micro_batches),
            workers=self.config.data.workers,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            precision=self.config.loop.precision,
            progress=lambda done, total: self._on_progress("encoding images", done, total),
        )
        self.accelerator.wait_for_everyone()
        return CachedFilms(films, cache)

    @property
    def _rank_suffix(self) -> str:
        return f"-{self.accelerator.process_index}" if self.accelerator.num_processes > 1 else ""

    def _stretches(self) -> list[_Stretch]:
        """The run's stages, or the whole run as one."""
        stretches: list[_Stretch] = []
        for k, config in enumerate(self.config.stage_configs):
            films = self._cached(self.source.films(self.processor, config.data, config.seed), "train")
            epoch = self._plan(films, config, 0, 0).steps_per_epoch
            before = stretches[-1] if stretches else None
            first = before.last if before else 0
            last = first + (self.config.stages[k].steps if self.config.stages else config.loop.epochs * epoch)
            own = before is None or "loop.learning_rate" in self.config.stages[k].set
            rate = (first, last, config.loop.learning_rate, 0 if before else config.loop.warmup_steps)
            if before and not own:  # one cosine over both
                rate = (before.rate[0], last, *before.rate[2:])
                stretches = [replace(s, rate=rate) if s.rate == before.rate else s for s in stretches]
            epochs = math.ceil((before.last - before.first) / self._steps_per_epoch(before)) if before else 0
            stretches.append(_Stretch(config, films, first, last, (before.first_epoch if before else 0) + epochs, rate))
        return stretches

    def _plan(
        self, films: TrainingFilms, config: TrainConfig, first: int, last: int, first_epoch: int = 0
    ) -> EpochPlan:
        """This rank's images at the steps of a stretch."""
        return EpochPlan(
            len(films),
            config.loop.images_per_rank,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            seed=config.seed,
            first=first,
            last=last,
            first_epoch=first_epoch,
        )

    def _steps_per_epoch(self, stretch: _Stretch) -> int:
        return self._plan(stretch.films, stretch.config, 0, 0).steps_per_epoch

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.stretches[-1].last

    def train(self, on_step: Callable[[dict[str, Any]], None] = lambda record: None) -> Result:
        """Train, or go on, to the end.

        Args:
            on_step: called on the main process with the record of each step.

        Raises:
            TrainingError: for a loss that is not finite, a worker that died, or a disk that is full.
            TooManyUnreadableError: see :class:`~radzero.training.batches.Quarantine`.
        """
        started, before = time.monotonic(), self.seconds
        for stretch in self.stretches:
            if self.step >= stretch.last or self._patience_is_out():
                continue
            if self.step == stretch.first:  # losses of another stage do not compare
                self.best, self.best_epoch = math.inf, self.epoch - 1
            self._begin(stretch)
            per_epoch = self._steps_per_epoch(stretch)
            for batch in self._batches(stretch):
                record = self._one_step(batch, stretch)
                self.seconds = before + time.monotonic() - started
                record["seconds"] = round(self.seconds, 2)
                self._log(record)
                if self.accelerator.is_main_process:
                    on_step(record)
                epoch_ends = (self.step - stretch.first) % per_epoch == 0 or self.step == stretch.last
                if epoch_ends:
                    self._validate(stretch)
                    if self.accelerator.is_main_process:
                        draw_progress(self.run)
                if epoch_ends or self.step % self.config.loop.save_every == 0:
                    self._save_state()
                if epoch_ends and self._patience_is_out():
                    break
        return Result(self._finish(), self.step, self.best, self.step < self.steps)

    def close(self) -> None:
        """End the trackers and, where this trainer began it, the process group; the trainer cannot be used afterwards.

        On several processes, to be called before each of them ends: a thread of gloo, the CPU's backend, that is still
        alive then can abort a process whose work is done.
        """
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if dist.is_initialized() and self._own_group:
            self.accelerator.wait_for_everyone()
            self.accelerator.free_memory()
            del self.towers, self.optimizer, self.model  # they hold the group
            gc.collect()
            dist.destroy_process_group()

    def _begin(self, stretch: _Stretch) -> None:
        sizes = stretch.config.model.small
        if sizes is not None and not stretch.config.model.vision and not stretch.config.model.start:
            self.model.vision_model.config.token_stride = sizes.token_stride

    def _batches(self, stretch: _Stretch) -> Iterator[FilmBatch]:
        first, last = self.step - stretch.first, stretch.last - stretch.first
        plan = self._plan(stretch.films, stretch.config, first, last, stretch.first_epoch)
        try:
            yield from loader(stretch.films, plan, workers=self.config.data.workers)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if self.config.data.workers and (not isinstance(error, RuntimeError) or "DataLoader worker" in str(error)):
                raise TrainingError(
                    f"a data worker died ({error}), most often of too little memory: lower data.workers (now "
                    f"{self.config.data.workers}) and run the same command again to go on"
                ) from error
            raise

    def _one_step(self, batch: FilmBatch, stretch: _Stretch) -> dict[str, Any]:
        loop = stretch.config.loop
        self.quarantine.take(batch)
        device = self.accelerator.device
        self.towers.train()
        if self.config.model.train_vision == "frozen":
            self.model.vision_model.eval()  # no dropout of what is not trained
        torch.manual_seed(_seed(self.config.seed, self.step, self.accelerator.process_index))
        rate = stretch.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        world = self.accelerator.num_processes

        def loss_of(encoded: Features) -> Tensor:
            return batch_loss(self.model, encoded, batch, stretch.config.loss, stretch.films) * world  # averaged later

        no_sync = getattr(self.towers, "no_sync", nullcontext)
        if loop.sharding == "fsdp":
            no_sync = partial(unsynchronised, self.towers)
        parts = self._micro_batches(batch, loop.micro_batches)
        # DDP's wrapper has the precision already; what is cut by hand has not
        with self.accelerator.autocast() if loop.sharding == "fsdp" else nullcontext():
            share = backward(self.towers, parts, loss_of, no_sync=no_sync)
        loss = self._total(share / world)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.step} is {loss}: lower loop.learning_rate (now {loop.learning_rate}) or "
                f"loop.clip_norm, and begin in another folder, or go on from {self.run / 'state'}"
            )
        if loop.sharding == "fsdp":
            average_unsharded(self.towers)
        norm = float(full(torch.nn.utils.clip_grad_norm_(self.towers.parameters(), loop.clip_norm)))
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step += 1
        return {
            "step": self.step - 1,
            "loss": loss,
            "lr": rate,
            "gradient_norm": norm,
            "tau": float(self.model.temperature.detach()),
            "images": int(self._total(torch.tensor(float(len(batch.pixel_values)), device=device))),
        }

    def _micro_batches(self, batch: FilmBatch, parts: int) -> list[MicroBatch]:
        device = self.accelerator.device
        pixels, ids, mask = (t.to(device) for t in (batch.pixel_values, batch.input_ids, batch.attention_mask))
        return split_batch(pixels, ids, mask, parts)

    def _total(self, share: Tensor) -> float:
        total = share.detach().double().clone()
        if self.accelerator.num_processes > 1:
            dist.all_reduce(total)
        return float(total)

    # -- validation ------------------------------------------------------------------------------------

    @torch.no_grad()
    def _validation_loss(self, stretch: _Stretch) -> float | None:
        """Mean loss of the validation films' batches; None where there are none."""
        films, loop = self.validation, stretch.config.loop
        if films is None:
            return None
        per_rank, world = loop.images_per_rank, self.accelerator.num_processes
        count = math.ceil(len(films) / (per_rank * world))
        plan = EpochPlan(
            len(films), per_rank, rank=self.accelerator.process_index, world=world, last=count, shuffle=False
        )
        towers = self.towers if self.ema is None else Towers(self.averaged)
        towers.eval()
        losses = []
        for batch in loader(films, plan, workers=0):
            self.quarantine.take(batch)
            with self.accelerator.autocast():
                whole = joined([part.encode(towers) for part in self._micro_batches(batch, loop.micro_batches)])
            losses.append(self._total(batch_loss(self.model, whole, batch, stretch.config.loss, films)))
        return sum(losses) / len(losses)

    def _validate(self, stretch: _Stretch) -> None:
        """At the end of an epoch: keep the model if it is the best of its stage, or if nothing tells."""
        loss = self._validation_loss(stretch)
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(
                f"the validation loss after step {self.step - 1} is {loss}: lower loop.learning_rate (now "
                f"{stretch.config.loop.learning_rate}) and begin in another folder"
            )
        if loss is not None:
            self._log({"step": self.step - 1, "epoch": self.epoch, "validation_loss": loss})
        if loss is None or loss < self.best:
            self.best = math.nan if loss is None else loss
            self.best_epoch = self.epoch
            self._save_model(self.run / "state" / "best")
        self.epoch += 1

    def _patience_is_out(self) -> bool:
        patience = self.config.loop.patience
        return bool(patience) and not math.isnan(self.best) and self.epoch - 1 - self.best_epoch >= patience

    # -- files -----------------------------------------------------------------------------------------

    def _take_folder(self) -> None:
        path = self.run / "config.yaml"
        if self.accelerator.is_main_process:
            self.run.mkdir(parents=True, exist_ok=True)
            begun = any(
                entry.name != path.name for entry in self.run.iterdir()
            )  # a run that failed at once has but this
            if begun and path.exists() and _without_influence(load_config(path)) != _without_influence(self.config):
                raise ValueError(f"{self.run}: holds a run of another configuration; give this one another folder")
            write_whole(path, self.config.to_yaml().encode())
        self.accelerator.wait_for_everyone()

    def _log(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            if self.config.loop.trackers:
                self.accelerator.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])

    def _load_state(self) -> None:
        path = self.run / "state" / "last.pt"
        if path.exists():
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                self._set_weights(state["model"], state["optimizer"])
                if self.ema is not None:
                    self.ema.load_state_dict(state["ema"])
                self.step, self.epoch, self.best_epoch = (int(state[key]) for key in ("step", "epoch", "best_epoch"))
                self.best, self.seconds = float(state["best"]), float(state["seconds"])
                self.quarantine.seen = int(state["seen"])
            except (RuntimeError, KeyError, EOFError, ValueError, OSError) as error:
                raise TrainingError(
                    f"{path}: is damaged ({type(error).__name__}: {error}). Remove it to begin again, or start another "
                    f"run from {path.with_name('best')} (model.start)"
                ) from error
        if self.accelerator.is_main_process:
            _trim(self.run / "metrics.jsonl", self.step)
        self.accelerator.wait_for_everyone()

    @property
    def averaged(self) -> VisionLanguageModel:
        """What is validated and saved: the mean of the weights where one is kept, else the model."""
        return self.model if self.ema is None else cast(VisionLanguageModel, self.ema.module)

    def _weights(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Whole states of model and optimiser; collective where they are in parts."""
        if self.config.loop.sharding == "fsdp":
            return whole_states(self.model, self.optimizer)
        return self.model.state_dict(), self.optimizer.state_dict()

    def _set_weights(self, model: dict[str, Any], optimizer: dict[str, Any]) -> None:
        if self.config.loop.sharding == "fsdp":
            set_whole_states(self.model, self.optimizer, model, optimizer)
        else:
            self.model.load_state_dict(model)
            self.optimizer.load_state_dict(optimizer)

    def _save_state(self) -> None:
        model, optimizer = self._weights()
        if self.accelerator.is_main_process:
            path = self.run / "state" / "last.pt"
            state = {
                "model": model,
                "optimizer": optimizer,
                "ema": None if self.ema is None else self.ema.state_dict(),
                "step": self.step,
                "epoch": self.epoch,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "seconds": self.seconds,
                "seen": self.quarantine.seen,
            }
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as temporary:
                    torch.save(state, temporary)
            except (OSError, RuntimeError) as error:
                raise TrainingError(
                    f"{path}: cannot be saved ({error}). Make room and run the same command again; the state of an "
                    "earlier step is whole"
                ) from error
        self.accelerator.wait_for_everyone()

    def _save_model(self, folder: Path) -> None:
        """A checkpoint that radzero.load reads; replaced as a whole."""
        weights = self._weights()[0] if self.config.loop.sharding == "fsdp" else None
        if self.accelerator.is_main_process:
            model = merged(self.averaged)
            model.config.card = {**self.source.card, "seed": self.config.seed, "steps": self.step}
            try:
                with replacing_folder(folder) as temporary:
                    model.save_pretrained(temporary, state_dict=weights)
                    save_processor(self.processor, temporary)
                    (temporary / "recipe.yaml").write_text(self.config.to_yaml(), encoding="utf-8")
                    (temporary / "README.md").write_text(model_card(self.config, model, self.run), encoding="utf-8")
            except OSError as error:
                raise TrainingError(
                    f"{folder}: cannot be saved ({error}). Make room and run the command again"
                ) from error
        self.accelerator.wait_for_everyone()

    def _finish(self) -> Path:
        folder = self.run / "model"
        if self.accelerator.is_main_process:
            with replacing_folder(folder) as temporary:
                shutil.copytree(self.run / "state" / "best", temporary, dirs_exist_ok=True)
        self.accelerator.wait_for_everyone()
        return folder


def _accelerator(config: TrainConfig, run: Path) -> "Accelerator":
    """Of this process.

    Raises:
        ImportError: when Accelerate or a tracker is not installed.
    """
    try:
        import matplotlib  # noqa: F401
        from accelerate import Accelerator
        from accelerate.tracking import filter_trackers
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise ImportError(f"training needs {error.name}: pip install 'radzero[train]'") from error
    loop = config.loop
    wanted = list(loop.trackers)
    if len(filter_trackers(wanted, str(run))) < len(wanted):
        raise ImportError(f"loop.trackers: not all of {', '.join(wanted)} are installed")
    return Accelerator(
        mixed_precision="bf16" if loop.precision == "bf16" else "no",
        log_with=wanted or None,
        project_dir=run,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def _without_influence(config: TrainConfig) -> str:
    content = asdict(config)
    for key in WITHOUT_INFLUENCE:
        section, name = key.split(".")
        del content[section][name]
    return json.dumps(content, sort_keys=True)


def _seed(*numbers: int) -> int:
    """Of dropout, from the run's seed, the step and the rank, so that a run can go on at any step."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()[:4], "big")


def _trim(path: Path, steps: int) -> None:
    """Drop the lines of steps that will be taken again, and a torn one."""
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        write_whole(path, "".join(line for line in lines if json.loads(line)["step"] < steps).encode())
