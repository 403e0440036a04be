"""How a browser is shown the page without its key on a command line, which every user of a machine can read."""

import html
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened_in_browser(link: str) -> Iterator[None]:
    """A browser is sent to the link by a file that only this user can read; it goes at the end.

    Args:
        link: the page, with its key.
    """
    with tempfile.TemporaryDirectory(prefix="radzero-") as folder:  # which none but its owner may enter
        page = Path(folder) / "viewer.html"
        address = html.escape(link, quote=True)
        page.write_text(
            '<!doctype html><meta charset="utf-8"><title>RadZero viewer</title>'
            f'<meta http-equiv="refresh" content="0; url={address}"><a href="{address}">To the page</a>\n',
            encoding="utf-8",
        )
        webbrowser.open(page.as_uri())
        yield
