"""RadZero: ask a chest radiograph any sentence; get a probability and a similarity map that shows why.

Names are imported when first used, so that ``import radzero`` is quick.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from radzero.errors import RadZeroError
    from radzero.findings import FINDING_SETS, finding_sentences
    from radzero.images import Radiograph, RadiographError, ReadLimits, read_radiograph
    from radzero.models.carzero import CarZeroConfig, CarZeroModel
    from radzero.models.clip import ClipConfig, ClipModel
    from radzero.models.dinotxt import DinoTxtConfig, DinoTxtModel
    from radzero.models.errors import CheckpointError
    from radzero.models.processor import RadZeroProcessor
    from radzero.models.radzero import RadZeroConfig, RadZeroModel
    from radzero.models.similarity import similarity_logits
    from radzero.prediction.model import RadZero, describe, load
    from radzero.prediction.reading import Reading
    from radzero.training.losses import binary_pair_loss, clip_loss, multi_positive_loss, siglip_loss

from radzero import _transformers
from radzero._registry import lazy_names

__version__ = version("radzero")

_transformers.teach()

_HOMES = {
    "RadZeroError": "errors",
    "FINDING_SETS": "findings",
    "finding_sentences": "findings",
    "Radiograph": "images",
    "RadiographError": "images",
    "ReadLimits": "images",
    "read_radiograph": "images",
    "CheckpointError": "models.errors",
    "CarZeroConfig": "models.carzero",
    "CarZeroModel": "models.carzero",
    "ClipConfig": "models.clip",
    "ClipModel": "models.clip",
    "DinoTxtConfig": "models.dinotxt",
    "DinoTxtModel": "models.dinotxt",
    "RadZeroConfig": "models.radzero",
    "RadZeroProcessor": "models.processor",
    "RadZeroModel": "models.radzero",
    "similarity_logits": "models.similarity",
    "RadZero": "prediction.model",
    "Reading": "prediction.reading",
    "describe": "prediction.model",
    "load": "prediction.model",
    "binary_pair_loss": "training.losses",
    "clip_loss": "training.losses",
    "multi_positive_loss": "training.losses",
    "siglip_loss": "training.losses",
}

__all__ = [
    "FINDING_SETS",
    "CarZeroConfig",
    "CarZeroModel",
    "CheckpointError",
    "ClipConfig",
    "ClipModel",
    "DinoTxtConfig",
    "DinoTxtModel",
    "RadZero",
    "RadZeroConfig",
    "RadZeroError",
    "RadZeroModel",
    "RadZeroProcessor",
    "Radiograph",
    "RadiographError",
    "ReadLimits",
    "Reading",
    "__version__",
    "binary_pair_loss",
    "clip_loss",
    "describe",
    "finding_sentences",
    "load",
    "multi_positive_loss",
    "read_radiograph",
    "siglip_loss",
    "similarity_logits",
]


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
