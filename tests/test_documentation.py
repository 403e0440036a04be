"""What README and docs say can be done: extras that there are, and installation from a clone."""

import re
import tomllib

from conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


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
