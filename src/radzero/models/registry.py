"""The registry of the methods that compare images and sentences; every list of methods is derived from it.

To add a method, write its configuration and model in a file of its own (see
:class:`~radzero.models.base.VisionLanguageModel`) and add a row here: recipes, checkpoints, tests and tables follow.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from radzero._registry import resolve

if TYPE_CHECKING:
    from radzero.models.base import VisionLanguageModel
    from radzero.models.configuration import VisionLanguageConfig


@dataclass(frozen=True)
class MethodSpec:
    """A row of the registry: one method of recipes. Two rows may share an architecture, as LiT and CLIP do.

    Attributes:
        name: value of ``model.method`` in a recipe.
        module: module below :mod:`radzero.models` with its configuration and model; imported when first needed.
        config: name of its configuration class.
        model: name of its model class.
        settings: settings of a recipe's ``model`` that not all methods have and this one has.
        layers: name in tables of the layers that it puts on the encoder's tokens; "" for the blocks of the recipe.
        mixes_tokens: whether those layers mix the tokens, so that CLS need not depend on the image before them.
        locks_vision: whether its vision encoder must be frozen.
        pools_states: whether a sentence's embedding is pooled as ``model.text_pooling`` says.
        gives_peaks: whether its training scores include the maximum of every map, which ``loss.quiet_weight`` needs.
        shards: whether it can be trained with sharded parameters (``loop.sharding: fsdp``).
    """

    name: str
    module: str
    config: str
    model: str
    settings: tuple[str, ...] = ()
    layers: str = ""
    mixes_tokens: bool = False
    locks_vision: bool = False
    pools_states: bool = True
    gives_peaks: bool = False
    shards: bool = True

    @property
    def config_class(self) -> "type[VisionLanguageConfig]":
        """Configuration class of the method."""
        found: type[VisionLanguageConfig] = resolve(f"radzero.models.{self.module}:{self.config}")
        return found

    @property
    def model_class(self) -> "type[VisionLanguageModel]":
        """Model class of the method."""
        found: type[VisionLanguageModel] = resolve(f"radzero.models.{self.module}:{self.model}")
        return found


METHODS = {
    spec.name: spec
    for spec in (
        MethodSpec(
            "radzero",
            "radzero",
            "RadZeroConfig",
            "RadZeroModel",
            settings=("align_linear", "similarity", "attention_temperature"),
            mixes_tokens=True,
            gives_peaks=True,
        ),
        MethodSpec(
            "carzero",
            "carzero",
            "CarZeroConfig",
            "CarZeroModel",
            layers="decoder",
            pools_states=False,
            shards=False,
        ),
        MethodSpec("lit", "clip", "ClipConfig", "ClipModel", layers="linear", locks_vision=True),
        MethodSpec("dinotxt", "dinotxt", "DinoTxtConfig", "DinoTxtModel", mixes_tokens=True),
        MethodSpec("clip", "clip", "ClipConfig", "ClipModel", layers="linear"),
    )
}
"""The methods by name, in the order of the published tables."""


def method_of_type(model_type: str) -> MethodSpec | None:
    """Return the method whose checkpoints have this ``model_type`` in their ``config.json``, or None."""
    return next((spec for spec in METHODS.values() if spec.config_class.model_type == model_type), None)


def model_types() -> list[str]:
    """Return every ``model_type`` that the methods' checkpoints have."""
    return list(dict.fromkeys(spec.config_class.model_type for spec in METHODS.values()))
