"""How a stranger's network wants its images: read from what people have beside a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

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
        ConfigError: It says nothing of these.
    """
    if isinstance(transform, InputSpec):
        return transform
    if transform is None:
        inner: Any = model.model if isinstance(model, Backbone) else model
        if not is_timm(inner):
            raise ConfigError(
                f"transform: {type(model).__name__} does not say its own; {_WAY_OUT}."
            )
        return _of_mapping(inner.pretrained_cfg)
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


def _of_mapping(given: Mapping[str, Any]) -> InputSpec:
    size = given.get("size") or given.get("input_size")
    if size is None:
        raise ConfigError(f"transform has no size; {_WAY_OUT}.")
    default = InputSpec(0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875)
    return InputSpec(
        _side(size),
        _numbers(given.get("mean") or default.mean),
        _numbers(given.get("std") or default.std),
        _interpolation(given.get("interpolation") or default.interpolation),
        float(given.get("crop_pct") or default.crop_pct),
    )


def _of_torchvision(transform: Any) -> InputSpec:
    """By the names of its steps: both of torchvision's versions have the same."""
    if hasattr(transform, "crop_size") and hasattr(transform, "resize_size"):  # of its weights
        crop, resized = _side(transform.crop_size), _side(transform.resize_size)
        return InputSpec(crop, _numbers(transform.mean), _numbers(transform.std),
                         _interpolation(transform.interpolation), crop / resized)  # fmt: skip
    steps = {type(step).__name__: step for step in getattr(transform, "transforms", ())}
    known = {"Resize", "CenterCrop", "Normalize", "ToTensor", "PILToTensor", "ToImage", "ToDtype",
             "ConvertImageDtype", "MaybeToTensor", "MaybePILToTensor"}  # fmt: skip
    strange = [name for name in steps if name not in known]
    if strange or "Normalize" not in steps or not {"Resize", "CenterCrop"} & steps.keys():
        what = f"its step {strange[0]}" if strange else type(transform).__name__
        raise ConfigError(f"transform: {what} is not understood; {_WAY_OUT}.")
    resize = steps.get("Resize")
    size = _side((steps["CenterCrop"] if "CenterCrop" in steps else steps["Resize"]).size)
    resized = size if resize is None else _side(resize.size)
    return InputSpec(
        size,
        _numbers(steps["Normalize"].mean),
        _numbers(steps["Normalize"].std),
        _interpolation(getattr(resize, "interpolation", "bilinear")),
        size / resized,
    )


def _side(size: Any) -> int:
    return int(size[-1]) if isinstance(size, list | tuple) else int(size)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _interpolation(value: Any) -> str:
    text = str(getattr(value, "value", value))
    return text if text in ("bicubic", "bilinear") else "bicubic"
