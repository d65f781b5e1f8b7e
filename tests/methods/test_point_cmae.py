"""Point-CMAE: the authors' losses and gradients, and both forms of its contrast."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.methods.base import TrainPlan
from ssl_vision.methods.point_cmae import PointCmae, PointCmaeConfig
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.types import Batch

PLAN = TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=4)
SIZES = {"embed_dim": 24, "depth": 1, "num_heads": 3, "num_groups": 16, "group_size": 8}
OFFICIAL = {"embed_dim": 384, "depth": 1, "num_heads": 6, "num_groups": 64, "group_size": 32,
            "patch_hidden": 512}  # fmt: skip


def make(*, args: dict[str, object] | None = None, **settings: object) -> PointCmae:
    backbone = build_backbone(
        BackboneConfig(name="point_vit_tiny", args=args or SIZES), input_size=0
    )
    config = PointCmaeConfig(
        **{"decoder_depth": 1, "decoder_heads": 3, "decoder_drop_path": 0.0, **settings}
    )
    return PointCmae(config, backbone, optim=OptimConfig(), plan=PLAN)


def clouds(num: int = 4) -> Batch:
    return Batch(views={"cloud": torch.randn(num, 64, 3)}, index=torch.arange(num))


@pytest.mark.parametrize(
    ("pairs", "key"),
    [("all", "cmae_loss_contrast"), ("matched", "cmae_rederived_contrast_diagonal")],
)
def test_losses_and_gradients_equal_the_authors(
    golden: Callable[[str], dict[str, np.ndarray]],
    official_weights: Callable[..., object],
    pairs: str,
    key: str,
) -> None:
    values = golden("point")
    method = make(
        args={**OFFICIAL, "skips_near_origin": True}, decoder_heads=6, contrast_pairs=pairs
    )
    official_weights(method, [str(n) for n in values["cmae_param_names"]])
    masks = [torch.from_numpy(values[f"cmae_mask{i}"]) for i in (1, 2)]
    assert np.array_equal((masks[0] & masks[1]).sum(dim=1).numpy(), values["cmae_comask_count"])
    patches = method.network.model.group(torch.from_numpy(values["cmae_points"]))
    terms = method.paired_losses(patches, *masks)
    assert terms.reconstruction.item() == pytest.approx(float(values["cmae_loss_recon"]), rel=1e-6)
    assert terms.contrast.item() == pytest.approx(float(values[key]), rel=1e-6)
    if pairs == "matched":
        return
    total = 1000 * terms.reconstruction + terms.contrast
    assert total.item() == pytest.approx(float(values["cmae_loss_total"]), rel=1e-6)
    total.backward()
    found = {
        "mask_token1": method.branch_1.decoder.mask_token.grad,
        "mask_token2": method.branch_2.decoder.mask_token.grad,
        "cls_token1": method.branch_1.cls_token.grad,
        "first_conv_weight": method.network.model.patch_embed.first_conv[0].weight.grad[..., None],
    }
    for name, gradient in found.items():
        expected = values[f"cmae_grad_{name}"]
        error = np.abs(gradient.numpy() - expected).max() / np.abs(expected).max()
        assert error < 1e-5, name


def test_loss_is_the_weighted_sum_of_its_terms() -> None:
    method = make(reconstruction_weight=7.0, contrast_weight=3.0)
    output = method.compute_loss(clouds())
    expected = 7.0 * output.metrics["chamfer"] + 3.0 * output.metrics["contrast"]
    assert torch.allclose(output.loss.detach(), expected)


def test_two_branches_mask_independently_and_alike_for_alike_keys() -> None:
    method = make()
    centers = torch.randn(4, 16, 3)
    index = torch.arange(4)
    masks = [method.draw_mask(centers, index, purpose=f"mask {i}") for i in (1, 2, 1)]
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])


def test_contrast_compares_the_features_the_recipe_names() -> None:
    batch = clouds()
    pre_norm, normed = make(), make(contrast_features="normed")
    normed.load_state_dict(pre_norm.state_dict())
    values = [m.eval().compute_loss(batch).metrics["contrast"] for m in (pre_norm, normed)]
    assert not torch.allclose(*values)
    for method in (pre_norm, normed):
        for branch in (method.branch_1, method.branch_2):
            # A norm that returns zeros but its bias makes normed tokens equal everywhere.
            torch.nn.init.zeros_(branch.decoder.norm.weight)
            torch.nn.init.ones_(branch.decoder.norm.bias)
    assert normed.compute_loss(batch).metrics["contrast"].item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(pre_norm.compute_loss(batch).metrics["contrast"], values[0])


def test_every_parameter_is_trained() -> None:
    method = make()
    method(clouds()).loss.backward()
    assert [n for n, p in method.named_parameters() if p.grad is None] == []


def test_four_clouds_can_be_learned_by_both_terms() -> None:
    method = make()
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    batch = clouds()
    history = []
    for step in range(60):
        method.step = step % 2
        optimizer.zero_grad()
        output = method.compute_loss(batch)
        output.loss.backward()
        optimizer.step()
        history.append(output.metrics)
    assert history[-1]["chamfer"] < 0.5 * history[0]["chamfer"]
    assert history[-1]["contrast"] < history[0]["contrast"]


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="contrast_weight=-1"):
        PointCmaeConfig(contrast_weight=-1)
