"""Hook of mkdocs: reference pages are made of docstrings and dataclasses at each build.

Files of the repository that pages speak of (BENCHMARKS.md, the examples) are shown, too, below
`repository/`; links are turned so that the same page works here and in a checkout.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from ssl_vision.commands.reference import PAGES

ROOT = Path(__file__).resolve().parents[1]
BESIDE = "repository"  # where files from outside docs/ are shown
_SHOWN = ("BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/*.*")
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made, and files from outside docs/."""
    for name, made in PAGES.items():
        files.append(File.generated(config, name, content=made()))
    for pattern in _SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            name = f"{BESIDE}/{path.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, name, content=path.read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Turn links that lead out of docs/, or into it."""

    def turn(found: re.Match[str]) -> str:
        target = turned(page.file.src_uri, found[1])
        known = target is not None and files.get_file_from_path(target) is not None
        if not known or target is None:
            return found[0]  # to the network; or broken, of which mkdocs warns
        here = posixpath.dirname(page.file.src_uri)
        return f"]({posixpath.relpath(target, here or '.')}{found[2] or ''})"

    return _LINK.sub(turn, markdown)


def turned(page: str, link: str) -> str | None:
    """Where a link leads in the site; None out of the repository.

    Args:
        page: Of the site, that has the link.
        link: As a checkout has it: relative to the page's file.
    """
    if ":" in link:
        return None
    file = page.removeprefix(f"{BESIDE}/") if page.startswith(f"{BESIDE}/") else f"docs/{page}"
    full = posixpath.normpath(posixpath.join(posixpath.dirname(file), link))
    if full.startswith(".."):
        return None
    return full.removeprefix("docs/") if full.startswith("docs/") else f"{BESIDE}/{full}"
