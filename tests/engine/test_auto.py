"""`train auto` chooses by data and machine, says why, and writes a recipe that loads."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import ssl_vision
from ssl_vision.commands.train import recipe_config
from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.data.find import find_source
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.statistics import ImageStatistics
from ssl_vision.data.pairs import scenes
from ssl_vision.engine.auto import Auto, auto_epochs, choose
from ssl_vision.engine.callbacks import Callbacks, Progress
from ssl_vision.errors import ConfigError
from ssl_vision.layers import read_layers
from ssl_vision.methods import METHODS
from ssl_vision.recipes import find_recipe

_CPU = "trainer.accelerator=cpu"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder, random = tmp_path / "photos # 1=2", np.random.default_rng(0)
    folder.mkdir()
    for number in range(40):
        pixels = random.integers(0, 100, (100, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def pixels(photos: Path) -> np.ndarray:
    """The same images as an array, (40, 100, 120, 3), in the order of the folder."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(photos.iterdir())])


def load_auto(words: list[str]) -> tuple[TrainConfig, list[str]]:
    auto = Auto()
    return auto.load(read_layers([], words)), auto.lines


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
    words = [f"{key}={value}" for key, value in choice.settings.items() if value != "auto"]
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
        batch = choice.settings.get("data.global_batch_size", 64)
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


@pytest.mark.parametrize("door", ["yaml", "program", "nested", "object"])
def test_auto_from_a_file_and_from_a_program(
    photos: Path, pixels: np.ndarray, tmp_path: Path, door: str
) -> None:
    """Every door gives the numbers that a loop over the pixels gives."""
    mean = (pixels / 255).mean(axis=(0, 1, 2))
    std = (pixels / 255).std(axis=(0, 1, 2))
    settings = {"trainer.epochs": "auto", "data.mean": "auto", "data.std": "auto"}
    data = {"data": pixels if door == "object" else photos}
    if door == "yaml":
        content = yaml.safe_load(find_recipe("barlow_twins/tiny_cpu").read_text())
        content["trainer"]["epochs"] = content["data"]["mean"] = content["data"]["std"] = "auto"
        file = tmp_path / "own.yaml"
        file.write_text(yaml.safe_dump(content))
        config = recipe_config("train", [str(file), f"data.path={photos}", _CPU])
    else:
        if door == "nested":
            settings = {"trainer": {"epochs": "auto"}}
            data = {"data": {"path": photos, "mean": "auto", "std": "auto"}}
        config = started("barlow_twins/tiny_cpu", tmp_path / "run", **data, **settings)
    np.testing.assert_allclose(config.data.input_spec.mean, mean, atol=1e-4)
    np.testing.assert_allclose(config.data.input_spec.std, std, atol=1e-4)
    assert config.trainer.epochs == 100  # on a CPU: 200,000 / 40 images, at most 100


def started(recipe: str, run_dir: Path, **given: object) -> TrainConfig:
    """Settings of a run that ends after its first update."""
    given = {"trainer.accelerator": "cpu", "data.global_batch_size": 8} | given

    def stop(progress: Progress) -> None:
        progress.stop()

    with pytest.raises(KeyboardInterrupt):
        ssl_vision.train(
            recipe, run_dir=run_dir, callbacks=Callbacks(on_update=stop), is_quiet=True, **given
        )
    return load_train_config([run_dir / "config.yaml"])


def test_train_auto_from_a_program(pixels: np.ndarray, tmp_path: Path) -> None:
    config = started("auto", tmp_path / "run", data=pixels, **{"trainer.epochs": 3})
    assert config.trainer.epochs == 3
    assert config.data.views["a"].size_px == 64
    assert max(config.data.input_spec.mean) < 0.25
    assert load_train_config([tmp_path / "run/recipe.yaml"]) == config


def test_the_last_layer_decides(photos: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("trainer: {epochs: auto}\n")
    recipe, path = find_recipe("mae/tiny_cpu"), f"data.path={photos}"
    auto = Auto()
    assert load_train_config([recipe, own], [path, _CPU, "trainer.epochs=3"]).trainer.epochs == 3
    given = load_train_config([recipe, own], [path, _CPU], fill=auto.fill)
    assert given.trainer.epochs == auto_epochs(40, has_gpu=False)
    braces = load_train_config(
        [recipe], [path, "trainer={epochs: auto, accelerator: cpu}"], fill=auto.fill
    )
    assert braces == given
    with pytest.raises(ConfigError, match=r"trainer\.epochs=auto is chosen where a run starts"):
        load_train_config([recipe, own], [path])


def test_epochs_follow_the_samples_that_are_used(photos: Path) -> None:
    words = [f"data.path={photos}", _CPU, "trainer.epochs=auto", "data.train_fraction=0.5"]
    auto = Auto()
    load_train_config([find_recipe("mae/tiny_cpu")], words, fill=auto.fill)
    assert auto.lines == ["trainer.epochs=100 for 20 images"]


def test_epochs_of_clouds_and_what_only_images_have() -> None:
    recipe, auto = [find_recipe("point_mae/tiny_cpu")], Auto()
    config = load_train_config(recipe, [_CPU, "trainer.epochs=auto"], fill=auto.fill)
    num = int(auto.lines[0].split()[-2].replace(",", ""))
    assert config.trainer.epochs == auto_epochs(num, has_gpu=False)
    assert auto.lines[0].endswith("clouds")
    with pytest.raises(ConfigError, match=r"data\.mean: there is no such setting"):
        load_train_config(recipe, ["data.mean=auto"], fill=auto.fill)


def test_statistics_of_pairs_are_those_of_both_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "ROOMS", {"train": 20, "val": 4})  # few enough to be read all
    words, auto = [_CPU, "data.mean=auto", "data.std=auto"], Auto()
    config = load_train_config([find_recipe("croco/tiny_cpu")], words, fill=auto.fill)
    source = find_source(config.data.path, split="train", config=config.data)
    pairs = np.stack([source.sample(i) for i in range(len(source))]) / 255
    assert pairs.shape[1] == 2
    np.testing.assert_allclose(
        config.data.input_spec.mean, pairs.mean(axis=(0, 1, 2, 3)), atol=1e-4
    )
    assert auto.lines[0].endswith("pairs")


def test_epochs_fall_with_the_number_of_images() -> None:
    for has_gpu in (False, True):
        epochs = [auto_epochs(num, has_gpu=has_gpu) for num in (1, 10**3, 10**4, 10**5, 10**7)]
        assert epochs == sorted(epochs, reverse=True)
        assert epochs[-1] >= 10
    assert auto_epochs(50_000, has_gpu=True) == 400


def test_mistakes() -> None:
    with pytest.raises(ConfigError, match=r"add data\.path=DIR"):
        load_auto(["run_dir=x"])
    for key in ("optim.base_lr", "seed", "data.global_batch_size"):
        with pytest.raises(ConfigError, match=key):
            load_train_config([find_recipe("mae/tiny_cpu")], [f"{key}=auto"], fill=Auto().fill)


@pytest.mark.parametrize(("num", "is_few"), [(796, True), (2_999, True), (3_000, False)])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_few_images_are_told_of_public_weights(num: int, is_few: bool, has_gpu: bool) -> None:
    reasons = choose(num, seen(224), has_gpu=has_gpu).reasons
    assert any("public weights" in reason for reason in reasons) == is_few
