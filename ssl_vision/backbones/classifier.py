"""The classifier of a backbone: timm's own, so that what is trained leaves as a timm classifier."""

import copy
from collections.abc import Mapping

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.transfer import transfer_weights
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.nn.heads import ContrastiveHead


def add_classifier(backbone: Backbone, *, num_classes: int, std: float) -> None:
    """Give the timm model a new classifier: weights from N(0, std), cut at two units, biases 0.

    `Backbone` features are the same with and without one.

    Raises:
        ConfigError: The network has several classifiers (distilled DeiT), or is an own one, of
            which nobody knows where a classifier would stand.
    """
    if not hasattr(backbone.model, "reset_classifier"):
        raise ConfigError(
            f"backbone.name={backbone.architecture} is an own network and cannot be given a "
            "classifier; use a network of timm, or learn features (method.name=distill with "
            "method.teachers.NAME.match=features) and fit a classifier by `ssl-vision evaluate`."
        )
    backbone.model.reset_classifier(num_classes)
    classifier = backbone.model.get_classifier()
    if not isinstance(classifier, nn.Module):
        raise ConfigError(
            f"backbone.name={backbone.architecture!r} has two classifiers; use the network "
            "without distillation."
        )
    for layer in classifier.modules():
        if isinstance(layer, nn.Linear):
            init_linear(layer, std=std)


def init_linear(layer: nn.Linear, *, std: float) -> None:
    """Weights from N(0, std), cut at two units; biases 0."""
    nn.init.trunc_normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)


def classifier_names(backbone: Backbone) -> frozenset[str]:
    """Names of the classifier's parameters, as in `backbone.named_parameters()`."""
    own = {id(parameter) for parameter in backbone.model.get_classifier().parameters()}
    return frozenset(name for name, p in backbone.named_parameters() if id(p) in own)


def names_of_timm(backbone: Backbone) -> tuple[str, ...]:
    """Names of the classes of weights of timm or of a hub; empty where nobody says them."""
    config = backbone.model.pretrained_cfg or {}
    if names := config.get("label_names"):
        return tuple(names)
    subset = infer_imagenet_subset(backbone.model) if backbone.model.num_classes else None
    return tuple(ImageNetInfo(subset).label_descriptions()) if subset else ()


def add_head_layers(backbone: Backbone, *, num_layers: int) -> None:
    """Put the first layers of SimCLR's head before the classifier, with fresh weights.

    The classifier stays timm's own, the layers stand beside the timm model.
    """
    head = ContrastiveHead(backbone.width, backbone.width, num_layers=num_layers + 1)
    backbone.head_layers = nn.Sequential(*head.layers[:num_layers])


def load_head_layers(backbone: Backbone, heads: Mapping[str, Tensor], *, source: str) -> None:
    """Give the layers before the classifier the weights of a pretraining's head.

    Args:
        backbone: Of `add_head_layers`.
        heads: Tensors that came with the weights, `projector.layers.0.0.weight` and so on.
        source: Of the weights, for the message.

    Raises:
        CheckpointError: No such head, or one of other widths.
    """
    layers = backbone.head_layers
    assert layers is not None
    own = layers.state_dict()
    found = {n: heads[key] for n in own if (key := f"projector.layers.{n}") in heads}
    if any(n not in found or found[n].shape != value.shape for n, value in own.items()):
        raise CheckpointError(
            f"method.from_head_layer={len(list(layers.children()))}: {source} has no head of "
            f"SimCLR with so many hidden layers of width {backbone.width}; start from weights of "
            "method.name=simclr, or from_head_layer=0."
        )
    layers.load_state_dict(found)


