"""Every method on one network of each kind timm has; a method that needs tokens says so."""

import copy

import pytest

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.errors import ConfigError
from ssl_vision.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from ssl_vision.methods.base import Method, TrainPlan
from ssl_vision.methods.dino import Dino, DinoConfig
from ssl_vision.methods.lejepa import Lejepa, LejepaConfig
from ssl_vision.methods.mae import Mae, MaeConfig
from ssl_vision.methods.random_teacher import RandomTeacher, RandomTeacherConfig
from ssl_vision.methods.simclr import Simclr, SimclrConfig
from ssl_vision.methods.vicreg import Vicreg, VicregConfig
from ssl_vision.optim import OptimConfig

# Name, arguments that make it small, image side, side of local crops.
ARCHITECTURES = [
    ("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 48}, 32, 16),
    ("vit_small_patch14_reg4_dinov2", {"depth": 1, "embed_dim": 48, "num_heads": 3}, 56, 28),
    ("deit3_small_patch16_224", {"depth": 1, "embed_dim": 48, "num_heads": 3}, 32, 16),
    ("vit_base_patch16_rope_reg1_gap_256", {"depth": 1, "embed_dim": 48, "num_heads": 3}, 32, 16),
    ("beit_base_patch16_224", {"depth": 1, "embed_dim": 48, "num_heads": 3}, 32, None),
    ("cait_xxs24_224", {"depth": 1, "embed_dim": 48, "num_heads": 3}, 32, None),
    ("xcit_nano_12_p16_224", {"depth": 1, "embed_dim": 48, "num_heads": 3}, 32, 16),
    ("swin_tiny_patch4_window7_224", {"embed_dim": 24, "depths": (1, 1, 1, 1)}, 56, 28),
    ("pvt_v2_b0", {}, 64, 32),
    ("resnet18", {"channels": (8, 8, 16, 16)}, 64, 32),
    ("convnext_atto", {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}, 64, 32),
    ("efficientnet_lite0", {}, 32, 32),
    ("mobilenetv3_small_050", {}, 64, 32),
    ("regnetx_002", {}, 64, 32),
    ("mixer_s32_224", {}, 64, None),
]


def _methods(backbone: Backbone, size_px: int) -> list[Method]:
    """Every method this network can carry, each with its own copy of it."""
    common = {
        "optim": OptimConfig(),
        "plan": TrainPlan(steps_per_epoch=2, epochs=2, global_batch_size=4, input_size=size_px),
    }
    tokens = 1.0 if backbone.has_tokens else 0.0
    sizes = {"num_prototypes": 16, "hidden_dim": 16, "bottleneck_dim": 8}
    methods: list[Method] = [
        BarlowTwins(BarlowTwinsConfig(projector_dims=(16, 16)), copy.deepcopy(backbone), **common),
        Simclr(SimclrConfig(projection_dim=8), copy.deepcopy(backbone), **common),
        Vicreg(VicregConfig(projector_dims=(16, 16)), copy.deepcopy(backbone), **common),
        Lejepa(
            LejepaConfig(projector_dims=(16, 16), num_directions=4),
            copy.deepcopy(backbone),
            **common,
        ),
        Dino(DinoConfig(**sizes, patch_weight=tokens), copy.deepcopy(backbone), **common),
        RandomTeacher(
            RandomTeacherConfig(**sizes, student_init="independent"),
            copy.deepcopy(backbone),
            **common,
        ),
    ]
    decoder = MaeConfig(decoder_width=16, decoder_depth=1, decoder_num_heads=2, mask_ratio=0.5)
    if backbone.has_tokens:
        methods.append(Mae(decoder, copy.deepcopy(backbone), **common))
    else:
        with pytest.raises(ConfigError, match=r"no patch tokens.*ViT"):
            Mae(decoder, backbone, **common)
        with pytest.raises(ConfigError, match=r"patch_weight=1\.0"):
            Dino(DinoConfig(**sizes, patch_weight=1.0), copy.deepcopy(backbone), **common)
    return methods


@pytest.mark.parametrize(
    ("name", "args", "size_px", "local_px"), ARCHITECTURES, ids=[a[0] for a in ARCHITECTURES]
)
def test_every_method_trains_every_parameter(name, args, size_px, local_px, random_views):
    backbone = build_backbone(BackboneConfig(name=name, args=args), input_size=size_px)
    sizes = dict.fromkeys(("a", "b", "view", "global", "global_1", "global_2"), size_px)
    if local_px is not None:
        sizes["local"] = (local_px, 2)
    batch = random_views(sizes, num=4)
    for method in _methods(backbone, size_px):
        output = method.train().compute_loss(batch)
        output.loss.backward()
        assert output.loss.isfinite()
        missing = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, type(method).__name__  # DDP would wait for their gradients
        assert method.param_groups()
