"""Hook of mkdocs: the reference pages are made of docstrings and dataclasses at each build."""

from typing import Any

from mkdocs.structure.files import File, Files

from ssl_vision.commands.reference import PAGES


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for name, made in PAGES.items():
        files.append(File.generated(config, name, content=made()))
    return files
