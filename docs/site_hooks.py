"""Checks while the site is built: every file of the repository that a page names is there."""

import logging
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
_LOG = logging.getLogger("mkdocs.hooks.files")
_NAMED = re.compile(
    r"`((?:src/radzero|radzero|tests|recipes|benchmarks|docs|\.ci)/[\w./-]+?\.\w+|[A-Z_]+\.md|Makefile|mkdocs\.yml)`"
)
"""A file of the repository in a page's text: its path in code marks."""


def missing_files(text: str) -> list[str]:
    """Files that a page names in code marks and that are not in the repository."""
    names = dict.fromkeys(_NAMED.findall(text))
    return [name for name in names if not any((REPOSITORY / base / name).exists() for base in ("", "src"))]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Warn, which a strict build does not let pass, of a page that names a file that is not there."""
    for name in missing_files(markdown):
        _LOG.warning("%s names %s, which is not in the repository", page.file.src_path, name)
    return markdown
