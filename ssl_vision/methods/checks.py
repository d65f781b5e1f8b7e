"""What settings of several methods are checked for: views, weights of a loss, heads."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ssl_vision.bounds import MAX_LAYERS, check_bounds
from ssl_vision.errors import ConfigError, did_you_mean
from ssl_vision.methods.base import TrainPlan
from ssl_vision.views import ViewConfig


class HasPrototypeHead(Protocol):
    """Settings of `nn.heads.PrototypeHead`."""

    @property
    def hidden_dim(self) -> int: ...

    @property
    def bottleneck_dim(self) -> int: ...

    @property
    def num_head_layers(self) -> int: ...


def check_prototype_head(config: HasPrototypeHead) -> None:
    """Raise ConfigError unless the sizes are those of a head."""
    check_bounds("method.hidden_dim", config.hidden_dim, least=1)
    # Of unit length: in one dimension 1 or -1, without a gradient.
    check_bounds("method.bottleneck_dim", config.bottleneck_dim, least=2)
    check_bounds("method.num_head_layers", config.num_head_layers, least=1, most=MAX_LAYERS)


def check_weights(config: object, *names: str) -> None:
    """Raise ConfigError unless weights of a loss are 0 or more, and one is above 0."""
    weights = [getattr(config, name) for name in names]
    for name, weight in zip(names, weights, strict=True):
        check_bounds(f"method.{name}", weight, least=0)
    if not any(weights):
        raise ConfigError(
            f"{', '.join(f'method.{name}=0' for name in names)}: nothing is left of the loss; set "
            "one of them above 0."
        )


def check_projector(dims: Sequence[int]) -> None:
    """Raise ConfigError unless `method.projector_dims` are widths of a projector."""
    if not dims or min(dims) < 2:
        raise ConfigError(
            f"method.projector_dims={list(dims)} needs one width or more, each 2 or above."
        )


def check_view_names(
    views: Mapping[str, ViewConfig],
    *,
    required: Sequence[str],
    repeatable: Sequence[str] = (),
    method: str,
) -> None:
    """Raise ConfigError unless the views are the ones a method consumes.

    Args:
        views: Views of the recipe.
        required: Views that must be there, drawn once unless they are repeatable, too.
        repeatable: Views that may be there, drawn `count` times.
        method: Name of the method, for the message.
    """
    optional = [name for name in repeatable if name not in required]
    wanted = ", ".join(required) + "".join(f" and optionally {name}" for name in optional)
    for name in required:
        if name not in views:
            raise ConfigError(
                f"data.views.{name} is missing: method.name={method} takes the views {wanted}, "
                f"got {', '.join(views) or 'none'}."
            )
        if views[name].count != 1 and name not in repeatable:
            raise ConfigError(
                f"data.views.{name}.count={views[name].count} must be 1 for method.name={method}."
            )
    known = [*required, *optional]
    for name in views:
        if name not in known:
            raise ConfigError(
                f"data.views.{name} is not used: method.name={method} takes the views "
                f"{wanted}.{did_you_mean(name, known)}"
            )


def check_batch(plan: TrainPlan, *, why: str, advice: str = "") -> None:
    """Refuse batches of one sample, over all processes, before anything is trained.

    Args:
        plan: Of the run.
        why: What the method does within a batch, "SimCLR tells the samples of a batch apart".
        advice: Added to "use 2 or more".

    Raises:
        ConfigError: One sample an update, or one a batch of an accumulated update.
    """
    num, parts = plan.global_batch_size, plan.accumulate
    if num < 2:
        raise ConfigError(f"data.global_batch_size={num}: {why}; use 2 or more{advice}.")
    if num // parts < 2:
        fewer = next(each for each in range(parts // 2, 0, -1) if parts % each == 0)
        raise ConfigError(
            f"data.global_batch_size={num} in trainer.accumulate={parts} batches is one sample per "
            f"batch of all trainer.devices together: {why}; use trainer.accumulate={fewer} or "
            f"data.global_batch_size={2 * parts} or more."
        )
