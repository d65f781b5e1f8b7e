"""`train auto` chooses by data and machine, says why, and writes a recipe that loads."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.commands.auto import auto_epochs, choose, load_auto, resolve_auto
from ssl_vision.commands.train import recipe_config
from ssl_vision.config import load_train_config
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.statistics import ImageStatistics
from ssl_vision.errors import ConfigError
from ssl_vision.methods import METHODS
from ssl_vision.recipes import find_recipe


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder, random = tmp_path / "photos # 1=2", np.random.default_rng(0)
    folder.mkdir()
    for number in range(40):
        pixels = random.integers(0, 100, (100, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def seen(side: int) -> ImageStatistics:
    return ImageStatistics((0.5,) * 3, (0.2,) * 3, side, 100)


@pytest.mark.parametrize(
    ("num", "side", "has_gpu", "recipe"),
    [
        (5000, 500, False, "barlow_twins/tiny_cpu"),
        (5000, 32, True, "dino/vit_tiny_cifar10"),
        (5000, 96, True, "barlow_twins/resnet18_stl10"),
        (5000, 500, True, "dino/small"),
        (500_000, 500, True, "dino/vit_s16_imagenet1k"),
    ],
)
def test_choice(num: int, side: int, has_gpu: bool, recipe: str) -> None:
    choice = choose(num, seen(side), has_gpu=has_gpu)
    assert choice.recipe == recipe
    assert any(recipe in reason for reason in choice.reasons)


METHODS_OF_IMAGES = [m for m in METHODS if METHODS[m].data is ImageData and m != "distill"]


@pytest.mark.parametrize("side", [40, 500])
@pytest.mark.parametrize("has_gpu", [False, True])
@pytest.mark.parametrize("method", METHODS_OF_IMAGES)
def test_a_method_that_is_asked_for(method: str, has_gpu: bool, side: int) -> None:
    choice = choose(5000, seen(side), has_gpu=has_gpu, method=method)
    assert choice.recipe == f"{method}/{'small' if has_gpu else 'tiny_cpu'}"
    words = [o for o in choice.overrides if not o.endswith("=auto")]
    config = load_train_config([find_recipe(choice.recipe)], ["data.path=-", *words])
    sizes = [view.size_px for view in config.data.views.values()]
    if has_gpu:
        assert max(sizes) == 224
    else:
        patch = config.backbone.args.get("patch_size", 1)
        assert not any(size % patch for size in sizes)
        limit = 32 if side < 64 else 64
        assert limit - patch < max(sizes) <= limit
        assert all(view.flip_prob == 0.5 for view in config.data.views.values())


def test_a_method_without_recipes_to_choose_from() -> None:
    with pytest.raises(ConfigError, match=r"no teacher .* distill/small"):
        choose(100, seen(100), has_gpu=True, method="distill")
    with pytest.raises(ConfigError, match="simclr"):
        choose(100, seen(100), has_gpu=True, method="point_mae")


@pytest.mark.parametrize("num", [8, 30, 100, 1000])
def test_an_epoch_of_few_images_still_has_updates(num: int) -> None:
    for has_gpu in (False, True):
        choice = choose(num, seen(300), has_gpu=has_gpu)
        batches = [o for o in choice.overrides if o.startswith("data.global_batch_size=")]
        batch = int(batches[0].partition("=")[2]) if batches else 64
        assert num // batch >= 4 or batch == 2


def test_recipe_is_written_with_reasons_and_loads_as_the_run(photos: Path, tmp_path: Path) -> None:
    words = [f"data.path={photos}", f"run_dir={tmp_path / 'run'}", "trainer.accelerator=cpu"]
    config, reasons = load_auto([*words, "trainer.epochs=7"])
    assert config.trainer.epochs == 7  # what is given wins
    text = (tmp_path / "run/recipe.yaml").read_text()
    for reason in reasons[:-1]:
        assert f"# {reason}\n" in text
    assert load_train_config([tmp_path / "run/recipe.yaml"]) == config
    assert config.data.path == str(photos)
    assert max(config.data.input_spec.mean) < 0.25  # measured: pixels are 0 to 99 of 255
    again, _ = load_auto([*words, "trainer.epochs=7"])
    assert again == config  # so that the same line resumes


def test_auto_values_of_any_recipe(photos: Path, tmp_path: Path, capsys) -> None:
    given = ["mae/tiny_cpu", f"data.path={photos}", "data.mean=auto", "trainer.epochs=auto"]
    config = recipe_config("train", [*given, f"run_dir={tmp_path / 'run'}"])
    assert config.data.input_spec.std == (0.3081,) * 3  # the recipe's
    assert max(config.data.input_spec.mean) < 0.25
    out = capsys.readouterr().out
    assert "measured on 40 images" in out
    assert f"trainer.epochs={config.trainer.epochs} for 40 images" in out
    assert resolve_auto(["seed=1"]) == (["seed=1"], [])


def test_epochs_fall_with_the_number_of_images() -> None:
    for has_gpu in (False, True):
        epochs = [auto_epochs(num, has_gpu=has_gpu) for num in (1, 10**3, 10**4, 10**5, 10**7)]
        assert epochs == sorted(epochs, reverse=True)
        assert epochs[-1] >= 10
    assert auto_epochs(50_000, has_gpu=True) == 400


def test_mistakes() -> None:
    with pytest.raises(ConfigError, match=r"add data\.path=DIR"):
        load_auto(["run_dir=x"])
    with pytest.raises(ConfigError, match=r"data\.mean=auto follows from the images"):
        resolve_auto(["data.mean=auto"])
