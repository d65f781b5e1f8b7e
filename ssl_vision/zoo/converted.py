"""What a converter takes and gives: an official checkpoint in, timm's names and geometry out.

A converter is a pure function `(content, options) -> Converted`: `content` is what the file holds
(already read safely), `options` are the user's. It renames and cuts tensors and computes nothing
else; building, verifying and writing the network is `convert.py`'s business.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ssl_vision.errors import CheckpointError, ConfigError

Weights = dict[str, Tensor]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What a user may choose; a converter uses the ones its entry in `CONVERTERS` names."""

    key: str | None = None  # which network of a full checkpoint: student or teacher
    size_px: int | None = None  # side of the images the network is wanted for; its own by default
    pos_interp: Literal["dino", "plain", "timm"] | None = None  # the authors' own by default
    num_heads: int | None = None  # attention heads, where width / 64 is wrong
    width: int | None = None  # of an elastic network's child (POA)
    depth: int | None = None  # likewise
    num_groups: int | None = None  # patches of a cloud; the weights do not say

    def __post_init__(self) -> None:
        if self.pos_interp not in (None, "dino", "plain", "timm"):
            raise ConfigError(f"pos_interp={self.pos_interp!r} must be dino, plain or timm.")
        for name in ("size_px", "num_heads", "width", "depth", "num_groups"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name}={value!r} must be a whole number above 0.")


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A checkpoint in timm's terms.

    Attributes:
        architecture: timm name (or one of this package's own, as `build_from_config` knows them).
        weights: Tensors under the architecture's names, all of them.
        model_args: Arguments by which this network differs from the plain architecture.
        num_classes: Classes of the classifier in `weights`; 0 without.
        heads: What the file holds beside the network (projectors, decoders), official names.
        mean: Per channel, of images scaled to [0, 1].
        std: Likewise.
        interpolation: bicubic or bilinear.
        size_px: Side of the input.
        crop_pct: Centre crop's side / resized shorter side, of the authors' evaluation.
        notes: What the user should know.
    """

    architecture: str
    weights: Weights
    model_args: dict[str, object] = field(default_factory=dict)
    num_classes: int = 0
    heads: Weights = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    size_px: int = 224
    crop_pct: float = 0.875
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConverterEntry:
    """A converter and what is known of it.

    Attributes:
        convert: The pure function.
        matches: Whether a file's content has this layout; the first match in the table wins.
        options: Fields of `ConvertOptions` it uses; others are refused.
        about: One line for users.
    """

    convert: Callable[[Mapping[str, object], ConvertOptions], Converted]
    matches: Callable[[Mapping[str, object]], bool]
    options: tuple[str, ...]
    about: str


def check_options(options: ConvertOptions, entry: ConverterEntry, *, name: str) -> None:
    """Raise ConfigError if an option was set that this converter does not use."""
    for known in dataclasses.fields(ConvertOptions):
        if getattr(options, known.name) != known.default and known.name not in entry.options:
            allowed = ", ".join(entry.options) or "none"
            raise ConfigError(
                f"{known.name} has no effect with converter={name}; it takes {allowed}."
            )


def tensors_of(content: Mapping[str, object], *, key: str | None = None) -> Weights:
    """The tensors of a mapping (or of its entry `key`), without a data-parallel `module.`.

    Raises:
        CheckpointError: The entry is absent or holds no tensors.
    """
    found = content if key is None else content.get(key)
    if not isinstance(found, Mapping):
        raise CheckpointError(f"the file has no {key!r}; it has {', '.join(map(str, content))}.")
    tensors = {str(n): v for n, v in found.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"{key or 'the file'!r} holds no tensors.")
    return strip_prefix(tensors, "module.") or tensors


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> Weights:
    """The tensors whose names start with `prefix`, without it."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def split_off(tensors: Mapping[str, Tensor], *prefixes: str) -> tuple[Weights, Weights]:
    """(Tensors whose names start with none of the prefixes, those whose names do)."""
    kept = {n: v for n, v in tensors.items() if not n.startswith(prefixes)}
    return kept, {n: v for n, v in tensors.items() if n not in kept}
