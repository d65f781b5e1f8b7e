"""The classifier of a backbone: timm's own, so that what is trained leaves as a timm classifier."""

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.transfer import transfer_weights
from ssl_vision.errors import ConfigError


def add_classifier(backbone: Backbone, *, num_classes: int, std: float) -> None:
    """Give the timm model a new classifier: weights from N(0, std), cut at two units, biases 0.

    `Backbone` features are the same with and without one.

    Raises:
        ConfigError: The network has several classifiers (distilled DeiT).
    """
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


def classify(backbone: Backbone, pooled: Tensor) -> Tensor:
    """Class scores (B, classes) of pooled features (B, D)."""
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
