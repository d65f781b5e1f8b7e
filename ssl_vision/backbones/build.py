"""timm name -> Backbone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NoReturn
from unittest.mock import patch

import timm
from timm.layers.drop import DropPath
from timm.models import VisionTransformer, load_model_config_from_hf
from torch import nn

from ssl_vision.backbones.backbone import Backbone, ModelArgs
from ssl_vision.backbones.bounds import bounded_network
from ssl_vision.backbones.packed import can_pack
from ssl_vision.backbones.point_vit import PointTransformer, PointViT
from ssl_vision.backbones.rotary_vit import RotaryTransformer, RotaryViT
from ssl_vision.backbones.settings import check_model_args
from ssl_vision.backbones.timm_conv import TimmPyramid
from ssl_vision.backbones.timm_vit import TimmViT
from ssl_vision.errors import CheckpointError, ConfigError, did_you_mean
from ssl_vision.files import shown
from ssl_vision.network import is_offline

_MAX_ELEMENTS = 1 << 34  # of a network whose weights nobody has seen yet: 64 GB


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A timm model and what its constructor takes."""

    name: str = "vit_small_patch16_224"
    args: ModelArgs = field(default_factory=dict)  # e.g. {patch_size: 4, depth: 6}
    drop_path: float = 0.0  # stochastic depth rate of the student; teachers have none
    init: Literal["timm", "torch"] = "timm"  # torch: layers as nn.Linear and nn.Conv2d start (POA)
    in_chans: int = 3
    is_checkpointed: bool = False  # recompute activations in the backward pass
    is_packed: bool = False  # ViTs: crops of several sizes (DINO's) in one pass

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"backbone.drop_path={self.drop_path} must be from 0 to below 1.")


def build_backbone(config: BackboneConfig, *, input_size: int) -> Backbone:
    """Network of random weights, without classifier.

    Args:
        config: What to build.
        input_size: Side of the largest view; networks of fixed input size get positions for it.
            Of point clouds the number of points.

    Raises:
        ConfigError: Unknown name (with the nearest known ones), or arguments timm refuses.
    """
    check_architecture(config.name, key="backbone.name")
    check_model_args(config.name, config.args, key="backbone.args")
    model, args = _create(config, input_size=input_size)
    if config.is_checkpointed:
        model.set_grad_checkpointing(True)
    if config.init == "torch":
        start_as_torch(model)
    backbone = wrap_model(model, architecture=config.name, model_args=args)
    if config.is_packed:
        if not (isinstance(backbone, TimmViT) and can_pack(backbone.model)):
            raise ConfigError(
                f"backbone.is_packed=true needs a ViT of timm's plain blocks; {config.name} is "
                "another network. Set it to false."
            )
        backbone.is_packed = True
    backbone.redraw = partial(build_backbone, config, input_size=input_size)
    return backbone


def wrap_model(
    model: nn.Module, *, architecture: str, model_args: ModelArgs | None = None
) -> Backbone:
    """Backbone around a timm model that exists already.

    Raises:
        ConfigError: The model has no pooled features (no `forward_head`).
    """
    args = model_args or {}
    if isinstance(model, PointTransformer):
        return PointViT(model, architecture=architecture, model_args=args)
    if isinstance(model, RotaryTransformer):
        return RotaryViT(model, architecture=architecture, model_args=args)
    if isinstance(model, VisionTransformer):
        return TimmViT(model, architecture=architecture, model_args=args)
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise ConfigError(
            f"backbone.name={architecture!r} has no pooled features; use an image classification "
            "model of timm."
        )
    return TimmPyramid(model, architecture=architecture, model_args=args)


def is_timm(model: nn.Module) -> bool:
    """Whether a module is a model of timm that knows its name."""
    known = getattr(model, "pretrained_cfg", None) or {}
    has_parts = hasattr(model, "forward_features") and hasattr(model, "forward_head")
    return has_parts and isinstance(known, dict) and bool(known.get("architecture"))


