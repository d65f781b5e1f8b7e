"""Whole methods read back, heads and decoder included: from a run, or from official MAE weights."""

import warnings
from dataclasses import replace
from math import isqrt
from pathlib import Path

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import build_backbone
from ssl_vision.config import TrainConfig
from ssl_vision.engine.checkpoint import load_state, newest_complete
from ssl_vision.engine.run_dir import RunFolder
from ssl_vision.engine.saved_config import load_run_config
from ssl_vision.engine.train import build_method
from ssl_vision.errors import CheckpointError, ConfigError, SslVisionWarning
from ssl_vision.methods import METHODS
from ssl_vision.methods.base import Method, TrainPlan
from ssl_vision.methods.mae import Mae, MaeConfig
from ssl_vision.nn.decoder import MaskedDecoder
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.randomness import derive_key, seeded
from ssl_vision.zoo.exported import HEADS_NAME, load_weights
from ssl_vision.zoo.safe_load import safe_load
from ssl_vision.zoo.weights import LoadedBackbone


def load_method(run: Path) -> Method:
    """The whole method of a run, heads and decoder included, from its newest checkpoint.

    Raises:
        CheckpointError: The run has no complete checkpoint, or its settings are damaged.
        ConfigError: The run trained a classifier.
    """
    config = _alone(load_run_config(run))
    if METHODS[config.method.name].module.reads_labels:
        raise ConfigError(
            f"{run} is a run of method.name={config.method.name}, which trains a classifier; what "
            "is read back here are the decoder and heads of a pretraining run."
        )
    checkpoint = newest_complete(RunFolder(run).checkpoints, warn=_warn)
    if checkpoint is None:
        raise CheckpointError(f"{run} has no complete checkpoint.")
    method = build_method(config, _plan(config))
    method.load_state_dict(load_state(checkpoint)["state_dict"])
    return method.eval()


def _alone(config: TrainConfig) -> TrainConfig:
    return replace(config, method=config.method.alone())


def _warn(text: str) -> None:
    warnings.warn(text, SslVisionWarning, stacklevel=3)


def untrained_method(run: Path) -> Method:
    """The whole method of a run as it was drawn, before the first update (and `init_from`).

    Raises:
        CheckpointError: The run's config.yaml is damaged.
        ConfigError: It is not understood.
    """
    config = load_run_config(run)
    return build_method(config, _plan(config)).eval()


def untrained_backbone(run: Path) -> Backbone:
    """Network of a run as its method drew it, before the first update (and before `init_from`).

    Args:
        run: The run folder.

    Raises:
        CheckpointError: The run's config.yaml is damaged.
        ConfigError: It is not understood.
    """
    config = _alone(load_run_config(run))
    if not METHODS[config.method.name].module.redraws_backbone:  # its teachers may be gone
        with seeded(derive_key(config.seed, "initial weights")):
            return build_backbone(config.backbone, input_size=config.data.input_size).eval()
    return build_method(config, _plan(config)).export_backbone().eval()


def _plan(config: TrainConfig) -> TrainPlan:
    """What building a method needs to know of a run; not its length.

    A classifier is drawn after its backbone, whose weights do not depend on the number of classes.
    """
    return TrainPlan(
        steps_per_epoch=1,
        epochs=1,
        global_batch_size=config.data.global_batch_size,
        input_size=config.data.input_size,
        num_classes=1,
        input_spec=config.data.input_spec,
        seed=config.seed,
    )


def mae_of_export(loaded: LoadedBackbone) -> Mae | None:
    """MAE of converted official weights; None where they came without the decoder.

    The authors' files that hold one are those for visualisation, trained on plain pixels.
    """
    path = None if loaded.folder is None else loaded.folder / HEADS_NAME
    if path is None or not path.exists():
        return None
    heads = safe_load(path)
    if not {"mask_token", "decoder_embed.weight", "decoder_pred.weight"} <= heads.keys():
        return None
    weights = {name.removeprefix("decoder_"): value for name, value in heads.items()}
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    width, num_heads = (
        weights["embed.weight"].shape[0],
        max(1, weights["embed.weight"].shape[0] // 32),
    )
    encoder = {name: value.clone() for name, value in loaded.backbone.model.state_dict().items()}
    method = Mae(
        MaeConfig(
            is_target_normalized=False,
            decoder_width=width,
            decoder_depth=depth,
            decoder_num_heads=num_heads,
        ),
        loaded.backbone,
        optim=OptimConfig(),
        plan=TrainPlan(
            steps_per_epoch=1, epochs=1, global_batch_size=1, input_size=loaded.input_size
        ),
    )
    loaded.backbone.model.load_state_dict(encoder)  # building the method drew new weights
    method.decoder = MaskedDecoder(
        loaded.backbone.width,
        weights["pred.weight"].shape[0],
        grid=isqrt(loaded.backbone.num_patches(loaded.input_size)),
        num_prefix=loaded.backbone.model.num_prefix_tokens,
        width=width,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / width,
    )
    load_weights(method.decoder, weights, source=path)
    return method.eval()
