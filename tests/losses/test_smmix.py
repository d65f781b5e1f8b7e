"""SMMix's terms: the authors' values and gradients, and loops from the equations."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from ssl_vision.backbones.attention import forward_with_attention
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import wrap_model
from ssl_vision.losses.smmix import (
    SmmixTerms,
    consistency_loss,
    masked_token_means,
    mix_labels,
    smmix_loss,
    smooth_labels,
    soft_cross_entropy,
)
from ssl_vision.mixing.smmix import max_min_regions, paste_regions

Golden = Callable[[str], dict[str, np.ndarray]]


def _tensor(values: dict[str, np.ndarray], key: str) -> Tensor:
    return torch.from_numpy(values[key])


def _golden_network(values: dict[str, np.ndarray]) -> tuple[Backbone, nn.Linear, nn.Linear]:
    """The authors' tiny ViT, its class head and its token head."""
    model = VisionTransformer(
        img_size=28, patch_size=4, embed_dim=18, depth=2, num_heads=3, mlp_ratio=2, num_classes=5
    )
    model.norm.eps = 1e-6
    state = {
        key.removeprefix("step_state_"): torch.from_numpy(value)
        for key, value in values.items()
        if key.startswith("step_state_")
    }
    token_head, head = nn.Linear(18, 5), nn.Linear(18, 5)
    for layer, name in ((token_head, "token_head"), (head, "head")):
        layer.load_state_dict(
            {"weight": state.pop(f"{name}.weight"), "bias": state.pop(f"{name}.bias")}
        )
    model.reset_classifier(0)
    model.load_state_dict(state)
    return wrap_model(model, architecture="vit"), head, token_head


def _step(
    values: dict[str, np.ndarray], network: tuple[Backbone, nn.Linear, nn.Linear]
) -> tuple[SmmixTerms, dict[str, Tensor]]:
    backbone, head, token_head = network
    images, side = _tensor(values, "step_images"), int(values["step_rectangle"][0])
    backbone.eval()
    with torch.no_grad():
        plain = forward_with_attention(backbone, images)
        unmixed = head(plain.pooled)
    backbone.train()
    regions = max_min_regions(plain.attention, side=side)
    mixed = paste_regions(images, regions, side=side, grid_side=7)
    features = backbone(mixed.images)
    logits = head(features.pooled)
    target, source = masked_token_means(features.patches, mixed.is_source)
    labels = smooth_labels(_tensor(values, "step_targets"), num_classes=5, smoothing=0.1)
    target_logits, source_logits = token_head(target), token_head(source)
    terms = smmix_loss(
        logits, target_logits, source_logits, unmixed, labels, area=mixed.target_area
    )
    return terms, {
        "attention": plain.attention,
        "unmixed_logits": unmixed,
        "mixed_images": mixed.images,
        "source_mask": mixed.is_source,
        "mixed_labels": mix_labels(labels, area=mixed.target_area),
        "target_labels": labels,
        "source_labels": labels.flip(0),
        "mixed_unmixed_logits": mix_labels(unmixed, area=mixed.target_area),
        "cls_logits": logits,
        "target_logits": target_logits,
        "source_logits": source_logits,
    }


def test_whole_step_is_the_authors(golden: Golden) -> None:
    values = golden("smmix")
    network = _golden_network(values)
    terms, seen = _step(values, network)
    for name, tensor in seen.items():
        np.testing.assert_allclose(
            tensor.detach().numpy(), values[f"step_{name}"], atol=5e-6, err_msg=name
        )
    assert terms.classification.item() == pytest.approx(values["step_loss_cls"], abs=2e-6)
    assert terms.fine_grained.item() == pytest.approx(values["step_loss_fine"], abs=2e-6)
    assert terms.consistency.item() == pytest.approx(values["step_loss_con"], abs=2e-6)
    assert terms.total.item() == pytest.approx(values["engine_loss_total"], abs=4e-6)
    terms.total.backward()
    backbone, head, token_head = network
    for name, weight in (
        ("token_head", token_head.weight),
        ("head", head.weight),
        ("patch", backbone.model.patch_embed.proj.weight),
    ):
        np.testing.assert_allclose(weight.grad, values[f"step_grad_{name}"], atol=5e-6)
    np.testing.assert_allclose(
        backbone.model.patch_embed.proj.weight.grad, values["engine_grad_patch"], atol=5e-6
    )


