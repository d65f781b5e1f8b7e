"""Sub-networks against the extracted timm models, over whole grids in scaled-down parents."""

import copy
import io
import os
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import GroupNorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_vision.backbones import elastic
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import (
    BackboneConfig,
    build_backbone,
    build_from_config,
    set_drop_path,
)
from ssl_vision.backbones.elastic_grid import ElasticConfig, Size
from ssl_vision.errors import ConfigError
from ssl_vision.zoo.convert_poa import poa_parent

# The paper's parents with fewer channels; heads, depths and numbers of sizes are theirs.
PARENTS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    # 16 heads of 2 channels, 24 blocks
    "vit": (
        "vit_large_patch16_224",
        {"embed_dim": 32, "num_heads": 16, "patch_size": 4, "init_values": 0.5},
        8,
        12,
    ),
    # heads of 2 channels; 18 blocks in the third stage, on a map of 2 x 2 windows
    "swin": (
        "swin_base_patch4_window7_224",
        {"embed_dim": 16, "num_heads": (8, 16, 32, 64), "patch_size": 2, "window_size": 2},
        32,
        24,
    ),
    "resnet": (
        "resnet152",
        {
            "base_width": 128,
            "layers": (1, 8, 36, 1),
            "channels": (4, 4, 4, 4),
            "norm_layer": partial(GroupNorm, num_groups=2),
        },
        16,
        24,
    ),
    "convnext": ("convnext_base", {"dims": (8, 16, 32, 64), "ls_init_value": 0.5}, 32, 48),
}


def build_parent(kind: str, **more: Any) -> Backbone:
    """Scaled-down parent, every parameter random and of visible size."""
    torch.manual_seed(0)
    name, args, size_px, _ = PARENTS[kind]
    backbone = build_backbone(BackboneConfig(name=name, args=args, **more), input_size=size_px)
    backbone.add_mask_token()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.3)
    return backbone.eval()


def images_of(kind: str, *, num: int = 1) -> tuple[Tensor, Tensor]:
    """Images of the training size and of another."""
    _, _, size_px, other_px = PARENTS[kind]
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(num, 3, side, side, generator=generator) for side in (size_px, other_px)
    )


# Where the parent's gradient must come from, stated apart from the code under test ------------


