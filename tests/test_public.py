"""The public names: listed in one place, reachable by `import ssl_vision` alone."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ssl_vision

ROOT = Path(__file__).resolve().parents[1]
_CONTRACT = (
    "train", "start", "evaluate", "embed", "Embedder", "load_backbone", "export", "extract",
    "prepare", "predict", "ImageIndex", "duplicates", "compare", "Batch", "visualize", "Callbacks",
    "recipes", "backbones", "losses", "methods", "optim", "views", "evaluation",
)  # fmt: skip


def test_dir_lists_the_contract_and_nothing_private() -> None:
    names = dir(ssl_vision)
    assert set(_CONTRACT) <= set(names)
    assert not [name for name in names if name.startswith("_") and name != "__version__"]
    assert sorted(ssl_vision.__all__) == names


@pytest.mark.parametrize("name", [name for name in dir(ssl_vision) if name != "__version__"])
def test_each_name_is_there_and_documented(name: str) -> None:
    found: Any = getattr(ssl_vision, name)
    assert inspect.getdoc(found)
    if inspect.isfunction(found):
        for parameter in inspect.signature(found).parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, parameter.name


def _code() -> list[tuple[str, str]]:
    """Python of the examples and of the pages' blocks."""
    found = [(path.name, path.read_text()) for path in (ROOT / "examples").glob("*.py")]
    for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
        found += [(path.name, block) for block in blocks]
    return found


def test_examples_and_pages_need_the_public_names_alone() -> None:
    """What is imported is a name of the package or of a room of it, or a method's own file."""
    rooms = {n for n in ssl_vision.__all__ if inspect.ismodule(getattr(ssl_vision, n))}
    public = {"ssl_vision", *(f"ssl_vision.{room}" for room in rooms)}
    public |= {f"ssl_vision.methods.{name}" for name in ssl_vision.methods.METHODS}
    seen = 0
    for name, code in _code():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ssl_vision"):
                assert node.module in public, f"{name}: from {node.module}"
                for each in node.names:
                    assert not each.name.startswith("_")
                    assert hasattr(importlib.import_module(node.module), each.name)
                seen += 1
    assert seen >= 8


def test_listing_the_names_imports_nothing_heavy() -> None:
    code = "import sys, ssl_vision; dir(ssl_vision); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="trane"):
        ssl_vision.trane  # type: ignore[attr-defined]  # noqa: B018
