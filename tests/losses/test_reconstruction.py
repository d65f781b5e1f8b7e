import numpy as np
import pytest
import torch

from ssl_vision.losses import masked_patch_loss
from ssl_vision.losses.reconstruction import denormalize_patches, normalize_patches
from ssl_vision.nn.patches import patchify


@pytest.mark.parametrize("is_normalized", [0, 1])
def test_value_and_gradient_equal_the_authors(golden, is_normalized):
    values = golden("mae")
    target = patchify(torch.tensor(values["image"]), patch_px=int(values["patch_size"]))
    if is_normalized:
        target = normalize_patches(target)
    pred = torch.tensor(values["loss_pred"], requires_grad=True)
    loss = masked_patch_loss(pred, target, torch.tensor(values["loss_mask"]))
    loss.backward()
    key = f"loss_normpix{is_normalized}"
    assert loss.item() == pytest.approx(float(values[key]), rel=1e-6)
    np.testing.assert_allclose(pred.grad, values[f"{key}_grad_pred"], rtol=1e-5, atol=1e-8)


def test_equals_the_equation_written_with_loops():
    torch.manual_seed(0)
    pred, target = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    mask = torch.tensor([[True, False, True, True], [False, False, True, False]])
    total, count = 0.0, 0
    for image in range(2):
        for patch in range(4):
            if mask[image, patch]:
                squares = [float(pred[image, patch, k] - target[image, patch, k]) ** 2
                           for k in range(3)]  # fmt: skip
                total, count = total + sum(squares) / 3, count + 1
    assert masked_patch_loss(pred, target, mask).item() == pytest.approx(total / count, rel=1e-6)


def test_ignores_patches_the_encoder_saw():
    pred, target = torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)
    pred[:, 2:] = 100.0
    assert masked_patch_loss(pred, target, torch.tensor([[1.0, 1.0, 0.0, 0.0]])) == 0


def test_normalisation_is_unbiased_and_can_be_undone():
    torch.manual_seed(0)
    patches = torch.randn(2, 5, 12) * 3 + 1
    normalized = normalize_patches(patches)
    np.testing.assert_allclose(normalized.var(dim=-1), 1, rtol=1e-5)
    torch.testing.assert_close(denormalize_patches(normalized, patches), patches)
