"""Classes given as numbers, texts or a mixture."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from ssl_vision.data.images.labels import classes_of


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        ([2, 0, 1], [2, 0, 1], ["0", "1", "2"]),
        ([10, 2, 10], [1, 0, 1], ["2", "10"]),  # by size, not as texts
        ([1.0, 0.0, math.nan], [1, 0, -1], ["0", "1"]),  # what pandas makes of gaps
        (["x", None, ""], [0, -1, -1], ["x"]),
        ([0, -1, 1], [0, -1, 1], ["0", "1"]),
        ([True, False], [1, 0], ["False", "True"]),
        ([np.int32(1), torch.tensor(0), 1], [1, 0, 1], ["0", "1"]),
        (["cafe\u0301", "caf\u00e9"], [0, 0], ["caf\u00e9"]),
        ([3, "a"], [0, 1], ["3", "a"]),
    ],
)
def test_numbers_and_names(values: list[Any], labels: list[int], names: list[str]) -> None:
    found = classes_of(values)
    assert found.labels.tolist() == labels
    assert found.names == names


def test_names_given_beside_numbers_and_those_that_do_not_reach() -> None:
    assert classes_of([2, 0], ["a", "b", "c"]).names == ["a", "b", "c"]
    assert classes_of([3, 0], ["a", "b", "c"]).names == ["0", "3"]


@pytest.mark.parametrize("values", [[], [None, math.nan], [-1, -1]])
def test_no_labels(values: list[Any]) -> None:
    assert classes_of(values).labels is None


@pytest.mark.parametrize("wrong", [0.5, [1, 2], np.zeros(3), {"a": 1}])
def test_what_is_no_class_is_told(wrong: Any) -> None:
    found = classes_of([1, wrong])
    assert found.labels is None
    assert "neither a number nor the name" in found.problem
