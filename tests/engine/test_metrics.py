import pytest
import torch

from ssl_vision.engine.metrics import average
from ssl_vision.types import LossOutput


def test_an_update_logs_the_mean_over_its_batches():
    outputs = [
        LossOutput(torch.tensor(3.0), {"term": torch.tensor(1.0)}),
        LossOutput(torch.tensor(5.0), {"term": torch.tensor(2.0)}),
    ]
    assert average(outputs) == pytest.approx({"loss": 4.0, "term": 1.5})
