"""How each timm family is made narrower and shallower: constructor arguments and block lists.

A sub-network of a timm model is another timm model of the same family. A family states the
parent's width and depths, the constructor arguments of a smaller one, where the elastic blocks
are, and which parameters are stacked groups. All else follows from the shapes of the two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar, cast

from timm.layers.mlp import GluMlp
from timm.models import ConvNeXt, ResNet, SwinTransformer, VisionTransformer
from timm.models.resnet import Bottleneck
from timm.models.swin_transformer import PatchMerging
from torch import nn

from ssl_vision.backbones.backbone import ModelArgs
from ssl_vision.backbones.elastic_grid import ElasticConfig, Extent, Size
from ssl_vision.errors import ConfigError

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Family(Generic[Model]):
    """Rules of one kind of network.

    Attributes:
        model_type: The timm class.
        block_lists: Paths of the elastic block lists; sizes name their lengths after the width.
        measure: Model -> its own size.
        build_args: Model and a smaller width -> constructor arguments of that width at the
            parent's depths.
        depth_args: Model and all depths of the elastic stages -> constructor arguments.
        width_unit: Model -> what every width must be a multiple of.
        width_step: Model -> default step between widths.
        min_fraction: Default smallest size as fractions of the parent's.
        has_paired_blocks: Blocks alternate, so shallower networks keep pairs of them.
    """

    model_type: type[Model]
    block_lists: tuple[str, ...]
    measure: Callable[[Model], Size]
    build_args: Callable[[Model, int], ModelArgs]
    depth_args: Callable[[Model, tuple[int, ...]], ModelArgs]
    width_unit: Callable[[Model], int]
    width_step: Callable[[Model], int]
    min_fraction: tuple[Fraction, ...]
    has_paired_blocks: bool = False


def family_of(model: nn.Module) -> Family[Any]:
    """Rules for a timm model.

    Raises:
        ConfigError: No rules for this kind of network, or it holds BatchNorm: narrow networks
            would overwrite the running statistics of the wide one.
    """
    for family in FAMILIES:
        if isinstance(model, family.model_type):
            break
    else:
        names = ", ".join(family.model_type.__name__ for family in FAMILIES)
        raise ConfigError(
            f"no elastic rules for {type(model).__name__}; POA takes backbones of timm's {names}."
        )
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise ConfigError(
            "elastic networks cannot share batch statistics; give the backbone another norm, "
            "e.g. backbone.args.norm_layer=groupnorm for ResNets."
        )
    return family


def extent_of(model: nn.Module, config: ElasticConfig) -> Extent:
    """Grid of a timm model: what the config says, and the family's own where it says nothing.

    Raises:
        ConfigError: A width that does not fit the heads, more depths than elastic stages, or a
            smallest size above the model's own.
    """
    family = family_of(model)
    largest = family.measure(model)
    unit = family.width_unit(model)
    step = config.width_step or max(unit, family.width_step(model) // unit * unit)
    default = [
        max(1, round(number * part))
        for number, part in zip(largest, family.min_fraction, strict=True)
    ]
    min_width = config.min_width or max(unit, default[0] // unit * unit)
    for name, value in (("min_width", min_width), ("width_step", step)):
        if value % unit:
            raise ConfigError(
                f"method.elastic.{name}={value} must be a multiple of {unit} for this backbone."
            )
    return Extent(
        min_size=(min_width, *(config.min_depth or default[1:])),
        max_size=largest,
        width_step=step,
        depth_step=config.depth_step,
    )


def packed_groups(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Parameters that stack several matrices: name -> (dimension, number of groups).

    A cut takes the leading part of each group, not of the whole: q, k and v; the two halves of a
    packed gated MLP; the four neighbours a Swin merges.
    """
    groups: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if name.endswith("attn.qkv"):
            groups |= {f"{name}.weight": (0, 3), f"{name}.bias": (0, 3)}
        elif isinstance(module, GluMlp):
            groups |= {f"{name}.fc1.weight": (0, 2), f"{name}.fc1.bias": (0, 2)}
        elif isinstance(module, PatchMerging):
            groups |= {f"{name}.reduction.weight": (1, 4)}
            groups |= {f"{name}.norm.weight": (0, 4), f"{name}.norm.bias": (0, 4)}
    return groups


def blocks_at(model: nn.Module, path: str) -> nn.Sequential:
    """Block list of a timm model by its path, e.g. `layers.2.blocks`."""
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.Sequential)
    return blocks


def _num_heads(block: nn.Module) -> int:
    number = block.get_submodule("attn").num_heads
    assert isinstance(number, int)
    return number


# ViT ---------------------------------------------------------------------------------------


def _vit_head_dim(model: VisionTransformer) -> int:
    return model.embed_dim // _num_heads(model.blocks[0])


