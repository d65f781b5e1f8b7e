"""Settings of the data of a run on pairs of images."""

from dataclasses import dataclass, field, fields

from ssl_vision.bounds import check_bounds
from ssl_vision.data.images.config import ImageData
from ssl_vision.errors import ConfigError
from ssl_vision.views import ViewConfig

FIRST, SECOND = "first", "second"
_OF_CROP = ("size_px", "count", "crop", "crop_area", "crop_ratio", "center_fraction", "flip_prob")


@dataclass(frozen=True, kw_only=True)
class PairViewConfig(ViewConfig):
    """One view of one image of a pair."""

    is_joint: bool = False  # of `second`: cut and flipped where and as `first` is; colours are not


@dataclass(frozen=True, kw_only=True)
class PairData(ImageData):
    """Which pairs to train on, and how they are shown.

    The view `second` is of the second image, all others are of the first: also those of an
    evaluation, as a network that was trained on pairs takes single images.
    """

    views: dict[str, PairViewConfig] = field(default_factory=dict)  # type: ignore[assignment]  # first, second
    frame_distance: int | None = None  # the path holds frames of videos; frames from one to other
    smoke_test_warp: float | None = None  # single images, each beside itself warped: no geometry

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("data.frame_distance", self.frame_distance, least=1)
        check_bounds("data.smoke_test_warp", self.smoke_test_warp, above=0, most=0.45)
        if self.frame_distance is not None and self.smoke_test_warp is not None:
            raise ConfigError(
                f"data.frame_distance={self.frame_distance} and data.smoke_test_warp="
                f"{self.smoke_test_warp:g} each say what a pair is; set one of them to null."
            )
        first, second = self.views.get(FIRST), self.views.get(SECOND)
        for name, view in self.views.items():
            if _is_joint(view) and (first is None or name != SECOND):
                raise ConfigError(
                    f"data.views.{name}.is_joint=true cuts {SECOND!r} where {FIRST!r} is cut; set "
                    f"it of {SECOND!r} alone, beside {FIRST!r}."
                )
        if first is None or second is None:
            return
        if _is_joint(second):
            _check_alike(first, second)
        elif first.flip_prob or second.flip_prob:
            name, prob = (FIRST, first) if first.flip_prob else (SECOND, second)
            raise ConfigError(
                f"data.views.{name}.flip_prob={prob.flip_prob} would mirror one view of a scene "
                f"without the other; set it to 0, or data.views.{SECOND}.is_joint=true."
            )


def _is_joint(view: ViewConfig) -> bool:
    """Whether it is cut as the first view is; the view of an evaluation is a plain one."""
    return isinstance(view, PairViewConfig) and view.is_joint


def _check_alike(first: PairViewConfig, second: PairViewConfig) -> None:
    """Raise ConfigError unless two views are cut by the same settings."""
    for name in (each.name for each in fields(first) if each.name in _OF_CROP):
        if getattr(first, name) != getattr(second, name):
            raise ConfigError(
                f"data.views.{SECOND}.{name}={getattr(second, name)} must be {FIRST}'s "
                f"{getattr(first, name)} where is_joint=true."
            )
