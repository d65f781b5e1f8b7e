"""`train auto`, and settings that are `auto`: chosen from the data and the machine, and said."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from ssl_vision.config import (
    AUTO_KEYS,
    TrainConfig,
    finish_train,
    load_train_config,
    recipe_layer,
    to_yaml,
)
from ssl_vision.data.config import DataConfig
from ssl_vision.data.find import DataLike, find_source
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.statistics import ImageStatistics, measure
from ssl_vision.data.module import chosen_samples
from ssl_vision.data.source import Source
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.files import write_atomically
from ssl_vision.layers import AUTO, Layer, last_given, layers_of
from ssl_vision.recipes import find_recipe, recipe_names
from ssl_vision.typed import convert

RECIPE_NAME = "recipe.yaml"  # in the run folder
_SAMPLES_SEEN = 20_000_000  # that a run of `auto` epochs shows, within the bounds
_EPOCHS = (100, 800)
_EPOCHS_CPU = (10, 100)
_SAMPLES_CPU = 200_000
_FEW = 3_000  # images, below which public weights serve better than pretraining


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A recipe that was chosen.

    Attributes:
        recipe: Its name.
        settings: On top of it, by full name.
        reasons: Why, a line each.
    """

    recipe: str
    settings: Mapping[str, object]
    reasons: tuple[str, ...]


class Auto:
    """Chooses for one run; the same from the same data and machine, so that the run goes on.

    Args:
        data: The data, where they are an object.
    """

    def __init__(self, data: DataLike = None) -> None:
        self._data = data
        self._seen: dict[object, ImageStatistics] = {}
        self._reasons: list[str] = []
        self._filled: dict[str, str] = {}
        self._file: list[str] = []

    @property
    def lines(self) -> list[str]:
        """What was chosen and why, a line each."""
        return [*self._reasons, *self._filled.values(), *self._file]

    def fill(self, config: TrainConfig, wanted: Sequence[str]) -> TrainConfig:
        """The configuration with numbers for the settings of `config.AUTO_KEYS` that are wanted.

        Mean and standard deviation are measured on at most 1,000 images, evenly spread.

        Raises:
            DataError: No images are there.
        """
        source = chosen_samples(self._open(config.data), config.data)
        self._filled = {}
        if "trainer.epochs" in wanted:
            has_gpu = _has_gpu(config.trainer.accelerator)
            epochs = auto_epochs(len(source), has_gpu=has_gpu)
            self._filled["epochs"] = (
                f"trainer.epochs={epochs} for {len(source):,} {source.modality}"
            )
            config = replace(config, trainer=replace(config.trainer, epochs=epochs))
        of_images = [key.removeprefix("data.") for key in wanted if key.startswith("data.")]
        for name in of_images:
            seen = self._measured(source, config.data)
            value, of = getattr(seen, name), f"{seen.num:,} {source.modality}"
            self._filled[name] = f"data.{name}={list(value)}, measured on {of}"
            config = replace(config, data=replace(config.data, **{name: value}))
        return config

    def load(
        self, layers: Iterable[Layer], *, backbone: Mapping[str, Any] | None = None
    ) -> TrainConfig:
        """The configuration of `train auto`: a recipe by the images and the machine.

        It is written into the run folder, complete, with the reasons on top.

        Args:
            layers: What was asked for, which wins.
            backbone: As of `make_train_config`.

        Raises:
            ConfigError: No data, or a setting that does not fit.
            DataError: No images are there.
        """
        layers = list(layers)
        path = last_given(layers, "data", "path")
        if path is None:
            raise ConfigError("train auto needs images to choose by; add data.path=DIR.")
        download = convert(last_given(layers, "data", "download"), bool, key="data.download")
        data = ImageData(path=str(path), download=bool(download))
        source = self._open(data)
        has_gpu = _has_gpu(last_given(layers, "trainer", "accelerator"))
        method = last_given(layers, "method", "name")
        seen = self._measured(source, data)
        choice = choose(len(source), seen, has_gpu=has_gpu, method=method and str(method))
        below = [recipe_layer(find_recipe(choice.recipe), backbone), *layers_of(choice.settings)]
        config = finish_train([*below, *layers], fill=self.fill)
        self._reasons, self._file = list(choice.reasons), []
        _write(config, self.lines)
        self._file = [f"the recipe with these reasons: {config.run_path / RECIPE_NAME}"]
        return config

    def _open(self, config: DataConfig) -> Source:
        data = config.path if self._data is None else self._data
        return find_source(data, split="train", config=config)

    def _measured(self, source: Source, config: DataConfig) -> ImageStatistics:
        """Once for the same images, though a configuration may be made twice."""
        key = len(source), getattr(config, "decode", None)
        if key not in self._seen:
            self._seen[key] = measure(source)
        return self._seen[key]


