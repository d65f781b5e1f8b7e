import pytest
import torch

from ssl_vision.engine.state import capture, check_model, restore
from ssl_vision.engine.train import build_method
from ssl_vision.errors import CheckpointError
from ssl_vision.methods.base import TrainPlan


@pytest.fixture
def method(recipe):
    config = recipe("mae")
    plan = TrainPlan(steps_per_epoch=5, epochs=1, global_batch_size=256, input_size=16)
    return build_method(config, plan)


def one_update(method):
    optimizer = method.configure_optimizers()
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_what_was_captured_comes_back_whatever_happened_since(method):
    optimizer = one_update(method)
    method.step = method.micro_step = 1
    state = capture(method, optimizer)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    moments = [v["exp_avg"].clone() for v in optimizer.state.values()]
    optimizer.step()  # must not reach the captured copy
    method.step = 9
    restore(state, method, optimizer)
    assert method.step == 1
    assert all(torch.equal(before[n], v) for n, v in method.state_dict().items())
    restored = [v["exp_avg"] for v in optimizer.state.values()]
    assert all(map(torch.equal, moments, restored))


def test_another_model_is_refused_by_the_names_of_its_tensors(method):
    saved = dict(method.state_dict())
    name = "backbone.model.cls_token"
    saved[name] = torch.zeros(1, 1, 5)
    saved["old.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"cls_token \[1, 1, 5\] -> \[1, 1, 24\].*old.*gone"):
        check_model(saved, method)


@pytest.mark.parametrize("is_saved_fused", [True, False])
def test_moments_of_fused_and_other_optimizers_fit_each_other(method, is_saved_fused):
    groups = method.param_groups()  # AdamW's fused form exists on CPUs, too, where it is not taken
    saved = torch.optim.AdamW([dict(g) for g in groups], lr=1e-3, fused=is_saved_fused)
    other = torch.optim.AdamW([dict(g) for g in groups], lr=1e-3, fused=not is_saved_fused)
    trained = [p for p in method.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    saved.step()
    state = capture(method, saved)
    saved.step()
    expected = [p.detach().clone() for p in trained]
    restore(state, method, other)
    other.step()
    assert [g["fused"] for g in other.param_groups] == [not is_saved_fused] * len(groups)
    for parameter, value in zip(trained, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-5, atol=1e-7)
