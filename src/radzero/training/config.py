"""Describe a training run as one typed object, read from a YAML file and the command line's overrides."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from radzero.models.registry import METHODS, MethodSpec
from radzero.training.batches import Augmentation
from radzero.training.typed_yaml import build, check_choices


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a small RadZero.

    Attributes:
        widths: channels of the convolutional stem; the last is the hidden size D.
        heads: attention heads of the align layers, of the text encoder and of the vision layers.
        align_mlp_ratio: width of the align layers' MLP as a multiple of D.
        text_layers: transformer blocks of the text encoder.
        max_words: longest sentence, in tokens.
        token_stride: pixels per token, 16 or 8; the weights are the same for both.
        vision_layers: transformer blocks behind the stem; without them its CLS token holds nothing of the image. A
            method whose own layers mix the tokens (``MethodSpec.mixes_tokens``), such as RadZero, needs none.
    """

    widths: tuple[int, ...]
    heads: int
    align_mlp_ratio: int = 4
    text_layers: int = 2
    max_words: int = 64
    token_stride: int = 16
    vision_layers: int = 0


@dataclass(frozen=True)
class ModelChoice:
    """Choice of the model that is trained.

    Attributes:
        start: folder or hub id of a checkpoint of ``method`` to start from; "" to start from ``vision`` and ``text``,
            or from ``small`` in place of either or both.
        vision: folder or hub id of a DINOv2 (RAD-DINO, XrayDINOv2; with registers or not), DINOv3 ViT, ViT or conv-stem
            checkpoint; its image processor's mean and deviation are used too.
        text: folder or hub id of a BERT-like checkpoint with its tokenizer.
        local_files_only: whether hub ids are looked up in this machine's cache alone, and the hub is never asked. An id
            may name a revision: owner/name@revision.
        text_pooling: "mean" or "cls", see :class:`~radzero.models.configuration.VisionLanguageConfig`.
        registers_in_attention: see :class:`~radzero.models.configuration.VisionLanguageConfig`.
        token_stride: pixels per token, 16 or 8, in place of those of a conv-stem checkpoint; None for its own.
        small: sizes of encoders with random weights, whose vocabulary is the words of the training sentences.
        method: one of :data:`radzero.models.registry.METHODS`; "lit" needs ``train_vision: frozen``.
        align_layers: DINOv2 blocks on the vision tokens, for methods that have them, such as RadZero.
        align_layer_scale: initial scale of what the blocks add to their input: 1 as published; with less, the blocks
            start nearer to the identity, which short trainings need.
        align_linear: whether a linear layer takes the place of the blocks (RadZero's ablation), which needs
            ``align_layers: 0``.
        options: further settings of the method's configuration, such as CARZero's ``simr`` and ``memory``.
        image_size: side of the model's inputs in pixels; images are squashed to a square.
        similarity, attention_temperature: see :class:`~radzero.models.configuration.RadZeroConfig`.
        temperature, logit_bias: see :class:`~radzero.models.configuration.VisionLanguageConfig`.
        train_vision: "frozen", as published; "lora", for low-rank adapters, which a saved model has merged; or "full".
        lora_rank: rank of the adapters.
        recompute: whether activations are computed again in the backward pass, which saves memory.
    """

    start: str = ""
    vision: str = ""
    text: str = ""
    local_files_only: bool = False
    text_pooling: Literal["mean", "cls"] = "mean"
    registers_in_attention: bool = False
    token_stride: int | None = None
    small: ModelSizes | None = None
    method: str = "radzero"
    align_layers: int = 2
    align_layer_scale: float = 1.0
    align_linear: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    image_size: int = 518
    similarity: Literal["cos", "dot"] = "cos"
    temperature: float = 0.07
    attention_temperature: float | None = None
    logit_bias: float | None = None
    train_vision: Literal["full", "lora", "frozen"] = "full"
    lora_rank: int = 16
    recompute: bool = False

    def __post_init__(self) -> None:
        check_choices("model", self)
        parts = [bool(self.vision or self.small), bool(self.text or self.small)]
        whole = all(parts) and not (self.vision and self.text and self.small)
        if bool(self.start) == whole or (self.start and any(parts)):
            raise ValueError("give model.start, or model.vision and model.text, or model.small in place of one or both")
        if self.method not in METHODS:
            raise ValueError(f"model.method is one of {', '.join(METHODS)}, not {self.method!r}")
        spec = METHODS[self.method]
        if spec.locks_vision and self.train_vision != "frozen":
            raise ValueError(
                f"model.method: {self.method} locks its encoder: model.train_vision: frozen; clip trains it"
            )
        if self.align_linear and self.align_layers:
            raise ValueError("model.align_linear: is in place of blocks: model.align_layers: 0")
        defaults = {entry.name: entry.default for entry in fields(self)}
        for name in dict.fromkeys(name for other in METHODS.values() for name in other.settings):
            if name not in spec.settings and getattr(self, name) != defaults[name]:
                having = [other for other in METHODS.values() if name in other.settings]
                raise ValueError(f"model.{name}: is for {_named(having)}")
        if self.start and self.options:
            raise ValueError("model.options: are those of the checkpoint model.start")
        if self.start and (self.text_pooling != "mean" or self.registers_in_attention):
            raise ValueError(
                "model.text_pooling, model.registers_in_attention: are those of the checkpoint model.start"
            )
        if not spec.pools_states and self.text_pooling != "mean":
            raise ValueError(f"model.text_pooling: {self.method} makes a sentence of its words")
        if self.lora_rank < 1:
            raise ValueError(f"model.lora_rank must be at least 1, not {self.lora_rank}")


