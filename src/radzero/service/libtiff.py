"""Silence libtiff, which Pillow is linked to and offers no setting for."""

import ctypes

from PIL import _imaging


def quiet_libtiff() -> None:
    """Keep libtiff from writing messages about a damaged file itself; the refusal of the file is reported anyway."""
    library = ctypes.CDLL(_imaging.__file__)  # Pillow's library, and through it those that it is linked to
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if (setter := getattr(library, name, None)) is not None:
            setter.argtypes, setter.restype = (ctypes.c_void_p,), ctypes.c_void_p
            setter(None)
