"""What training has to beat: raw inputs and untrained networks, on the data of an evaluation."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import load_timm
from ssl_vision.distributed import world_size
from ssl_vision.engine.eval_run import EvalRun, spread
from ssl_vision.engine.saved_method import untrained_backbone
from ssl_vision.evaluation.accuracy import Interval
from ssl_vision.evaluation.results import Measurement
from ssl_vision.nn.batch_norm import synchronize_batch_norm
from ssl_vision.points.pictures import raw_statistics
from ssl_vision.randomness import derive_key, seeded
from ssl_vision.types import Features
from ssl_vision.zoo.safe_load import sha256_of_tensors

UNTRAINED = "the untrained network"
FITTED = f"{UNTRAINED}, batch norms fitted"
_MAX_FITTED = 5000  # images or clouds that give batch norms their statistics

Score = tuple[float, Interval | None]  # accuracy and its 95 % interval


def compare_with_baselines(
    run: EvalRun, own: float, score: Callable[[EvalRun], Score]
) -> tuple[list[Measurement], list[str]]:
    """Score the baselines as the evaluated network was, where the settings ask for it.

    Args:
        run: The evaluated network on its data.
        own: Its accuracy.
        score: Gives the accuracy of any network on that data.

    Returns:
        One measurement per baseline, and a warning for each that is not beaten.
    """
    measurements, problems = [], []
    for name, other in baselines(run).items() if run.config.baselines else ():
        value, interval = score(other)
        note = "" if other.loaded.source == name else other.loaded.source
        measurements.append(
            Measurement(name=f"top1 of {name}", value=value, interval=interval, note=note)
        )
        if own <= value:
            problems.append(f"not better than {name}: {100 * value:.1f} % top-1.")
    return measurements, problems


def baselines(run: EvalRun) -> dict[str, EvalRun]:
    """Name -> the same data before pixels (of clouds, statistics) and the untrained network.

    An untrained network with batch norms comes twice: as drawn, with statistics that belong to no
    data, and with those of the data. Much of what training seems to give may be the second alone.
    They are made once, and their features computed once, for all tasks of the run.
    """
    if not run.baselines:
        raw, first = _raw(run), _untrained(run)
        run.baselines = {raw.loaded.source: raw, UNTRAINED: first}
        layers = first.loaded.backbone.modules()
        if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers):
            run.baselines[FITTED] = _fitted(first)
    return run.baselines


def _raw(run: EvalRun) -> EvalRun:
    """Pixels as features; of clouds, hand-made statistics."""
    if run.point_view is not None:
        loaded = replace(
            run.loaded, backbone=CloudStatistics(), source="raw statistics", sha256="clouds"
        )
        return EvalRun(run.config, loaded, say=run.say, like=run)
    loaded = replace(run.loaded, backbone=Pixels(), source="raw pixels", sha256="pixels")
    return EvalRun(run.config, loaded, say=run.say, like=run)


def _untrained(run: EvalRun) -> EvalRun:
    """The same architecture with random weights.

    Of a run folder they are those its training started from: methods draw in their own ways, and
    another draw is another network. Of other weights nobody knows; they are timm's.
    """
    own, folder = run.loaded.backbone, Path(run.config.weights).expanduser()
    if (folder / "config.yaml").is_file():
        backbone = untrained_backbone(folder)
        origin = "as the run's method drew it"
    else:
        with seeded(derive_key(run.config.seed, "untrained")):
            backbone = load_timm(own.architecture, is_pretrained=False, args=own.model_args)
        origin = "as timm draws it"
    source = f"untrained {own.architecture}, {origin}"
    return _with_backbone(run, backbone.eval(), source=source)


def _fitted(untrained: EvalRun) -> EvalRun:
    """The untrained network with its batch norms' statistics taken from the bank."""
    backbone = deepcopy(untrained.loaded.backbone)
    if world_size() > 1:
        synchronize_batch_norm(backbone, device_type=untrained.device.type)
    num = len(untrained.bank_source)
    rows = spread(num, _MAX_FITTED, seed=untrained.config.seed, name="batch norms")
    batches = untrained.loader(untrained.subset(rows), untrained.view, shuffle=True)
    with seeded(derive_key(untrained.config.seed, "batch norms")):
        update_bn(
            (untrained.normalize(batch.views["image"].to(untrained.device)) for batch in batches),
            backbone.to(untrained.device),
        )
    note = f"{untrained.loaded.source}; statistics of {len(rows)} samples of the bank"
    return _with_backbone(untrained, backbone.eval(), source=note)


def _with_backbone(run: EvalRun, backbone: Backbone, *, source: str) -> EvalRun:
    sha256 = sha256_of_tensors(backbone.model.state_dict())
    loaded = replace(run.loaded, backbone=backbone, source=source, sha256=sha256)
    return EvalRun(run.config, loaded, say=run.say, like=run)


class Pixels(Backbone):
    """Features are the pixels themselves, averaged down to 32 px."""

    def __init__(self) -> None:
        model: Any = nn.Identity()
        model.num_features = 3 * 32 * 32
        super().__init__(model, architecture="pixels", model_args={})

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Flattened images, (B, C * 32 * 32) or smaller where the images are."""
        if images.ndim == 4 and images.shape[-1] > 32:
            images = nn.functional.adaptive_avg_pool2d(images, 32)
        return Features(pooled=images.flatten(1))


class CloudStatistics(Backbone):
    """Features are spreads and profiles of a cloud."""

    modality = "points"

    def __init__(self) -> None:
        model: Any = nn.Identity()
        model.num_features = 40
        super().__init__(model, architecture="cloud statistics", model_args={})

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Statistics of clouds, (B, 40); see `raw_statistics`."""
        return Features(pooled=torch.from_numpy(raw_statistics(images.cpu().numpy())))