def set_drop_path(module: nn.Module, rate: float) -> None:
    """Set every stochastic-depth layer of a network to one rate (0 for teachers)."""
    for layer in module.modules():
        if isinstance(layer, DropPath):
            layer.drop_prob = rate


def level_drop_path(module: nn.Module) -> None:
    """Give every stochastic-depth layer the largest rate among them.

    Networks of timm let the rate rise from 0 at the first block, which has an identity instead.
    """
    rates = [layer.drop_prob for layer in module.modules() if isinstance(layer, DropPath)]
    for block in [owner for owner in module.modules() if rates]:
        for name, layer in block.named_children():
            if name.startswith("drop_path") and isinstance(layer, nn.Identity):
                setattr(block, name, DropPath())
    set_drop_path(module, max(rates, default=0.0))


def start_as_torch(module: nn.Module) -> None:
    """Draw linear layers and convolutions as torch does by itself, bias tables of windows at 0.

    Uniform within 1 / sqrt(fan_in), weights and biases: the start of a network whose code says
    nothing of it, POA's Swin and ResNet among them. Norms keep what timm gave them.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.reset_parameters()
        table = getattr(layer, "relative_position_bias_table", None)
        if isinstance(table, nn.Parameter):
            nn.init.zeros_(table)


def _create(config: BackboneConfig, *, input_size: int) -> tuple[Any, ModelArgs]:
    """Model of timm, and the arguments that rebuild it (without the training-only drop path)."""
    common: ModelArgs = dict(config.args)
    if config.in_chans != 3:
        common["in_chans"] = config.in_chans
    training_only: ModelArgs = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    reasons: list[str] = []
    for extra in _size_arguments(config, input_size=input_size):
        args = {**common, **extra}
        try:
            model = timm.create_model(config.name, num_classes=0, **args, **training_only)
        except TypeError as error:
            # This family does not know one of our own size arguments, or one of the user's.
            if not any(key in str(error) for key in extra):
                reasons.insert(0, str(error))
            reasons.append(str(error))
        except Exception as error:  # constructors meet a user's numbers with any of Python's
            reasons.insert(0, str(error) or type(error).__name__)
            break
        else:
            return model, args
    raise ConfigError(f"backbone.args={common} do not fit {config.name}: {reasons[0]}")


def _size_arguments(config: BackboneConfig, *, input_size: int) -> list[ModelArgs]:
    """Arguments to try in turn so that the network takes images of the recipe's sizes."""
    if config.name.startswith("point_vit"):
        return [{"num_points": config.args.get("num_points", input_size)}]
    pretrained_cfg = timm.get_pretrained_cfg(config.name)
    if pretrained_cfg is None or not pretrained_cfg.fixed_input_size:
        return [{}]
    size = {"img_size": config.args.get("img_size", input_size)}
    # ViTs resample their positions; window networks (Swin) only drop their size check.
    return [{**size, "dynamic_img_size": True}, {**size, "strict_img_size": False}, size]


def build_from_config(
    config: Mapping[str, Any], *, num_classes: int = 0, max_elements: int = _MAX_ELEMENTS
) -> Backbone:
    """Network of random weights as an export's `config.json` describes it.

    Args:
        config: `architecture`, `model_args` and `position_rule` are read.
        num_classes: Classes of a classifier on top; `Backbone` features are the same without.
        max_elements: Parameters and buffers the network may have.

    Raises:
        ConfigError: This timm does not know the architecture or refuses the arguments, or the
            network would be larger.
    """
    name, args = str(config["architecture"]), dict(config.get("model_args") or {})
    if isinstance(own := config.get("own"), dict):
        raise ConfigError(
            f"these are weights of {shown(str(own.get('class')))[:80]}, an own network: only its "
            "program can build it. ssl_vision.load_backbone(FOLDER, into=NETWORK) gives it its "
            "weights, and train(backbone=NETWORK) and evaluate(NETWORK) of ssl_vision take it "
            "then; named by its folder it can be neither evaluated nor a teacher."
        )
    check_architecture(name, key="architecture")
    check_model_args(name, args, key="model_args")
    try:
        with bounded_network(max_elements):
            model = timm.create_model(name, num_classes=num_classes, **args)
        backbone = wrap_model(model, architecture=name, model_args=args)
    except Exception as error:  # constructors meet a stranger's numbers with any of Python's
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"model_args={str(args)[:200]} do not fit {name}: {reason}") from error
    if (rule := config.get("position_rule", "timm")) != "timm":
        backbone.set_position_rule(rule)
    return backbone


