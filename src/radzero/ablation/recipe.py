"""What a comparison is made of: films, one encoder for all, what every row trains with, and what each row changes."""

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from radzero.training.config import TrainConfig, put_setting
from radzero.training.typed_yaml import build


@dataclass(frozen=True)
class FilmsChoice:
    """Phantoms: three series of different seeds.

    Attributes:
        encoder, train, test: how many films of each series.
        encoder_seed, train_seed, test_seed: of the series.
        size: height in pixels.
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
    """A stretch of the encoder's training.

    Attributes:
        token_stride: pixels per token, 16 or 8.
        images, steps: of a batch, and how many batches.
    """

    token_stride: int
    images: int
    steps: int


@dataclass(frozen=True)
class EncoderChoice:
    """The vision encoder that no row trains: a conv stem with blocks, trained as a classifier.

    Attributes:
        widths, heads, blocks: see :class:`~radzero.models.configuration.ConvStemConfig`.
        stages: its training; one cosine over all.
        learning_rate, seed: of it.
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
        name: as the table has it.
        set: what it changes, by dotted names of a training recipe.
        published: its name in ``data/published.yaml``, or "" for none; figures of a prompt of its own are found there
            under ``NAME, PROMPT``.
        prompts: templates to ask with instead of the recipe's.
    """

    name: str
    set: dict[str, Any] = field(default_factory=dict)
    published: str = ""
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A published claim that two rows decide.

    Attributes:
        claim: in words.
        better, worse: names of the rows.
        figures: which.
    """

    claim: str
    better: str
    worse: str
    figures: tuple[str, ...]


@dataclass(frozen=True)
class Ablation:
    """A comparison.

    Attributes:
        films, encoder, base, rows: what is compared on what; ``base`` is a training recipe without paths.
        seeds: of every row's training.
        claims: what the comparison is to answer.
        label_shares: of the training films' labels and masks, for probes of the frozen encoder; none by default.
        prompts: templates that models are asked with; "{}" is the finding.
        pictures: findings whose maps are drawn, a film each.
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
        """What a row trains with.

        Raises:
            ValueError: naming the row, for settings that are none.
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
"""Those that claims may be about: they have intervals."""
_OWN = ("seed", "model.vision", "data.manifest", "data.token_cache")
"""Settings that a comparison makes itself, the same for every row."""


def load_ablation(path: Path) -> Ablation:
    """Read a comparison's YAML file.

    Raises:
        ValueError: naming the file and what is wrong in it.
        FileNotFoundError: when there is no such file.
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
