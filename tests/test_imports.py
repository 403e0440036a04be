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
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "radzero."))
MAY_IMPORT = {
    "images": {"images"},
    "files": set(),
    "processes": set(),
    "phantom": {"phantom", "processes"},
    "models": {"_transformers", "files", "models", "images"},
    "findings": {"phantom"},
    "overlays": {"overlays", "images"},
    "answer": {"images", "overlays"},
    "sentence_cache": set(),
    "reading": {"answer", "images", "models", "sentence_cache"},
    "reports": {"reports", "phantom", "processes"},
    "training": {"training", "phantom", "models", "images", "reports", "files", "processes"},
    "evaluation": {"evaluation", "phantom", "images", "models", "reading", "overlays", "files"},
}
"""Part of the package -> the parts that it may know; parts that are not here (cli, demo) may know all."""


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
        "import sys, radzero.cli, radzero.phantom.writing, radzero.findings, radzero.images, radzero.batch_prediction\n"
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
    assert radzero.load is import_module("radzero.reading").load
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
    return {name.split(".")[1] for name in names if name.startswith("radzero.")}


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_point_one_way(part: str):
    files = [*(PACKAGE / part).rglob("*.py")] or [PACKAGE / f"{part}.py"]
    assert files[0].exists()
    for file in files:
        assert imported(file) <= MAY_IMPORT[part], file
    assert any(imported(file) for file in files) or part == "overlays" or not MAY_IMPORT[part]