def split_classifier(backbone: Backbone) -> tuple[Backbone, dict[str, Tensor]]:
    """A copy that ends at its features, and the tensors of what scored them.

    For networks with `head_layers`: timm has no place for these, and the classifier alone, on
    features it was not trained on, would give scores that mean nothing.
    """
    assert backbone.head_layers is not None
    parts = {"head_layers": backbone.head_layers, "classifier": backbone.model.get_classifier()}
    tensors = {f"{part}.{n}": v for part, m in parts.items() for n, v in m.state_dict().items()}
    plain = copy.deepcopy(backbone)
    plain.head_layers = None
    plain.model.reset_classifier(0)
    return plain, tensors


class ScoredNetwork(nn.Module):
    """Class scores (B, classes) of images where layers of a head stand below the classifier.

    Made of plain modules, which exporters can follow; timm's forms cannot hold it.

    Args:
        backbone: With `head_layers`; its modules are shared.

    Attributes:
        num_classes: Outputs.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.num_classes = int(backbone.model.num_classes)
        self.features = split_classifier(backbone)[0].model
        self.head_layers, self.classifier = backbone.head_layers, backbone.model.get_classifier()

    def forward(self, images: Tensor) -> Tensor:
        """Scores before softmax, of images (B, C, S, S)."""
        assert self.head_layers is not None
        scores: Tensor = self.classifier(self.head_layers(self.features(images)))
        return scores


def join_classifier(backbone: Backbone, tensors: Mapping[str, Tensor], *, num_layers: int) -> None:
    """Undo `split_classifier`, in place.

    Raises:
        CheckpointError: Tensors are missing or of another shape.
    """
    if num_classes := len(tensors.get("classifier.weight", ())):
        backbone.model.reset_classifier(num_classes)
    _load_part(backbone.model.get_classifier(), "classifier", tensors)
    join_head_layers(backbone, tensors, num_layers=num_layers)


def join_head_layers(backbone: Backbone, tensors: Mapping[str, Tensor], *, num_layers: int) -> None:
    """Put trained layers before the classifier, from tensors called `head_layers.0.0.weight`, ...

    Raises:
        CheckpointError: Tensors are missing or of another shape.
    """
    add_head_layers(backbone, num_layers=num_layers)
    assert backbone.head_layers is not None
    _load_part(backbone.head_layers, "head_layers", tensors)
    backbone.eval()


def _load_part(module: nn.Module, part: str, tensors: Mapping[str, Tensor]) -> None:
    own = {n.removeprefix(f"{part}."): v for n, v in tensors.items() if n.startswith(f"{part}.")}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(
            f"the {part} that came with the weights does not fit the network; export the run again."
        ) from error


def classify(backbone: Backbone, pooled: Tensor) -> Tensor:
    """Class scores (B, classes) of pooled features (B, D)."""
    if backbone.head_layers is not None:
        pooled = backbone.head_layers(pooled)
    return backbone.model.get_classifier()(pooled)


def freeze_all_but_classifier(backbone: Backbone) -> None:
    """Take gradients from everything below the classifier."""
    names = classifier_names(backbone)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in names)


def classifier_from(
    source: Backbone,
    *,
    num_classes: int,
    std: float,
    drop_path: float,
    global_pool: str | None,
    input_size: int,
    is_random: bool = False,
) -> Backbone:
    """A new network with a classifier, started from another's weights.

    Args:
        source: Network to start from; left as it is.
        num_classes: Outputs of the classifier.
        std: Standard deviation its weights start from.
        drop_path: Stochastic depth rate.
        global_pool: `avg` pools patches (MAE's fine-tuning), `token` reads the class token; None
            keeps what the source does. Only networks with tokens have a choice.
        input_size: Side of the images it will see.
        is_random: Leave the weights random: the same network from scratch.
    """
    args = dict(source.model_args)
    if global_pool is not None and source.has_tokens:
        args["global_pool"] = global_pool
    config = BackboneConfig(name=source.architecture, args=args, drop_path=drop_path)
    target = build_backbone(config, input_size=input_size)
    if not is_random:
        transfer_weights(source, target)
    add_classifier(target, num_classes=num_classes, std=std)
    return target
