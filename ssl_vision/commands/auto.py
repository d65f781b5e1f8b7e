"""`train auto`, and settings that are `auto`: chosen from the data and the machine, and said."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ssl_vision.config import TrainConfig, load_train_config, to_yaml
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.statistics import ImageStatistics, measure
from ssl_vision.data.source import Source
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.files import write_atomically
from ssl_vision.recipes import find_recipe, recipe_names

_MAY_BE_AUTO = ("trainer.epochs", "data.mean", "data.std")
RECIPE_NAME = "recipe.yaml"  # in the run folder
_SAMPLES_SEEN = 20_000_000  # that a run of `auto` epochs shows, within the bounds
_EPOCHS = (100, 800)
_EPOCHS_CPU = (10, 100)
_SAMPLES_CPU = 200_000


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A recipe that was chosen.

    Attributes:
        recipe: Its name.
        overrides: `key=value` on top of it.
        reasons: Why, a line each.
    """

    recipe: str
    overrides: tuple[str, ...]
    reasons: tuple[str, ...]


def load_auto(overrides: Sequence[str]) -> tuple[TrainConfig, list[str]]:
    """The configuration of `train auto data.path=DIR ...`, and its reasons, a line each.

    The recipe is written into the run folder, complete, with the reasons on top.

    Raises:
        ConfigError: No data.path, or a setting that does not fit.
        DataError: No images are there.
    """
    path = _last(overrides, "data.path")
    if path is None:
        raise ConfigError("train auto needs images to choose by; add data.path=DIR.")
    source = _opened(overrides, path)
    seen, has_gpu = measure(source), _has_gpu(overrides)
    choice = choose(len(source), seen, has_gpu=has_gpu, method=_last(overrides, "method.name"))
    given = {each.partition("=")[0] for each in overrides}
    own = [o for o in choice.overrides if o.partition("=")[0] not in given]
    layers, lines = resolve_auto([*own, *overrides])
    config = load_train_config([find_recipe(choice.recipe)], layers)
    reasons = [*choice.reasons, *lines]
    _write(config, reasons)
    file = config.run_path / RECIPE_NAME
    return config, [*reasons, f"the recipe with these reasons: {file}"]


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
    overrides = ["trainer.epochs=auto", "data.mean=auto", "data.std=auto"]
    if method is not None:
        _check_method(method)
    if not has_gpu:
        recipe, side = f"{method or 'barlow_twins'}/tiny_cpu", 32 if seen.side < 64 else 64
        overrides += _views_of_side(side, load_train_config([find_recipe(recipe)]))
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
        overrides.remove("trainer.epochs=auto")
        reasons.append(f"a GPU and 100,000 photos or more: {recipe}, the paper's recipe")
    config = load_train_config([find_recipe(recipe)], ["data.path=-"])
    batch = config.data.global_batch_size
    if batch * 4 > num:
        smaller = max(2, 1 << max(1, (num // 4).bit_length() - 1))
        if smaller < batch:
            overrides.append(f"data.global_batch_size={smaller}")
            reasons.append(f"batches of {smaller}, not {batch}: an epoch has at least 4 updates")
    return Choice(recipe=recipe, overrides=tuple(overrides), reasons=tuple(reasons))


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


def _views_of_side(side: int, config: TrainConfig) -> list[str]:
    """Overrides that make the largest view of a recipe this large, others in proportion.

    Sides are whole patches. Views are mirrored, which those of digits are not.
    """
    assert isinstance(config.data, ImageData)
    views = config.data.views
    largest = max(view.size_px for view in views.values())
    patch = int(config.backbone.args.get("patch_size", 1))
    sizes = {n: patch * (view.size_px * side // largest // patch) for n, view in views.items()}
    has_own = config.data.eval_size_px is not None
    return [f"data.eval_size_px={max(sizes.values())}"] * has_own + [
        f"data.views.{name}.{each}"
        for name, size in sizes.items()
        for each in (f"size_px={size}", "flip_prob=0.5")
    ]


def resolve_auto(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides with numbers where they said `auto`, and what was chosen, a line each.

    `trainer.epochs`, `data.mean` and `data.std` may be `auto`; the latter two are measured on at
    most 1,000 images of data.path, evenly spread, and so the same at each start.

    Raises:
        ConfigError: `auto` without data.path=.
        DataError: No images are there.
    """
    wanted = [key for key in _MAY_BE_AUTO if _last(overrides, key) == "auto"]
    if not wanted:
        return list(overrides), []
    path = _last(overrides, "data.path")
    if path is None:
        raise ConfigError(f"{wanted[0]}=auto follows from the images; add data.path=DIR.")
    source = _opened(overrides, path)
    found: dict[str, str] = {}
    lines = []
    if "trainer.epochs" in wanted:
        epochs = auto_epochs(len(source), has_gpu=_has_gpu(overrides))
        found["trainer.epochs"] = str(epochs)
        lines.append(f"trainer.epochs={epochs} for {len(source):,} images")
    if "data.mean" in wanted or "data.std" in wanted:
        seen = measure(source)
        for key, value in (("data.mean", seen.mean), ("data.std", seen.std)):
            if key in wanted:
                found[key] = str(list(value))
                lines.append(f"{key}={list(value)}, measured on {seen.num:,} images")
    return [
        f"{key}={found[key]}" if (key := o.partition("=")[0]) in found else o for o in overrides
    ], lines


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


def _opened(overrides: Sequence[str], path: str) -> Source:
    is_fetched = _last(overrides, "data.download") == "true"
    return build_source(str(Path(path)) if path.startswith("~") else path, download=is_fetched)


def _has_gpu(overrides: Sequence[str]) -> bool:
    return torch.cuda.is_available() and _last(overrides, "trainer.accelerator") != "cpu"


def _last(overrides: Sequence[str], key: str) -> str | None:
    values = [o.partition("=")[2] for o in overrides if o.partition("=")[0] == key]
    return values[-1] if values else None
