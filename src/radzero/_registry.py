"""Light registries and packages: what they name is imported when it is first needed."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def resolve(path: str) -> Any:
    """The object that ``module:object`` names.

    Raises:
        ImportError: when the module, or what it needs, is not installed.
    """
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package whose names are imported when first used (PEP 562).

    Args:
        package: its name.
        homes: name -> module below the package that defines it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(package)
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(module, name, value)
        return value

    return get
