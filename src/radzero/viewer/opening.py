"""Open the page in a browser without its key on a command line, which every user of the machine could read."""

import html
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened_in_browser(link: str) -> Iterator[None]:
    """Send a browser to the link by a file that only this user can read; the file is deleted at the end.

    Args:
        link: URL of the page, with its key.
    """
    with tempfile.TemporaryDirectory(prefix="radzero-") as folder:  # only its owner may enter the folder
        page = Path(folder) / "viewer.html"
        address = html.escape(link, quote=True)
        page.write_text(
            '<!doctype html><meta charset="utf-8"><title>RadZero viewer</title>'
            f'<meta http-equiv="refresh" content="0; url={address}"><a href="{address}">To the page</a>\n',
            encoding="utf-8",
        )
        webbrowser.open(page.as_uri())
        yield
