"""Import what registries and packages name when it is first needed, so that importing them is quick."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def resolve(path: str) -> Any:
    """Import and return the object that ``module:object`` names.

    Raises:
        ImportError: when the module, or a package that it needs, is not installed.
    """
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package whose names are imported when first used (PEP 562).

    Args:
        package: name of the package.
        homes: for each name, the module below the package that defines it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(package)
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(module, name, value)
        return value

    return get
