"""Typed objects from YAML: every unknown, missing or wrongly typed key is named."""

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


def build(cls: type[_T], content: Any, where: str) -> _T:
    """A dataclass from plain mappings, lists and values.

    Args:
        cls: which; its fields may be dataclasses, tuples, mappings of words to anything, and any of them or None.
        content: a mapping of its fields.
        where: prefix of the keys in messages, with its dot.

    Raises:
        ValueError: naming every key that is unknown, missing or of a wrong type.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where or 'the recipe'} must be a mapping, not {content!r}")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(content) - known):
        raise ValueError(f"unknown keys {', '.join(where + k for k in unknown)}; known are {', '.join(sorted(known))}")
    hints = get_type_hints(cls)
    values = {name: _convert(hints[name], value, where + name) for name, value in content.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(str(error).replace("__init__() ", "").replace(cls.__name__ + ".", where)) from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) in (Union, UnionType):
        (inner,) = (kind for kind in get_args(hint) if kind is not type(None))
        return None if value is None else _convert(inner, value, where)
    if is_dataclass(hint):
        return build(hint, value, where + ".")  # type: ignore[arg-type]
    if get_origin(hint) is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where} must be a mapping of words, not {value!r}")
        return dict(value)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, not {value!r}")
        kinds = get_args(hint)
        if kinds[-1] is Ellipsis:
            return tuple(_convert(kinds[0], v, f"{where}[{k}]") for k, v in enumerate(value))
        if len(kinds) != len(value):
            raise ValueError(f"{where} must have {len(kinds)} entries, not {len(value)}")
        return tuple(_convert(kind, v, f"{where}[{k}]") for k, (kind, v) in enumerate(zip(kinds, value, strict=True)))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be {hint.__name__}, not {value!r}")
    return value
