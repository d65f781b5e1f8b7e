"""Checkpoints of this project's own: adopted from a run, reproduced from their recipe.

A model of `model_zoo/` states the kNN accuracy of its seed and an interval in which a repetition is
expected: from the spread over seeds where there are several, else the 95 % interval of the
accuracy itself, which comes from the number of test images. `reproduce` trains again and looks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import t as student_t

from ssl_vision.config import TrainConfig, as_run_dir, load_train_config, to_yaml
from ssl_vision.engine.saved_config import load_run_config
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.accuracy import Interval
from ssl_vision.tasks.evaluate import evaluate
from ssl_vision.zoo.card import ModelCard
from ssl_vision.zoo.export import ExportResult, export_backbone
from ssl_vision.zoo.hashes import sha256_of
from ssl_vision.zoo.index import ZooEntry, find_entry, index_path, load_index
from ssl_vision.zoo.weights import resolve_weights

LARGEST_BYTES = 5_000_000  # of weights that travel with the repository
_LICENSE = "cc0-1.0"
# Settings that say where a run runs, not what it learns.
_OF_THE_MACHINE = {
    "data": ("num_threads", "download"),
    "trainer": (
        *("accelerator", "devices", "num_nodes", "strategy", "log_every_steps"),
        *("checkpoint_every_epochs", "checkpoint_every_steps", "keep_checkpoints"),
    ),
}
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A model trained again.

    Attributes:
        found: kNN accuracy of the new run, in percent.
        stated: What the index says.
        interval: In which it was expected.
        is_identical: Whether the weights are the shipped ones, bit by bit.
    """

    found: float
    stated: float
    interval: tuple[float, float]
    is_identical: bool

    @property
    def is_within(self) -> bool:
        """Whether the new run keeps the promise."""
        return self.interval[0] <= self.found <= self.interval[1]


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval for one more run, from runs with other seeds (Student's t).

    Args:
        values: At least two.
    """
    if len(values) < 2:
        raise ConfigError("an interval needs the values of at least two seeds.")
    num = len(values)
    mean = sum(values) / num
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (num - 1))
    half = float(student_t.ppf(0.975, num - 1)) * spread * math.sqrt(1 + 1 / num)
    return mean - half, mean + half


def knn_percent(weights: str | Path, *, data: str, out: Path) -> tuple[float, Interval]:
    """Accuracy of the 20-nearest-neighbour vote and its 95 % interval, in percent."""
    result = evaluate(weights, tasks=["knn"], data={"path": data}, out=out)
    found = result["knn"].main
    assert found.interval is not None, "accuracies have one"
    return 100 * found.value, Interval(*(100 * bound for bound in found.interval))


def reproduce(name: str, run_dir: Path, *, say: Say = lambda text: None) -> Reproduction:
    """Train a model of the zoo again from its recipe and compare.

    Args:
        name: Entry of status `own`.
        run_dir: Where to train; a started run is continued.
        say: Is told what happens.

    Raises:
        ConfigError: The entry is not ours, or the recipe is not here.
    """
    entry = find_entry(name)
    if entry.status != "own":
        raise ConfigError(f"zoo:{name} is {entry.status}; only own models can be reproduced.")
    data = _data_of(entry)
    numbers = entry.metrics[data]
    recipe = index_path().parent.parent / entry.origin["recipe"]
    if not recipe.is_file():
        raise ConfigError(f"{recipe} is not here; reproduce from a checkout of the repository.")
    say(f"training {recipe} with seed={entry.origin['seed']} in {run_dir}")
    config = load_train_config(
        [recipe], [f"seed={entry.origin['seed']}", f"run_dir={as_run_dir(run_dir)}"]
    )
    export = train(config).export
    found, _ = knn_percent(export, data=data, out=run_dir / "reproduction")
    return Reproduction(
        found=found,
        stated=float(numbers["knn"]),
        interval=(float(numbers["interval"][0]), float(numbers["interval"][1])),
        is_identical=resolve_weights(export).sha256 == resolve_weights(f"zoo:{name}").sha256,
    )


def adopt(
    run: Path, name: str, *, recipe: str, other_seeds: Sequence[float], say: Say = lambda text: None
) -> ZooEntry:
    """Take the export of a run into model_zoo/, with its card and its entry in the index.

    Args:
        run: Run folder of a recipe of this repository.
        name: Of the new entry.
        recipe: Path of the recipe in the repository.
        other_seeds: kNN accuracies in percent of the same recipe with other seeds; none if it was
            run once.
        say: Is told what happens.

    Raises:
        ConfigError: The name is taken, the recipe is another one, or the weights are too large.
    """
    if name in load_index():
        raise ConfigError(f"zoo:{name} exists; choose another name, or remove the old entry.")
    saved = load_run_config(run)
    root = index_path().parent.parent
    fresh = load_train_config([root / recipe], [f"seed={saved.seed}", f"run_dir={saved.run_dir}"])
    if differing := _differing(saved, fresh):
        raise ConfigError(
            f"{run} was not trained by {recipe} as it is now: {', '.join(differing)} differ."
        )
    folder, data = index_path().parent / name, saved.data.path
    value, interval = knn_percent(run / "export", data=data, out=run / "evaluation")
    origin = "of the test images"
    if other_seeds:
        interval = Interval(*prediction_interval([value, *other_seeds]))
        origin = f"for another run, from {1 + len(other_seeds)} seeds"
    numbers = {
        "knn": round(value, 2),
        "interval": [round(interval.low, 2), round(interval.high, 2)],
        "source": f"{recipe}, seed {saved.seed}; 95 % interval {origin}",
        "reproduced": True,
    }
    result = _write(run, folder, name=name, data=data, recipe=recipe, numbers=numbers)
    if result.num_bytes > LARGEST_BYTES:
        raise ConfigError(f"{folder} has {result.num_bytes:,} bytes, above {LARGEST_BYTES:,}.")
    made_by = {"recipe": recipe, "seed": saved.seed}
    _append_entry(name, folder, origin=made_by, data=data, numbers=numbers)
    say(f"written: {folder}, {result.num_bytes:,} bytes")
    return find_entry(name)


def _differing(saved: TrainConfig, fresh: TrainConfig) -> list[str]:
    """Sections of two configurations that differ in more than where and how often to look."""
    parts = []
    for config in (saved, fresh):
        content = yaml.safe_load(to_yaml(config))
        for section, keys in _OF_THE_MACHINE.items():
            for key in keys:
                content[section].pop(key, None)
        parts.append({k: content[k] for k in ("method", "backbone", "optim", *_OF_THE_MACHINE)})
    return [name for name in parts[0] if parts[0][name] != parts[1][name]]


def _write(
    run: Path, folder: Path, *, name: str, data: str, recipe: str, numbers: dict[str, Any]
) -> ExportResult:
    loaded = resolve_weights(run / "export")
    card = ModelCard(
        title=name,
        method=loaded.card.method,
        data=data,
        recipe=f"tools/train.py {recipe}\ntools/zoo.py reproduce {name}   # trains and compares",
        license=_LICENSE,
        tag=name,
        steps=loaded.card.steps,
        metrics={
            "kNN top-1 (k=20, T=0.07)": f"{numbers['knn']:.2f} %",
            "expected of a repetition": "{:.2f} to {:.2f} %".format(*numbers["interval"]),
        },
        notes=("Trained by this project; the weights are in the public domain (CC0).",),
    )
    return export_backbone(
        loaded.backbone,
        folder,
        mean=loaded.mean,
        std=loaded.std,
        interpolation=loaded.interpolation,
        size_px=loaded.input_size,
        crop_pct=loaded.crop_pct,
        decode=loaded.decode,
        card=card,
        formats=("timm",),
    )


def _append_entry(
    name: str, folder: Path, *, origin: dict[str, Any], data: str, numbers: dict[str, Any]
) -> None:
    """Add the entry at the end of the index, leaving what is there."""
    loaded, weights = resolve_weights(folder), folder / "model.safetensors"
    entry = {
        "method": loaded.card.method,
        "backbone": {
            "timm": loaded.backbone.architecture,
            "args": dict(loaded.backbone.model_args),
        },
        "files": {
            "backbone": {
                "path": name,
                "sha256": sha256_of(weights),
                "bytes": weights.stat().st_size,
                "format": "timm_folder",
            }
        },
        "input": {
            "size": [3, loaded.input_size, loaded.input_size],
            "mean": list(loaded.mean),
            "std": list(loaded.std),
            "interpolation": loaded.interpolation,
            "crop_pct": loaded.crop_pct,
        },
        "license": _LICENSE,
        "origin": origin,
        "data": data,
        "status": "own",
        "metrics": {data: numbers},
    }
    text = yaml.safe_dump({name: entry}, sort_keys=False, default_flow_style=None, width=100)
    indented = "".join(f"  {line}\n" for line in text.splitlines())
    path = index_path()
    before = path.read_text().rstrip().removesuffix("{}").rstrip()  # of an empty zoo
    path.write_text(f"{before}\n\n{indented}")
    load_index.cache_clear()


def _data_of(entry: ZooEntry) -> str:
    """The data set whose kNN accuracy an own entry states."""
    stated = [data for data, numbers in entry.metrics.items() if "interval" in numbers]
    if len(stated) != 1:
        raise ConfigError(f"zoo:{entry.name} must state one kNN accuracy with its interval.")
    return stated[0]