@dataclass(frozen=True)
class PhantomChoice:
    """Phantoms to train on, drawn into the run's folder ``films``.

    Attributes:
        films: number of phantoms; they are seen again in every epoch, with other sentences each time.
        seed: seed of the series.
        negations: fewest and most negated sentences of a phantom.
    """

    films: int
    seed: int = 1
    negations: tuple[int, int] = (0, 2)

    def __post_init__(self) -> None:
        if self.films < 1 or not 0 <= self.negations[0] <= self.negations[1]:
            raise ValueError("data.phantoms: films must be at least 1, and negations the fewest and the most")


@dataclass(frozen=True)
class DataChoice:
    """Choice of the training data: a manifest or phantoms.

    Attributes:
        manifest: path of a manifest from ``radzero prepare``; its train split is trained on, its validate split
            validated on.
        phantoms: synthetic images in place of a manifest.
        expected_images: number of images that the train split should have; another number ends the run before it
            begins. 0 for any number.
        sentences: "all" of an image, or "one" at random (the published ablation, and every method but RadZero).
        views: "all", or "frontal" (rows whose view is PA or AP).
        texts: "findings" (finding-sentences), "report" (the report's own sentences) or "merged" (both, as CARZero
            trains).
        augmentation: random changes of the images; none by default, as published.
        workers: number of processes that decode.
        token_cache: folder for a frozen vision encoder's tokens, which are then computed once and not in every epoch;
            see :mod:`radzero.training.token_cache`. "" for no cache.
        unreadable_share: share (0..1) of the images seen that may be unreadable; more end the run.
    """

    manifest: str = ""
    phantoms: PhantomChoice | None = None
    expected_images: int = 0
    sentences: Literal["all", "one"] = "all"
    views: Literal["all", "frontal"] = "all"
    texts: Literal["findings", "report", "merged"] = "findings"
    augmentation: Augmentation = field(default_factory=Augmentation)
    workers: int = 2
    token_cache: str = ""
    unreadable_share: float = 0.01

    def __post_init__(self) -> None:
        check_choices("data", self)
        if bool(self.manifest) == (self.phantoms is not None):
            raise ValueError("give data.manifest or data.phantoms")
        if self.phantoms is not None and (self.texts != "findings" or self.views != "all"):
            raise ValueError(
                "data.texts, data.views: are of a manifest; make one by radzero phantom and radzero prepare phantom"
            )


