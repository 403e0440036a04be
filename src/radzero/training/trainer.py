"""The training loop over a manifest: one process or many, restartable at any moment, exact.

Built on Accelerate, which transformers' users know and which brings data parallelism, mixed precision and launching by
torchrun without a framework around the loop. The loss is not its business: see :mod:`radzero.training.sharding`.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from radzero.models.conversion import save_processor
from radzero.models.similarity import Similarity, pair_logits
from radzero.training.batches import EpochPlan, FilmBatch, ManifestFilms, Quarantine, loader
from radzero.training.config import WITHOUT_INFLUENCE, LossChoice, TrainConfig
from radzero.training.files import write_whole
from radzero.training.gradient_cache import Encoded, MicroBatch, Towers, backward, split_batch
from radzero.training.manifest import EmptySplitError, Manifest
from radzero.training.model_building import build_start
from radzero.training.sharding import (
    Shards,
    gather_rows,
    sharded_binary_pair_loss,
    sharded_multi_positive_loss,
    sharded_quiet_map_loss,
)


class TrainingError(RuntimeError):
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


def batch_loss(encoded: Encoded, batch: FilmBatch, choice: LossChoice, similarity: Similarity) -> Tensor:
    """A rank's share of the loss of a batch; collective."""
    device = encoded.tokens.device
    shards = Shards.of(len(encoded.tokens), len(encoded.sentences), device)
    texts = gather_rows(encoded.sentences, shards.sentences, shards.rank)
    tau, attention = encoded.temperatures
    pairs = pair_logits(encoded.tokens, texts, tau, similarity, attention)

    # sentences are encoded once however many images state them; the loss counts every statement
    said = Shards.of(len(encoded.tokens), len(batch.text_n), device)
    first_text = sum(shards.sentences[: shards.rank])
    rows = torch.stack((batch.owner_n + said.first_image, batch.text_n + first_text), dim=1).to(device)
    with torch.no_grad():
        owner_N, text_N = gather_rows(rows, said.sentences, said.rank).unbind(dim=1)
    logits = pairs.logits[:, text_N]
    ignore = _stated(batch, shards, device)[:, text_N] if choice.ignore == "stated" else None
    loss = sharded_multi_positive_loss(
        logits, owner_N, said, ignore_bN=ignore, row_sum=choice.row_sum, col_sum=choice.col_sum
    )
    if choice.binary_weight:
        loss = loss + choice.binary_weight * sharded_binary_pair_loss(
            logits, owner_N, said, ignore_bN=ignore, negative_weight=choice.binary_negative_weight
        )
    if choice.quiet_weight:
        loss = loss + choice.quiet_weight * sharded_quiet_map_loss(
            pairs.peaks[:, text_N], owner_N, said, ignore_bN=ignore
        )
    return loss


def _stated(batch: FilmBatch, shards: Shards, device: torch.device) -> Tensor:
    """(b, all ranks' texts): whether an image of this rank states a text in the same words."""
    names = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big", signed=True) for t in batch.texts]
    own = torch.tensor(names, dtype=torch.long, device=device)
    with torch.no_grad():
        every = gather_rows(own[:, None], shards.sentences, shards.rank)[:, 0]
    states = torch.zeros(len(batch.pixel_values), len(own), dtype=torch.bool, device=device)
    states[batch.owner_n.to(device), batch.text_n.to(device)] = True
    return (states.float() @ (own[:, None] == every).float()) > 0


