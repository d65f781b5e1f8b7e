"""The examples run, shortened."""

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
_SHORT = {"trainer.epochs": 1, "trainer.max_steps": 3, "is_quiet": True}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for name in [path.stem for path in EXAMPLES.glob("*.py")]:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["own_dataset", "hugging_face", "own_network"])
def test_runs(example: Any, tmp_path: Path, name: str) -> None:
    scores = example(name).main(str(tmp_path / "run"), **_SHORT)
    assert 0 < scores["knn_top1"] <= 1
    assert (tmp_path / "run" / "report.html").exists()


def test_loops(example: Any) -> None:
    assert math.isfinite(example("own_loop").main(epochs=2, max_steps=2))
    assert example("lightning_trainer").main(max_steps=2, accelerator="cpu", devices=1,
                                             enable_progress_bar=False) == 2  # fmt: skip


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("[!_]*.py"):
        assert 20 <= len(path.read_text().splitlines()) <= 60, path.name
