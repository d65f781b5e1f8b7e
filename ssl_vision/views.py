"""WHAT happens to a sample, as data; the loaders of `data/` render it.

A view is one augmented picture of an image (or cloud). Recipes name their views:
`data.views.a.blur.prob=0.1` changes one number of one view.
Operations happen in the order of the fields: crop, flip, jitter, grayscale, blur, solarize,
RandAugment, random erasing.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Literal

from ssl_vision.bounds import check_bounds, check_prob, check_range
from ssl_vision.errors import ConfigError

if TYPE_CHECKING:  # see below
    from ssl_vision.data.images.transform import transform as transform

__all__ = [
    "BlurConfig",
    "EraseConfig",
    "JitterConfig",
    "RandAugmentConfig",
    "SolarizeConfig",
    "ViewConfig",
    "evaluation_view",
    "transform",
]

_FEW_PX = 8  # a view's side below it is said
_SMALL_SHARE = 0.001  # likewise, of an image: 14 px of ImageNet's


@dataclass(frozen=True, kw_only=True)
class JitterConfig:
    """Brightness, contrast, saturation and hue in an order drawn per sample (torchvision's)."""

    prob: float = 0.8
    brightness: float = 0.4  # factor drawn from [1 - b, 1 + b]
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1  # shift drawn from [-h, h], in turns of the colour circle

    def __post_init__(self) -> None:
        check_prob("jitter.prob", self.prob)
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ConfigError(f"jitter.{name}={getattr(self, name)} must be 0 or more.")
        if not 0 <= self.hue <= 0.5:
            raise ConfigError(f"jitter.hue={self.hue} must be from 0 to 0.5.")


@dataclass(frozen=True, kw_only=True)
class BlurConfig:
    """Gaussian blur."""

    prob: float = 0.5  # of blurring; DINOv2's and POA's class of this name takes 1 - p
    sigma_px: tuple[float, float] = (0.1, 2.0)  # drawn uniformly
    kernel_px: int | None = None  # side of the kernel, odd (torchvision's); None: cut at 4 sigma

    def __post_init__(self) -> None:
        check_prob("blur.prob", self.prob)
        check_range("blur.sigma_px", self.sigma_px, low=0.01, high=100.0)
        if self.kernel_px is not None and (self.kernel_px < 1 or self.kernel_px % 2 == 0):
            raise ConfigError(
                f"blur.kernel_px={self.kernel_px} must be an odd number of 1 or more, or null for "
                "a kernel that reaches to 4 sigma."
            )


@dataclass(frozen=True, kw_only=True)
class SolarizeConfig:
    """Values at or above the threshold are inverted."""

    prob: float = 0.2
    threshold: int = 128  # of 0..255

    def __post_init__(self) -> None:
        check_prob("solarize.prob", self.prob)
        if not 0 <= self.threshold <= 256:
            raise ConfigError(f"solarize.threshold={self.threshold} must be from 0 to 256.")


@dataclass(frozen=True, kw_only=True)
class RandAugmentConfig:
    """Operations drawn from a list of fifteen (Cubuk et al. 2019), timm's `rand-m9-mstd0.5-inc1`.

    AutoContrast, Equalize, Invert, Rotate, Posterize, Solarize, SolarizeAdd, Color, Contrast,
    Brightness, Sharpness, ShearX, ShearY, TranslateX, TranslateY; each grows with the magnitude.
    """

    num_ops: int = 2  # drawn with replacement, applied one after the other
    op_prob: float = 0.5  # of each drawn operation being applied
    magnitude: float = 9.0  # of 10
    magnitude_std: float = 0.5  # of a normal distribution around it, cut to 0..10
    fill: tuple[int, int, int] = (124, 116, 104)  # RGB beyond the border: ImageNet's mean

    def __post_init__(self) -> None:
        if not 1 <= self.num_ops <= 8:
            raise ConfigError(f"rand_augment.num_ops={self.num_ops} must be from 1 to 8.")
        check_prob("rand_augment.op_prob", self.op_prob)
        check_range("rand_augment.magnitude", (0.0, self.magnitude), low=0.0, high=10.0)
        check_range("rand_augment.magnitude_std", (0.0, self.magnitude_std), low=0.0, high=10.0)
        check_range("rand_augment.fill", (min(self.fill), max(self.fill)), low=0, high=255)


@dataclass(frozen=True, kw_only=True)
class EraseConfig:
    """Random erasing (Zhong et al. 2017): a rectangle becomes noise, drawn per pixel."""

    prob: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)  # fraction of the view
    ratio: tuple[float, float] = (0.3, 10 / 3)  # height / width
    noise_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of values 0..1
    noise_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        check_prob("erase.prob", self.prob)
        check_range("erase.area", self.area, low=1e-6, high=1.0)
        check_range("erase.ratio", self.ratio, low=1e-3, high=1e3)


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """One view of an image; an operation that is None or has probability 0 is off."""

    size_px: int = 224
    count: int = 1  # drawings of this view per image
    crop: Literal["random", "center", "whole"] = "random"  # center: resize by center_fraction,
    # then cut; whole: all of it, its sides scaled to a square
    crop_area: tuple[float, float] = (0.08, 1.0)  # fraction of the image; random crops only
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height; random crops only
    center_fraction: float = 0.875  # size_px / resized shorter side; centre crops only
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip_prob: float = 0.5
    jitter: JitterConfig | None = None
    gray_prob: float = 0.0
    blur: BlurConfig | None = None
    solarize: SolarizeConfig | None = None
    rand_augment: RandAugmentConfig | None = None
    erase: EraseConfig | None = None

    size_key: ClassVar[str] = "size_px"

    def __post_init__(self) -> None:
        check_bounds("size_px", self.size_px, least=1)
        check_bounds("count", self.count, least=1)
        check_range("crop_area", self.crop_area, low=1e-6, high=1.0)
        check_range("crop_ratio", self.crop_ratio, low=1e-3, high=1e3)
        check_range("center_fraction", (0.01, self.center_fraction), low=0.01, high=1.0)
        check_prob("flip_prob", self.flip_prob)
        check_prob("gray_prob", self.gray_prob)

    def __str__(self) -> str:
        return f"{self.count} x {self.size_px} px"

    def doubts(self, prefix: str) -> list[str]:
        """What is allowed and shows next to nothing of an image, a line each.

        Args:
            prefix: Of the view's keys, as "data.views.a.".
        """
        found = []
        if self.size_px < _FEW_PX:
            found.append(
                f"{prefix}size_px={self.size_px}: so few pixels show next to nothing of an image; "
                "it is the side in px."
            )
        if self.crop == "random" and self.crop_area[1] < _SMALL_SHARE:
            found.append(
                f"{prefix}crop_area={list(self.crop_area)}: crops of less than "
                f"{_SMALL_SHARE:.1%} of an image show next to nothing of it; it is a share."
            )
        return found


def evaluation_view(
    *, size_px: int, interpolation: str = "bicubic", center_fraction: float = 0.875
) -> ViewConfig:
    """The view of frozen evaluation: resize, centre crop, nothing random (DINO's protocol)."""
    if interpolation not in ("bicubic", "bilinear"):
        raise ConfigError(f"interpolation={interpolation!r} must be bicubic or bilinear.")
    return ViewConfig(
        size_px=size_px,
        crop="center",
        center_fraction=center_fraction,
        interpolation="bicubic" if interpolation == "bicubic" else "bilinear",
        flip_prob=0.0,
    )


if not TYPE_CHECKING:  # a type checker would take every misspelt name for something it returns

    def __getattr__(name: str) -> object:
        """`ssl_vision.views.transform`, which draws views, lies with the kernels that do it."""
        if name == "transform":
            return import_module("ssl_vision.data.images.transform").transform
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
