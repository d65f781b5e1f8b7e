"""Draws against their law."""

import numpy as np

from ssl_vision.data.kernels.draws import draw, view_key


def test_probabilities_are_met_and_operations_draw_independently() -> None:
    slots = {"jitter": 41, "gray": 47, "blur": 48, "solarize": 50, "flip": 40}
    keys = [np.uint64(view_key(np.uint64(9), 3, sample, 1)) for sample in range(4000)]
    draws = np.array([[draw(key, slot) for slot in slots.values()] for key in keys])
    assert np.abs(draws.mean(0) - 0.5).max() < 0.02
    assert np.abs((draws < 0.2).mean(0) - 0.2).max() < 0.02
    assert np.abs(np.corrcoef(draws.T) - np.eye(len(slots))).max() < 0.06