@dataclass(frozen=True)
class LossChoice:
    """Choice of the loss; the defaults are as published.

    Attributes:
        kind: "multi_positive" (:func:`radzero.multi_positive_loss`), "clip" (:func:`radzero.clip_loss`, the same with
            one sentence per image, which needs ``data.sentences: one``) or "siglip" (:func:`radzero.siglip_loss`). For
            a method with several logits per pair (CARZero's directions), it is the sum over them.
        binary_weight, binary_negative_weight: weight of :func:`~radzero.training.losses.binary_pair_loss`, and its
            ``negative_weight``.
        quiet_weight: weight of :func:`~radzero.training.losses.quiet_map_loss`.
        ignore: pairs of an image with another image's sentence that are not negatives: "none"; "stated", when the image
            states the sentence too, in the same words; "true", when the sentence is true of the image, which is known
            for phantoms alone.
        row_sum, col_sum: arguments of :func:`radzero.multi_positive_loss`.
    """

    kind: Literal["multi_positive", "clip", "siglip"] = "multi_positive"
    binary_weight: float = 0.0
    binary_negative_weight: float = 2.0
    quiet_weight: float = 0.0
    ignore: Literal["none", "stated", "true"] = "none"
    row_sum: bool = False
    col_sum: bool = False

    def __post_init__(self) -> None:
        check_choices("loss", self)


@dataclass(frozen=True)
class LoopChoice:
    """Choice of the training loop; the defaults are as published.

    Attributes:
        epochs: passes over the train split; ignored when ``stages`` is set.
        images_per_rank: number of images that each process takes at a step; the batch is their sum.
        micro_batches: number of passes that encode a rank's images; the gradient is that of the whole batch.
        learning_rate, weight_decay: settings of AdamW.
        warmup_steps: steps of the linear warm-up before the cosine.
        clip_norm: largest norm of the gradient.
        precision: "bf16" (autocast; weights and losses stay float32) or "fp32".
        ema: decay, such as 0.999, of an exponential mean of the weights, which is validated and saved in place of the
            weights; 0 for none.
        compile: whether torch.compile speeds up the encoders, after a minute or more of compiling.
        sharding: "ddp" (every process holds the model) or "fsdp" (each holds a part).
        trackers: further places for the metrics, of those that Accelerate knows: "tensorboard", "wandb", ...
        patience: epochs without a better validation loss before the run ends; 0 for no limit.
        save_every: steps between saved states; the state is saved at the end of every epoch too.
    """

    epochs: int = 20
    images_per_rank: int = 64
    micro_batches: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    warmup_steps: int = 50
    clip_norm: float = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    ema: float = 0.0
    compile: bool = False
    sharding: Literal["ddp", "fsdp"] = "ddp"
    trackers: tuple[str, ...] = ()
    patience: int = 5
    save_every: int = 1000

    def __post_init__(self) -> None:
        check_choices("loop", self)
        if not 0 <= self.ema < 1 or (self.ema and self.sharding == "fsdp"):
            raise ValueError(f"loop.ema must be from 0 to below 1, and 0 with fsdp, not {self.ema}")
        for name in ("epochs", "images_per_rank", "micro_batches", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} must be at least 1, not {getattr(self, name)}")


def _named(methods: Iterable[MethodSpec]) -> str:
    """Return the names of methods, joined by "and"."""
    return " and ".join(spec.name for spec in methods)


@dataclass(frozen=True)
class Stage:
    """A stretch of a run.

    Attributes:
        steps: number of optimiser steps.
        set: settings from this stage on, by their dotted names, which are those of :data:`PER_STAGE`. A stage that sets
            ``loop.learning_rate`` begins a cosine of its own; another one shares that of the stage before it.
    """

    steps: int
    set: dict[str, Any] = field(default_factory=dict)


