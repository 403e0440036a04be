"""Plan the stages of a run: which steps they take, on which images, at which learning rate."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from radzero.training.batches import EpochPlan, TrainingDataset
from radzero.training.config import TrainConfig


@dataclass(frozen=True)
class RateSchedule:
    """A linear warm-up and a cosine to 0, over steps ``first`` to ``last`` (excluded) of a run."""

    first: int
    last: int
    highest: float
    warmup: int

    def at(self, step: int) -> float:
        """Return the learning rate of a step of the run."""
        return learning_rate(step - self.first, self.last - self.first, self.highest, self.warmup)


@dataclass(frozen=True)
class RunStage:
    """A stage with its place in the run.

    Attributes:
        config: configuration of the stage.
        films: images of its data choice.
        first, last: steps of the run, ``last`` excluded.
        first_epoch: number of its first epoch.
        rate: schedule of its learning rate, which may be one cosine over several stages.
    """

    config: TrainConfig
    films: TrainingDataset
    first: int
    last: int
    first_epoch: int
    rate: RateSchedule

    def epochs(self, rank: int, world: int, *, start: int = 0, end: int = 0) -> EpochPlan:
        """Plan the images of a process at steps ``start`` to ``end`` (excluded) of the stage."""
        return epoch_plan(self.films, self.config, rank, world, start, end, self.first_epoch)

    def steps_per_epoch(self, rank: int, world: int) -> int:
        """Return the number of optimiser steps in which every image is seen once."""
        return self.epochs(rank, world).steps_per_epoch


def learning_rate(step: int, steps: int, highest: float, warmup: int) -> float:
    """Return the learning rate of a step: a linear warm-up over ``warmup`` steps, then a cosine to 0 at ``steps``."""
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def epoch_plan(
    films: TrainingDataset, config: TrainConfig, rank: int, world: int, first: int, last: int, first_epoch: int = 0
) -> EpochPlan:
    """Plan the images of one of ``world`` processes at steps ``first`` to ``last`` (excluded) of a stage."""
    return EpochPlan(
        len(films),
        config.loop.images_per_rank,
        rank=rank,
        world=world,
        seed=config.seed,
        first=first,
        last=last,
        first_epoch=first_epoch,
    )


def plan_stages(
    config: TrainConfig, films_of: Callable[[TrainConfig], TrainingDataset], rank: int, world: int
) -> list[RunStage]:
    """Return the stages of a run, or the whole run as one.

    Args:
        config: configuration of the run.
        films_of: function that gives the images of a stage's configuration.
        rank, world: rank of this process, and number of processes.
    """
    stages: list[RunStage] = []
    for k, own in enumerate(config.stage_configs):
        films = films_of(own)
        epoch = epoch_plan(films, own, rank, world, 0, 0).steps_per_epoch
        before = stages[-1] if stages else None
        first = before.last if before else 0
        last = first + (config.stages[k].steps if config.stages else own.loop.epochs * epoch)
        rate = RateSchedule(first, last, own.loop.learning_rate, 0 if before else own.loop.warmup_steps)
        if before and "loop.learning_rate" not in config.stages[k].set:  # one cosine spans both
            rate = replace(before.rate, last=last)
            stages = [replace(stage, rate=rate) if stage.rate == before.rate else stage for stage in stages]
        done = math.ceil((before.last - before.first) / before.steps_per_epoch(rank, world)) if before else 0
        stages.append(RunStage(own, films, first, last, (before.first_epoch if before else 0) + done, rate))
    return stages
