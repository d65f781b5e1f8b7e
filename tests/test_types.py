import torch
from torch.utils.data import DataLoader

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


def test_samples_of_any_data_set_become_a_batch_with_drawings_outermost() -> None:
    samples = [
        (
            row,
            {
                "a": torch.full((3, 2, 2), row),
                "b": [torch.full((1,), 10 * j + row) for j in (0, 1)],
            },
        )
        for row in (4, 7, 5)
    ]
    (batch,) = DataLoader(samples, batch_size=3, collate_fn=Batch.collate)
    assert batch.index.tolist() == [4, 7, 5]
    assert batch.views["a"].shape == (3, 3, 2, 2)
    assert batch.views["a"][:, 0, 0, 0].tolist() == [4, 7, 5]
    assert batch.views["b"].flatten().tolist() == [4, 7, 5, 14, 17, 15]
    assert batch.label is None
    labelled = Batch.collate(
        [(*sample, label) for sample, label in zip(samples, (2, 0, 1), strict=True)]
    )
    assert labelled.label is not None
    assert labelled.label.tolist() == [2, 0, 1]


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
