"""The recipes against what the authors' code does: shares of views, rates of parameters, starts.

Expected values are written out here, from the authors' formulas, not read from the package.
"""

import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import GaussianBlur, RandomApply

from ssl_vision.backbones.build import build_backbone
from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.data.images.arrays import ArraySource
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.loader import MultiViewLoader
from ssl_vision.methods import METHODS
from ssl_vision.methods.base import Method, TrainPlan
from ssl_vision.methods.supervised import SupervisedConfig
from ssl_vision.optim.lars import LARS
from ssl_vision.optim.recipe import learning_rate
from ssl_vision.types import Batch
from ssl_vision.views import ViewConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted(CONFIGS.glob("*/*.yaml"))
DATA_OF_PAPERS = ("imagenet1k", "shapenet55", "habitat", "v2")
PAPERS = [path for path in RECIPES if path.stem.endswith(DATA_OF_PAPERS)]


def load(name: str, *overrides: str) -> TrainConfig:
    return load_train_config([CONFIGS / f"{name}.yaml"], ["data.path=somewhere", *overrides])


# What the files look like ---------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_recipes_are_uniform(path: Path) -> None:
    text = path.read_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "\nseed: 0\n" in text
    assert "\nonline_eval: {every_epochs:" in text
    sections = [line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()]
    assert sections == ["method", "backbone", "data", "optim", "trainer", "online_eval", "seed"]


@pytest.mark.parametrize("path", PAPERS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_recipes_of_papers_ask_for_the_data_and_name_what_differs(path: Path) -> None:
    header = path.read_text().split("method:")[0]
    assert "\n  path: ???\n" in path.read_text()
    assert "\n# Differs:" in header


# Recipes for people's own images ------------------------------------------------------------------

SMALL = [path for path in RECIPES if path.stem == "small"]
# Sides that keep whole patches, so that an update takes a second.
SHRUNK = {224: 64, 96: 32}


def test_every_method_of_images_has_a_small_and_a_tiny_recipe() -> None:
    names = {f"{path.parent.name}/{path.stem}" for path in RECIPES}
    of_images = [name for name, entry in METHODS.items() if entry.data is ImageData]
    assert len(of_images) == len(SMALL)
    assert {f"{m}/{size}" for m in of_images for size in ("small", "tiny_cpu")} <= names


@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.parent.name)
def test_small_recipes_say_when_to_take_them_and_what_was_measured(path: Path) -> None:
    text = path.read_text()
    words = " ".join(text.split("method:")[0].replace("#", " ").split())
    assert re.search(r"\b[Tt]ake it (when|where|after)\b", words)
    assert "not run" in words or "kNN" in words.split("Expect:")[1]
    assert f"ssl-vision train {path.parent.name}/small " in words
    assert "\n  path: ???\n" in text
    assert "mean:" not in text  # people's own photos: ImageNet's, or measured by data.mean=auto


