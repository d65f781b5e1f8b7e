"""A user's type checker knows the public names: none is Any, and a misspelt one is an error."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import ssl_vision
import ssl_vision.evaluation

ROOT = Path(__file__).resolve().parents[1]

_SCRIPT = """
from pathlib import Path
from typing import assert_type

import numpy as np
from torch import Tensor, nn

import ssl_vision
from ssl_vision import Callbacks, ImageIndex


def tell(progress: ssl_vision.Progress) -> None:
    print(progress.step + 1, progress.loss)


callbacks = Callbacks(on_update=tell, on_score=lambda progress: print(progress.metrics))
result = ssl_vision.train("dino/tiny_cpu", data="digits", callbacks=callbacks, seed=1)
assert_type(result, ssl_vision.RunResult)
assert_type(result.run_dir, Path)
assert_type(result.scores, dict[str, float])
assert_type(result.load_backbone(), nn.Module)
run = ssl_vision.start("dino/tiny_cpu", data="digits")
assert_type(run, ssl_vision.LiveRun)
assert_type(run.step, int)
assert_type(run.wait().steps, int)
assert_type(ssl_vision.load_backbone("timm:resnet18"), nn.Module)
width: int = ssl_vision.embed("timm:resnet18", ["a.jpg"]).shape[1]
value: float = ssl_vision.evaluate("runs/a", data="digits").tasks["knn"].main.value
names: list[str] = ssl_vision.predict("runs/a", "photos/").classes
best: str = ImageIndex.load("photos.index").search("a.jpg")["a.jpg"][0].name
sizes: list[int] = [card.num_parameters for card in ssl_vision.extract("runs/poa")]
paths: list[Path] = ssl_vision.visualize("runs/a", "photos/", "out/")
folder: Path = ssl_vision.export("runs/a", "out/").folder
recipe: str = ssl_vision.recipes.recipe_names()[0]
loss: Tensor = ssl_vision.losses.barlow_twins_loss
rank = ssl_vision.evaluation.rankme
view = ssl_vision.views.transform({"a": ssl_vision.views.ViewConfig(size_px=32)})
ssl_vision.train("dino/tiny_cpu", run_dir=3)
ssl_vision.trane("dino/tiny_cpu")
ssl_vision.evaluation.rank_me
ssl_vision.views.transfrom
"""


def test_a_users_type_checker_knows_the_names(tmp_path: Path) -> None:
    names = [f"ssl_vision.{name}" for name in ssl_vision.__all__]
    names += [f"ssl_vision.evaluation.{name}" for name in ssl_vision.evaluation.__all__]
    names += ["ssl_vision.views.transform"]
    shown = "".join(f"reveal_type({name})\n" for name in names)
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT + shown)
    # Strict, by the settings of `make lint`, whose cache makes this a matter of seconds.
    words = ["--config-file=pyproject.toml", "--no-error-summary"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words, str(script)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    kinds = [line.split('"')[1] for line in lines if "Revealed type is" in line]
    assert len(kinds) == len(names), done.stdout + done.stderr
    for name, kind in zip(names, kinds, strict=True):
        assert kind not in ("Any", "builtins.object"), name
        assert not kind.startswith("def (*args: Any"), f"{name}: {kind}"
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 5, "\n".join(errors)
    for part, error in zip(
        ("barlow_twins_loss", "run_dir", "trane", "rank_me", "transfrom"), errors, strict=True
    ):
        assert part in error or "Incompatible types" in error


@pytest.mark.parametrize("module", [ssl_vision, ssl_vision.evaluation], ids=lambda m: m.__name__)
def test_what_checkers_read_is_what_is_looked_up(module: ModuleType) -> None:
    """The imports under TYPE_CHECKING and the tables of the look-up say the same."""
    (block,) = (
        node
        for node in ast.parse(Path(module.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    read = {
        name.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    prefix = "" if module is ssl_vision else f"{module.__name__}."
    looked_up = {name: prefix + place for name, place in module._PUBLIC.items()}
    looked_up |= dict.fromkeys(getattr(module, "_ROOMS", ()), module.__name__)
    assert read == looked_up
