"""The recipe of a phantom-trained model: one typed object, equal to its YAML file."""

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a small RadZero.

    Attributes:
        widths: channels of the convolutional stem; the last is the hidden size D.
        heads: attention heads of the align layers and of the text encoder.
        align_layers: transformer blocks on the vision tokens.
        align_mlp_ratio: their MLP's width over D.
        text_layers: transformer blocks of the text encoder.
        max_words: longest sentence in tokens.
    """

    widths: tuple[int, ...]
    heads: int
    align_layers: int = 2
    align_mlp_ratio: int = 4
    text_layers: int = 2
    max_words: int = 64


@dataclass(frozen=True)
class Stage:
    """A stretch of training.

    Attributes:
        steps: optimiser steps.
        batch: films per step.
        token_stride: pixels per token, 16 or 8.
        negations: fewest and most negated sentences per film.
        binary_weight: weight of :func:`~radzero.training.losses.binary_pair_loss` beside the contrastive loss.
        quiet_weight: weight of :func:`~radzero.training.losses.quiet_map_loss`.
        learning_rate: 0 to take part in the recipe's warm-up and cosine; else where the stage's own cosine begins.
            Stages with one come last.
    """

    steps: int
    batch: int
    token_stride: int
    negations: tuple[int, int]
    binary_weight: float
    quiet_weight: float = 0.0
    learning_rate: float = 0.0


@dataclass(frozen=True)
class PhantomRecipe:
    """Everything that decides what a training run on phantoms gives.

    Attributes:
        seed: of weights, batches and sentences.
        film_seed, films: the phantom series and how many of it are made; drawn from again and again.
        image_size: side in pixels at which films are rendered and seen.
        model: sizes.
        stages: in order; the learning rate's cosine runs over those without one of their own.
        learning_rate, weight_decay, warmup_steps, clip_norm: AdamW's.
        binary_negative_weight: of other films' pairs in the binary term.
        ignore: which pairs of a film with another film's sentence are no negatives: "none"; "stated", those that the
            film's own report says in the same words; "true", those that are true of the film, said or not, which is
            known of phantoms alone.
        shift: largest random shift of a film in pixels. Films are never mirrored.
        gamma: largest random change of a film's gamma, as a logarithm.
    """

    seed: int
    film_seed: int
    films: int
    image_size: int
    model: ModelSizes
    stages: tuple[Stage, ...]
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    clip_norm: float
    binary_negative_weight: float
    ignore: str
    shift: int
    gamma: float

    def __post_init__(self) -> None:
        if self.ignore not in ("none", "stated", "true"):
            raise ValueError(f'ignore is "none", "stated" or "true", not {self.ignore!r}')
        if not self.stages:
            raise ValueError("stages: there is none")
        own = [bool(stage.learning_rate) for stage in self.stages]
        if own[0] or own != sorted(own):
            raise ValueError("stages: the first has no learning_rate of its own, and those that have one come last")

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)


_T = TypeVar("_T")


def load_recipe(path: str | Path) -> PhantomRecipe:
    """Read a recipe.

    Raises:
        ValueError: naming the file and every unknown, missing or wrongly typed key.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    try:
        return build(PhantomRecipe, content, "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def has_manifest(path: Path) -> bool:
    """Whether a recipe is one of :class:`radzero.training.config.TrainConfig`, which names a manifest.

    Raises:
        ValueError: for what is no YAML.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    return isinstance(content, dict) and "data" in content


def build(cls: type[_T], content: Any, where: str) -> _T:
    """A dataclass from plain mappings, lists and values.

    Args:
        cls: which; its fields may be dataclasses, tuples, and any of them or None.
        content: a mapping of its fields.
        where: prefix of the keys in messages, with its dot.

    Raises:
        ValueError: naming every key that is unknown, missing or of a wrong type.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where or 'the recipe'} must be a mapping, not {content!r}")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(content) - known):
        raise ValueError(f"unknown keys {', '.join(where + k for k in unknown)}; known are {', '.join(sorted(known))}")
    hints = get_type_hints(cls)
    values = {name: _convert(hints[name], value, where + name) for name, value in content.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(str(error).replace("__init__() ", "").replace(cls.__name__ + ".", where)) from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) in (Union, UnionType):
        (inner,) = (kind for kind in get_args(hint) if kind is not type(None))
        return None if value is None else _convert(inner, value, where)
    if is_dataclass(hint):
        return build(hint, value, where + ".")  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, not {value!r}")
        kinds = get_args(hint)
        if kinds[-1] is Ellipsis:
            return tuple(_convert(kinds[0], v, f"{where}[{k}]") for k, v in enumerate(value))
        if len(kinds) != len(value):
            raise ValueError(f"{where} must have {len(kinds)} entries, not {len(value)}")
        return tuple(_convert(kind, v, f"{where}[{k}]") for k, (kind, v) in enumerate(zip(kinds, value, strict=True)))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be {hint.__name__}, not {value!r}")
    return value