@pytest.mark.slow
@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.parent.name)
def test_small_recipes_make_an_update(path: Path) -> None:
    name = path.parent.name
    views = load(f"{name}/small").data.views
    words = [f"data.views.{each}.size_px={SHRUNK[view.size_px]}" for each, view in views.items()]
    if name == "distill":  # a teacher that needs no download; its maps of 28 px are one cell
        words += ["method.teachers.one.weights=zoo:barlow_twins_mnist5k", "method.patch_weight=0"]
    if name == "ijepa":  # of 4 x 4 patches 8 may be left beside the targets
        words += ["method.blocks.min_keep=5"]
    config = load(f"{name}/small", *words)
    num, generator = 4, torch.Generator().manual_seed(0)
    plan = TrainPlan(
        steps_per_epoch=10, epochs=2, global_batch_size=num, input_size=64, num_classes=3
    )
    torch.manual_seed(0)
    method = METHODS[config.method.name].module(
        config.method, build_backbone(config.backbone, input_size=64), optim=config.optim, plan=plan
    )
    before = {n: p.detach().clone() for n, p in method.backbone.named_parameters()}
    batch = Batch(
        views={
            each: torch.randn(num * view.count, 3, view.size_px, view.size_px, generator=generator)
            for each, view in config.data.views.items()
        },
        index=torch.arange(num),
        label=torch.arange(num) % 3,
    )
    optimizer = method.make_optimizer()
    losses = [float(method.update(batch, optimizer).loss) for _ in range(2)]
    assert all(map(math.isfinite, losses))
    moved = [n for n, p in method.backbone.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > len(before) / 2


# Shares of views an operation changes ---------------------------------------------------------

NUM, SIDE = 3000, 10
OFF = ViewConfig(size_px=SIDE, crop="center", center_fraction=1.0, flip_prob=0.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, SIDE, SIDE, 3), dtype=np.uint8)
# Probabilities of (flip, jitter, gray, blur, solarize) in the authors' published runs.
PHOTOMETRIC = (0.5, 0.8, 0.2)
BLURRED_ONCE = {"first": (*PHOTOMETRIC, 1.0, 0.0), "second": (*PHOTOMETRIC, 0.1, 0.2)}
DINO = {
    "global_1": BLURRED_ONCE["first"],
    "global_2": BLURRED_ONCE["second"],
    "local": (*PHOTOMETRIC, 0.5, 0.0),
}
# POA asks its class for blur with 1.0, 0.1 and 0.5; it keeps an image with 1 - p.
ASKED_BY_POA = {"global_1": 1.0, "global_2": 0.1, "local": 0.5}
POA = {
    name: (*PHOTOMETRIC, 1 - asked, 0.2 if name == "global_2" else 0.0)
    for name, asked in ASKED_BY_POA.items()
}
SHARES = {
    "barlow_twins/resnet50_imagenet1k": {"a": BLURRED_ONCE["first"], "b": BLURRED_ONCE["second"]},
    "simclr/resnet50_imagenet1k": dict.fromkeys("ab", (*PHOTOMETRIC, 0.5, 0.0)),
    "simclr/resnet152x3_sk_imagenet1k": dict.fromkeys("ab", (*PHOTOMETRIC, 0.5, 0.0)),
    "vicreg/resnet50_imagenet1k": {"a": BLURRED_ONCE["first"], "b": BLURRED_ONCE["second"]},
    "lejepa/vit_l14_imagenet1k": dict.fromkeys(("global", "local"), (*PHOTOMETRIC, 0.5, 0.2)),
    "dino/vit_s16_imagenet1k": DINO,
    "dino/resnet50_imagenet1k": DINO,
    "poa/vit_l16_imagenet1k": POA,
    "poa/swin_b_imagenet1k": POA,
    "poa/resnet152_imagenet1k": POA,
    "mae/vit_b16_imagenet1k": {"view": (0.5, 0.0, 0.0, 0.0, 0.0)},
    "croco/vit_b16_habitat": dict.fromkeys(("first", "second"), (0.0, 1.0, 0.0, 0.0, 0.0)),
    "croco/vit_l16_v2": dict.fromkeys(("first", "second"), (0.0, 1.0, 0.0, 0.0, 0.0)),
}


def share_changed(view: ViewConfig, operation: str) -> float:
    """Share of NUM images that one operation of a view changes, drawn by the loader."""
    alone = replace(OFF, **{operation: getattr(view, operation)})
    loader = MultiViewLoader(
        ArraySource(IMAGES, np.zeros(NUM, np.int64)), {"view": alone},
        batch_size=NUM, seed=5, shuffle=False, num_threads=1,
    )  # fmt: skip
    (batch,) = loader
    plain = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    return float((batch.views["view"] != plain).flatten(1).any(dim=1).float().mean())


