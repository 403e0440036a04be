"""The picture of the parts, drawn from the imports as they are: a part stands above those that it imports."""

import ast
from html import escape
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "radzero"
BOX, GAP, ROW, MARGIN = (112, 30), 14, 84, 12


def imports() -> dict[str, set[str]]:
    """Part -> the parts that its files import; internal helpers, whose names begin with an underscore, left out."""
    parts = {path.stem: [path] for path in PACKAGE.glob("[a-z]*.py")}
    parts |= {path.parent.name: sorted(path.parent.rglob("*.py")) for path in PACKAGE.glob("*/__init__.py")}
    found: dict[str, set[str]] = {}
    for part, files in parts.items():
        names: set[str] = set()
        for file in files:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                module = node.module if isinstance(node, ast.ImportFrom) and not node.level else None
                if module and module.startswith("radzero."):
                    names.add(module.split(".")[1])
        found[part] = {name for name in names if name in parts and name != part}
    return found


def levels(table: dict[str, set[str]]) -> dict[str, int]:
    """Part -> how many parts lie below it, one upon the other."""
    known: dict[str, int] = {}

    def level(part: str) -> int:
        if part not in known:
            known[part] = 1 + max((level(other) for other in table[part]), default=-1)
        return known[part]

    for part in table:
        level(part)
    return known


def draw() -> str:
    """The picture as SVG, in the colours of the page."""
    table = imports()
    height = levels(table)
    rows: dict[int, list[str]] = {}
    for part in sorted(table):
        rows.setdefault(height[part], []).append(part)
    width = MARGIN * 2 + max(len(row) for row in rows.values()) * (BOX[0] + GAP)
    top = max(rows)
    places = {}
    for number, row in rows.items():
        left = (width - len(row) * (BOX[0] + GAP) + GAP) / 2
        for k, part in enumerate(row):
            places[part] = (left + k * (BOX[0] + GAP), MARGIN + (top - number) * ROW)
    lines, boxes = [], []
    for part, others in table.items():
        direct = {o for o in others if not any(o in reach(table, other) for other in others - {o})}
        for other in direct:
            (x0, y0), (x1, y1) = places[part], places[other]
            start, end = (x0 + BOX[0] / 2, y0 + BOX[1]), (x1 + BOX[0] / 2, y1)
            bend = (end[1] - start[1]) / 2
            lines.append(
                f'<path d="M{start[0]:.0f} {start[1]:.0f} C{start[0]:.0f} {start[1] + bend:.0f} {end[0]:.0f} '
                f'{end[1] - bend:.0f} {end[0]:.0f} {end[1]:.0f}" fill="none" stroke="currentColor" opacity="0.45"/>'
            )
    for part, (x, y) in places.items():
        boxes.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="5" '
            'fill="var(--md-default-bg-color, white)" stroke="currentColor"/>'
            f'<text x="{x + BOX[0] / 2:.0f}" y="{y + 20:.0f}" text-anchor="middle" fill="currentColor" '
            f'font-size="14">{escape(part)}</text>'
        )
    size = f'viewBox="0 0 {width:.0f} {MARGIN * 2 + top * ROW + BOX[1]:.0f}"'
    label = "Parts of the package; each stands above those that it imports."
    return f'<svg {size} role="img" aria-label="{label}" style="width:100%">{"".join(lines)}{"".join(boxes)}</svg>'


def reach(table: dict[str, set[str]], part: str) -> set[str]:
    """The parts that a part imports, and those that these import, and so on."""
    found: set[str] = set()
    pending = [part]
    while pending:
        for other in table[pending.pop()] - found:
            found.add(other)
            pending.append(other)
    return found
