"""Elastic networks: run, or take out, a narrower and shallower network inside a wide and deep one.

    network = cut(parent, (384, 12))     # tensors that are slices of the parent's parameters
    features = network(images)           # gradients flow into the parent
    small = extract(parent, (384, 12))   # the same network as a timm model of its own

A sub-network of a timm model is another timm model. Its *skeleton* (modules without storage, on
the meta device) is called with `torch.func.functional_call` on slices of the parent's parameters.
The size is an argument: no layer remembers which sub-network is current, and the extracted model
equals the elastic one by construction, also under autocast.

The rules (POA, Zhang et al. 2024, section 3.2 and the official code): a kept slice is always the
leading part of a dimension, of each group where several matrices are stacked; projections whose
inputs were cut are scaled by alpha = full inputs / kept inputs, biases never; blocks are kept
evenly spaced. Where we differ: Swin keeps pairs of blocks by default (`kept_blocks`) and
normalises the narrow patch embedding, so that sub-networks are plain timm Swins.

Skeletons are cached beside the parent, not in it: copies and pickles of a parent carry none.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import timm
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from ssl_vision.backbones.backbone import Backbone, ModelArgs
from ssl_vision.backbones.build import wrap_model
from ssl_vision.backbones.elastic_families import (
    Family,
    blocks_at,
    extent_of,
    family_of,
    packed_groups,
)
from ssl_vision.backbones.elastic_grid import ElasticConfig, Size, kept_blocks
from ssl_vision.backbones.elastic_stock import fold_layer_scale, stock_name
from ssl_vision.backbones.timm_vit import TimmViT
from ssl_vision.errors import ConfigError

PAPER_LIKE = ElasticConfig()

Parent = TypeVar("Parent", bound=nn.Module)


@dataclass(frozen=True)
class Slice:
    """Where a tensor of the small network lies in the parent.

    Attributes:
        source: Name in the parent.
        shape: Shape in the small network.
        group_dim: Dimension along which `num_groups` matrices are stacked.
        num_groups: Each of them is cut to its leading part.
        gain: Factor of the cut (alpha), 1 for all but projections with fewer inputs.
    """

    source: str
    shape: torch.Size
    group_dim: int = 0
    num_groups: int = 1
    gain: float = 1.0

    def take(self, tensor: Tensor) -> Tensor:
        """The slice of the parent's tensor; the tensor itself where nothing is cut."""
        for dim, (full, kept) in enumerate(zip(tensor.shape, self.shape, strict=True)):
            if full == kept:
                continue
            if dim == self.group_dim and self.num_groups > 1:
                groups = tensor.unflatten(dim, (self.num_groups, full // self.num_groups))
                kept_of_group = kept // self.num_groups
                tensor = groups.narrow(dim + 1, 0, kept_of_group).flatten(dim, dim + 1)
            else:
                tensor = tensor.narrow(dim, 0, kept)
        return tensor if self.gain == 1.0 else tensor * self.gain


@dataclass(frozen=True)
class Plan:
    """A sub-network without values: modules without storage, and where each tensor comes from."""

    skeleton: nn.Module
    parameters: Mapping[str, Slice]
    buffers: Mapping[str, str]  # name in the skeleton -> name in the parent


class SubNetwork:
    """A sub-network of a parent, ready to be called; made by `cut`.

    Cut once per step and call for every view: the slices are shared. Gradients reach the parent's
    parameters; a changed parent needs a new cut.

    Attributes:
        size: Its size.
        tensors: Its parameters and buffers, slices of the parent's.
    """

    def __init__(self, skeleton: nn.Module, *, size: Size, tensors: dict[str, Tensor]) -> None:
        self.size = size
        self.tensors = tensors
        self._skeleton = skeleton

    def __call__(self, images: Tensor, **arguments: object) -> Any:
        """What the parent returns, for the small network: `Features` for a Backbone."""
        return functional_call(self._skeleton, self.tensors, (images,), arguments)


def sizes(parent: nn.Module, config: ElasticConfig = PAPER_LIKE) -> list[Size]:
    """All sizes of a parent's grid, rising; the last one is the parent's own.

    Args:
        parent: A Backbone, or a timm model built without extra arguments.
        config: Smallest size and steps.

    Raises:
        ConfigError: No elastic rules for this network, or a config that does not fit it.
    """
    return extent_of(_timm_model(parent), config).sizes


def cut(parent: nn.Module, size: Size, config: ElasticConfig = PAPER_LIKE) -> SubNetwork:
    """Sub-network of a parent, sharing its parameters.

    Args:
        parent: A Backbone, or a timm model built without extra arguments. Its train or eval mode
            and its stochastic depth (the rate of each kept block) hold for the sub-network too.
            Gradient checkpointing does not: the backward pass would meet the parent's slices
            no longer in place.
        size: (width, depth, ...); any that fits into the parent, on the grid or not.
        config: Block choice and rescaling.

    Raises:
        ConfigError: The size does not fit into the parent.
    """
    plan = _plan(parent, tuple(size), config)
    if plan.skeleton.training != parent.training:
        plan.skeleton.train(parent.training)
    _copy_rule(parent, plan.skeleton)
    sources = dict(parent.named_parameters())
    tensors = {name: entry.take(sources[entry.source]) for name, entry in plan.parameters.items()}
    buffers = dict(parent.named_buffers())
    tensors |= {name: buffers[source] for name, source in plan.buffers.items()}
    return SubNetwork(plan.skeleton, size=tuple(size), tensors=tensors)


def forward(
    parent: nn.Module,
    images: Tensor,
    size: Size,
    config: ElasticConfig = PAPER_LIKE,
    **arguments: object,
) -> Any:
    """What the sub-network makes of images, (B, C, S, S); see `cut`.

    Returns:
        `Features` for a Backbone, the model's own output for a timm model.
    """
    return cut(parent, size, config)(images, **arguments)


def extract(
    parent: Parent,
    size: Size,
    config: ElasticConfig = PAPER_LIKE,
    *,
    is_scale_folded: bool = False,
) -> Parent:
    """The sub-network as a network of its own, with copies of its parameters.

    Takes the kind it is given: a Backbone of a plain timm model for a Backbone, a timm model for
    a timm model. Where the result is a network timm builds from a name alone (vit_small_..., say)
    a Backbone carries that name as its architecture. It has no stochastic depth.

    Args:
        parent: A Backbone, or a timm model built without extra arguments.
        size: (width, depth, ...).
        config: Block choice and rescaling, as the parent was trained with.
        is_scale_folded: Multiply LayerScale into the projection before it. The function is the
            same up to rounding, and a ViT trained with LayerScale becomes a stock one.

    Raises:
        ConfigError: The size does not fit into the parent.
    """
    size = tuple(size)
    network = cut(parent, size, config)
    model = _timm_model(parent)
    family = family_of(model)
    sized = family.build_args(model, size[0]) | family.depth_args(model, size[1:])
    small = _build_like(parent, sized).to(next(model.parameters()).device)
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            parameter.copy_(network.tensors[name])
    _carry_shifts(model, _timm_model(small), family, size, config)
    if isinstance(small, Backbone):
        if is_scale_folded:
            small.model_args = fold_layer_scale(small.model, small.model_args)
        small.architecture, small.model_args = stock_name(
            small.model, small.architecture, small.model_args
        )
    elif is_scale_folded:
        fold_layer_scale(small, {})
    return cast(Parent, small.train(parent.training))


def forward_head(head: nn.Module, features: Tensor, config: ElasticConfig = PAPER_LIKE) -> Tensor:
    """A head made for the parent's features, on a sub-network's narrower ones.

    Its first linear layer uses the leading columns, scaled like every projection of a
    sub-network; all else is the head's own.

    Args:
        head: Any module that begins with a linear layer; PrototypeHead, for one.
        features: (B, d) of at most the head's width.
        config: Whether to rescale.
    """
    name, layer = next((n, m) for n, m in head.named_modules() if isinstance(m, nn.Linear))
    width = features.shape[-1]
    if width == layer.in_features:
        return head(features)
    weight = layer.weight[:, :width]
    if config.is_rescaled:
        weight = weight * (layer.in_features / width)
    return functional_call(head, {f"{name}.weight": weight}, (features,))


def num_parameters(parent: nn.Module, size: Size, config: ElasticConfig = PAPER_LIKE) -> int:
    """Parameters of the sub-network as it is exported, without mask token."""
    plan = _plan(parent, tuple(size), config)
    return sum(p.numel() for p in _timm_model(plan.skeleton).parameters())


def skeleton_of(parent: nn.Module, size: Size, config: ElasticConfig = PAPER_LIKE) -> nn.Module:
    """The sub-network's modules without storage, to be counted or measured, not trained."""
    return _plan(parent, tuple(size), config).skeleton


# Plans ---------------------------------------------------------------------------------------

_PlanKey: TypeAlias = tuple[Size, str, bool]  # size, choice of blocks, whether it is rescaled

# Beside the parents, not in them: a module attribute would register tensors without storage, and
# a copy of the parent (a teacher) would keep plans of the original.
_plans: weakref.WeakKeyDictionary[nn.Module, dict[_PlanKey, Plan]] = weakref.WeakKeyDictionary()
_skeletons: weakref.WeakKeyDictionary[nn.Module, dict[int, nn.Module]] = weakref.WeakKeyDictionary()


def _plan(parent: nn.Module, size: Size, config: ElasticConfig) -> Plan:
    """Plan of a size; built on first use."""
    plans = _plans.setdefault(parent, {})
    key = (size, config.block_choice, config.is_rescaled)
    if key not in plans:
        plans[key] = _make_plan(parent, size, config)
    return plans[key]


def _make_plan(parent: nn.Module, size: Size, config: ElasticConfig) -> Plan:
    model = _timm_model(parent)
    family = family_of(model)
    _check_size(size, family.measure(model), unit=family.width_unit(model))
    prefix = "model." if isinstance(parent, Backbone) else ""
    skeleton = _wide_skeleton(parent, size[0])
    sources = {name: name for name, _ in skeleton.named_parameters()}
    sources |= {name: name for name, _ in skeleton.named_buffers()}
    kept = _kept(family, model, size, config)
    for path, blocks in zip(family.block_lists, kept, strict=True):
        skeleton = _with_blocks(skeleton, prefix + path, blocks)
        sources = _renumbered(sources, prefix + path + ".", blocks)
    groups = {prefix + name: group for name, group in packed_groups(model).items()}
    is_projection = {
        f"{name}.weight" if name else "weight"
        for name, module in parent.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    full = dict(parent.named_parameters())
    slices = {}
    for name, parameter in skeleton.named_parameters():
        source = sources[name]
        gain = 1.0
        if config.is_rescaled and source in is_projection:
            gain = full[source].shape[1] / parameter.shape[1]
        group_dim, num_groups = groups.get(source, (0, 1))
        slices[name] = Slice(source, parameter.shape, group_dim, num_groups, gain)
    buffers = {name: sources[name] for name, _ in skeleton.named_buffers()}
    return Plan(skeleton=skeleton, parameters=slices, buffers=buffers)


def _kept(
    family: Family[Any], model: nn.Module, size: Size, config: ElasticConfig
) -> list[list[int]]:
    """Blocks kept in each elastic stage."""
    is_paired = family.has_paired_blocks and config.block_choice == "stock"
    return [
        kept_blocks(full, kept, is_paired=is_paired)
        for full, kept in zip(family.measure(model)[1:], size[1:], strict=True)
    ]


def _check_size(size: Size, largest: Size, *, unit: int) -> None:
    """Raise ConfigError unless the size fits into the largest."""
    is_inside = len(size) == len(largest) and all(
        1 <= number <= limit for number, limit in zip(size, largest, strict=True)
    )
    if not is_inside or size[0] % unit:
        raise ConfigError(
            f"size {','.join(map(str, size))} does not fit: use a width of {unit}, {2 * unit}, ... "
            f"{largest[0]}, then one depth for each elastic stage, at most "
            f"{','.join(map(str, largest[1:]))}."
        )


def _wide_skeleton(parent: nn.Module, width: int) -> nn.Module:
    """Modules without storage of a width, at the parent's full depth."""
    skeletons = _skeletons.setdefault(parent, {})
    if width in skeletons:
        return skeletons[width]
    model = _timm_model(parent)
    family = family_of(model)
    own_depths = family.depth_args(model, family.measure(model)[1:])
    with torch.device("meta"):
        small = _build_like(parent, family.build_args(model, width) | own_depths)
    _check_alike(parent, small)
    # Stochastic depth holds no tensors: the sub-network uses the parent's own modules, and with
    # them the rate of each block and whatever `set_drop_path` does later.
    for name, module in parent.named_modules():
        if isinstance(module, DropPath):
            path, _, leaf = name.rpartition(".")
            owner = small.get_submodule(path)
            owner.__dict__.pop(leaf, None)  # timm's ResNets hold None where there is no drop path
            setattr(owner, leaf, module)
    skeletons[width] = small
    return small


def _build_like(parent: nn.Module, changes: ModelArgs) -> nn.Module:
    """New network of the parent's kind: its constructor arguments with changes."""
    architecture, args = _description(parent)
    args |= changes
    try:
        with _WithoutDraws():
            model = timm.create_model(architecture, num_classes=0, **args)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"timm cannot build {architecture} with {args}: {error}") from error
    if not isinstance(parent, Backbone):
        return model
    backbone = wrap_model(model, architecture=architecture, model_args=args)
    if parent.mask_token is not None:
        with _WithoutDraws():
            backbone.add_mask_token()
    _copy_rule(parent, backbone)
    return backbone


class _WithoutDraws(TorchFunctionMode):
    """Leave new weights as they are: they are overwritten, or have no storage.

    Saves most of a large network's construction, and leaves the random numbers of the step in
    which a skeleton is first needed as they would be without it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # Functions of torch.nn.init arrive here whole: what they call inside would not.
        if func in _DRAWS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


# What initialisations of torch and timm are made of; `clamp_` and `erfinv_` shape the normal ones.
_DRAWS = {
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    torch.Tensor.clamp_,
    torch.Tensor.erfinv_,
}


def _copy_rule(parent: nn.Module, small: nn.Module) -> None:
    """Resample positions as the parent does; the one setting that lies outside the timm model."""
    if isinstance(parent, TimmViT) and isinstance(small, TimmViT):
        small.set_position_rule(parent.position_rule)


def _check_alike(parent: nn.Module, small: nn.Module) -> None:
    """Raise ConfigError unless the rebuilt network has the parent's parameters by name and rank."""
    own = {name: parameter.ndim for name, parameter in parent.named_parameters()}
    rebuilt = {name: parameter.ndim for name, parameter in small.named_parameters()}
    if own != rebuilt:
        odd = sorted(set(own.items()) ^ set(rebuilt.items()))[0][0]
        raise ConfigError(
            f"the backbone cannot be rebuilt from its name and arguments: {odd} differs. Wrap the "
            "timm model with ssl_vision.backbones.build.wrap_model(model, architecture=..., "
            "model_args=...), giving all arguments it was created with (num_classes=0)."
        )


def _timm_model(parent: nn.Module) -> nn.Module:
    return parent.model if isinstance(parent, Backbone) else parent


def _description(parent: nn.Module) -> tuple[str, ModelArgs]:
    """Name in timm and constructor arguments of a parent."""
    if isinstance(parent, Backbone):
        return parent.architecture, dict(parent.model_args)
    name = getattr(parent, "pretrained_cfg", {}).get("architecture")
    if name is None:
        raise ConfigError(
            "this timm model does not know its name; make it with timm.create_model, or wrap it "
            "with ssl_vision.backbones.build.wrap_model(model, architecture=..., model_args=...)."
        )
    return str(name), {}


def _with_blocks(module: nn.Module, path: str, blocks: list[int]) -> nn.Module:
    """Copy of a module whose block list at `path` has only some of its blocks; all else shared."""
    copy = _shallow(module)
    if not path:
        children = list(module.children())
        copy._modules = {str(i): children[block] for i, block in enumerate(blocks)}
        return copy
    head, _, rest = path.partition(".")
    copy._modules[head] = _with_blocks(module.get_submodule(head), rest, blocks)
    return copy


def _shallow(module: nn.Module) -> nn.Module:
    """Copy of a module that shares tensors and children but has its own list of children."""
    copy = module.__class__.__new__(module.__class__)
    copy.__dict__ = {**module.__dict__, "_modules": dict(module._modules)}
    return copy


def _renumbered(sources: dict[str, str], prefix: str, blocks: list[int]) -> dict[str, str]:
    """Names after some blocks of a list were kept and numbered anew -> names before."""
    new_index = {str(block): str(i) for i, block in enumerate(blocks)}
    result = {}
    for name, source in sources.items():
        if name.startswith(prefix):
            index, _, rest = name.removeprefix(prefix).partition(".")
            if index not in new_index:
                continue
            name = f"{prefix}{new_index[index]}.{rest}"
        result[name] = source
    return result


# Extraction ------------------------------------------------------------------------------------


def _carry_shifts(
    model: nn.Module, small: nn.Module, family: Family[Any], size: Size, config: ElasticConfig
) -> None:
    """Give each block of an extracted Swin the window shift it has in the parent.

    With paired blocks these are the shifts it has already. With the paper's choice they are not,
    and the result is a network that no constructor makes: see `is_stock`.
    """
    if not family.has_paired_blocks:
        return
    (kept,) = _kept(family, model, size, config)
    (path,) = family.block_lists
    sources = blocks_at(model, path)
    for block, place in zip(blocks_at(small, path), kept, strict=True):
        block.shift_size = sources[place].shift_size
        block.target_shift_size = sources[place].target_shift_size


def is_stock(parent: nn.Module, size: Size, config: ElasticConfig = PAPER_LIKE) -> bool:
    """Whether timm builds the sub-network from name and arguments alone.

    False only for Swins with the paper's choice of blocks: then the window shifts of the kept
    blocks do not alternate, which no configuration file can say.
    """
    model = _timm_model(parent)
    family = family_of(model)
    if not family.has_paired_blocks:
        return True
    (kept,) = _kept(family, model, tuple(size), config)
    return all(block % 2 == i % 2 for i, block in enumerate(kept))
