"""What a training run is made of: one typed object, which is the YAML file and the command line's overrides."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from radzero.training.batches import Augmentation
from radzero.training.recipe import ModelSizes, build


@dataclass(frozen=True)
class ModelChoice:
    """What is trained.

    Attributes:
        start: a RadZero checkpoint, folder or hub id, to go on from; or nothing, and then either ``small`` or both
            ``vision`` and ``text``.
        vision: a DINOv2 checkpoint; its image processor's mean and standard deviation are taken too.
        text: a BERT-like checkpoint with its tokenizer.
        small: sizes of a model with random weights, whose vocabulary is the words of the training sentences.
        align_layers: DINOv2 blocks on the vision tokens.
        image_size: side in pixels; films are squashed to a square.
        similarity, temperature, attention_temperature: see :class:`~radzero.models.configuration.RadZeroConfig`.
        train_vision: "full" or "frozen".
        recompute: whether activations are computed again in the backward pass, which saves memory.
    """

    start: str = ""
    vision: str = ""
    text: str = ""
    small: ModelSizes | None = None
    align_layers: int = 2
    image_size: int = 518
    similarity: str = "cos"
    temperature: float = 0.07
    attention_temperature: float | None = None
    train_vision: str = "full"
    recompute: bool = False

    def __post_init__(self) -> None:
        ways = [bool(self.start), bool(self.vision and self.text), self.small is not None]
        if sum(ways) != 1 or (not ways[1] and (self.vision or self.text)):
            raise ValueError("give model.start, or model.small, or both model.vision and model.text")
        if self.train_vision not in ("full", "frozen"):
            raise ValueError(f"model.train_vision is full or frozen, not {self.train_vision!r}")


@dataclass(frozen=True)
class DataChoice:
    """What it is trained on.

    Attributes:
        manifest: from ``radzero prepare``; its train split is trained on and its validate split validated on.
        sentences: "all" of an image, or "one" at random (the published ablation).
        augmentation: none by default, as published.
        workers: processes that decode.
        unreadable_share: of the images seen that may be unreadable before the run ends.
    """

    manifest: str
    sentences: str = "all"
    augmentation: Augmentation = field(default_factory=Augmentation)
    workers: int = 2
    unreadable_share: float = 0.01

    def __post_init__(self) -> None:
        if self.sentences not in ("all", "one"):
            raise ValueError(f"data.sentences is all or one, not {self.sentences!r}")


@dataclass(frozen=True)
class LossChoice:
    """The loss; as published by default.

    Attributes:
        binary_weight, binary_negative_weight: of :func:`~radzero.training.losses.binary_pair_loss`.
        quiet_weight: of :func:`~radzero.training.losses.quiet_map_loss`.
        ignore: "none", or "stated": another image's sentence that the image states in the same words is no negative.
        row_sum, col_sum: of :func:`radzero.multi_positive_loss`.
    """

    binary_weight: float = 0.0
    binary_negative_weight: float = 2.0
    quiet_weight: float = 0.0
    ignore: str = "none"
    row_sum: bool = False
    col_sum: bool = False

    def __post_init__(self) -> None:
        if self.ignore not in ("none", "stated"):
            raise ValueError(f"loss.ignore is none or stated, not {self.ignore!r}")


@dataclass(frozen=True)
class LoopChoice:
    """How it is trained; as published by default.

    Attributes:
        epochs: over the train split.
        images_per_rank: of each process; the batch is their sum.
        micro_batches: passes that a rank's images are encoded in; the gradient is that of the whole batch.
        learning_rate, weight_decay: AdamW's.
        warmup_steps: linear, before the cosine.
        clip_norm: of the gradient.
        precision: "bf16" (autocast; weights and losses stay float32) or "fp32".
        patience: epochs without a better validation loss before the run ends; 0 for never.
        save_every: steps between states; the end of every epoch is saved too.
    """

    epochs: int = 20
    images_per_rank: int = 64
    micro_batches: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    warmup_steps: int = 50
    clip_norm: float = 1.0
    precision: str = "bf16"
    patience: int = 5
    save_every: int = 1000

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"loop.precision is bf16 or fp32, not {self.precision!r}")
        for name in ("epochs", "images_per_rank", "micro_batches", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class TrainConfig:
    """A training run. ``seed`` is of weights, batches and dropout."""

    model: ModelChoice
    data: DataChoice
    loss: LossChoice = field(default_factory=LossChoice)
    loop: LoopChoice = field(default_factory=LoopChoice)
    seed: int = 0

    def to_yaml(self) -> str:
        """The file that this is."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


WITHOUT_INFLUENCE = ("data.workers", "loop.save_every")
"""Settings that change no number of a run, and so may change when it goes on."""


def load_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a run's YAML file.

    Args:
        path: of the file; paths in it that begin with ``./`` or ``../`` are relative to its folder.
        overrides: ``key=value`` with dots, such as ``loop.epochs=3``; values are YAML.

    Raises:
        ValueError: naming the file and every unknown, missing or wrongly typed key.
        FileNotFoundError: when there is no such file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for override in overrides or ():
            content = _overridden(content, override)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    try:
        config = build(TrainConfig, _located(content, path.parent), "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def _overridden(content: Any, override: str) -> Any:
    key, separator, value = override.partition("=")
    if not separator:
        raise ValueError(f"an override is key=value, not {override!r}")
    *parents, last = key.strip().split(".")
    place = content
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise ValueError(f"{override}: {parent} is no section")
    place[last] = yaml.safe_load(value)
    return content


def _located(content: Any, folder: Path) -> Any:
    """The paths of a recipe, seen from where it is read."""
    if not isinstance(content, dict):
        return content
    located = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    for section, names in (("data", ("manifest",)), ("model", ("start", "vision", "text"))):
        for name in names:
            value = located.get(section, {}).get(name) if isinstance(located.get(section), dict) else None
            if isinstance(value, str) and value.startswith(("./", "../")):
                located[section][name] = str((folder / value).resolve())
    return located
