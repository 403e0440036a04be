"""transformers learns of our classes when it first reads a checkpoint of ours, and not before.

So ``AutoModel`` and its like know RadZero after ``import radzero``, which stays quick, and neither
import has to come first. Registering at import would import transformers' models while they are being imported.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import wrapt

_READERS = {
    "transformers.configuration_utils": "PreTrainedConfig.get_config_dict",
    "transformers.processing_utils": "ProcessorMixin.get_processor_dict",
    "transformers.image_processing_base": "ImageProcessingMixin.get_image_processor_dict",
}
"""Functions of transformers that give the content of ``config.json``, ``processor_config.json`` and
``preprocessor_config.json``, with the options that they did not use; by their modules."""
OUR_TYPES = ("radzero", "carzero")
"""Beginnings of every ``model_type`` of ours, and in lower case of the names of our processors."""
PUBLISHED_ARCHITECTURE = "CxrAlignModel"
PUBLISHED_TYPE = "radzero_published"
"""``model_type`` that a published ``config.json``, which has none, is given; see :mod:`radzero.models.auto`."""


def is_published(content: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of the published format."""
    architectures = content.get("architectures")
    named = isinstance(architectures, list | tuple) and PUBLISHED_ARCHITECTURE in architectures
    return named or "compute_logits_type" in content


def teach() -> None:
    """Watch what transformers reads, now or when it is imported."""
    for module, name in _READERS.items():
        wrapt.register_post_import_hook(_wrap(name), module)


def _wrap(name: str) -> Callable[[Any], None]:
    def wrap(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, name, _read)

    return wrap


def _read(wrapped: Callable[..., tuple[dict[str, Any], Any]], _: Any, args: Any, kwargs: Any) -> Any:
    """Register our classes where the content is ours. A published configuration gets a type and loses its code."""
    content, unused = wrapped(*args, **kwargs)
    if is_published(content):
        content = {key: value for key, value in content.items() if key != "auto_map"} | {"model_type": PUBLISHED_TYPE}
    kinds = (content.get(key) for key in ("model_type", "processor_class", "image_processor_type"))
    if any(isinstance(kind, str) and kind.lower().startswith(OUR_TYPES) for kind in kinds):
        import_module("radzero.models.auto")
    return content, unused