@cache
def share_blurred_by_torchvision(prob: float) -> float:
    """Share of images changed by a random blur of torchvision's class with a kernel of 9."""
    blur = RandomApply([GaussianBlur(9, (0.1, 2.0))], p=prob)
    torch.manual_seed(0)
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    return float(np.mean([not torch.equal(blur(image), image) for image in images]))


def margin(share: float) -> float:
    """Five standard deviations of a share of NUM draws, and none of what is certain."""
    return 5 * math.sqrt(share * (1 - share) / NUM)


@pytest.mark.parametrize("recipe", SHARES)
def test_each_operation_changes_the_authors_share_of_views(recipe: str) -> None:
    views = load(recipe).data.views
    assert views.keys() == SHARES[recipe].keys()
    operations = ("flip_prob", "jitter", "gray_prob", "blur", "solarize")
    for name, expected in SHARES[recipe].items():
        for operation, share in zip(operations, expected, strict=True):
            if operation == "blur":  # the smallest sigmas change no level
                share *= share_blurred_by_torchvision(1.0)
            found = share_changed(views[name], operation)
            assert abs(found - share) <= 1.5 * margin(share), (name, operation, found)


@pytest.mark.parametrize("recipe", [name for name in SHARES if name.startswith("poa/")])
def test_poa_blurs_as_its_class_does_with_what_its_code_asks_for(recipe: str) -> None:
    views = load(recipe).data.views
    for name, asked in ASKED_BY_POA.items():
        theirs = share_blurred_by_torchvision(1 - asked)
        assert abs(share_changed(views[name], "blur") - theirs) <= 2 * margin(theirs), name
        if views[name].blur.prob:
            assert views[name].blur.kernel_px == 9


# Rates and decays of parameters ---------------------------------------------------------------

