"""Make transformers' ``AutoConfig``, ``AutoModel`` and ``AutoProcessor`` read published checkpoints.

A published ``config.json`` names no model type that transformers knows, and the copy on the hub points to code of its
own. Here such a file is recognised by its content and read as :func:`radzero.load` reads it; that code is neither
fetched nor run.
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
    """A published ``config.json`` as it is; it is interpreted, with the tensors, when the model is loaded.

    Attributes:
        content: the JSON object in the file, without ``model_type``.
    """

    model_type: ClassVar[str] = PUBLISHED_TYPE

    content: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return the configuration; with ``return_unused_kwargs``, return the unused options too."""
        both, name = kwargs.pop("return_unused_kwargs", False), kwargs.pop("name_or_path", "")
        config: Self = cls(content={key: value for key, value in config_dict.items() if key != "model_type"})
        config.name_or_path = str(name)
        return (config, kwargs) if both else config


class PublishedModel(VisionLanguageModel):
    """The class that ``AutoModel`` finds for a published checkpoint; loading returns a model of its method."""

    config_class = PublishedConfig

    def __init__(self, config: Any, *_: Any, **__: Any) -> None:
        raise ValueError("a published config.json alone is no architecture: load the checkpoint, with from_pretrained")

    @classmethod
    def class_of(cls, checkpoint: Checkpoint) -> type[VisionLanguageModel]:
        """Return the model class of the checkpoint's method."""
        return model_class(type(checkpoint.config))


AutoConfig.register(PublishedConfig.model_type, PublishedConfig)
AutoModel.register(PublishedConfig, PublishedModel)
AutoProcessor.register(PublishedConfig, RadZeroProcessor)
for _config, _model in {spec.config_class: spec.model_class for spec in METHODS.values()}.items():
    AutoProcessor.register(_config, RadZeroProcessor)