def load_timm(
    name: str, *, is_pretrained: bool, args: ModelArgs, with_classifier: bool = False
) -> Backbone:
    """A model of timm with timm's weights, or with random ones.

    Args:
        name: Name of the architecture, with a tag if wanted (`vit_small_patch16_224.dino`), or
            `hf-hub:owner/name`.
        is_pretrained: Load the weights from timm's cache or the network.
        args: What the constructor takes, e.g. `img_size`.
        with_classifier: Keep the classifier that belongs to the weights.

    Raises:
        ConfigError: Unknown name or arguments.
        CheckpointError: The weights cannot be had here.
    """
    has_source = name.startswith(("hf-hub:", "hf_hub:"))
    if not has_source:
        check_architecture(name, key="timm model")
        check_model_args(name, args, key=f"timm:{name}")
    try:
        with _caches_only():
            # Arguments saved beside weights of a hub are part of the network, too.
            of_hub = _arguments_of_hub(name, args) if has_source else {}
            classes: ModelArgs = {} if with_classifier else {"num_classes": 0}
            model = timm.create_model(name, pretrained=is_pretrained, **classes, **args)
    except ConfigError:
        raise
    except TypeError as error:
        raise ConfigError(f"{args} do not fit timm:{name}: {error}") from error
    # Network, cache and hub failures have no common base; whatever it was, the way out is one.
    except Exception as error:
        if not (is_pretrained or has_source):
            raise ConfigError(f"{args} do not fit timm:{name}: {error}") from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"weights of timm:{name} cannot be had here ({reason}); check the network or timm's "
            f"cache, or use timm:{name}?pretrained=false for random weights."
        ) from error
    pretrained_cfg: Any = model.pretrained_cfg
    architecture = pretrained_cfg.get("architecture") or name.split(".")[0]
    return wrap_model(model, architecture=architecture, model_args={**of_hub, **args})


def _arguments_of_hub(name: str, args: ModelArgs) -> ModelArgs:
    """What a stranger's config hands to the constructor; refused like that of an export."""
    _, architecture, of_hub = load_model_config_from_hf(name.partition(":")[2])
    check_architecture(architecture, key=f"architecture of {name}")
    check_model_args(architecture, {**(of_hub or {}), **args}, key=f"{name}: model_args")
    return dict(of_hub or {})


@contextmanager
def _caches_only() -> Iterator[None]:
    """With SSL_VISION_OFFLINE, what timm and its hub do not find in their caches is an error."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("SSL_VISION_OFFLINE is set, and they are in no cache")

    if not is_offline():
        yield
        return
    with (
        patch("huggingface_hub.constants.HF_HUB_OFFLINE", True),
        patch("torch.hub.download_url_to_file", refuse),
        patch("timm.models._hub.download_url_to_file", refuse),
    ):
        yield


def check_architecture(name: str, *, key: str) -> None:
    """Raise ConfigError, with the nearest known names, unless timm knows the name.

    Args:
        name: Of an architecture, with or without a tag.
        key: What the message calls the setting.
    """
    if name.startswith("object:"):
        raise ConfigError(
            f"{key}={name} is a network of the Python program that began the run; resume there, by "
            "ssl_vision.train(..., backbone=NETWORK)."
        )
    plain = name.split(".")[0]
    if timm.is_model(plain) and all(c.isalnum() or c in "._-" for c in name):
        return
    hint = did_you_mean(plain, timm.list_models(), num=3)
    raise ConfigError(f"{key}={name!r} is not a timm {timm.__version__} model.{hint}")
