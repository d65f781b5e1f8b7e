"""Settings of the data of a run on images."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ssl_vision.bounds import check_bounds
from ssl_vision.data.config import DataConfig, EvalDataConfig, InputSpec, check_normalization
from ssl_vision.data.images.recolor import crops_only
from ssl_vision.data.kernels.policy import policies_of
from ssl_vision.data.levels import AskedDecode, DecodeConfig
from ssl_vision.errors import ConfigError
from ssl_vision.views import ViewConfig, evaluation_view


@dataclass(frozen=True, kw_only=True)
class ImageData(DataConfig):
    """Which images to train on, and how they are shown."""

    views: dict[str, ViewConfig] = field(default_factory=dict)  # the method says which
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of 0..1; ImageNet's. auto: measured
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)  # likewise
    decode: DecodeConfig = field(default_factory=DecodeConfig)  # transparency, deep levels
    augment_on: Literal["cpu", "device"] = "cpu"  # device: crops on CPU, colour on the device
    eval_size_px: int | None = None  # of frozen evaluation; default: size of the largest view
    eval_center_fraction: float = 0.875  # size_px / resized shorter side
    eval_interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        policies = [f"{name}.{field}" for name, v in self.views.items() for field in policies_of(v)]
        if self.augment_on == "device" and policies:
            raise ConfigError(
                f"data.views.{policies[0]} runs on the CPU only, after the colours; use "
                "data.augment_on=cpu, or null for it."
            )
        check_normalization(self.mean, self.std)
        check_bounds("data.eval_size_px", self.eval_size_px, least=1)
        check_bounds("data.eval_center_fraction", self.eval_center_fraction, least=0.01, most=1)

    @property
    def input_size(self) -> int:
        """Side of the largest view; of evaluation where there are no views."""
        sizes = [view.size_px for view in self.views.values()]
        if not sizes and self.eval_size_px is None:
            raise ConfigError("data.views is empty; give data.views or data.eval_size_px.")
        return max(sizes, default=self.eval_size_px or 0)

    def evaluation_view(self) -> ViewConfig:
        """Resize and centre crop."""
        return evaluation_view(
            size_px=self.eval_size_px or self.input_size,
            interpolation=self.eval_interpolation,
            center_fraction=self.eval_center_fraction,
        )

    def loaded_views(self) -> dict[str, ViewConfig]:
        """The views, or with `augment_on: device` their crops."""
        if self.augment_on == "cpu":
            return self.views
        return {name: crops_only(view) for name, view in self.views.items()}

    def doubts(self) -> list[str]:
        """Also of the size that scores are of."""
        if self.eval_size_px is None:
            return super().doubts()
        return [*super().doubts(), *self.evaluation_view().doubts("data.eval_")]

    @property
    def input_spec(self) -> InputSpec:
        """Of the evaluation view."""
        view = self.evaluation_view()
        return InputSpec(
            view.size_px,
            self.mean,
            self.std,
            view.interpolation,
            view.center_fraction,
            self.decode,
        )

    def mismatch(self, spec: InputSpec) -> str:
        """Mean and standard deviation, and what files mean where their format leaves it open."""
        if (spec.mean, spec.std) != (tuple(self.mean), tuple(self.std)):
            return (
                f"mean {list(spec.mean)} and std {list(spec.std)}, data.mean={list(self.mean)} and "
                f"data.std={list(self.std)} differ."
            )
        if spec.decode != self.decode:
            return f"{spec.decode.text()}, data has {self.decode.text()}."
        return ""

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Without the settings of clouds, which were none."""
        clouds = ("point_views", "eval_num_points")
        return {name: value for name, value in values.items() if name not in clouds}


@dataclass(frozen=True, kw_only=True)
class ImageEvalData(EvalDataConfig):
    """How an evaluation shows images; None: as the network was trained."""

    size_px: int | None = None  # None: the weights' own, as for all below
    center_fraction: float | None = None  # size_px / resized shorter side; DINO's protocol: 0.875
    interpolation: Literal["bicubic", "bilinear"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    decode: AskedDecode = field(default_factory=AskedDecode)  # transparency, deep levels

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("data.size_px", self.size_px, least=1)
        check_bounds("data.center_fraction", self.center_fraction, least=0.01, most=1)
        check_normalization(self.mean, self.std)
