"""Run the training loop on one process or many; a run can be interrupted at any moment, and resumes exactly.

The loop is built on Accelerate, which users of transformers know, and which gives data parallelism, mixed precision and
launching by torchrun without a framework around the loop. :mod:`radzero.training.sharding` has the losses.
"""

import gc
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from radzero.models.base import Features, VisionLanguageModel
from radzero.training.batches import EpochPlan, FilmBatch, Quarantine, TrainingDataset, loader
from radzero.training.config import TrainConfig
from radzero.training.fsdp import average_unsharded, full, set_whole_states, shard_model, unsynchronised, whole_states
from radzero.training.gradient_cache import MicroBatch, Towers, backward, joined, split_batch
from radzero.training.lora import merged
from radzero.training.model_building import build_start
from radzero.training.progress import draw_progress
from radzero.training.run_folder import RunFolder, TrainingError
from radzero.training.sources import open_source
from radzero.training.stages import RunStage, plan_stages
from radzero.training.step_loss import batch_loss
from radzero.training.token_cache import CachedDataset, TokenCache

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Result:
    """Result of a run.

    Attributes:
        folder: folder of a checkpoint that ``radzero.load`` reads: the best of the last stage by validation loss, or,
            without a validation split, the last one.
        steps: number of optimiser steps taken, those before an interrupt included.
        best: validation loss of the checkpoint; NaN without a validation split.
        stopped_early: whether ``loop.patience`` ended the run.
    """

    folder: Path
    steps: int
    best: float
    stopped_early: bool


