"""Build typed objects from YAML, and refuse unknown, missing or wrongly typed keys and values that are no choice."""

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


def build(cls: type[_T], content: Any, where: str) -> _T:
    """Build a dataclass from plain mappings, lists and values.

    Args:
        cls: the dataclass; its fields may be dataclasses, tuples, choices (``Literal``), mappings of words to anything,
            and any of them or None.
        content: mapping of the names of its fields to their values.
        where: prefix of the keys in messages, with its dot.

    Raises:
        ValueError: when keys are unknown or missing, or a value is of a wrong type; the message names the keys.
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
    if get_origin(hint) is Literal:
        return value  # the dataclass checks its choices itself, by check_choices
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be {hint.__name__}, not {value!r}")
    return value


def check_choices(section: str, choice: Any) -> None:
    """Refuse a value that is none of its field's choices; a dataclass calls this when it is made.

    Args:
        section: section of the recipe, such as "model".
        choice: the dataclass.

    Raises:
        ValueError: with a message such as ``"model.text_pooling is mean or cls, not 'max'"``.
    """
    for name, hint in get_type_hints(type(choice)).items():
        if get_origin(hint) is Literal and (value := getattr(choice, name)) not in get_args(hint):
            shown = str if isinstance(value, str) else '"{}"'.format  # to YAML, true and 1 are no words
            *first, last = map(shown, get_args(hint))
            raise ValueError(f"{section}.{name} is {', '.join(first)} or {last}, not {value!r}")