def choose(num: int, seen: ImageStatistics, *, has_gpu: bool, method: str | None = None) -> Choice:
    """A recipe for a number of images of a size, on this kind of machine.

    Args:
        num: Images.
        seen: Of the images.
        has_gpu: Whether there is a GPU.
        method: The one asked for; by default one is chosen.

    Raises:
        ConfigError: The method has no recipes to choose from.
    """
    reasons = [f"{num:,} images, shorter side {seen.side} px (median of {seen.num})"]
    settings: dict[str, object] = dict.fromkeys(AUTO_KEYS, AUTO)
    if method is not None:
        _check_method(method)
    if not has_gpu:
        recipe, side = f"{method or 'barlow_twins'}/tiny_cpu", 32 if seen.side < 64 else 64
        settings |= _views_of_side(side, load_train_config([find_recipe(recipe)]))
        reasons.append(
            f"no GPU: {recipe} on views of at most {side} px, a network that learns from few "
            "updates"
        )
    elif method is not None:
        recipe = f"{method}/small"
        reasons.append(f"a GPU and method.name={method}: {recipe}, views of 224 px")
    elif seen.side < 64:
        recipe = "dino/vit_tiny_cifar10"
        reasons.append(f"a GPU and images below 64 px: {recipe}, patches of 4 px")
    elif seen.side < 160:
        recipe = "barlow_twins/resnet18_stl10"
        reasons.append(f"a GPU and images below 160 px: {recipe}, views of 96 px")
    elif num < 100_000:
        recipe = "dino/small"
        reasons.append(f"a GPU and fewer than 100,000 photos: {recipe}, a ViT-S/16 at 224 px")
    else:
        recipe = "dino/vit_s16_imagenet1k"
        del settings["trainer.epochs"]
        reasons.append(f"a GPU and 100,000 photos or more: {recipe}, the paper's recipe")
    if num < _FEW:
        reasons.append(
            "below a few thousand images public weights without pretraining usually serve better: "
            "timm:NAME or zoo:NAME (ssl-vision zoo list) in the place of the run, see "
            "docs/choose_a_method.md"
        )
    config = load_train_config([find_recipe(recipe)], ["data.path=-"])
    batch = config.data.global_batch_size
    if batch * 4 > num:
        smaller = max(2, 1 << max(1, (num // 4).bit_length() - 1))
        if smaller < batch:
            settings["data.global_batch_size"] = smaller
            reasons.append(f"batches of {smaller}, not {batch}: an epoch has at least 4 updates")
    return Choice(recipe=recipe, settings=settings, reasons=tuple(reasons))


def _check_method(method: str) -> None:
    """Raise ConfigError where there are no recipes to choose from."""
    if method == "distill":
        raise ConfigError(
            "train auto knows no teacher for method.name=distill; use ssl-vision train "
            "distill/small data.path=DIR method.teachers.one.weights=WEIGHTS."
        )
    names = recipe_names()
    if f"{method}/small" not in names:
        known = ", ".join(n.split("/")[0] for n in names if n.endswith("/small"))
        raise ConfigError(f"train auto has no recipes for method.name={method}; choose of {known}.")


def _views_of_side(side: int, config: TrainConfig) -> dict[str, object]:
    """Settings that make the largest view of a recipe this large, others in proportion.

    Sides are whole patches. Views are mirrored, which those of digits are not.
    """
    data = cast(ImageData, config.data)  # what is chosen here is recipes of images
    views = data.views
    largest = max(view.size_px for view in views.values())
    patch = int(config.backbone.args.get("patch_size", 1))
    sizes = {n: patch * (view.size_px * side // largest // patch) for n, view in views.items()}
    has_own = data.eval_size_px is not None
    settings: dict[str, object] = {"data.eval_size_px": max(sizes.values())} if has_own else {}
    for name, size in sizes.items():
        settings |= {f"data.views.{name}.size_px": size, f"data.views.{name}.flip_prob": 0.5}
    return settings


def auto_epochs(num: int, *, has_gpu: bool) -> int:
    """Epochs for a number of images: 20 million samples on a GPU, within 100 to 800 epochs.

    On a CPU 200,000 samples, within 10 to 100 epochs: what minutes to hours allow. Our rule.
    """
    low, high = _EPOCHS if has_gpu else _EPOCHS_CPU
    samples = _SAMPLES_SEEN if has_gpu else _SAMPLES_CPU
    return min(high, max(low, round(samples / max(num, 1))))


def _write(config: TrainConfig, reasons: Sequence[str]) -> None:
    folder = config.run_path
    header = "".join(f"# {line}\n" for line in ["Chosen by `ssl-vision train auto`:", *reasons])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RECIPE_NAME, header + to_yaml(config))
    except OSError as error:
        raise CheckpointError(f"run_dir={folder} cannot be written ({error.strerror}).") from error


def _has_gpu(accelerator: object) -> bool:
    return torch.cuda.is_available() and accelerator != "cpu"