class Trainer:
    """Train in a folder, which gets ``config.yaml``, ``metrics.jsonl``, ``quarantine.jsonl``, ``state/``, ``model/``.

    Args:
        config: configuration of the run.
        run: folder of the run; a run of the same configuration there is resumed.
        on_progress: called with "drawing phantoms" or "encoding images", the number done and the number in all, where
            phantoms are drawn or images are encoded before the run.

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
        self.config, self.run = config, RunFolder(run, config)
        self._own_group = not dist.is_initialized()
        self.accelerator = _accelerator(config, run)
        self._alone(self.run.take)
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
        self.stages = plan_stages(config, self._films, *self._place)
        self.step, self.epoch, self.best, self.best_epoch, self.seconds = 0, 0, math.inf, -1, 0.0
        self._load_state()
        if config.loop.trackers:
            self.accelerator.init_trackers("radzero", {"recipe": config.to_yaml()})

    def _prepared(self) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        """Return the model's towers as they run on this process, and AdamW for the trained parameters."""
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

    def _cached(self, films: Any, split: str) -> TrainingDataset:
        """Return the images, or their vision tokens where ``data.token_cache`` is set; the cache is filled first."""
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
        return CachedDataset(films, cache)

    @property
    def _rank_suffix(self) -> str:
        return f"-{self.accelerator.process_index}" if self.accelerator.num_processes > 1 else ""

    def _films(self, config: TrainConfig) -> TrainingDataset:
        return self._cached(self.source.films(self.processor, config.data, config.seed), "train")

    @property
    def _place(self) -> tuple[int, int]:
        """Rank of this process, and number of processes."""
        return self.accelerator.process_index, self.accelerator.num_processes

    def _alone(self, work: Callable[[], None]) -> None:
        """Have the main process do ``work`` while the others wait."""
        if self.accelerator.is_main_process:
            work()
        self.accelerator.wait_for_everyone()

    @property
    def steps(self) -> int:
        """Number of optimiser steps of the run."""
        return self.stages[-1].last

    def train(self, on_step: Callable[[dict[str, Any]], None] = lambda record: None) -> Result:
        """Train to the end, from the beginning or from where the run was interrupted.

        Args:
            on_step: called on the main process with the record of each step.

        Raises:
            TrainingError: for a loss that is not finite, a worker that died, or a disk that is full.
            TooManyUnreadableError: see :class:`~radzero.training.batches.Quarantine`.
        """
        started, before = time.monotonic(), self.seconds
        for stage in self.stages:
            if self.step >= stage.last or self._patience_is_out():
                continue
            if self.step == stage.first:  # losses of different stages are not comparable
                self.best, self.best_epoch = math.inf, self.epoch - 1
            self._begin(stage)
            per_epoch = stage.steps_per_epoch(*self._place)
            for batch in self._batches(stage):
                record = self._one_step(batch, stage)
                self.seconds = before + time.monotonic() - started
                record["seconds"] = round(self.seconds, 2)
                self._log(record)
                if self.accelerator.is_main_process:
                    on_step(record)
                epoch_ends = (self.step - stage.first) % per_epoch == 0 or self.step == stage.last
                if epoch_ends:
                    self._validate(stage)
                    if self.accelerator.is_main_process:
                        draw_progress(self.run.path)
                if epoch_ends or self.step % self.config.loop.save_every == 0:
                    self._save_state()
                if epoch_ends and self._patience_is_out():
                    break
        self._alone(self.run.finish)
        return Result(self.run.model, self.step, self.best, self.step < self.steps)

    def close(self) -> None:
        """End the trackers and, where this trainer began it, the process group; the trainer cannot be used afterwards.

        Each of several processes must call this before it ends: a thread of gloo, the CPU's backend, that is still
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

    def _begin(self, stage: RunStage) -> None:
        sizes = stage.config.model.small
        if sizes is not None and not stage.config.model.vision and not stage.config.model.start:
            self.model.vision_model.config.token_stride = sizes.token_stride

    def _batches(self, stage: RunStage) -> Iterator[FilmBatch]:
        plan = stage.epochs(*self._place, start=self.step - stage.first, end=stage.last - stage.first)
        try:
            yield from loader(stage.films, plan, workers=self.config.data.workers)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if self.config.data.workers and (not isinstance(error, RuntimeError) or "DataLoader worker" in str(error)):
                raise TrainingError(
                    f"a data worker died ({error}), most often of too little memory: lower data.workers (now "
                    f"{self.config.data.workers}) and run the same command again to go on"
                ) from error
            raise

    def _one_step(self, batch: FilmBatch, stage: RunStage) -> dict[str, Any]:
        loop = stage.config.loop
        self.quarantine.take(batch)
        device = self.accelerator.device
        self.towers.train()
        if self.config.model.train_vision == "frozen":
            self.model.vision_model.eval()  # a part that is not trained has no dropout
        torch.manual_seed(_seed(self.config.seed, self.step, self.accelerator.process_index))
        rate = stage.rate.at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        world = self.accelerator.num_processes

        def loss_of(encoded: Features) -> Tensor:
            return batch_loss(self.model, encoded, batch, stage.config.loss, stage.films) * world  # averaged later

        no_sync = getattr(self.towers, "no_sync", nullcontext)
        if loop.sharding == "fsdp":
            no_sync = partial(unsynchronised, self.towers)
        parts = self._micro_batches(batch, loop.micro_batches)
        # Accelerate has set the precision of what it prepared; it does not prepare a model that is split by FSDP
        with self.accelerator.autocast() if loop.sharding == "fsdp" else nullcontext():
            share = backward(self.towers, parts, loss_of, no_sync=no_sync)
        loss = self._total(share / world)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.step} is {loss}: lower loop.learning_rate (now {loop.learning_rate}) or "
                f"loop.clip_norm, and begin in another folder, or go on from {self.run.state.parent}"
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
    def _validation_loss(self, stage: RunStage) -> float | None:
        """Return the mean loss of the validation batches; None where there is no validation split."""
        films, loop = self.validation, stage.config.loop
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
            losses.append(self._total(batch_loss(self.model, whole, batch, stage.config.loss, films)))
        return sum(losses) / len(losses)

    def _validate(self, stage: RunStage) -> None:
        """Save the model if its validation loss is the best of this stage, or if there is no validation split."""
        loss = self._validation_loss(stage)
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(
                f"the validation loss after step {self.step - 1} is {loss}: lower loop.learning_rate (now "
                f"{stage.config.loop.learning_rate}) and begin in another folder"
            )
        if loss is not None:
            self._log({"step": self.step - 1, "epoch": self.epoch, "validation_loss": loss})
        if loss is None or loss < self.best:
            self.best = math.nan if loss is None else loss
            self.best_epoch = self.epoch
            self._save_best()
        self.epoch += 1

    def _patience_is_out(self) -> bool:
        patience = self.config.loop.patience
        return bool(patience) and not math.isnan(self.best) and self.epoch - 1 - self.best_epoch >= patience

    # -- files -----------------------------------------------------------------------------------------

    def _log(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.run.log(record)
            if self.config.loop.trackers:
                self.accelerator.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])

    def _load_state(self) -> None:
        if self.run.state.exists():
            try:
                state = torch.load(self.run.state, map_location="cpu", weights_only=True)
                self._set_weights(state["model"], state["optimizer"])
                if self.ema is not None:
                    self.ema.load_state_dict(state["ema"])
                self.step, self.epoch, self.best_epoch = (int(state[key]) for key in ("step", "epoch", "best_epoch"))
                self.best, self.seconds = float(state["best"]), float(state["seconds"])
                self.quarantine.seen = int(state["seen"])
            except (RuntimeError, KeyError, EOFError, ValueError, OSError) as error:
                raise self.run.damaged(error) from error
        self._alone(lambda: self.run.trim_metrics(self.step))

    @property
    def averaged(self) -> VisionLanguageModel:
        """Model that is validated and saved: the mean of the weights where ``loop.ema`` is set, else the model."""
        return self.model if self.ema is None else cast(VisionLanguageModel, self.ema.module)

    def _weights(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the whole states of model and optimiser; collective where they are split over processes."""
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
        self._alone(lambda: self.run.save_state(state))

    def _save_best(self) -> None:
        weights = self._weights()[0] if self.config.loop.sharding == "fsdp" else None

        def save() -> None:
            model = merged(self.averaged)
            model.config.card = {**self.source.card, "seed": self.config.seed, "steps": self.step}
            self.run.save_best(model, self.processor, weights)

        self._alone(save)


def _accelerator(config: TrainConfig, run: Path) -> "Accelerator":
    """Return the Accelerator of this process.

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


def _seed(*numbers: int) -> int:
    """Return the seed of dropout from the run's seed, the step and the rank, so that a run can resume at any step."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()[:4], "big")