PLAN = TrainPlan(steps_per_epoch=10, epochs=2, global_batch_size=8)
SMALL_HEADS = ("method.num_prototypes=[16]", "method.hidden_dim=16", "method.bottleneck_dim=8")
# Parameter -> (factor of the rate, whether it is decayed), by the authors' param_groups.py: ViT
# and Swin decay^(blocks + 1 - id), ResNet decay^(blocks - id), and 0.2 on patch embeddings.
RATES = {
    "poa/vit_l16_imagenet1k": {
        "backbone.mask_token": (0.9**25, True),
        "backbone.model.cls_token": (0.9**25, True),
        "backbone.model.pos_embed": (0.9**25, True),
        "backbone.model.patch_embed.proj.weight": (0.2 * 0.9**25, True),
        "backbone.model.patch_embed.proj.bias": (0.2 * 0.9**25, False),
        "backbone.model.blocks.0.attn.qkv.weight": (0.9**24, True),
        "backbone.model.blocks.0.ls1.gamma": (0.9**24, False),
        "backbone.model.blocks.23.mlp.fc2.weight": (0.9, True),
        "backbone.model.norm.weight": (1.0, False),
        "heads.0.last_layer.weight_g": (1.0, True),
    },
    "poa/swin_b_imagenet1k": {
        "backbone.mask_token": (0.9**25, True),
        "backbone.model.patch_embed.norm.weight": (0.2 * 0.9**25, False),
        "backbone.model.layers.0.blocks.0.attn.relative_position_bias_table": (0.9**24, True),
        "backbone.model.layers.1.downsample.reduction.weight": (0.9**22, True),
        "backbone.model.layers.1.blocks.0.norm1.weight": (0.9**22, False),
        "backbone.model.layers.2.blocks.17.mlp.fc1.weight": (0.9**3, True),
        "backbone.model.layers.3.blocks.1.mlp.fc2.bias": (0.9, False),
        "backbone.model.norm.weight": (1.0, False),
    },
    "poa/resnet152_imagenet1k": {
        "backbone.mask_token": (0.95**50, True),
        "backbone.model.conv1.weight": (0.95**50, True),
        "backbone.model.bn1.weight": (0.95**50, False),
        "backbone.model.layer1.0.conv1.weight": (0.95**49, True),
        "backbone.model.layer2.0.downsample.0.weight": (0.95**46, True),
        "backbone.model.layer2.0.downsample.1.weight": (0.95**46, False),  # declared: theirs decays
        "backbone.model.layer4.2.conv3.weight": (1.0, True),
        "backbone.model.layer4.2.bn3.weight": (1.0, False),
    },
    "dino/vit_s16_imagenet1k": {
        "backbone.model.cls_token": (1.0, True),
        "backbone.model.pos_embed": (1.0, True),
        "backbone.model.blocks.3.norm1.weight": (1.0, False),
        "head.last_layer.weight_g": (1.0, True),
    },
    "dino/resnet50_imagenet1k": {
        "backbone.model.conv1.weight": (1.0, True),
        "backbone.model.layer4.2.bn3.weight": (1.0, False),
    },
    # Gradients of the authors' are 1/16 of ours: their rate of biases, 0.0048, over 16.
    "barlow_twins/resnet50_imagenet1k": {
        "backbone.model.conv1.weight": (1.0, True),
        "backbone.model.bn1.bias": (0.0048 / 16 / 0.2, False),
        "projector.0.weight": (1.0, True),
    },
    "simclr/resnet50_imagenet1k": {
        "backbone.model.conv1.weight": (1.0, True),
        "backbone.model.bn1.bias": (1.0, False),
        "projector.layers.0.0.weight": (1.0, True),
        "projector.layers.2.1.weight": (1.0, False),
    },
    "vicreg/resnet50_imagenet1k": {
        "backbone.model.bn1.weight": (1.0, False),
        "projector.6.weight": (1.0, True),
    },
    "lejepa/vit_l14_imagenet1k": {
        "backbone.model.cls_token": (1.0, True),
        "projector.6.bias": (1.0, False),
    },
    "mae/vit_b16_imagenet1k": {
        "backbone.model.cls_token": (1.0, True),
        "decoder.mask_token": (1.0, True),
        "backbone.model.blocks.0.mlp.fc1.bias": (1.0, False),
    },
    "croco/vit_b16_habitat": {
        "backbone.model.patch_embed.proj.weight": (1.0, True),
        "decoder.mask_token": (1.0, True),
        "decoder.blocks.7.cross_attn.projk.weight": (1.0, True),
        "decoder.blocks.7.norm_y.weight": (1.0, False),
    },
    "croco/vit_l16_v2": {
        "backbone.model.blocks.23.attn.qkv.weight": (1.0, True),
        "decoder.blocks.11.cross_attn.projv.bias": (1.0, False),
    },
}


def method_of(config: TrainConfig) -> Method:
    """The recipe's method with parameters that have no storage."""
    with torch.device("meta"):
        backbone = build_backbone(config.backbone, input_size=224)
        return METHODS[config.method.name].module(
            config.method, backbone, optim=config.optim, plan=PLAN
        )


@pytest.mark.parametrize("recipe", RATES)
def test_parameters_have_the_authors_rates_and_decays(recipe: str) -> None:
    has_heads = recipe.startswith(("dino", "poa"))
    heads = SMALL_HEADS if recipe.startswith("poa") else ("method.num_prototypes=16",)
    method = method_of(load(recipe, *(heads if has_heads else ())))
    found = {
        name: (group["lr_scale"], bool(group["weight_decay_scale"]))
        for group in method.param_groups()
        for name in group["names"]
    }
    assert len(found) == sum(p.requires_grad for p in method.parameters())
    for name, (scale, is_decayed) in RATES[recipe].items():
        assert found[name] == (pytest.approx(scale), is_decayed), name