class Trainer:
    """A run in a folder: ``config.yaml``, ``metrics.jsonl``, ``quarantine.jsonl``, ``state/``; at its end ``model/``.

    Args:
        config: what to do.
        run: the folder; a run of the same configuration there goes on.

    Raises:
        ValueError: when the folder holds a run of another configuration, or something cannot be loaded.
        ImportError: when Accelerate is not installed.
    """

    def __init__(self, config: TrainConfig, run: Path) -> None:
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs
        except ImportError as error:
            raise ImportError("training needs accelerate: pip install 'radzero[train]'") from error
        self.config, self.run = config, run
        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.loop.precision == "bf16" else "no",
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        self._take_folder()
        self.manifest = Manifest(Path(config.data.manifest), "train")
        torch.manual_seed(config.seed)
        model, self.processor = build_start(config.model, self.manifest)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.loop.weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=config.loop.learning_rate,
        )
        self.model = model
        self.towers, self.optimizer = self.accelerator.prepare(Towers(model), optimizer)
        data = config.data
        self.films = ManifestFilms(
            self.manifest, self.processor, data.augmentation, one_sentence=data.sentences == "one", seed=config.seed
        )
        self.validation = self._validation_films()
        self.quarantine = Quarantine(run / f"quarantine{self._rank_suffix}.jsonl", data.unreadable_share)
        self.step, self.best, self.best_epoch, self.seconds = 0, math.inf, -1, 0.0
        self._load_state()

    @property
    def _rank_suffix(self) -> str:
        return f"-{self.accelerator.process_index}" if self.accelerator.num_processes > 1 else ""

    def plan(self, first: int, last: int) -> EpochPlan:
        """This rank's images at the steps of the run."""
        return EpochPlan(
            len(self.films),
            self.config.loop.images_per_rank,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            seed=self.config.seed,
            first=first,
            last=last,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return self.plan(0, 0).steps_per_epoch

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.config.loop.epochs * self.steps_per_epoch

    def train(self, on_step: Callable[[dict[str, Any]], None] = lambda record: None) -> Result:
        """Train, or go on, to the end.

        Args:
            on_step: called on the main process with the record of each step.

        Raises:
            TrainingError: for a loss that is not finite, a worker that died, or a disk that is full.
            TooManyUnreadableError: see :class:`~radzero.training.batches.Quarantine`.
        """
        stopped = self._patience_is_out()
        started = time.monotonic()
        before = self.seconds
        batches = self._batches()
        while self.step < self.steps and not stopped:
            batch = next(batches)
            record = self._one_step(batch)
            self.seconds = before + time.monotonic() - started
            record["seconds"] = round(self.seconds, 2)
            self._log(record)
            if self.accelerator.is_main_process:
                on_step(record)
            epoch_ends = self.step % self.steps_per_epoch == 0
            if epoch_ends:
                self._validate()
                stopped = self._patience_is_out()
            if epoch_ends or self.step % self.config.loop.save_every == 0:
                self._save_state()
        return Result(self._finish(), self.step, self.best, stopped)

    def _batches(self) -> Iterator[FilmBatch]:
        plan = self.plan(self.step, self.steps)
        try:
            yield from loader(self.films, plan, workers=self.config.data.workers)
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                raise TrainingError(
                    f"a data worker died ({error}), most often of too little memory: lower data.workers (now "
                    f"{self.config.data.workers}) and run the same command again to go on"
                ) from error
            raise

    def _one_step(self, batch: FilmBatch) -> dict[str, Any]:
        loop = self.config.loop
        self.quarantine.take(batch)
        device = self.accelerator.device
        self.towers.train()
        torch.manual_seed(_seed(self.config.seed, self.step, self.accelerator.process_index))
        rate = learning_rate(self.step, self.steps, loop.learning_rate, loop.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        world = self.accelerator.num_processes
        similarity: Similarity = self.model.config.similarity  # type: ignore[assignment]

        def loss_of(encoded: Encoded) -> Tensor:
            return batch_loss(encoded, batch, self.config.loss, similarity) * world  # the wrapper averages

        no_sync = getattr(self.towers, "no_sync", nullcontext)
        loss = self._total(backward(self.towers, self._micro_batches(batch), loss_of, no_sync=no_sync) / world)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.step} is {loss}: lower loop.learning_rate (now {loop.learning_rate}) or "
                f"loop.clip_norm, and begin in another folder, or go on from {self.run / 'state'}"
            )
        norm = float(self.accelerator.clip_grad_norm_(self.towers.parameters(), loop.clip_norm))
        self.optimizer.step()
        self.step += 1
        return {
            "step": self.step - 1,
            "loss": loss,
            "lr": rate,
            "gradient_norm": norm,
            "tau": float(self.model.temperature.detach()),
            "images": int(self._total(torch.tensor(float(len(batch.pixel_values)), device=device))),
        }

    def _micro_batches(self, batch: FilmBatch) -> list[MicroBatch]:
        device = self.accelerator.device
        pixels, ids, mask = (t.to(device) for t in (batch.pixel_values, batch.input_ids, batch.attention_mask))
        return split_batch(pixels, ids, mask, self.config.loop.micro_batches)

    def _total(self, share: Tensor) -> float:
        total = share.detach().double().clone()
        if self.accelerator.num_processes > 1:
            dist.all_reduce(total)
        return float(total)

    # -- validation ------------------------------------------------------------------------------------

    def _validation_films(self) -> ManifestFilms | None:
        try:
            return ManifestFilms(Manifest(self.manifest.path, "validate"), self.processor, seed=self.config.seed)
        except EmptySplitError:
            return None

    @torch.no_grad()
    def validation_loss(self) -> float | None:
        """Mean loss of the validate split's batches; None where the manifest has none."""
        films = self.validation
        if films is None:
            return None
        per_rank, world = self.config.loop.images_per_rank, self.accelerator.num_processes
        count = math.ceil(len(films) / (per_rank * world))
        plan = EpochPlan(
            len(films), per_rank, rank=self.accelerator.process_index, world=world, last=count, shuffle=False
        )
        self.towers.eval()
        similarity: Similarity = self.model.config.similarity  # type: ignore[assignment]
        losses = []
        for batch in loader(films, plan, workers=0):
            self.quarantine.take(batch)
            encoded = [part.encode(self.towers) for part in self._micro_batches(batch)]
            whole = Encoded(
                torch.cat([e.tokens for e in encoded]),
                torch.cat([e.sentences for e in encoded]),
                encoded[0].temperatures,
            )
            losses.append(self._total(batch_loss(whole, batch, self.config.loss, similarity)))
        return sum(losses) / len(losses)

    def _validate(self) -> None:
        loss = self.validation_loss()
        epoch = self.step // self.steps_per_epoch - 1
        if loss is not None:
            self._log({"step": self.step - 1, "epoch": epoch, "validation_loss": loss})
        if loss is None or loss < self.best:
            self.best = math.nan if loss is None else loss
            self.best_epoch = epoch
            self._save_model(self.run / "state" / "best")

    def _patience_is_out(self) -> bool:
        patience, epoch = self.config.loop.patience, self.step // self.steps_per_epoch - 1
        return bool(patience) and not math.isnan(self.best) and epoch - self.best_epoch >= patience

    # -- files -----------------------------------------------------------------------------------------

    def _take_folder(self) -> None:
        path = self.run / "config.yaml"
        if self.accelerator.is_main_process:
            self.run.mkdir(parents=True, exist_ok=True)
            text = self.config.to_yaml()
            if path.exists() and _without_influence(path.read_text(encoding="utf-8")) != _without_influence(text):
                raise ValueError(f"{self.run}: holds a run of another configuration; give this one another folder")
            write_whole(path, text.encode())
        self.accelerator.wait_for_everyone()

    def _log(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _load_state(self) -> None:
        path = self.run / "state" / "last.pt"
        if path.exists():
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step, self.best = int(state["step"]), float(state["best"])
                self.best_epoch, self.seconds = int(state["best_epoch"]), float(state["seconds"])
            except (RuntimeError, KeyError, EOFError, ValueError, OSError) as error:
                raise TrainingError(
                    f"{path}: is damaged ({type(error).__name__}: {error}). Remove it to begin again, or start another "
                    f"run from {path.with_name('best')} (model.start)"
                ) from error
        if self.accelerator.is_main_process:
            _trim(self.run / "metrics.jsonl", self.step)
        self.accelerator.wait_for_everyone()

    def _save_state(self) -> None:
        if self.accelerator.is_main_process:
            path = self.run / "state" / "last.pt"
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "seconds": self.seconds,
            }
            temporary = path.with_name("last.pt.partial")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(state, temporary)
                os.replace(temporary, path)
            except (OSError, RuntimeError) as error:
                temporary.unlink(missing_ok=True)
                raise TrainingError(
                    f"{path}: cannot be saved ({error}). Make room and run the same command again; the state of an "
                    "earlier step is whole"
                ) from error
        self.accelerator.wait_for_everyone()

    def _save_model(self, folder: Path) -> None:
        """A checkpoint that radzero.load reads; replaced as a whole."""
        if self.accelerator.is_main_process:
            temporary = folder.with_name(folder.name + ".partial")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                temporary.mkdir(parents=True)
                self.model.config.card = {
                    "data": f"{len(self.manifest)} images of {self.manifest.path.name}",
                    "seed": self.config.seed,
                    "steps": self.step,
                }
                self.model.save_pretrained(temporary)
                save_processor(self.processor, temporary)
                (temporary / "config_of_training.yaml").write_text(self.config.to_yaml(), encoding="utf-8")
            except OSError as error:
                shutil.rmtree(temporary, ignore_errors=True)
                raise TrainingError(
                    f"{folder}: cannot be saved ({error}). Make room and run the command again"
                ) from error
            earlier = folder.with_name(folder.name + ".earlier")
            shutil.rmtree(earlier, ignore_errors=True)
            if folder.exists():
                os.replace(folder, earlier)
            os.replace(temporary, folder)
            shutil.rmtree(earlier, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _finish(self) -> Path:
        folder = self.run / "model"
        if self.accelerator.is_main_process:
            temporary = folder.with_name("model.partial")
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(self.run / "state" / "best", temporary)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        self.accelerator.wait_for_everyone()
        return folder


def _without_influence(text: str) -> str:
    content = yaml.safe_load(text)
    for key in WITHOUT_INFLUENCE:
        section, name = key.split(".")
        content.get(section, {}).pop(name, None)
    return json.dumps(content, sort_keys=True)


def _seed(*numbers: int) -> int:
    """Of dropout, from the run's seed, the step and the rank, so that a run can go on at any step."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()[:4], "big")


def _trim(path: Path, steps: int) -> None:
    """Drop the lines of steps that will be taken again, and a torn one."""
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        write_whole(path, "".join(line for line in lines if json.loads(line)["step"] < steps).encode())