PER_STAGE = (
    "model.small.token_stride", "data.phantoms.negations", "data.sentences", "loss.binary_weight", "loss.quiet_weight",
    "loss.ignore", "loop.images_per_rank", "loop.micro_batches", "loop.learning_rate",
)  # fmt: skip
"""Settings that a stage may change."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        model, data, loss, loop: choices of the model, the data, the loss and the loop.
        stages: stretches of the run with different settings; with none, the run takes ``loop.epochs`` over the data.
        seed: seed of weights, batches and dropout.
    """

    model: ModelChoice
    data: DataChoice
    loss: LossChoice = field(default_factory=LossChoice)
    loop: LoopChoice = field(default_factory=LoopChoice)
    stages: tuple[Stage, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data.token_cache:
            if self.model.train_vision != "frozen":
                raise ValueError(
                    "data.token_cache: needs model.train_vision: frozen, for other tokens change as it trains"
                )
            if self.data.phantoms is not None or self.data.augmentation != Augmentation():
                raise ValueError("data.token_cache: is for a manifest's images without augmentation")
        if self.loss.kind == "clip" and self.data.sentences != "one":
            raise ValueError("loss.kind: clip has one sentence per image: data.sentences: one")
        if self.loss.kind == "siglip" and self.model.logit_bias is None and not self.model.start:
            raise ValueError("loss.kind: siglip needs a bias of the logits: model.logit_bias: -10 (as published)")
        method = METHODS[self.model.method]
        if self.loss.quiet_weight and not method.gives_peaks:
            raise ValueError(
                f"loss.quiet_weight: is for the maps of {_named(spec for spec in METHODS.values() if spec.gives_peaks)}"
            )
        if self.loop.sharding == "fsdp" and not method.shards:
            raise ValueError(f"loop.sharding: fsdp is not for {method.name}, whose fusion module works between passes")
        if self.loss.ignore == "true" and self.data.phantoms is None:
            raise ValueError("loss.ignore: what is true of an image is known of phantoms alone")
        for k, stage in enumerate(self.stages):
            if stage.steps < 1:
                raise ValueError(f"stages[{k}].steps must be at least 1, not {stage.steps}")
            if wrong := [key for key in stage.set if key not in PER_STAGE]:
                raise ValueError(f"stages[{k}].set.{wrong[0]}: a stage may set {', '.join(PER_STAGE)}")
        _ = self.stage_configs

    @cached_property
    def stage_configs(self) -> "tuple[TrainConfig, ...]":
        """Whole configuration of each stage; the run's own where there are no stages."""
        content = asdict(self)
        content["stages"] = []
        configs = []
        for k, stage in enumerate(self.stages):
            for key, value in stage.set.items():
                put_setting(content, key, value)
            try:
                configs.append(build(TrainConfig, _plain(content), ""))
            except ValueError as error:
                raise ValueError(f"stages[{k}].set: {error}") from error
        return tuple(configs) or (self,)

    def to_yaml(self) -> str:
        """Return the configuration as a YAML file's text."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False)


def _plain(value: Any) -> Any:
    """Return a value with its tuples as lists, since YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


WITHOUT_INFLUENCE = ("data.workers", "loop.save_every", "loop.trackers")
"""Settings that change no number of a run, and so may change when it is resumed."""


def load_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a run's YAML file.

    Args:
        path: path of the file; paths in it that begin with ``./`` or ``../`` are relative to its folder.
        overrides: ``key=value`` with dots, such as ``loop.epochs=3``; values are YAML.

    Raises:
        ValueError: when keys are unknown, missing or wrongly typed; the message names the file and the keys.
        FileNotFoundError: when there is no such file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for override in overrides or ():
            content = _overridden(content, override)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    if isinstance(content, dict) and {"base", "rows"} <= content.keys():
        raise ValueError(
            f"{path}: is a recipe for `radzero ablate`, which compares methods, and not for `radzero train`"
        )
    try:
        config = build(TrainConfig, _located(content, path.parent), "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def _overridden(content: Any, override: str) -> Any:
    key, separator, value = override.partition("=")
    if not separator:
        raise ValueError(f"an override is key=value, not {override!r}")
    put_setting(content, key.strip(), yaml.safe_load(value))
    return content


def put_setting(content: Any, key: str, value: Any) -> None:
    """Set the entry of nested mappings that a dotted key names; missing sections are made."""
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        if isinstance(place, dict) and place.get(parent) is None:
            place[parent] = {}
        place = place[parent] if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise ValueError(f"{key}: {parent} is no section")
    place[last] = value


def _located(content: Any, folder: Path) -> Any:
    """Return a recipe's content with paths that begin with ``./`` or ``../`` made absolute, relative to ``folder``."""
    if not isinstance(content, dict):
        return content
    located = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    for section, names in (("data", ("manifest",)), ("model", ("start", "vision", "text"))):
        for name in names:
            value = located.get(section, {}).get(name) if isinstance(located.get(section), dict) else None
            if isinstance(value, str) and value.startswith(("./", "../")):
                located[section][name] = str((folder / value).resolve())
    return located
