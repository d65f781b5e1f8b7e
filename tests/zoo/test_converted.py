"""Prefixes are cut by position, options that cannot act are refused."""

import pytest
import torch

from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.converted import (
    ConverterEntry,
    ConvertOptions,
    check_options,
    split_off,
    strip_prefix,
    tensors_of,
)

ONE = torch.ones(1)


def test_prefixes_are_cut_at_the_start_only() -> None:
    tensors = {"bn.weight": ONE, "layer1.bn.weight": ONE, "bn1.weight": ONE}
    kept, cut = split_off(tensors, "bn.")
    assert list(kept) == ["layer1.bn.weight", "bn1.weight"]
    assert list(cut) == ["bn.weight"]
    assert list(strip_prefix(tensors, "layer1.")) == ["bn.weight"]


def test_data_parallel_wrapping_is_taken_off() -> None:
    wrapped = {"model": {"module.a": ONE, "module.b": ONE}, "epoch": 3}
    assert list(tensors_of(wrapped, key="model")) == ["a", "b"]
    assert list(tensors_of({"a": ONE, "epoch": 3})) == ["a"]
    with pytest.raises(CheckpointError, match=r"no 'teacher'; it has model, epoch"):
        tensors_of(wrapped, key="teacher")
    with pytest.raises(CheckpointError, match="no tensors"):
        tensors_of({"model": {"a": 1}}, key="model")


def test_options_without_effect_are_refused() -> None:
    entry = ConverterEntry(lambda *_: None, lambda _: True, ("size_px",), "x")  # type: ignore
    check_options(ConvertOptions(size_px=64), entry, name="x")
    with pytest.raises(ConfigError, match="key has no effect with converter=x; it takes size_px"):
        check_options(ConvertOptions(key="student"), entry, name="x")
    for wrong in ({"size_px": 0}, {"depth": "12"}, {"width": 1.5}):
        with pytest.raises(ConfigError, match="whole number"):
            ConvertOptions(**wrong)  # type: ignore[arg-type]
