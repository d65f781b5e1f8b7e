"""Settings of the data of a run on point clouds."""

from dataclasses import dataclass, field
from typing import Any

from ssl_vision.bounds import check_bounds
from ssl_vision.data.config import DataConfig, EvalDataConfig, InputSpec
from ssl_vision.errors import ConfigError
from ssl_vision.points.views import PointViewConfig, evaluation_point_view

_OF_IMAGES = ("decode", "mean", "std", "augment_on", "eval_size_px", "eval_num_points",
              "eval_center_fraction", "eval_interpolation")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CloudData(DataConfig):
    """Which clouds to train on, and how they are shown."""

    views: dict[str, PointViewConfig] = field(default_factory=dict)  # the method says which

    @property
    def input_size(self) -> int:
        """Points of the largest view."""
        if not self.views:
            raise ConfigError(
                "data.views is empty; give a view, as data.views.cloud.num_points=1024."
            )
        return max(view.num_points for view in self.views.values())

    def evaluation_view(self) -> PointViewConfig:
        """Farthest points of the number the network was trained with."""
        return evaluation_point_view(num_points=self.input_size)

    @property
    def input_spec(self) -> InputSpec:
        """Clouds have no colours to normalise."""
        return InputSpec(self.input_size)

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`point_views` as `views`, without the settings of images, which said nothing."""
        gone = (*_OF_IMAGES, "point_views")
        kept = {name: value for name, value in values.items() if name not in gone}
        return {**kept, "views": values["point_views"]}


@dataclass(frozen=True, kw_only=True)
class CloudEvalData(EvalDataConfig):
    """How an evaluation shows clouds; None: as the network was trained."""

    num_points: int | None = None  # of each cloud; None: the weights' own
    num_groups: int | None = None  # patches each cloud is cut into; None: the weights' own
    is_normalized: bool = True  # clouds into the unit sphere; ScanObjectNN's: false

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("num_points", "num_groups"):
            check_bounds(f"data.{key}", getattr(self, key), least=1)


def cloud_settings(data: EvalDataConfig) -> CloudEvalData:
    """The settings of an evaluation whose network has been found to take clouds."""
    assert isinstance(data, CloudEvalData)
    return data
