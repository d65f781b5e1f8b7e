"""The modality of point clouds."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssl_vision.data.clouds.config import CloudData, CloudEvalData
from ssl_vision.data.clouds.find import build_point_source
from ssl_vision.data.clouds.layouts import read_cloud
from ssl_vision.data.clouds.loader import PointLoader
from ssl_vision.data.clouds.source import PointSource
from ssl_vision.data.config import DataConfig, EvalDataConfig, InputSpec
from ssl_vision.data.modality import Modality, RawFeatures, Shown, as_is
from ssl_vision.data.source import Source, Split
from ssl_vision.errors import ConfigError
from ssl_vision.points.pictures import draw_cloud, raw_statistics, stack_rows
from ssl_vision.points.views import PointViewConfig, evaluation_point_view

_IMAGES_ONLY = (
    "this task augments images; the network takes point clouds. Use "
    "tasks=knn,linear,logreg,svm,few_shot,n_way,finetune,metrics."
)
_ANGLE = 0.6  # of the camera, radians
_NUM_CLOUDS = 6  # of a sheet
_MAX_DRAWINGS = 3  # of one view of one cloud


class Clouds(Modality):
    """Clouds of any number of points; views are float32, (B, M, 3), normalised where drawn."""

    name = "clouds"
    settings = CloudData
    eval_settings = CloudEvalData
    loader = PointLoader
    view_name = "cloud"
    raw = RawFeatures(
        name="statistics",
        width=40,
        of=lambda clouds: torch.from_numpy(raw_statistics(clouds.cpu().numpy())),
    )
    finetune = "point_finetune"
    pictures = ("reconstruction",)
    has_pixels = False

    def open(self, path: str, *, split: Split, config: DataConfig) -> Source:
        """See `build_point_source`; none is downloaded."""
        return build_point_source(path, split=split)

    def single(self, path: Path, config: DataConfig) -> Source:
        """A cloud, or the surface of a mesh."""
        return PointSource([str(path)], lambda _: read_cloud(path))

    def show(self, asked: EvalDataConfig, spec: InputSpec) -> Shown:
        """Farthest points, in the unit sphere or as they come."""
        assert isinstance(asked, CloudEvalData)
        view = evaluation_point_view(
            num_points=asked.num_points or spec.size, is_normalized=asked.is_normalized
        )
        return Shown(
            view=view,
            normalize=as_is,
            transform=asdict(view),
            num_groups=asked.num_groups,
            note=" ".join(view.doubts("data.")),
        )

    def augmented(self, view: PointViewConfig, *, count: int) -> NoReturn:
        """No augmentation of clouds is agreed on for this."""
        raise ConfigError(_IMAGES_ONLY)

    def cropped(self, view: PointViewConfig, **settings: object) -> NoReturn:
        """Clouds are not cropped."""
        raise ConfigError(_IMAGES_ONLY)

    def thumbnails(self, views: Tensor, *, size_px: int) -> Any:
        """Projections."""
        return np.stack([draw_cloud(c.numpy(), angle=_ANGLE, size_px=size_px) for c in views])

    def sheet(
        self, views: Mapping[str, Tensor], *, num_samples: int, tile_px: int
    ) -> Image.Image | None:
        """Six clouds at most; of a view three drawings."""
        columns = [
            view[j * num_samples : (j + 1) * num_samples]
            for view in views.values()
            for j in range(min(_MAX_DRAWINGS, len(view) // num_samples))
        ]
        rows = [
            np.concatenate(
                [draw_cloud(c[i].cpu().numpy(), angle=_ANGLE, size_px=tile_px) for c in columns],
                axis=1,
            )
            for i in range(min(_NUM_CLOUDS, num_samples))
        ]
        return Image.fromarray(stack_rows(rows)) if columns else None
