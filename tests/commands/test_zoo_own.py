"""An own checkpoint is what its recipe makes: adopted with its numbers, found again by training."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssl_vision.commands.main import main
from ssl_vision.commands.zoo_own import knn_percent, prediction_interval, reproduce
from ssl_vision.config import TrainConfig
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError
from ssl_vision.zoo.exported import read_export
from ssl_vision.zoo.formats import FORMATS
from ssl_vision.zoo.index import find_entry, load_index
from ssl_vision.zoo.verify import outputs_of
from ssl_vision.zoo.weights import resolve_weights

OWN = [name for name, entry in load_index().items() if entry.status == "own"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty zoo beside a recipe."""
    (tmp_path / "model_zoo").mkdir()
    (tmp_path / "model_zoo/index.yaml").write_text("schema: 1\nmodels: {}\n")
    (tmp_path / "model_zoo/README.md").write_text("<!-- table:start -->\n<!-- table:end -->\n")
    monkeypatch.setenv("SSL_VISION_ZOO_INDEX", str(tmp_path / "model_zoo/index.yaml"))
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    load_index.cache_clear()
    yield tmp_path
    load_index.cache_clear()


@pytest.mark.slow
def test_adopted_run_is_reproduced_bit_by_bit_and_a_changed_promise_is_not(
    repository: Path,
    recipe: Callable[..., TrainConfig],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reload(folder: Path, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        return outputs_of(read_export(folder)[0].model, images)  # no new process

    monkeypatch.setitem(FORMATS, "timm", replace(FORMATS["timm"], write_and_reload=reload))
    config = recipe("mae", "trainer.epochs=1", "online_eval.every_epochs=0")
    shutil.copy(repository / "mae.yaml", repository / "recipe.yaml")
    text = (repository / "recipe.yaml").read_text().replace("epochs: 2", "epochs: 1")
    (repository / "recipe.yaml").write_text(text)
    train(config)
    run = str(config.run_path)
    arguments = [run, "digits_mae", "recipe=recipe.yaml"]
    assert main(["zoo", "adopt", *arguments]) == 0, capsys.readouterr().err
    entry = find_entry("digits_mae")
    assert entry.metrics["digits"]["reproduced"]
    card = (repository / "model_zoo/digits_mae/README.md").read_text()
    assert f"{entry.metrics['digits']['knn']:.2f} %" in card
    assert "license: cc0-1.0" in card
    assert "[digits_mae](digits_mae/README.md)" in (repository / "model_zoo/README.md").read_text()

    found = reproduce("digits_mae", repository / "again")
    assert found.is_identical
    assert found.is_within
    assert found.found == pytest.approx(found.stated, abs=0.01)
    assert main(["zoo", "adopt", *arguments]) == 2
    assert "exists" in capsys.readouterr().err

    low, high = entry.metrics["digits"]["interval"]
    index = repository / "model_zoo/index.yaml"
    index.write_text(index.read_text().replace(f"[{low}, {high}]", "[99.9, 100.0]"))
    load_index.cache_clear()
    again = f"run_dir={repository / 'again'}"  # complete already: nothing is trained
    assert main(["zoo", "reproduce", "digits_mae", again]) == 74
    assert "was not reproduced" in capsys.readouterr().err


def test_interval_is_students() -> None:
    # Three values of mean 95 and deviation 1: half width 4.3027 * sqrt(4 / 3).
    low, high = prediction_interval([94.0, 95.0, 96.0])
    assert low == pytest.approx(95 - 4.302653 * (4 / 3) ** 0.5)
    assert high == pytest.approx(95 + 4.302653 * (4 / 3) ** 0.5)
    with pytest.raises(ConfigError, match="at least two"):
        prediction_interval([95.0])


@pytest.mark.parametrize("name", OWN)
def test_shipped_weights_have_the_stated_accuracy(name: str, tmp_path: Path) -> None:
    entry = load_index()[name]
    ((data, numbers),) = entry.metrics.items()
    assert entry.files["backbone"].bytes < 5_000_000
    loaded = resolve_weights(f"zoo:{name}")
    assert loaded.card.license == entry.license == "cc0-1.0"
    found, _ = knn_percent(f"zoo:{name}", data=data, out=tmp_path)
    # Sums in another order may move a vote or two of a thousand.
    assert found == pytest.approx(numbers["knn"], abs=0.2)
    assert numbers["interval"][0] <= found <= numbers["interval"][1]


def test_only_own_models_are_reproduced() -> None:
    with pytest.raises(ConfigError, match="only own models"):
        reproduce("dino_resnet50", Path("runs/x"))
