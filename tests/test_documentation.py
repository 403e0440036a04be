"""What README and docs say can be done: extras that there are, and installation from a clone."""

import importlib
import importlib.util
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest
from PIL import Image

import radzero
import radzero.errors
from conftest import REPOSITORY
from dicom_factory import chest_like, dicom_bytes
from radzero import read_radiograph
from radzero.images.formats import FORMATS

_SPEC = importlib.util.spec_from_file_location("site_hooks", REPOSITORY / "docs" / "site_hooks.py")
assert _SPEC is not None
assert _SPEC.loader is not None
site_hooks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(site_hooks)
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def extras() -> set[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])


def test_the_readme_says_what_every_extra_is_for():
    installation = PAGES[0].read_text(encoding="utf-8").split("## Installation")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", installation, re.MULTILINE)) == extras()


def test_installation_is_shown_from_a_clone_with_extras_that_exist():
    shown = {
        page.name: re.findall(r"pip install .*?(?:'.*?'|\.(?= ))", page.read_text(encoding="utf-8")) for page in PAGES
    }
    assert len(shown["README.md"]) >= 2
    for page, commands in shown.items():
        for command in commands:
            named = re.search(r"\[(.*)\]", command)
            assert not named or set(named[1].split(",")) <= extras(), (page, command)
            assert re.search(r"-c constraints\.txt '?\.", command) or (
                page == "README.md" and "'radzero[serve]'" in command  # what messages say
            ), (page, command)
    assert (REPOSITORY / "constraints.txt").is_file()


def test_a_lateral_film_is_warned_of_where_a_header_tells_and_the_readme_says_so(tmp_path: Path):
    film, picture = tmp_path / "film.dcm", tmp_path / "film.png"
    film.write_bytes(dicom_bytes(chest_like(), bits=12, ViewPosition="LL"))
    read = read_radiograph(film)
    Image.fromarray(read.to_uint8()).save(picture)
    assert any("the view is lateral" in warning for warning in read.warnings)
    assert not any("view" in warning for warning in read_radiograph(picture).warnings)
    said = " ".join(PAGES[0].read_text(encoding="utf-8").split())
    assert "read with a warning where a DICOM header tells them" in said
    assert "lateral film in a PNG is read as any other, without a warning" in said


@pytest.mark.parametrize("name", ["README.md", "docs/getting-started.md", "docs/tutorials/python.md", "docs/images.md"])
def test_the_pages_that_list_the_formats_list_all(name: str):
    page = (REPOSITORY / name).read_text(encoding="utf-8")
    missing = [image_format.name for image_format in FORMATS if image_format.suffixes and image_format.name not in page]
    assert not missing


def test_the_readme_says_how_long_the_tests_take():
    assert re.search(r"`make test` takes about \d+ minutes on 2 idle cores", PAGES[0].read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_a_page_names_only_files_that_there_are(page: Path):
    text = page.read_text(encoding="utf-8")
    assert site_hooks.missing_files(text) == []
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert "://" in target or (page.parent / target).exists(), target


def test_files_that_are_not_there_are_found():
    text = "`src/radzero/gone.py`, `radzero/images/formats.py`, `tests/gone/test_it.py`, `CHANGELOG.md`, `GONE.md`"
    assert site_hooks.missing_files(text) == ["src/radzero/gone.py", "tests/gone/test_it.py", "GONE.md"]


def test_the_tree_of_errors_is_drawn_whole():
    """Every exception of the library is in the tree, below its own parent."""
    drawn = radzero.errors.__doc__ or ""
    for module in pkgutil.walk_packages(radzero.__path__, "radzero."):
        for name, kind in vars(importlib.import_module(module.name)).items():
            own = isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == module.name
            if own and not name.startswith("_") and name not in ("CodestreamError", "TruncatedCodestreamError"):
                assert issubclass(kind, radzero.RadZeroError), name
                assert name in drawn, f"{name} is missing in radzero/errors.py"
