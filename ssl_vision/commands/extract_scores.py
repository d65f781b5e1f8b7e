"""What is measured of sub-networks, and kept beside their run: a second question costs nothing.

`extract.json` holds latencies by machine and accuracies by what the data hold, never by where they
lie:

    {"weights": KEY, "latency_ms": {MACHINE: {SIZE: ms}}, "knn_top1": {DATA: {SIZE: accuracy}}}
"""

import copy
import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.config import TrainConfig
from ssl_vision.data.loader import EpochLoader
from ssl_vision.data.module import DataModule
from ssl_vision.errors import CheckpointError
from ssl_vision.evaluation.features import extract_features
from ssl_vision.evaluation.keys import code_digest, network_digest
from ssl_vision.evaluation.knn import score_knn
from ssl_vision.files import plain_text, write_atomically
from ssl_vision.zoo.weights import LoadedBackbone

_LATENCY_ROUNDS = 15
Kind = Literal["latency_ms", "knn_top1"]


class Scores:
    """Measurements of one network's sub-networks: kind -> where or on what -> size -> value.

    Args:
        path: File; one of other weights, or half of one, is begun anew.
        weights: What all hold for, see `weights_key`.
    """

    def __init__(self, path: Path, *, weights: str) -> None:
        self._path, self._weights = path, weights
        self._values: dict[str, dict[str, dict[str, float]]] = {}
        try:
            saved = json.loads(plain_text(path))
            if saved["weights"] == weights:
                self._values = {kind: _sizes(saved[kind]) for kind in ("latency_ms", "knn_top1")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # none yet, or of another program: measured anew

    def has(self, kind: Kind) -> bool:
        """Whether there is any value of a kind."""
        return any(self._values.get(kind, {}).values())

    def get(self, kind: Kind, key: str, label: str) -> float | None:
        """What was measured of a size; None: nothing."""
        return self._values.get(kind, {}).get(key, {}).get(label)

    def add(self, kind: Kind, key: str, label: str, value: float) -> None:
        """Keep a value.

        Raises:
            CheckpointError: The file cannot be written.
        """
        self._values.setdefault(kind, {}).setdefault(key, {})[label] = value
        kinds = {each: self._values.get(each, {}) for each in ("latency_ms", "knn_top1")}
        content = json.dumps({"weights": self._weights, **kinds}, indent=1)
        try:
            write_atomically(self._path, content)
        except OSError as error:
            raise CheckpointError(f"{self._path} cannot be written: {error}") from error


def _sizes(saved: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        key: {label: float(value) for label, value in found.items()} for key, found in saved.items()
    }


def weights_key(loaded: LoadedBackbone, elastic: object) -> str:
    """Of the network all sizes are cut from: weights, what no file of them holds, and the cuts."""
    return _digest(loaded.sha256, network_digest(loaded.backbone), loaded.input_size, repr(elastic))


def machine_key(device: torch.device) -> str:
    """Of where latencies are measured; to be read by people, too."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} threads"
    return f"{platform.node()}, {device.type} {name}, {threads}, torch {torch.__version__}"


def knn_key(loaders: Sequence[EpochLoader[Any]], config: TrainConfig) -> str:
    """Of what accuracies are measured on, by content: the files, how they are shown, the vote."""
    data, vote = config.data, config.online_eval
    return _digest(
        code_digest(),
        [loader.source.fingerprint() for loader in loaders],
        {name: asdict(view) for loader in loaders for name, view in loader.views.items()},
        [getattr(data, name, None) for name in ("mean", "std", "on_error")],
        [vote.k, vote.temperature],
    )


def count_flops(skeleton: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Operations for one image, two per multiply-add; nothing is computed.

    Matrix products, convolutions and attention count; norms and activations do not.

    Args:
        skeleton: Modules without storage, see `backbones.elastic.skeleton_of`.
        image_shape: (C, S, S).
    """
    # Of a copy: the skeleton shares its stochastic depth with the parent.
    model = copy.deepcopy(skeleton).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *image_shape, device="meta"))
    return int(counter.get_total_flops())


@torch.no_grad()
def measure_latency_ms(model: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Fastest of several forwards of one image; other work on the machine only adds to the rest.

    Args:
        model: On the device to measure.
        image_shape: (C, S, S).
    """
    device = next(model.parameters()).device
    image = torch.zeros(1, *image_shape, device=device)
    times = []
    for _ in range(_LATENCY_ROUNDS):
        _wait(device)
        start = time.perf_counter()
        model(image)
        _wait(device)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def knn_top1(
    network: Backbone,
    data: DataModule,
    loaders: Sequence[EpochLoader[Any]],
    config: TrainConfig,
) -> float | None:
    """Accuracy by the run's own protocol (`online_eval`); None without labels.

    Args:
        network: Whose features vote.
        data: Normalises.
        loaders: Of the samples that vote, and of those that are classified.
        config: Of the run.
    """
    settings = config.online_eval
    bank, queries = (
        extract_features(network, (data.normalize(batch) for batch in loader), normalize=None)
        for loader in loaders
    )
    found = score_knn(bank, queries, k=[settings.k], temperature=settings.temperature)
    return found[settings.k].top1 if found else None


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