@pytest.mark.parametrize("area", [0.25, 0.5, 0.9])
def test_labels_are_the_authors(golden: Golden, area: float) -> None:
    values = golden("smmix")
    labels = smooth_labels(_tensor(values, "labels_targets"), num_classes=5, smoothing=0.1)
    np.testing.assert_allclose(
        mix_labels(labels, area=area), values[f"labels_lam{area}_mixed"], atol=1e-7
    )
    np.testing.assert_allclose(labels, values["labels_target_onehot"], atol=1e-7)
    np.testing.assert_allclose(labels.flip(0), values["labels_source_onehot"], atol=1e-7)


def _log_softmax(row: list[float]) -> list[float]:
    shift = max(row)
    norm = shift + math.log(sum(math.exp(v - shift) for v in row))
    return [v - norm for v in row]


def test_terms_equal_the_loops() -> None:
    torch.manual_seed(0)
    mixed, target, source, unmixed = torch.randn(4, 6, 5, dtype=torch.float64).unbind()
    classes, area, smoothing = [0, 4, 2, 2, 1, 3], 0.7, 0.1
    on, off = 1 - smoothing + smoothing / 5, smoothing / 5
    expected = {"classification": 0.0, "fine_grained": 0.0, "consistency": 0.0}
    for i in range(6):
        j = 5 - i
        own = [on if c == classes[i] else off for c in range(5)]
        other = [on if c == classes[j] else off for c in range(5)]
        log_mixed = _log_softmax(mixed[i].tolist())
        log_target, log_source = _log_softmax(target[i].tolist()), _log_softmax(source[i].tolist())
        blend = [area * float(unmixed[i, c]) + (1 - area) * float(unmixed[j, c]) for c in range(5)]
        log_blend = _log_softmax(blend)
        for c in range(5):
            label = area * own[c] + (1 - area) * other[c]
            expected["classification"] -= label * log_mixed[c] / 6
            expected["fine_grained"] -= 0.5 * own[c] * log_target[c] / 6
            expected["fine_grained"] -= 0.5 * other[c] * log_source[c] / 6
            expected["consistency"] += math.exp(log_blend[c]) * (log_blend[c] - log_mixed[c]) / 6
    labels = smooth_labels(torch.tensor(classes), num_classes=5, smoothing=smoothing)
    terms = smmix_loss(mixed, target, source, unmixed, labels, area=area)
    for name, value in expected.items():
        assert getattr(terms, name).item() == pytest.approx(value, rel=1e-5), name


def test_token_means_equal_the_loop() -> None:
    torch.manual_seed(1)
    patches, is_source = torch.randn(3, 9, 4), torch.rand(3, 9) < 0.4
    is_source[:, 0], is_source[:, 1] = True, False
    target, source = masked_token_means(patches, is_source)
    for i in range(3):
        torch.testing.assert_close(source[i], patches[i][is_source[i]].mean(dim=0))
        torch.testing.assert_close(target[i], patches[i][~is_source[i]].mean(dim=0))


def test_consistency_vanishes_where_the_mixed_image_predicts_the_mix() -> None:
    unmixed = torch.randn(4, 5)
    prediction = mix_labels(unmixed, area=0.3) + 2.0  # softmax ignores a constant
    assert consistency_loss(prediction, unmixed, area=0.3).item() == pytest.approx(0, abs=1e-6)


def test_consistency_moves_the_mixed_image_only() -> None:
    mixed = torch.randn(4, 5, requires_grad=True)
    unmixed = torch.randn(4, 5, requires_grad=True)
    consistency_loss(mixed, unmixed, area=0.3).backward()
    assert unmixed.grad is None
    assert mixed.grad.abs().sum() > 0


def test_soft_cross_entropy_of_hard_labels_is_the_usual_one() -> None:
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    hard = smooth_labels(labels, num_classes=5, smoothing=0.0)
    torch.testing.assert_close(
        soft_cross_entropy(logits, hard), nn.functional.cross_entropy(logits, labels)
    )


def test_terms_stay_finite_in_bfloat16() -> None:
    logits = (50 * torch.randn(4, 4, 5)).bfloat16().unbind()
    labels = smooth_labels(torch.tensor([0, 1, 2, 3]), num_classes=5, smoothing=0.1)
    terms = smmix_loss(*logits, labels, area=0.5)
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms)
