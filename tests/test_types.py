import torch

from ssl_vision.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceMemoryError,
    NonFiniteError,
    Preempted,
    SslVisionError,
)
from ssl_vision.types import Batch


def test_a_batch_counts_samples_and_moves_whole() -> None:
    batch = Batch(
        views={"a": torch.zeros(6, 3, 2, 2), "b": torch.ones(2, 3, 2, 2)}, index=torch.arange(2)
    )
    assert batch.num_samples == 2
    moved = batch.to("meta")
    assert {view.device.type for view in moved.views.values()} == {"meta"}
    assert moved.index.device.type == "meta"
    assert moved.label is None


def test_exit_codes_are_those_of_the_contract() -> None:
    codes = {
        ConfigError: 2,
        DataError: 65,
        DeviceMemoryError: 70,
        CheckpointError: 74,
        NonFiniteError: 75,
    }
    assert all(error.exit_code == code for error, code in codes.items())
    assert Preempted("stopped", signal_number=15).exit_code == 143
    assert issubclass(ConfigError, SslVisionError)