def leading(name: str, full: torch.Size, small: torch.Size) -> tuple[Any, ...]:
    """Index of the kept corner: leading part of each dimension, of each group where stacked."""
    groups = [1] * len(full)
    if ".attn.qkv." in name:
        groups[0] = 3
    elif ".downsample.norm." in name and "layers." in name:
        groups[0] = 4
    elif ".downsample.reduction." in name:
        groups[1] = 4
    index = [
        np.concatenate([np.arange(kept // g) + i * (size // g) for i in range(g)])
        for size, kept, g in zip(full, small, groups, strict=True)
    ]
    return np.ix_(*index)


def gain_of(name: str, full: torch.Size, small: torch.Size) -> float:
    """alpha = full inputs / kept inputs for projections (2-d and 4-d weights), else 1."""
    is_projection = name.endswith(".weight") and len(full) in (2, 4)
    return full[1] / small[1] if is_projection else 1.0


def parent_name(kind: str, name: str, size: Size, full: Size) -> str:
    """Name of a child's parameter in the parent: kept blocks were numbered anew."""
    lists = {
        "vit": ["model.blocks."],
        "swin": ["model.layers.2.blocks."],
        "resnet": ["model.layer2.", "model.layer3."],
        "convnext": ["model.stages.2.blocks."],
    }
    for prefix, kept, own in zip(lists[kind], size[1:], full[1:], strict=True):
        if not name.startswith(prefix):
            continue
        index, _, rest = name.removeprefix(prefix).partition(".")
        if kind == "swin":  # evenly spaced pairs
            pairs = (own + kept % 2) // 2
            pair = (pairs - 1) * (int(index) // 2) // max((kept + 1) // 2 - 1, 1)
            block = 2 * pair + int(index) % 2
        else:
            block = (own - 1) * int(index) // max(kept - 1, 1)
        return f"{prefix}{block}.{rest}"
    return name


def check_size(kind: str, parent: Backbone, size: Size) -> None:
    """Features at two image sizes, and all gradients, of one size."""
    image, other = images_of(kind)
    child = elastic.extract(parent, size)
    network = elastic.cut(parent, size)
    with torch.no_grad():
        mine, theirs = network(other), child(other)
        assert (mine.pooled - theirs.pooled).abs().max() <= 1e-6
        assert (mine.patches - theirs.patches).abs().max() <= 1e-6
    # Any loss will do; it reaches every parameter, the mask token included.
    mask = torch.tensor([[False, True, True, False]])
    outputs = [network(image, mask=mask), child(image, mask=mask)]
    for features in outputs:
        features.pooled.cos().sum().add(features.patches.sin().sum()).backward()
    assert (outputs[0].pooled - outputs[1].pooled).abs().max() <= 1e-6
    assert (outputs[0].patches - outputs[1].patches).abs().max() <= 1e-6

    full_size = elastic.sizes(parent)[-1]
    small = {parent_name(kind, n, size, full_size): p for n, p in child.named_parameters()}
    assert len(small) == len(list(child.named_parameters()))
    for name, parameter in parent.named_parameters():
        if name not in small:
            assert parameter.grad is None, name
            continue
        kept = small.pop(name)
        assert kept.grad is not None
        expected = torch.zeros_like(parameter)
        index = leading(name, parameter.shape, kept.shape)
        expected[index] = kept.grad * gain_of(name, parameter.shape, kept.shape)
        scale = max(1.0, float(expected.abs().max()))
        assert (parameter.grad - expected).abs().max() <= 1e-6 * scale, name
        parameter.grad = None
    assert not small


# All sizes are built and compared where SSL_VISION_WHOLE_GRIDS is set (minutes more); else a walk
# whose stride shares no factor with the numbers of widths and depths, so that each of them comes.
WALKS = {"vit": (143, 3), "swin": (39, 2), "resnet": (465, 7)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WALKS)
def test_every_size_equals_the_extracted_model(kind: str) -> None:
    count, stride = WALKS[kind]
    parent = build_parent(kind)
    grid = elastic.sizes(parent)
    assert len(grid) == count
    walk = grid if "SSL_VISION_WHOLE_GRIDS" in os.environ else grid[::stride]
    for size in dict.fromkeys([*walk, grid[0], grid[-1]]):
        check_size(kind, parent, size)


def test_convnext_sizes_equal_the_extracted_models() -> None:
    parent = build_parent("convnext")
    grid = elastic.sizes(parent)
    assert len(grid) == 3 * 19
    for size in (grid[0], grid[7], grid[19], grid[30], grid[45], grid[-1]):
        check_size("convnext", parent, size)


@pytest.mark.parametrize("kind", list(PARENTS))
def test_the_full_size_is_the_parent_bit_for_bit(kind: str) -> None:
    parent = build_parent(kind)
    whole = elastic.extract(parent, elastic.sizes(parent)[-1])
    own, extracted = parent.state_dict(), whole.state_dict()
    assert own.keys() == extracted.keys()
    assert all(torch.equal(own[name], extracted[name]) for name in own)
    image, _ = images_of(kind)
    with torch.no_grad():
        assert torch.equal(parent(image).pooled, whole(image).pooled)


def test_a_size_beside_the_grid_works_too() -> None:
    parent = build_parent("vit")
    image, _ = images_of("vit")
    for size in ((2, 1), (6, 5), (30, 23)):
        small = elastic.extract(parent, size)
        assert len(small.model.blocks) == size[1]
        assert torch.equal(elastic.forward(parent, image, size).pooled, small(image).pooled)


@pytest.mark.parametrize(
    "size", [(12,), (12, 12, 12), (13, 12), (34, 12), (12, 25), (12, 0), (0, 12)]
)
def test_sizes_that_do_not_fit_are_refused(size: Size) -> None:
    with pytest.raises(ConfigError, match=r"does not fit: use a width of 2, 4, \.\.\. 32"):
        elastic.cut(build_parent("vit"), size)


# Variants of the families -------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        {"reg_tokens": 2, "qk_norm": True},
        {"class_token": False, "global_pool": "avg"},
        {"mlp_layer": timm.layers.SwiGLU, "init_values": None},
        {"mlp_layer": timm.layers.GluMlp},
        {"pre_norm": True, "no_embed_class": True},
    ],
    ids=["registers-qknorm", "pooled", "swiglu", "packed-glu", "prenorm"],
)
def test_vit_variants(args: dict[str, Any]) -> None:
    torch.manual_seed(0)
    base = PARENTS["vit"][1] | {"depth": 6} | args
    config = BackboneConfig(name="vit_large_patch16_224", args=base)
    parent = build_backbone(config, input_size=8)
    for parameter in parent.parameters():
        nn.init.normal_(parameter, std=0.3)
    parent.eval()
    image, _ = images_of("vit", num=2)
    with torch.no_grad():
        mine = elastic.forward(parent, image, (20, 4))
        theirs = elastic.extract(parent, (20, 4))(image)
    assert torch.equal(mine.pooled, theirs.pooled)
    assert torch.equal(mine.patches, theirs.patches)


def test_groups_of_a_packed_mlp_are_cut_one_by_one() -> None:
    base = PARENTS["vit"][1] | {"depth": 2, "mlp_layer": timm.layers.GluMlp}
    config = BackboneConfig(name="vit_large_patch16_224", args=base)
    parent = build_backbone(config, input_size=8)
    own = parent.model.blocks[0].mlp.fc1.bias
    with torch.no_grad():
        own.copy_(torch.arange(len(own)))
    small = elastic.extract(parent, (16, 2)).model.blocks[0].mlp.fc1.bias
    half, kept_half = len(own) // 2, len(small) // 2
    expected = torch.cat([torch.arange(kept_half), half + torch.arange(kept_half)])
    assert torch.equal(small, expected.float())


def test_papers_swin_blocks_carry_their_shifts_and_are_not_stock() -> None:
    parent = build_parent("swin")
    paper = ElasticConfig(block_choice="paper")
    image, other = images_of("swin", num=2)
    small = elastic.extract(parent, (12, 6), paper)
    shifts = [block.shift_size[0] > 0 for block in small.model.layers[2].blocks]
    assert shifts == [False, True, False, False, True, True]  # of blocks 0, 3, 6, 10, 13, 17
    with torch.no_grad():
        for picture in (image, other):
            mine = elastic.forward(parent, picture, (12, 6), paper)
            assert torch.equal(mine.pooled, small(picture).pooled)
    assert not elastic.is_stock(parent, (12, 6), paper)
    assert elastic.is_stock(parent, (12, 6))
    assert elastic.is_stock(parent, (12, 18), paper)


def test_without_rescaling_nothing_is_scaled() -> None:
    parent = build_parent("vit")
    plain = ElasticConfig(is_rescaled=False)
    small = elastic.extract(parent, (16, 24), plain)
    assert torch.equal(
        small.model.blocks[0].mlp.fc1.weight, parent.model.blocks[0].mlp.fc1.weight[:64, :16]
    )
    image, _ = images_of("vit")
    with torch.no_grad():
        unscaled = elastic.forward(parent, image, (16, 24), plain).pooled
        assert torch.equal(unscaled, small(image).pooled)
        assert not torch.allclose(unscaled, elastic.forward(parent, image, (16, 24)).pooled)


def test_a_timm_model_is_taken_as_it_is() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    image = torch.randn(1, 3, 224, 224)
    small = elastic.extract(model, (128, 6))
    assert isinstance(small, timm.models.VisionTransformer)
    with torch.no_grad():
        assert torch.equal(elastic.forward(model, image, (128, 6)), small(image))


def test_a_model_that_cannot_be_rebuilt_is_refused() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, init_values=1.0)
    with pytest.raises(ConfigError, match="giving all arguments"):
        elastic.cut(model, (64, 3))


# State, modes, copies -----------------------------------------------------------------------


def test_copies_and_pickles_carry_nothing_of_the_caches() -> None:
    parent = build_parent("vit")
    image, _ = images_of("vit")
    before = pickle.dumps(parent)
    elastic.cut(parent, (16, 12))
    assert len(pickle.dumps(parent)) == len(before)
    assert all(not p.is_meta for p in parent.parameters())
    teacher = copy.deepcopy(parent)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(0.5)
        theirs = elastic.forward(teacher, image, (16, 12)).pooled
        assert torch.equal(theirs, elastic.extract(teacher, (16, 12))(image).pooled)
        assert not torch.allclose(theirs, elastic.forward(parent, image, (16, 12)).pooled)
    buffer = io.BytesIO()
    torch.save(parent.state_dict(), buffer)
    buffer.seek(0)
    parent.load_state_dict(torch.load(buffer))


def test_neither_cuts_nor_extractions_draw_random_numbers() -> None:
    """Or a resumed run, which builds its skeletons at other steps, would differ."""
    for kind in PARENTS:
        parent = build_parent(kind)
        size = elastic.sizes(parent)[0]
        before = torch.get_rng_state()
        elastic.cut(parent, size)
        elastic.extract(parent, size)
        assert torch.equal(before, torch.get_rng_state()), kind


def test_the_parents_mode_and_drop_path_rates_hold() -> None:
    parent = build_parent("vit", drop_path=0.9).train()
    image, _ = images_of("vit", num=8)
    network = elastic.cut(parent, (16, 12))
    with torch.no_grad():
        torch.manual_seed(0)
        first = network(image).pooled
        assert not torch.allclose(first, network(image).pooled)  # blocks are dropped at random
        set_drop_path(parent, 0.0)
        assert torch.equal(network(image).pooled, network(image).pooled)
        set_drop_path(parent, 0.9)
        parent.eval()
        still = elastic.forward(parent, image, (16, 12)).pooled
        assert torch.equal(still, elastic.forward(parent, image, (16, 12)).pooled)


def test_resnets_drop_path_is_shared() -> None:
    parent = build_parent("resnet", drop_path=0.5).train()
    image, _ = images_of("resnet", num=4)
    with torch.no_grad():
        network = elastic.cut(parent, (64, 4, 6))
        assert not torch.allclose(network(image).pooled, network(image).pooled)


@pytest.mark.parametrize("kind", ["vit", "swin", "resnet"])
def test_autocast_changes_elastic_and_extracted_alike(kind: str) -> None:
    parent = build_parent(kind)
    size = elastic.sizes(parent)[0]
    image, _ = images_of(kind, num=2)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        mine = elastic.forward(parent, image, size).pooled
        theirs = elastic.extract(parent, size)(image).pooled
    assert torch.equal(mine, theirs)


def test_cuts_are_shared_between_views_and_gradients_add_up() -> None:
    parent = build_parent("vit")
    image, other = images_of("vit", num=2)
    network = elastic.cut(parent, (16, 12))
    (network(image).pooled.sum() + network(other).pooled.sum()).backward()
    both = parent.model.cls_token.grad.clone()
    parent.zero_grad()
    for picture in (image, other):
        elastic.forward(parent, picture, (16, 12)).pooled.sum().backward()
    assert torch.allclose(both, parent.model.cls_token.grad, atol=1e-5)


def _train_step(parts: list[tuple[Size, Tensor]], rank: int) -> dict[str, np.ndarray]:
    """Gradients of the intact and one elastic branch, under DDP where a group is up."""
    parent = build_parent("vit").train()
    size, image = parts[rank]

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parent = parent

        def forward(self, picture: Tensor) -> Tensor:
            mask = torch.zeros(len(picture), 4, dtype=torch.bool)
            intact = self.parent(picture, mask=mask).pooled
            narrow = elastic.forward(self.parent, picture, size, mask=mask).pooled
            return intact.cos().mean() + narrow.cos().mean()

    branches: nn.Module = Branches()
    if torch.distributed.is_initialized():
        branches = DistributedDataParallel(branches)  # without a search for unused parameters
    for _ in range(2):  # DDP reports unused parameters at the start of the second step
        branches.zero_grad()
        branches(image).backward()
    return {name: p.grad.numpy() for name, p in parent.named_parameters()}


def _ddp_rank(parts: list[tuple[Size, Tensor]]) -> dict[str, np.ndarray]:
    return _train_step(parts, torch.distributed.get_rank())


@pytest.mark.distributed
def test_two_processes_of_different_sizes_share_one_gradient(
    run_distributed: Callable[..., list[Any]],
) -> None:
    generator = torch.Generator().manual_seed(3)
    parts = [(size, torch.randn(2, 3, 8, 8, generator=generator)) for size in ((12, 13), (24, 20))]
    first, second = run_distributed(_ddp_rank, parts)
    alone = [_train_step(parts, rank) for rank in (0, 1)]
    for name in first:
        assert np.array_equal(first[name], second[name]), name
        mean = (alone[0][name] + alone[1][name]) / 2
        np.testing.assert_allclose(first[name], mean, rtol=1e-5, atol=1e-6)


# The official code --------------------------------------------------------------------------


def official_parent(arrays: dict[str, np.ndarray]) -> Backbone:
    """The golden file's ViT as a timm parent."""
    weights = {
        name.removeprefix("w."): torch.from_numpy(value).float()
        for name, value in arrays.items()
        if name.startswith("w.")
    }
    return poa_parent(weights, num_heads=4)


def with_official_local_positions(parent: Backbone) -> Backbone:
    """Copy for 16 px images, positions resampled by the official rule (timm's antialiases)."""
    args = parent.model_args | {"img_size": 16}
    small = build_from_config({"architecture": parent.architecture, "model_args": args})
    small.add_mask_token()
    weights = parent.state_dict()
    grid = weights["model.pos_embed"][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    scale = (2 + 0.1) / 4
    patches = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    positions = torch.cat(
        [weights["model.pos_embed"][:, :1], patches.flatten(2).transpose(1, 2)], dim=1
    )
    small.load_state_dict(weights | {"model.pos_embed": positions})
    return small.eval()


def test_the_official_elastic_forward(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    arrays = golden("poa_vit")
    parent = official_parent(arrays)
    crops = torch.from_numpy(arrays["in.global"])
    mask = torch.from_numpy(arrays["in.mask"])
    small_crops = torch.from_numpy(arrays["in.local"])
    local_parent = with_official_local_positions(parent)
    for size in ((32, 6), (32, 3), (24, 4), (16, 6), (16, 3)):
        with torch.no_grad():
            network = elastic.cut(parent, size)
            plain, masked = network(crops), network(crops, mask=mask)
            local = elastic.forward(local_parent, small_crops, size)
        key = f"out.{size[0]}_{size[1]}"
        for name, value in (
            ("global.cls", plain.pooled),
            ("global.patches", plain.patches),
            ("masked.cls", masked.pooled),
            ("masked.patches", masked.patches),
            ("local.cls", local.pooled),
        ):
            np.testing.assert_allclose(
                value.numpy(), arrays[f"{key}.{name}"], rtol=0, atol=4e-6, err_msg=f"{key}.{name}"
            )


def test_the_official_gradients(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    arrays = golden("poa_vit")
    parent = official_parent(arrays)
    features = elastic.forward(parent, torch.from_numpy(arrays["in.global"]), (24, 4))
    features.pooled.square().sum().backward()
    own = dict(parent.named_parameters())
    num_checked = 0
    for name, value in arrays.items():
        kind, _, rest = name.partition(".24_4.")
        if kind not in ("grad", "gradnorm"):
            continue
        timm_name = rest.replace(".linear", "").replace(".norm.", ".")
        timm_name = timm_name if rest == "mask_token" else f"model.{timm_name}"
        timm_name = timm_name.replace("norm.norm", "norm")
        gradient = own[timm_name].grad
        gradient = torch.zeros(1) if gradient is None else gradient
        found = gradient.numpy() if kind == "grad" else gradient.norm().numpy()
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=2e-6 * abs(value).max())
        num_checked += 1
    assert num_checked > 90


def test_the_official_extraction(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    parent = official_parent(golden("poa_vit"))
    small = elastic.extract(parent, (16, 3))
    mine = small.model.state_dict()
    assert small.mask_token is not None
    mine["mask_token"] = small.mask_token.detach().flatten(0, 1)
    arrays = golden("poa_extract")
    official = {
        name.removeprefix("vit.small."): value
        for name, value in arrays.items()
        if name.startswith("vit.small.")
    }
    assert set(mine) - set(official) == {"norm.weight", "norm.bias"}  # theirs loses the final norm
    for name, value in official.items():
        assert np.array_equal(mine[name].numpy(), value), name