_VIT = Family(
    model_type=VisionTransformer,
    block_lists=("blocks",),
    measure=lambda model: (model.embed_dim, len(model.blocks)),
    build_args=lambda model, width: {
        "embed_dim": width,
        "num_heads": width // _vit_head_dim(model),
    },
    depth_args=lambda model, depths: {"depth": depths[0]},
    width_unit=_vit_head_dim,
    width_step=_vit_head_dim,
    min_fraction=(Fraction(3, 8), Fraction(1, 2)),  # ViT-L: 384 of 1024, 12 of 24
)


# Swin --------------------------------------------------------------------------------------


def _swin_head_dim(model: SwinTransformer) -> int:
    return model.embed_dim // _num_heads(blocks_at(model, "layers.0.blocks")[0])


def _swin_heads(model: SwinTransformer, width: int) -> tuple[int, ...]:
    stages = range(len(model.layers))
    first = [_num_heads(blocks_at(model, f"layers.{i}.blocks")[0]) for i in stages]
    return tuple(heads * width // model.embed_dim for heads in first)


def _swin_depths(model: SwinTransformer, depths: tuple[int, ...]) -> ModelArgs:
    own = [len(blocks_at(model, f"layers.{i}.blocks")) for i in range(len(model.layers))]
    return {"depths": (*own[:2], depths[0], *own[3:])}


_SWIN = Family(
    model_type=SwinTransformer,
    block_lists=("layers.2.blocks",),
    measure=lambda model: (model.embed_dim, len(blocks_at(model, "layers.2.blocks"))),
    build_args=lambda model, width: {"embed_dim": width, "num_heads": _swin_heads(model, width)},
    depth_args=_swin_depths,
    width_unit=_swin_head_dim,
    width_step=_swin_head_dim,
    min_fraction=(Fraction(3, 4), Fraction(1, 3)),  # Swin-B: 96 of 128, 6 of 18
    has_paired_blocks=True,
)


# ResNet ------------------------------------------------------------------------------------


def _resnet_planes(model: ResNet) -> int:
    block = blocks_at(model, "layer1")[0]
    if not isinstance(block, Bottleneck) or block.conv2.groups != 1:
        raise ConfigError(
            "elastic ResNets vary the middle of plain bottleneck blocks; use resnet50, resnet101 "
            "or resnet152."
        )
    return block.conv3.out_channels // Bottleneck.expansion


def _resnet_base_width(model: ResNet) -> int:
    """The base_width of timm: middle channels of the first stage per 64 of its planes."""
    block = blocks_at(model, "layer1")[0]
    planes = _resnet_planes(model)
    assert isinstance(block, Bottleneck)
    return block.conv2.out_channels * 64 // planes


_RESNET = Family(
    model_type=ResNet,
    block_lists=("layer2", "layer3"),
    measure=lambda model: (
        _resnet_base_width(model),
        len(blocks_at(model, "layer2")),
        len(blocks_at(model, "layer3")),
    ),
    build_args=lambda model, width: {"base_width": width},
    depth_args=lambda model, depths: {
        "layers": (len(blocks_at(model, "layer1")), *depths, len(blocks_at(model, "layer4")))
    },
    # Group norms split each stage's middle into their groups; 32 of them need steps of 32 at the
    # usual 64 planes.
    width_unit=lambda model: max(1, 64 * _num_groups(model) // _resnet_planes(model)),
    width_step=lambda model: max(1, _resnet_base_width(model) // 4),
    min_fraction=(Fraction(1, 2), Fraction(1, 2), Fraction(1, 6)),  # 64 of 128, 4 of 8, 6 of 36
)


def _num_groups(model: ResNet) -> int:
    return int(getattr(blocks_at(model, "layer1")[0].bn2, "num_groups", 1))


# ConvNeXt ----------------------------------------------------------------------------------


def _convnext_dims(model: ConvNeXt) -> list[int]:
    return [cast(int, info["num_chs"]) for info in model.feature_info]


def _convnext_args(model: ConvNeXt, width: int) -> ModelArgs:
    dims = _convnext_dims(model)
    return {"dims": tuple(dim * width // dims[0] for dim in dims)}


def _convnext_depths(model: ConvNeXt, depths: tuple[int, ...]) -> ModelArgs:
    own = [len(blocks_at(model, f"stages.{i}.blocks")) for i in range(len(model.stages))]
    return {"depths": (*own[:2], depths[0], *own[3:])}


_CONVNEXT = Family(
    model_type=ConvNeXt,
    block_lists=("stages.2.blocks",),
    measure=lambda model: (_convnext_dims(model)[0], len(blocks_at(model, "stages.2.blocks"))),
    build_args=_convnext_args,
    depth_args=_convnext_depths,
    width_unit=lambda model: 1,
    width_step=lambda model: max(1, _convnext_dims(model)[0] // 8),
    min_fraction=(Fraction(3, 4), Fraction(1, 3)),  # ConvNeXt-B: 96 of 128, 9 of 27
)

FAMILIES: tuple[Family[Any], ...] = (_VIT, _SWIN, _RESNET, _CONVNEXT)
