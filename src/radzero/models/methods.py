"""The methods that are built here, by the ``model_type`` of their checkpoints."""

from pathlib import Path

import torch

from radzero.models.base import VisionLanguageModel
from radzero.models.carzero import CarZeroModel
from radzero.models.checkpoints import Checkpoint, open_checkpoint
from radzero.models.clip import ClipModel
from radzero.models.configuration import VisionLanguageConfig
from radzero.models.dinotxt import DinoTxtModel
from radzero.models.radzero import RadZeroModel

MODELS: dict[type[VisionLanguageConfig], type[VisionLanguageModel]] = {
    model.config_class: model for model in (RadZeroModel, ClipModel, DinoTxtModel, CarZeroModel)
}


def build_model(config: VisionLanguageConfig) -> VisionLanguageModel:
    """A model with random weights."""
    return MODELS[type(config)](config)


def load_model(source: Checkpoint | str | Path, dtype: str | torch.dtype | None = None) -> VisionLanguageModel:
    """The model of a checkpoint of any method, in evaluation mode.

    Args:
        source: an open checkpoint, which is not opened again; or a folder or hub id.
        dtype: of the weights; float32 when None.

    Raises:
        CheckpointError: see :meth:`~radzero.models.base.VisionLanguageModel.from_pretrained`.
        ValueError: for a dtype that is none.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    return MODELS[type(checkpoint.config)].from_checkpoint(checkpoint, dtype=dtype)
