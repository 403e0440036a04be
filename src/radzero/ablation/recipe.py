"""Read the recipe of a comparison: images, one encoder for all, a training recipe, and the changes of each row."""

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from radzero.training.config import TrainConfig, put_setting
from radzero.training.typed_yaml import build


@dataclass(frozen=True)
class FilmsChoice:
    """Phantoms of a comparison: three series of different seeds.

    Attributes:
        encoder, train, test: number of images of each series.
        encoder_seed, train_seed, test_seed: seeds of the series.
        size: height of the images in pixels; the encoder's images are squashed to the same width.
    """

    encoder: int
    train: int
    test: int
    encoder_seed: int = 11
    train_seed: int = 12
    test_seed: int = 990
    size: int = 224

    def __post_init__(self) -> None:
        if len({self.encoder_seed, self.train_seed, self.test_seed}) < 3:
            raise ValueError("films: the three seeds must differ")


@dataclass(frozen=True)
class EncoderStage:
    """A stage of the encoder's training.

    Attributes:
        token_stride: pixels per token along each axis, 16 or 8.
        images: number of images of a batch.
        steps: number of batches.
    """

    token_stride: int
    images: int
    steps: int


@dataclass(frozen=True)
class EncoderChoice:
    """The vision encoder that all rows share: a convolutional stem with blocks, trained as a classifier.

    Attributes:
        widths, heads, blocks: see :class:`~radzero.models.configuration.ConvStemConfig`.
        stages: stages of the training; one cosine schedule of the learning rate spans them all.
        learning_rate: highest learning rate of the schedule.
        seed: seed of the weights and of the batches.
    """

    widths: tuple[int, ...]
    heads: int
    blocks: int
    stages: tuple[EncoderStage, ...]
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """A method of the table.

    Attributes:
        name: name of the row in the table.
        set: settings that the row changes, by their dotted names in a training recipe.
        published: name of the row in ``data/published.yaml``, or "" for none; the figures of one prompt are there under
            ``NAME, PROMPT``.
        prompts: templates of the prompts, instead of the comparison's.
    """

    name: str
    set: dict[str, Any] = field(default_factory=dict)
    published: str = ""
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A published claim that two rows decide.

    Attributes:
        claim: the claim in words.
        better, worse: names of the two rows.
        figures: figures that decide it, some of :data:`DECIDED`.
    """

    claim: str
    better: str
    worse: str
    figures: tuple[str, ...]


@dataclass(frozen=True)
class Ablation:
    """A comparison of methods.

    Attributes:
        films: phantoms that the encoder and the rows are trained and tested on.
        encoder: vision encoder that all rows share.
        base: training recipe of all rows, without paths.
        rows: methods that are compared.
        seeds: seeds that every row is trained with.
        claims: claims that the comparison decides.
        label_shares: shares (0..1) of the training images whose labels and masks train a probe of the frozen encoder;
            none by default.
        prompts: templates of the prompts; "{}" is the finding.
        pictures: findings whose maps are drawn, on one image each.
    """

    films: FilmsChoice
    encoder: EncoderChoice
    base: dict[str, Any]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    claims: tuple[Claim, ...] = ()
    label_shares: tuple[float, ...] = ()
    prompts: tuple[str, ...] = ("There is {}",)
    pictures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names) or not names:
            raise ValueError("rows: there must be one at least, and no two of one name")
        for claim in self.claims:
            for name in (claim.better, claim.worse):
                if name not in names:
                    raise ValueError(f"claims: there is no row {name!r}")
            if unknown := set(claim.figures) - set(DECIDED):
                raise ValueError(f"claims: {unknown.pop()!r} is none of {', '.join(DECIDED)}")
        for row in self.rows:
            if own := [key for key in row.set if key in _OWN]:
                raise ValueError(f"rows: {row.name!r} sets {own[0]}, which is the comparison's own, the same for all")
        for prompt in (*self.prompts, *(p for row in self.rows for p in row.prompts)):
            if "{}" not in prompt:
                raise ValueError(f"prompts: {prompt!r} has no {{}} for the finding")

    def train_config(self, row: Row, seed: int, *, encoder: Path, manifest: Path, tokens: Path) -> TrainConfig:
        """Return the training recipe of a row with a seed.

        Raises:
            ValueError: when a setting does not exist or its value is wrong; the message names the row.
        """
        content = deepcopy(self.base)
        for key, value in row.set.items():
            put_setting(content, key, deepcopy(value))
        put_setting(content, "seed", seed)
        put_setting(content, "model.vision", str(encoder))
        put_setting(content, "data.manifest", str(manifest))
        if content["model"].get("train_vision") == "frozen":
            stride = content["model"].get("token_stride") or "own"
            views = content.get("data", {}).get("views", "all")
            name = f"{content['model']['image_size']}-{stride}{'' if views == 'all' else f'-{views}'}"
            put_setting(content, "data.token_cache", str(tokens / name))
        try:
            return build(TrainConfig, content, "")
        except ValueError as error:
            raise ValueError(f"row {row.name!r}: {error}") from error


FIGURES = ("macro AUC", "pointing game", "Dice", "pixel AUC", "right against left", "denied when absent")
"""Columns of the table."""
DECIDED = ("macro AUC", "pointing game", "Dice")
"""Figures that claims may use, because their differences can have an interval."""
_OWN = ("seed", "model.vision", "data.manifest", "data.token_cache")
"""Settings that the comparison makes itself, so that no row may set them."""


def load_ablation(path: Path) -> Ablation:
    """Read a comparison's YAML file.

    Raises:
        ValueError: when the file is not a comparison; the message names the file and what is wrong in it.
        FileNotFoundError: when the file does not exist.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "data" in content and "rows" not in content:
            raise ValueError("is a recipe for `radzero train`, and not for `radzero ablate`, which compares methods")
        ablation = build(Ablation, content, "")
        for row in ablation.rows:
            ablation.train_config(row, 0, encoder=Path("encoder"), manifest=Path("manifest"), tokens=Path("tokens"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return ablation
