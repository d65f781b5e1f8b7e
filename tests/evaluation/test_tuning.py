"""The loop of fine-tuning against updates worked out by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.tuning import tune
from ssl_vision.types import Batch


def batches(epoch: int) -> list[Batch]:
    """Two batches, whose numbers tell the epoch."""
    return [
        Batch(views={"a": torch.tensor([[2.0 * epoch + i + 1]])}, index=torch.arange(1))
        for i in range(2)
    ]


def run(
    model: nn.Module, loss_of: Callable[[Batch, int], Tensor], *, clip_norm: float | None = None
) -> list[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=float("nan"))

    def set_rates(step: int) -> None:
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)

    return tune(
        model, batches, loss_of, optimizer=optimizer, set_rates=set_rates, epochs=2,
        key_of=lambda step: 100 + step, way_out="use more", clip_norm=clip_norm,
    )  # fmt: skip


@pytest.mark.parametrize("clip_norm", [None, 1.5])
def test_updates_are_those_of_the_equation(clip_norm: float | None) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.5)
    losses = run(
        model, lambda batch, _: model(batch.views["a"]).square().sum() / 2, clip_norm=clip_norm
    )
    weight, expected = 0.5, []
    for step in range(4):  # loss (w x)^2 / 2, gradient w x^2, of norm |w x^2|
        x = step + 1.0
        expected.append((weight * x) ** 2 / 2)
        gradient = weight * x * x
        if clip_norm is not None:
            gradient *= min(1.0, clip_norm / abs(gradient))
        weight -= 0.1 / (step + 1) * gradient
    assert model.weight.item() == pytest.approx(weight, rel=1e-5)
    assert [len(of_epoch) for of_epoch in losses] == [2, 2]
    assert torch.cat(losses).tolist() == pytest.approx(expected, rel=1e-5)


def test_draws_of_a_step_are_of_its_key_alone() -> None:
    model, seen = nn.Linear(1, 1), []

    def loss_of(_: Batch, step: int) -> Tensor:
        seen.append((step, torch.rand(()).item()))
        return model.bias.sum()

    torch.manual_seed(7)
    run(model, loss_of)
    after = torch.rand(())
    expected = [
        (step, torch.rand((), generator=torch.Generator().manual_seed(100 + step)).item())
        for step in range(4)
    ]
    assert seen == expected
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(()))  # nothing outside is moved


def test_frozen_parameters_stay_and_do_not_count_for_the_norm() -> None:
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    frozen = model.bias.clone()
    run(model, lambda batch, _: model(batch.views["a"]).sum(), clip_norm=1.0)
    assert torch.equal(model.bias, frozen)


def test_one_sample_for_batch_norm_is_explained_with_the_way_out() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    with pytest.raises(ConfigError, match="use more"):
        run(model, lambda batch, _: model(batch.views["a"]).sum())
