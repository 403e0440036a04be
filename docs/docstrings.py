"""Make docstrings ready for the site: references in Sphinx's roles become code, shared entries get a line each."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)`")
_SHARED = re.compile(r"^(\s+)(\w+(?:, \w+)+): ")
"""The beginning of an entry of several arguments or attributes: ``rank, world: ...``."""


def readable(text: str) -> str:
    """Return a docstring without Sphinx's roles, with an entry of its own for each argument and attribute."""
    lines: list[str] = []
    waiting: list[str] = []
    depth = 0
    for line in _ROLE.sub(
        lambda found: f"`{found[2].rpartition('.')[2] if found[1] else found[2]}`", text
    ).splitlines():
        if waiting and len(line) - len(line.lstrip()) <= depth:
            lines += waiting
            waiting = []
        if found := _SHARED.match(line):
            first, *others = found[2].split(", ")
            depth = len(found[1])
            line = f"{found[1]}{first}: {line[found.end() :]}"
            waiting = [f"{found[1]}{name}: see `{first}`." for name in others]
        lines.append(line)
    return "\n".join(lines + waiting)


class Docstrings(griffe.Extension):
    """Extension of griffe, which reads the code for the site."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change an object's docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = readable(obj.docstring.value)
