"""transformers' ``AutoConfig``, ``AutoModel`` and ``AutoProcessor`` for published checkpoints.

Their ``config.json`` names no type of transformers', and the copy on the hub points at code of its own. Here it is told
by its architecture and read as :func:`radzero.load` reads it; the code is neither asked for nor run.
"""

from typing import Any, ClassVar, Self

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.configuration_utils import PreTrainedConfig

from radzero._transformers import PUBLISHED_TYPE
from radzero.models.base import VisionLanguageModel
from radzero.models.checkpoints import Checkpoint
from radzero.models.loading import model_class
from radzero.models.processor import RadZeroProcessor
from radzero.models.registry import METHODS


class PublishedConfig(PreTrainedConfig):
    """A published ``config.json`` as it is; what it means is told by the tensors, when the model is loaded.

    Attributes:
        content: of the file.
    """

    model_type: ClassVar[str] = PUBLISHED_TYPE

    content: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration; with the options that are left over where ``return_unused_kwargs`` is given."""
        both, name = kwargs.pop("return_unused_kwargs", False), kwargs.pop("name_or_path", "")
        config: Self = cls(content={key: value for key, value in config_dict.items() if key != "model_type"})
        config.name_or_path = str(name)
        return (config, kwargs) if both else config


class PublishedModel(VisionLanguageModel):
    """What ``AutoModel`` finds for a published checkpoint; loading gives the model of the checkpoint's own method."""

    config_class = PublishedConfig

    def __init__(self, config: Any, *_: Any, **__: Any) -> None:
        raise ValueError("a published config.json alone is no architecture: load the checkpoint, with from_pretrained")

    @classmethod
    def class_of(cls, checkpoint: Checkpoint) -> type[VisionLanguageModel]:
        """The class of the method's models."""
        return model_class(type(checkpoint.config))


AutoConfig.register(PublishedConfig.model_type, PublishedConfig)
AutoModel.register(PublishedConfig, PublishedModel)
AutoProcessor.register(PublishedConfig, RadZeroProcessor)
for _config, _model in {spec.config_class: spec.model_class for spec in METHODS.values()}.items():
    AutoProcessor.register(_config, RadZeroProcessor)
