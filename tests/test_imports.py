"""How the package hangs together: quick to import, and modules that know only what lies below them."""

import ast
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import radzero

PACKAGE = Path(radzero.__file__).parent
PARTS = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])}
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "radzero."))
MAY_IMPORT = {
    "_files": set(),
    "_numbers": set(),
    "_pages": set(),
    "_processes": set(),
    "_registry": set(),
    "_transformers": set(),
    "_warnings": set(),
    "errors": set(),
    "images": {"_warnings", "errors", "images"},
    "phantom": {"_files", "_processes", "phantom"},
    "pictures": {"pictures"},
    "models": {"_files", "_registry", "_transformers", "errors", "images", "models"},
    "prediction": {
        *("_files", "_numbers", "_processes", "_registry"),
        *("images", "models", "pictures", "prediction"),
    },
    "results": {"_files", "_registry", "_warnings", "errors", "images", "prediction", "results"},
    "reports": {"_pages", "_processes", "errors", "phantom", "reports"},
    "evaluation": {
        "_files",
        "_numbers",
        "_pages",
        "errors",
        "evaluation",
        "images",
        "models",
        "phantom",
        "pictures",
        "prediction",
    },
    "findings": {"evaluation"},
    "training": {"_files", "_processes", "errors", "images", "models", "phantom", "reports", "training"},
    "ablation": {
        *("_files", "_numbers", "_processes", "ablation", "evaluation", "images", "models", "phantom", "pictures"),
        *("prediction", "training"),
    },
    "service": {"findings", "images", "prediction", "results", "service"},
    "viewer": {"images", "pictures", "service", "viewer"},
    "pacs": {"_files", "errors", "images", "pacs", "prediction", "results", "service"},
    "demo": {"phantom", "pictures", "prediction"},
    "cli": set(PARTS),
}
"""Part of the package -> the parts that it may know. The command line may know all, and nobody knows it."""


def test_importing_radzero_imports_nothing_heavy():
    code = (
        "import sys, time; start = time.process_time(); import radzero; took = time.process_time() - start\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'pydicom', 'typer', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert took < 0.5, took\n"
        "assert sorted(dir(radzero)) == sorted(radzero.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_phantoms_helps_and_workers_do_without_torch():
    code = (
        "import sys, radzero.cli, radzero.phantom.writing, radzero.findings, radzero.images, radzero.prediction.run\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_says_what_it_is_for(name: str):
    assert import_module(name).__doc__


@pytest.mark.parametrize("name", radzero.__all__)
def test_every_public_name_resolves(name: str):
    assert getattr(radzero, name) is not None


def test_public_names_are_those_of_their_modules():
    assert set(radzero._HOMES) | {"__version__"} == set(radzero.__all__)
    assert radzero.read_radiograph is import_module("radzero.images").read_radiograph
    assert radzero.load is import_module("radzero.prediction.model").load
    with pytest.raises(AttributeError, match="no attribute 'x_ray'"):
        radzero.x_ray  # noqa: B018


def imported(path: Path) -> set[str]:
    """The parts of radzero that a file imports anywhere, in functions too."""
    package = ["radzero", *path.relative_to(PACKAGE).parent.parts]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*home, *([node.module] if node.module else [])])
            names |= {base} if base != "radzero" else {f"radzero.{alias.name}" for alias in node.names}
    parts = {name.split(".")[1] for name in names if name.startswith("radzero.")}
    return parts - {"__version__"}


def test_every_part_says_what_it_may_know():
    assert set(MAY_IMPORT) == PARTS
    assert not [part for part, known in MAY_IMPORT.items() if "cli" in known and part != "cli"]


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_point_one_way(part: str):
    files = [*(PACKAGE / part).rglob("*.py")] or [PACKAGE / f"{part}.py"]
    assert files[0].exists()
    known = {name for file in files for name in imported(file)}
    assert known <= MAY_IMPORT[part]
    if part != "cli":
        assert MAY_IMPORT[part] <= known | {part}, "a permission that nobody uses hides the next mistake"


def test_no_two_parts_know_each_other():
    def reached(part: str, seen: frozenset[str] = frozenset()) -> set[str]:
        below = MAY_IMPORT[part] - {part} - seen
        return below.union(*(reached(other, seen | below) for other in below)) if below else set()

    assert not [part for part in MAY_IMPORT if part in reached(part)]
