"""The loader of point clouds: order, position and threads of images' loader, views of clouds."""

from typing import Any, ClassVar

import numpy as np
import torch

from ssl_vision.data.decode import Decoder
from ssl_vision.data.loader import EpochLoader, Job
from ssl_vision.points.views import PointViewConfig, render_view
from ssl_vision.randomness import derive_key


class PointLoader(EpochLoader[PointViewConfig]):
    """Batches of float views of clouds, (k*B, num_points, 3), on the CPU.

    A view is keyed by (seed, view name, epoch, sample id, drawing), as views of images are; see
    `EpochLoader` for the arguments and the position.
    """

    modality: ClassVar[str] = "clouds"

    def _bytes_of(self, view: PointViewConfig) -> int:
        return view.count * view.num_points * 3 * 4  # float32

    def _prepare(self) -> dict[str, PointViewConfig]:
        return self.views

    def _make_tools(self, views: Any) -> Decoder:
        return Decoder(self.notes)

    def _new_job(self, epoch: int, indices: np.ndarray) -> Job:
        shapes = {
            name: (view.count, len(indices), view.num_points, 3)
            for name, view in self.views.items()
        }
        tensors = {
            name: torch.empty(shape, pin_memory=self.pin_memory) for name, shape in shapes.items()
        }
        return Job(epoch, indices.copy(), {}, tensors, rows_left=len(indices))

    def _render(self, job: Job, start: int, stop: int, views: Any, tools: Decoder) -> None:
        ids = torch.from_numpy(job.indices[start:stop].copy())  # keys, also of substitutes
        most = max(view.num_points for view in views.values())

        def sample(index: int) -> np.ndarray:
            cloud = self.source.sample(index, tools)
            if len(cloud) < most:
                tools.notes.add("few points")
            return cloud

        read = {row: self._read_row(job, row, sample) for row in range(start, stop)}
        present = [cloud for cloud in read.values() if cloud is not None]
        # Mapped files are read-only, which torch warns of.
        clouds = [torch.from_numpy(np.require(cloud, requirements="W")) for cloud in present]
        if not clouds:
            return
        rows = torch.tensor([row for row, cloud in read.items() if cloud is not None])
        ids = ids[rows - start]
        for name, view in views.items():
            for drawing in range(view.count):
                key = derive_key(self.seed, "view", name, job.epoch, drawing)
                job.tensors[name][drawing, rows] = render_view(clouds, view, key=key, ids=ids)
