"""How a stranger's network wants its images: read from what people have beside a model."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import is_timm
from ssl_vision.data.config import InputSpec
from ssl_vision.errors import ConfigError
from ssl_vision.zoo.exported import read_config

# An InputSpec; timm's data config; a torchvision transform; a run or export folder.
TransformLike: TypeAlias = Any

_KEYS = ("size", "input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
_WAY_OUT = (
    "give transform={'size': 224, 'mean': [...], 'std': [...], 'crop_pct': 0.875, "
    "'interpolation': 'bicubic'}, a torchvision Compose of Resize, CenterCrop and Normalize, or a "
    "run folder"
)


def spec_of_transform(transform: TransformLike, model: nn.Module) -> InputSpec:
    """Size, crop and statistics that a transform brings images to.

    Args:
        transform: An InputSpec; a mapping as of timm's `resolve_model_data_config`; torchvision's
            `Compose` of Resize, CenterCrop and Normalize, or its `weights.transforms()`; a run or
            export folder; None for a model of timm, which knows.
        model: The network.

    Raises:
        ConfigError: It says nothing of these, or what no image can be brought to.
    """
    if isinstance(transform, InputSpec):
        given = transform._asdict()
        decode = given.pop("decode")
        return _of_mapping(given)._replace(decode=decode)
    if transform is None:
        inner: Any = model.model if isinstance(model, Backbone) else model
        if not is_timm(inner):
            raise ConfigError(
                f"transform: {type(model).__name__} does not say its own; {_WAY_OUT}."
            )
        return _of_mapping(inner.pretrained_cfg | _own_size(inner))
    if isinstance(transform, str | Path):
        folder = Path(transform).expanduser()
        inner_folder = folder / "export"
        config = read_config(inner_folder if inner_folder.is_dir() else folder)
        return _of_mapping(config["pretrained_cfg"])
    if isinstance(transform, Mapping):
        unknown = [key for key in transform if key not in _KEYS]
        if unknown:
            raise ConfigError(f"transform.{unknown[0]} is unknown; use {', '.join(_KEYS)}.")
        return _of_mapping(transform)
    return _of_torchvision(transform)


def _own_size(model: Any) -> dict[str, int]:
    """The one size that a model of timm takes, where it is not the one of its weights."""
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "img_size", None)
    if size is None or not getattr(embed, "strict_img_size", True):
        return {}
    return {"size": size[0] if isinstance(size, tuple) else size}


def _of_mapping(given: Mapping[str, Any]) -> InputSpec:
    values: dict[str, Any] = {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
    }
    values |= {key: value for key, value in given.items() if value is not None}
    key = "size" if "size" in values else "input_size"
    if key not in values:
        raise ConfigError(f"transform has no size; {_WAY_OUT}.")
    return InputSpec(
        _side(values[key], key),
        _numbers(values["mean"], "mean"),
        _numbers(values["std"], "std"),
        _interpolation(values["interpolation"]),
        _crop(values["crop_pct"]),
    )


def _of_torchvision(transform: Any) -> InputSpec:
    """By the names of its steps: both of torchvision's versions have the same."""
    if hasattr(transform, "crop_size") and hasattr(transform, "resize_size"):  # of its weights
        crop = _side(transform.crop_size, "crop_size")
        return InputSpec(
            crop,
            _numbers(transform.mean, "mean"),
            _numbers(transform.std, "std"),
            _interpolation(transform.interpolation),
            crop / _side(transform.resize_size, "resize_size"),
        )
    steps = {type(step).__name__: step for step in getattr(transform, "transforms", ())}
    known = {"Resize", "CenterCrop", "Normalize", "ToTensor", "PILToTensor", "ToImage", "ToDtype",
             "ConvertImageDtype", "MaybeToTensor", "MaybePILToTensor"}  # fmt: skip
    strange = [name for name in steps if name not in known]
    if strange or "Normalize" not in steps or not {"Resize", "CenterCrop"} & steps.keys():
        what = f"its step {strange[0]}" if strange else type(transform).__name__
        raise ConfigError(f"transform: {what} is not understood; {_WAY_OUT}.")
    resize = steps.get("Resize")
    size = _side((steps["CenterCrop"] if "CenterCrop" in steps else steps["Resize"]).size, "size")
    resized = size if resize is None else _side(resize.size, "size")
    return InputSpec(
        size,
        _numbers(steps["Normalize"].mean, "mean"),
        _numbers(steps["Normalize"].std, "std"),
        _interpolation(getattr(resize, "interpolation", "bilinear")),
        size / resized,
    )


def _side(size: Any, key: str) -> int:
    sides = list(size)[-2:] if isinstance(size, list | tuple) else [size]
    if not sides or not all(map(_is_side, sides)):
        raise _wrong(key, size, "a side in px, a whole number above 0, for instance 224")
    if len(set(sides)) > 1:
        raise _wrong(key, size, "square, as images are shown: one side in px, for instance 224")
    return int(sides[-1])


def _is_side(side: Any) -> bool:
    return not isinstance(side, bool) and isinstance(side, int | np.integer) and int(side) >= 1


def _numbers(values: Any, key: str) -> tuple[float, ...]:
    allowed = "three finite numbers, of red, green and blue on the scale 0..1"
    if isinstance(values, str | bytes):
        raise _wrong(key, values, allowed)
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise _wrong(key, values, allowed) from error
    if len(found) not in (1, 3) or not all(map(math.isfinite, found)):
        raise _wrong(key, values, allowed)
    if key == "std" and min(found) <= 0:
        raise _wrong(key, values, "three numbers above 0: the images are divided by it")
    return found


def _interpolation(value: Any) -> str:
    text = str(getattr(value, "value", value))
    if text not in ("bicubic", "bilinear"):
        raise _wrong("interpolation", text, "bicubic or bilinear")
    return text


def _crop(value: Any) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = math.nan
    if not 0 < share < math.inf:
        raise _wrong("crop_pct", value, "a number above 0, the crop's share of the resized side")
    return share


def _wrong(key: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"transform.{key}={value!r} must be {allowed}.")
