"""Rows of memory maps and tensors, side by side."""

import warnings
from pathlib import Path

import numpy as np
import torch

from ssl_vision.evaluation.arrays import FeatureRows, as_tensor


def test_rows_of_parts_stand_side_by_side(tmp_path: Path) -> None:
    left = np.arange(12, dtype=np.float16).reshape(6, 2)
    np.save(tmp_path / "left.npy", left)
    right = torch.arange(18, dtype=torch.float64).view(6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a read-only map is fine, and silent
        rows = FeatureRows(np.load(tmp_path / "left.npy", mmap_mode="r"), right)
    assert (len(rows), rows.width) == (6, 5)
    taken = rows.take(torch.tensor([4, 0]))
    assert taken.dtype == torch.float32
    assert taken.tolist() == [[8, 9, 12, 13, 14], [0, 1, 0, 1, 2]]


def test_tensors_share_memory_with_their_array() -> None:
    array = np.zeros(3)
    as_tensor(array)[1] = 5
    assert array[1] == 5
    weight = torch.zeros(2, requires_grad=True)
    assert not as_tensor(weight).requires_grad
