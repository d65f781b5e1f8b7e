"""Start one network from another's weights: pretraining to fine-tuning."""

import sys
from typing import NamedTuple

from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.errors import CheckpointError


class TransferReport(NamedTuple):
    """What became of the tensors.

    Attributes:
        num_loaded: Tensors taken over.
        fresh: Tensors of the new network the old one has none for; they keep their start values.
        dropped: Tensors of the old network the new one has no place for.
    """

    num_loaded: int
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]


def transfer_weights(source: Backbone, target: Backbone) -> TransferReport:
    """Copy all of `source` that `target` has a place for.

    Positions (and relative positions) are resampled where the image size differs, as timm does.
    Only two kinds of tensors may differ: classifiers, and the last norm, which stands after the
    pooling in networks that average their patches (`global_pool: avg`, MAE's fine-tuning starts
    it fresh) and before it in those that read the class token.

    Raises:
        CheckpointError: Anything else is missing, left over or of another shape.
    """
    given = _adapted(source.model.state_dict(), target.model)
    own = target.model.state_dict()
    is_free = _free_prefixes(source.model) | _free_prefixes(target.model)
    fits = {n: v for n, v in given.items() if n in own and own[n].shape == v.shape}
    fresh = tuple(sorted(own.keys() - fits.keys()))
    dropped = tuple(sorted(given.keys() - fits.keys()))
    wrong = [n for n in (*fresh, *dropped) if not n.startswith(tuple(is_free))]
    if wrong:
        raise CheckpointError(
            f"weights of {source.architecture} ({source.model_args}) do not fit "
            f"{target.architecture} ({target.model_args}): {len(set(wrong))} tensors differ, "
            f"{wrong[0]} first; set backbone.name and backbone.args as in the run they come from."
        )
    target.model.load_state_dict(fits, strict=False)
    return TransferReport(len(fits), fresh, dropped)


def _adapted(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights with positions resampled for `model` by timm's own filter of that family."""
    family = sys.modules[type(model).__module__]
    adapt = getattr(family, "checkpoint_filter_fn", None)
    return dict(weights) if adapt is None else dict(adapt(dict(weights), model))


def _free_prefixes(model: nn.Module) -> set[str]:
    """Beginnings of names that may differ: the classifier's, and the last norm's of a ViT."""
    prefixes = {"norm.", "fc_norm.", "head.", "head_dist."}
    config = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    return prefixes | {f"{name}." for name in names}
