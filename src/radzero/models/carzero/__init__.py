"""CARZero: its configuration, network and image processor, and the checkpoint files that its authors publish."""

from radzero.models.carzero.configuration import CarZeroConfig
from radzero.models.carzero.image_processor import CarZeroImageProcessor
from radzero.models.carzero.network import CarZeroModel

__all__ = ["CarZeroConfig", "CarZeroImageProcessor", "CarZeroModel"]
