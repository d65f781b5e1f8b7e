"""Any network as a backbone: a module of a program's own, or a model of timm that exists."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone, ModelArgs, OwnClass
from ssl_vision.backbones.build import is_timm, wrap_model
from ssl_vision.errors import ConfigError
from ssl_vision.types import Features

SCHEME = "object:"  # begins the name of an own network in settings


class OwnBackbone(Backbone):
    """A module that makes of images (B, C, S, S) a vector (B, D) or a map (B, D, h, w).

    Of a map, the mean is the pooled feature and its cells are the patches. Methods that leave out
    or mask patches (mae, poa, dino with patch_weight) need a ViT of timm and say so.

    Args:
        module: The network.
        width: D.
        in_chans: C.
        kwargs: Arguments of its class, for whoever rebuilds it; None where they are not known.
    """

    is_in_timm = False

    def __init__(
        self,
        module: nn.Module,
        *,
        width: int,
        in_chans: int = 3,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        name = f"{type(module).__module__}.{type(module).__qualname__}"
        super().__init__(
            module, architecture=f"{SCHEME}{name}", model_args=dict(kwargs or {}), width=width
        )
        self.own = OwnClass(name, None if kwargs is None else dict(kwargs))
        self._in_chans = in_chans

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Pooled features, and the cells of a map.

        Args:
            images: (B, C, S, S).
            mask: Must be None: nothing is known of the network's inside.
        """
        if mask is not None:
            raise ConfigError(f"{self.architecture} cannot mask parts of its input; use a ViT.")
        return self._as_features(self.model(images), len(images))

    def _as_features(self, found: object, num_images: int) -> Features:
        check_output(found, num_images=num_images, width=self.width, name=self.architecture)
        assert isinstance(found, Tensor)
        if found.ndim == 2:
            return Features(pooled=found)
        return Features(pooled=found.mean(dim=(2, 3)), patches=found.flatten(2).transpose(1, 2))

    def num_patches(self, size_px: int) -> int:
        """Cells of its map, found by trying.

        Raises:
            ConfigError: It gives a vector.
        """
        found = probe(self.model, in_chans=self._in_chans, size_px=size_px)
        if found.ndim != 4:
            raise ConfigError(
                f"backbone.name={self.architecture} gives one vector per image and no patches; use "
                "a network that gives a map (B, D, h, w)."
            )
        return found.shape[2] * found.shape[3]

    def add_mask_token(self, *, std: float = 0.02) -> None:
        """Refused: nothing is known of the network's inside."""
        raise ConfigError(
            f"backbone.name={self.architecture} cannot mask parts of its input; use a ViT, Swin, "
            "ConvNeXt or ResNet of timm, or a method without masks (barlow_twins, dino)."
        )

    def sample_shape(self, size: int) -> list[int]:
        """Shape of one input of a size: (C, S, S)."""
        return [self._in_chans, size, size]

    def _ids(self) -> dict[str, int]:
        """All at one depth; see `check_layers`."""
        return {"": 0}


def wrap(
    module: nn.Module,
    *,
    width: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    in_chans: int = 3,
    size_px: int = 224,
) -> Backbone:
    """A network as this package takes it, for `ssl_vision.train(backbone=...)` and `evaluate`.

    Args:
        module: A model of timm; or any module of images (B, C, S, S) -> a vector (B, D) or a map
            (B, D, h, w). It is used itself, not a copy.
        width: D; found by one try on an image of `size_px` where it is not given.
        kwargs: Arguments its class (or timm's `create_model`) was called with. They go into an
            export, for whoever builds the network again.
        in_chans: C.
        size_px: S of that try.

    Raises:
        ConfigError: It gives something else, or is a model of timm of unknown arguments.
    """
    if isinstance(module, Backbone):
        return module
    if is_timm(module):
        backbone = _of_timm(module, kwargs)
        if backbone is None:
            raise ConfigError(
                f"backbone: this {_name_of(module)} was built with arguments that cannot be told "
                "from its weights; say which, as backbone=ssl_vision.backbones.wrap(model, "
                "kwargs={...}) with those of timm.create_model."
            )
        return backbone
    _check_kwargs(kwargs)
    if width is None:
        found = probe(module, in_chans=in_chans, size_px=size_px)
        width = found.shape[1]
    return OwnBackbone(module, width=width, in_chans=in_chans, kwargs=kwargs)


def as_backbone(module: nn.Module, *, size_px: int, is_built_again: bool = True) -> Backbone:
    """A copy of a network as a backbone, so that what a program holds stays as it is.

    Args:
        module: As `wrap` has it.
        size_px: Side of an image it takes.
        is_built_again: Whether it will be exported; else a model of timm whose arguments cannot be
            told will do.

    Raises:
        ConfigError: As `wrap`.
    """
    copied = copy.deepcopy(module)
    if not is_built_again and is_timm(copied):
        return _of_timm(copied, None) or _as_it_is(copied)
    return copied if isinstance(copied, Backbone) else wrap(copied, size_px=size_px)


def check_layers(backbone: Backbone, *, layer_decay: float) -> None:
    """Raise ConfigError where the rate is to fall by depth in a network of unknown layers."""
    if backbone.own is not None and layer_decay != 1:
        raise ConfigError(
            f"optim.layer_decay={layer_decay} needs to know a network's layers, and "
            f"backbone.name={backbone.architecture} is an own one; set it to 1."
        )


