"""Rows of memory maps and tensors, side by side."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_vision.errors import DataError
from ssl_vision.evaluation import arrays
from ssl_vision.evaluation.arrays import FeatureRows, as_tensor, check_finite


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("block", [1, 7, 2**24])
def test_rows_that_are_not_finite_are_counted(
    dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_CHECKED_VALUES", block)
    rows = torch.full((9, 4), torch.finfo(dtype).max, dtype=dtype)
    check_finite(rows)  # as large as the type allows, and finite
    check_finite(rows[:0])
    rows[2, 1], rows[2, 2], rows[8, 0] = torch.inf, -torch.inf, torch.nan
    with pytest.raises(DataError, match="2 of 9 rows of test features are not finite"):
        check_finite(rows, what="test features")


def test_numpy_arrays_and_memory_maps_are_looked_at_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[0.0, np.nan]]))
    with pytest.raises(DataError, match="1 of 1 rows"):
        check_finite(np.load(tmp_path / "x.npy", mmap_mode="r"))
