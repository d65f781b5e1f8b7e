"""A verification that cannot fail would verify nothing."""

import pytest
import torch

from ssl_vision.errors import CheckpointError
from ssl_vision.zoo.verify import judge, outputs_of, probe_batch, run_isolated

EXPECTED = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


def test_other_outputs_are_refused() -> None:
    assert "0.0e+00" in judge(EXPECTED, EXPECTED, what="it")
    largest = EXPECTED.abs().max()
    with pytest.raises(CheckpointError, match=r"it differs .* by 1\.0e-03"):
        judge(EXPECTED + 1e-3 * largest, EXPECTED, what="it")
    with pytest.raises(CheckpointError, match="differs"):
        judge(EXPECTED * torch.nan, EXPECTED, what="it")
    with pytest.raises(CheckpointError, match="cosine"):
        judge(EXPECTED.flip(0), EXPECTED, is_half=True, what="it")
    with pytest.raises(CheckpointError, match=r"\(1, 8\) instead of \(2, 8\)"):
        judge(EXPECTED[:1], EXPECTED, what="it")


def test_measuring_changes_nothing() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).double()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs_of(model, torch.randn(5, 4))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_probe_is_fixed_and_of_the_networks_size() -> None:
    config = {"pretrained_cfg": {"input_size": [1, 8, 8]}}
    assert probe_batch(config).shape == (2, 1, 8, 8)
    assert torch.equal(probe_batch(config), probe_batch(config))


def test_new_process_cannot_import_this_package() -> None:
    assert run_isolated("print(sys.argv[1])", "hello").strip() == "hello"
    with pytest.raises(CheckpointError, match="ssl_vision"):
        run_isolated("import ssl_vision")
