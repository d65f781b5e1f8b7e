from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssl_vision.engine.metrics import average


def test_an_update_logs_the_mean_over_its_batches_undivided():
    """Lightning hands over losses divided by the number of batches of the update."""
    run: Any = SimpleNamespace(config=SimpleNamespace(trainer=SimpleNamespace(accumulate=2)))
    outputs = [
        {"loss": torch.tensor(3.0) / 2, "metrics": {"term": torch.tensor(1.0)}},
        {"loss": torch.tensor(5.0) / 2, "metrics": {"term": torch.tensor(2.0)}},
    ]
    assert average(outputs, run) == pytest.approx({"loss": 4.0, "term": 1.5})
