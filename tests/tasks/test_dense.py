"""Images shown whole, and the pictures of a report."""

from types import SimpleNamespace

import numpy as np
import pytest

from ssl_vision.data.modalities import MODALITIES
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.plots import PICTURE_PX
from ssl_vision.tasks.dense import picture_rows, shown_whole, small_picture


def test_clouds_are_refused():
    run = SimpleNamespace(
        modality=MODALITIES["clouds"], loaded=SimpleNamespace(source="runs/points")
    )
    with pytest.raises(ConfigError, match="tasks=depth is of images; runs/points takes clouds"):
        shown_whole(run, task="depth")


def test_pictures_are_evenly_over_all_images():
    assert picture_rows(3) == [0, 1, 2]
    assert picture_rows(101) == [0, 20, 40, 60, 80, 100]


def test_painted_pictures_keep_their_colours():
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    classes = np.random.default_rng(0).integers(0, 3, (300, 700))
    small = small_picture(colors[classes], is_painted=True)
    assert small.shape == (round(300 * PICTURE_PX / 700), PICTURE_PX, 3)
    assert {tuple(pixel) for pixel in small.reshape(-1, 3).tolist()} == {
        *map(tuple, colors.tolist())
    }
    assert small_picture(colors[classes]).shape == small.shape
