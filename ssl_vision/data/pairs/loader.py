"""The loader of pairs: the images' kernels and colours, on both images of a pair."""

from typing import ClassVar

import numpy as np

from ssl_vision.data.images.loader import MultiViewLoader, PreparedView, ViewTools
from ssl_vision.data.kernels.draws import view_stream
from ssl_vision.data.loader import Job
from ssl_vision.data.pairs.config import FIRST, SECOND, PairViewConfig


class PairLoader(MultiViewLoader):
    """Batches of uint8 views of pairs; `second` is of the second image, others of the first.

    Draws of a view depend on (seed, its name, epoch, sample), so that crops and colours of the two
    are independent; a joint second view is cut by the draws of the first.
    """

    modality: ClassVar[str] = "pairs"

    def _prepare(self) -> dict[str, PreparedView]:
        views = super()._prepare()
        asked = self.views.get(SECOND)
        if isinstance(asked, PairViewConfig) and asked.is_joint:
            crop_stream = view_stream(self.seed, FIRST)
            views[SECOND] = views[SECOND]._replace(crop_stream=crop_stream)
        return views

    def _draw_sample(
        self,
        job: Job,
        row: int,
        pixels: np.ndarray,
        sample: np.ndarray,
        views: dict[str, PreparedView],
        tools: ViewTools,
    ) -> None:
        first = {name: view for name, view in views.items() if name != SECOND}
        second = {name: view for name, view in views.items() if name == SECOND}
        super()._draw_sample(job, row, pixels[0], sample, first, tools)
        super()._draw_sample(job, row, pixels[1], sample, second, tools)
