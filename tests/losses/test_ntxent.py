import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from ssl_vision.errors import DataError
from ssl_vision.losses import nt_xent_loss
from ssl_vision.losses.ntxent import contrast


def _value_and_gradients(z_a, z_b, **settings):
    z_a, z_b = (torch.as_tensor(z).clone().requires_grad_() for z in (z_a, z_b))
    loss = nt_xent_loss(z_a, z_b, **settings).loss
    loss.backward()
    return loss.item(), z_a.grad.numpy(), z_b.grad.numpy()


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_value_and_gradient_are_half_of_the_authors(golden, temperature):
    values = golden("simclr_tf")
    z_a, z_b = np.split(values["ntx_hidden"], 2)
    loss, grad_a, grad_b = _value_and_gradients(z_a, z_b, temperature=temperature)
    assert 2 * loss == pytest.approx(float(values[f"ntx_loss_T{temperature}"]), rel=1e-6)
    gradient = 2 * np.concatenate([grad_a, grad_b])
    np.testing.assert_allclose(gradient, values[f"ntx_grad_T{temperature}"], rtol=1e-5, atol=1e-6)


def test_projections_of_any_length_equal_the_authors(golden):
    values = golden("simclr_tf")
    z_a, z_b = np.split(values["ntx_hidden"], 2)
    loss = contrast(torch.tensor(z_a), torch.tensor(z_b), temperature=1.0).loss
    assert 2 * loss.item() == pytest.approx(float(values["ntx_loss_nonorm"]), rel=1e-6)


def _textbook(z_a, z_b, temperature, negatives=()):
    """Equation 1 of SimCLR, pair by pair, averaged over the 2N views."""
    views = [*z_a, *z_b]
    num, total = len(z_a), 0.0
    for i, view in enumerate(views):
        others = [v for k, v in enumerate(views) if k != i]
        scores = [
            (F.cosine_similarity(view, v, dim=0) / temperature).exp() for v in (*others, *negatives)
        ]
        partner = views[(i + num) % (2 * num)]
        total = total - F.cosine_similarity(view, partner, dim=0) / temperature
        total = total + sum(scores).log()
    return total / (2 * num)


@pytest.mark.parametrize("num_negatives", [0, 3])
def test_equals_the_equation_written_with_loops(num_negatives):
    z_a, z_b, q = torch.randn(5, 4), torch.randn(5, 4), torch.randn(num_negatives, 4)
    settings = {}
    if num_negatives:  # two rows that do not count
        rows = F.normalize(torch.cat([q, torch.randn(2, 4)]), dim=1)
        settings = {"negatives": rows, "is_negative": torch.arange(len(rows)) < num_negatives}
    loss, grad_a, _ = _value_and_gradients(z_a, z_b, temperature=0.3, **settings)
    z_a = z_a.double().requires_grad_()
    expected = _textbook(z_a, z_b.double(), 0.3, list(q.double()))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(grad_a, z_a.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_the_temperature_can_be_learned():
    z_a, z_b = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    log_scale = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    nt_xent_loss(z_a, z_b, temperature=1 / log_scale.exp()).loss.backward()
    step = 1e-6
    up, down = (
        nt_xent_loss(z_a, z_b, temperature=math.exp(-(1.2 + s))).loss.item() for s in (step, -step)
    )
    assert log_scale.grad.item() == pytest.approx((up - down) / (2 * step), rel=1e-5)


def test_accuracy_counts_views_whose_other_view_is_nearest():
    z = torch.eye(4)
    assert nt_xent_loss(z, z, temperature=0.1).accuracy == 1
    swapped = torch.eye(4)[[1, 0, 2, 3]]
    assert nt_xent_loss(z, swapped, temperature=0.1).accuracy == 0.5


def test_equal_views_of_everything_give_the_logarithm_of_all_others():
    z = torch.ones(8, 3)
    assert nt_xent_loss(z, z, temperature=0.1).loss.item() == pytest.approx(math.log(15), rel=1e-6)


def test_half_precision_inputs_are_computed_in_full():
    z = torch.randn(8, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent_loss(z, z, temperature=0.1).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nt_xent_loss(z.float(), z.float(), temperature=0.1).loss)


def test_one_sample_is_refused_with_the_way_out_unless_there_is_a_memory():
    z = torch.randn(1, 4)
    with pytest.raises(DataError, match="batch of 2 or more"):
        nt_xent_loss(z, z, temperature=0.1)
    assert nt_xent_loss(z, z, temperature=0.1, negatives=torch.eye(4)).loss.isfinite()


def _one_process_of_two(z_a, z_b, negatives):
    half = slice(0, 4) if dist.get_rank() == 0 else slice(4, 8)
    return _value_and_gradients(z_a[half], z_b[half], temperature=0.2, negatives=negatives)


@pytest.mark.distributed
@pytest.mark.parametrize("num_negatives", [0, 3])
def test_two_processes_equal_one_on_the_joined_batch(run_distributed, num_negatives):
    z_a, z_b = torch.randn(8, 5), torch.randn(8, 5)
    negatives = F.normalize(torch.randn(num_negatives, 5), dim=1) if num_negatives else None
    loss, grad_a, grad_b = _value_and_gradients(z_a, z_b, temperature=0.2, negatives=negatives)
    results = run_distributed(_one_process_of_two, z_a.numpy(), z_b.numpy(), negatives)
    assert np.mean([r[0] for r in results]) == pytest.approx(loss, rel=1e-6)
    # DDP averages the processes' parameter gradients, so each process must carry W times its part.
    for k, expected in ((1, grad_a), (2, grad_b)):
        joined = np.concatenate([r[k] for r in results]) / 2
        np.testing.assert_allclose(joined, expected, rtol=1e-5, atol=1e-7)
