"""Build and load models of any method, by their configuration."""

from pathlib import Path

import torch

from radzero.models.base import VisionLanguageModel
from radzero.models.checkpoints import Checkpoint, open_checkpoint
from radzero.models.configuration import VisionLanguageConfig
from radzero.models.registry import METHODS


def model_class(config: type[VisionLanguageConfig]) -> type[VisionLanguageModel]:
    """Return the model class that the registry has for a configuration class."""
    return next(spec.model_class for spec in METHODS.values() if spec.config_class is config)


def build_model(config: VisionLanguageConfig) -> VisionLanguageModel:
    """Build a model with random weights."""
    return model_class(type(config))(config)


def load_model(source: Checkpoint | str | Path, dtype: str | torch.dtype | None = None) -> VisionLanguageModel:
    """Load the model of a checkpoint of any method, in evaluation mode.

    Args:
        source: an open checkpoint, which is not opened again; or a folder or hub id.
        dtype: floating type of the weights; float32 when None.

    Raises:
        CheckpointError: see :meth:`~radzero.models.base.VisionLanguageModel.from_pretrained`.
        ValueError: when ``dtype`` is not a floating type.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    return model_class(type(checkpoint.config)).from_checkpoint(checkpoint, dtype=dtype)
