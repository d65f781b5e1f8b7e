"""The public names: listed in one place, reachable by `import ssl_vision` alone."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ssl_vision

_CONTRACT = (
    "train", "evaluate", "embed", "Embedder", "load_backbone", "export", "extract", "visualize",
    "Callbacks", "recipes", "backbones", "losses", "methods", "optim", "views", "evaluation",
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


def test_listing_the_names_imports_nothing_heavy() -> None:
    code = "import sys, ssl_vision; dir(ssl_vision); assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1]
    )


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="trane"):
        _ = ssl_vision.trane
