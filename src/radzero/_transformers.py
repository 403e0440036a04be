"""Register our classes with transformers when it first reads a checkpoint of ours, and not before.

``AutoModel`` and its like thus know RadZero after ``import radzero``, which stays quick, and the two may be imported in
either order. Registering at import would import transformers' models while they are being imported.
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
"""Functions of transformers, by module, that return the content of ``config.json``, ``processor_config.json`` and
``preprocessor_config.json``, each with the options that it did not use."""
OUR_TYPES = ("radzero", "carzero")
"""Every ``model_type`` of ours, and every name of our processors in lower case, begins with one of these."""
PUBLISHED_ARCHITECTURE = "CxrAlignModel"
PUBLISHED_TYPE = "radzero_published"
"""``model_type`` given to a published ``config.json``, which has none of its own; see :mod:`radzero.models.auto`."""


def is_published(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a ``config.json`` has the published format."""
    architectures = content.get("architectures")
    named = isinstance(architectures, list | tuple) and PUBLISHED_ARCHITECTURE in architectures
    return named or "compute_logits_type" in content


def teach() -> None:
    """Wrap the functions by which transformers reads configurations, now or when transformers is imported."""
    for module, name in _READERS.items():
        wrapt.register_post_import_hook(_wrap(name), module)


def _wrap(name: str) -> Callable[[Any], None]:
    def wrap(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, name, _read)

    return wrap


def _read(wrapped: Callable[..., tuple[dict[str, Any], Any]], _: Any, args: Any, kwargs: Any) -> Any:
    """Register our classes if the content is ours. A published one gets a ``model_type`` and loses its ``auto_map``."""
    content, unused = wrapped(*args, **kwargs)
    if is_published(content):
        content = {key: value for key, value in content.items() if key != "auto_map"} | {"model_type": PUBLISHED_TYPE}
    kinds = (content.get(key) for key in ("model_type", "processor_class", "image_processor_type"))
    if any(isinstance(kind, str) and kind.lower().startswith(OUR_TYPES) for kind in kinds):
        import_module("radzero.models.auto")
    return content, unused