def check_sizes(backbone: Backbone, sizes: Mapping[str, int]) -> None:
    """Refuse views that the network does not take, before anything is trained.

    Args:
        backbone: Of images.
        sizes: Full name of each setting -> side in px.

    Raises:
        ConfigError: A side is no whole number of patches, or not the network's fixed one.
    """
    for key, size_px in sizes.items():
        if reason := backbone.misfit(size_px):
            raise ConfigError(
                f"{key}={size_px}: backbone.name={backbone.architecture} does not take it, "
                f"{reason}; {_way_out(backbone, key, size_px)}."
            )


def _way_out(backbone: Backbone, key: str, size_px: int) -> str:
    embed = backbone.model.patch_embed
    if embed.strict_img_size:
        return (
            f"set {key}={embed.img_size[0]}, or build it with img_size={size_px} or, for every "
            "size, dynamic_img_size=True (in a recipe backbone.args.img_size= and so on)"
        )
    patch_px = embed.patch_size[0]
    below = size_px // patch_px * patch_px
    sides = " or ".join(str(side) for side in (below, below + patch_px) if side)
    return f"set {key}={sides}, or a backbone.args.patch_size that divides {size_px}"


def probe(module: nn.Module, *, in_chans: int, size_px: int) -> Tensor:
    """What a module makes of two black images; it is left as it is.

    Raises:
        ConfigError: It fails, or gives neither a vector nor a map.
    """
    name = type(module).__name__
    tried = copy.deepcopy(module).eval()
    device = next((p.device for p in tried.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            found = tried(torch.zeros(2, in_chans, size_px, size_px, device=device))
    except Exception as error:  # of a stranger's code
        raise ConfigError(
            f"backbone {name} fails on images (2, {in_chans}, {size_px}, {size_px}): "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    check_output(found, num_images=2, width=None, name=name)
    assert isinstance(found, Tensor)
    return found


def check_output(found: object, *, num_images: int, width: int | None, name: str) -> None:
    """Raise ConfigError unless a network gave (B, D) or (B, D, h, w)."""
    wanted = width or "D"
    if isinstance(found, Tensor):
        is_right = found.ndim in (2, 4) and found.shape[0] == num_images
        if is_right and width in (None, found.shape[1]):
            return
        given = f"shape {tuple(found.shape)}"
    else:
        given = f"a {type(found).__name__}"
    raise ConfigError(
        f"backbone {name.removeprefix(SCHEME)} gives {given}; wanted is a vector ({num_images}, "
        f"{wanted}) or a map ({num_images}, {wanted}, h, w). Wrap it in a module that returns one."
    )


def _check_kwargs(kwargs: Mapping[str, Any] | None) -> None:
    try:
        json.dumps(None if kwargs is None else dict(kwargs))
    except TypeError as error:
        raise ConfigError(f"kwargs={kwargs} cannot be written down: {error}.") from error


# Models of timm --------------------------------------------------------------------------------


def _of_timm(model: Any, kwargs: Mapping[str, Any] | None) -> Backbone | None:
    """A model of timm, without classifier, with the arguments that build it again; else None."""
    name = _name_of(model)
    if getattr(model, "num_classes", 0):
        model.reset_classifier(0)
    tried = [dict(kwargs)] if kwargs is not None else _arguments(model)
    for args in tried:
        if _fits(model, name, args):
            return wrap_model(model, architecture=name, model_args=args)
    return None


def _as_it_is(model: Any) -> Backbone:
    """A model of timm that only the program can build again."""
    backbone = wrap_model(model, architecture=_name_of(model), model_args={})
    backbone.own = OwnClass(f"timm.{_name_of(model)}", None)
    return backbone


def _name_of(model: Any) -> str:
    return str(model.pretrained_cfg["architecture"])


def _arguments(model: Any) -> list[ModelArgs]:
    """Arguments that a model may have been built with, the likeliest first."""
    embed = getattr(model, "patch_embed", None)
    size, patch = getattr(embed, "img_size", None), getattr(embed, "patch_size", None)
    found: list[ModelArgs] = [{}]
    if size is not None:
        side = size[0] if isinstance(size, tuple) else size
        found += [{"img_size": side}, {"img_size": side, "dynamic_img_size": True}]
    if size is not None and patch is not None:
        found.append({**found[1], "patch_size": patch[0] if isinstance(patch, tuple) else patch})
    channels = next((p.shape[1] for p in model.parameters() if p.ndim == 4), 3)
    return found if channels == 3 else [{**args, "in_chans": channels} for args in found]


def _fits(model: nn.Module, name: str, args: ModelArgs) -> bool:
    """Whether timm builds a network of the same weights and settings with these arguments."""
    try:
        other = timm.create_model(name, num_classes=0, **args)
    except Exception:  # timm raises anything on arguments a network does not know
        return False
    shapes = [{n: v.shape for n, v in m.state_dict().items()} for m in (model, other)]
    dynamic = [getattr(m, "dynamic_img_size", None) for m in (model, other)]
    return shapes[0] == shapes[1] and dynamic[0] == dynamic[1]
