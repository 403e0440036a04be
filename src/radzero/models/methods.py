"""The methods that are built here, by the ``model_type`` of their checkpoints."""

from pathlib import Path
from typing import Any

from radzero.models.base import VisionLanguageModel
from radzero.models.carzero import CarZeroModel
from radzero.models.checkpoints import open_checkpoint
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


def load_model(source: str | Path, **options: Any) -> VisionLanguageModel:
    """A checkpoint of any method; see :meth:`~radzero.models.base.VisionLanguageModel.from_pretrained`.

    Raises:
        CheckpointError: for what is no checkpoint of a method that is known here.
    """
    return MODELS[type(open_checkpoint(source).config)].from_pretrained(source, **options)