def test_barlow_twins_takes_the_authors_steps_with_true_gradients() -> None:
    """LARS on gradients of 1/16 with the published rates, against ours on the whole ones."""
    optim = load("barlow_twins/resnet50_imagenet1k").optim
    steps = []
    for share, bias_lr, decay in ((1 / 16, 0.0048, 1e-6), (1.0, optim.bias_base_lr, None)):
        generator = torch.Generator().manual_seed(0)
        weight, bias = (nn.Parameter(torch.randn(s, generator=generator)) for s in ((4, 3), (4,)))
        groups = [
            {"params": [weight], "lr": 0.2, "is_adapted": True},
            {"params": [bias], "lr": bias_lr, "is_adapted": False, "weight_decay": 0.0},
        ]
        lars = LARS(groups, lr=0.2, weight_decay=optim.weight_decay if decay is None else decay)
        for _ in range(3):
            for parameter in (weight, bias):
                parameter.grad = share * torch.randn(parameter.shape, generator=generator)
            lars.step()
        steps.append((weight.detach(), bias.detach()))
    for theirs, ours in zip(*steps, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


# Start of parameters --------------------------------------------------------------------------


def start_of(recipe: str, *overrides: str) -> nn.Module:
    """The recipe's network, made small: starts are laws of the fan-in, not of the depth."""
    torch.manual_seed(0)
    return build_backbone(load(recipe, *overrides).backbone, input_size=64).model


def assert_uniform(values: torch.Tensor, bound: float) -> None:
    """Uniform within a bound: the bound holds, and is nearly reached; a third of its square."""
    assert values.abs().max() <= bound * (1 + 1e-6)
    if values.numel() > 5000:
        assert values.abs().max() > 0.99 * bound
        assert values.var().item() == pytest.approx(bound**2 / 3, rel=0.05)


def test_poas_swin_and_resnet_start_as_torch_layers_do() -> None:
    swin = start_of("poa/swin_b_imagenet1k", "backbone.args.depths=[1,1,2,1]")
    resnet = start_of("poa/resnet152_imagenet1k", "backbone.args.layers=[1,1,2,1]")
    for layer in (*swin.modules(), *resnet.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert_uniform(layer.weight, bound)
            if layer.bias is not None:
                assert_uniform(layer.bias, bound)
                assert layer.bias.any()
    tables = [p for n, p in swin.named_parameters() if n.endswith("relative_position_bias_table")]
    assert len(tables) == 5
    assert not any(table.any() for table in tables)
    norms = [m for m in resnet.modules() if isinstance(m, nn.GroupNorm)]
    assert all(bool((norm.weight == 1).all()) for norm in norms)


def test_residual_branches_start_as_the_authors() -> None:
    dino = start_of("dino/resnet50_imagenet1k")
    barlow = start_of("barlow_twins/resnet50_imagenet1k")
    assert all(bool((block.bn3.weight == 1).all()) for block in dino.layer4)
    assert not any(block.bn3.weight.any() for block in barlow.layer4)


def test_stochastic_depth_of_students_is_the_authors() -> None:
    def rates(recipe: str) -> list[float]:
        backbone = method_of(load(recipe, *SMALL_HEADS)).backbone
        layers = [m for n, m in backbone.named_modules() if n.endswith("drop_path1")]
        return [getattr(layer, "drop_prob", 0.0) for layer in layers]  # timm: identity for 0

    assert rates("poa/vit_l16_imagenet1k") == pytest.approx([0.2] * 24)
    assert rates("poa/swin_b_imagenet1k") == pytest.approx([0.2 * i / 23 for i in range(24)])
    assert not any(rates("poa/resnet152_imagenet1k"))


def test_simclrs_peak_rate_is_a_tenth_of_the_root_of_the_batch() -> None:
    """6.4 at 4096 images, after the first 5 % of 800 epochs."""
    optim = load("simclr/resnet50_imagenet1k").optim
    plan = TrainPlan(steps_per_epoch=312, epochs=800, global_batch_size=4096)
    assert learning_rate(optim, plan=plan, step=40 * 312) == pytest.approx(6.4)
    assert learning_rate(optim, plan=plan, step=20 * 312) == pytest.approx(3.2)


def test_simclrs_largest_network_is_three_times_as_wide_with_selective_kernels() -> None:
    """795 million parameters in the paper, 796 in timm's form of it."""
    model = method_of(load("simclr/resnet152x3_sk_imagenet1k")).backbone.model
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(795, rel=2e-3)
    assert [len(getattr(model, f"layer{i}")) for i in range(1, 5)] == [3, 8, 36, 3]
    assert model.num_features == 3 * 2048


@pytest.mark.parametrize(
    ("recipe", "peak", "warm", "epochs"), [("vit_b16_habitat", 1.5e-4, 40, 800),
                                           ("vit_l16_v2", 3e-4, 12, 250)])  # fmt: skip
def test_crocos_cosine_is_stopped_half_way(
    recipe: str, peak: float, warm: int, epochs: int
) -> None:
    """lr / 2 (1 + cos pi (e - warm) / (epochs - warm)), of a run of half as many epochs."""
    config = load(f"croco/{recipe}")
    assert 2 * config.trainer.epochs == epochs
    plan = TrainPlan(steps_per_epoch=10, epochs=config.trainer.epochs,
                     global_batch_size=config.data.global_batch_size)  # fmt: skip
    for epoch in (0.5, warm - 0.1, warm, warm + 10, config.trainer.epochs - 0.1):
        share = epoch / warm
        if epoch >= warm:
            share = (1 + math.cos(math.pi * (epoch - warm) / (epochs - warm))) / 2
        found = learning_rate(config.optim, plan=plan, step=round(10 * epoch))
        assert found == pytest.approx(peak * share)


def test_crocos_networks_have_the_papers_sizes() -> None:
    """ViT-B with 8 blocks of width 512, ViT-L with 12 of 768; 176 of 196 patches are hidden."""
    for recipe, sizes in (("vit_b16_habitat", (768, 12, 12, 512, 8, 16, None)),
                          ("vit_l16_v2", (1024, 24, 16, 768, 12, 12, 100.0))):  # fmt: skip
        method = method_of(load(f"croco/{recipe}"))
        model, decoder = method.backbone.model, method.decoder
        found = (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads,
                 decoder.embed.out_features, len(decoder.blocks),
                 decoder.blocks[0].attn.num_heads, decoder.rotary_base)  # fmt: skip
        assert found == sizes
        assert method.num_masked == 176


@pytest.mark.parametrize("size", ["small", "tiny"])
def test_the_headers_way_to_deits_own_recipe_is_its_updates_views_and_rates(size: str) -> None:
    """DeiT: 1,251 updates of 1,024 views an epoch, 300 epochs, peak 1e-3 after 5 epochs."""
    name = f"supervised/deit_{size}_imagenet1k"
    header = (CONFIGS / f"{name}.yaml").read_text().split("# DeiT's own recipe")[1]
    words = header.split("Its 300 epochs")[0].replace("#", " ").split()
    config = load(name, *(word.rstrip(".") for word in words if "=" in word))
    view = config.data.views["train"]
    assert isinstance(config.method, SupervisedConfig)
    assert config.method.mixing.name == "mixup_cutmix"
    assert (view.count, view.erase.prob) == (3, 0.25)
    steps = 1_281_167 // config.data.global_batch_size
    assert view.count * config.data.global_batch_size == pytest.approx(1024, rel=0.005)
    assert steps * config.trainer.epochs == pytest.approx(1251 * 300, rel=0.005)
    assert config.optim.warmup_epochs * steps == pytest.approx(1251 * 5, rel=0.005)
    plan = TrainPlan(steps_per_epoch=steps, epochs=config.trainer.epochs, global_batch_size=342)
    warm = round(config.optim.warmup_epochs * steps)  # the first update at the peak
    assert learning_rate(config.optim, plan=plan, step=warm) == pytest.approx(1e-3)
