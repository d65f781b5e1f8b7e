import torch

from ssl_vision.errors import ConfigError, Preempted, SslVisionError
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
    codes = {c.__name__: c.exit_code for c in SslVisionError.__subclasses__() if c is not Preempted}
    assert codes == {
        "ConfigError": 2,
        "DataError": 65,
        "DeviceMemoryError": 70,
        "CheckpointError": 74,
        "NonFiniteError": 75,
    }
    assert Preempted("stopped", signal_number=15).exit_code == 143
    assert issubclass(ConfigError, SslVisionError)
