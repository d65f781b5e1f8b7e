"""What benchmarks of trained networks share: settings, timed runs, kept scores."""

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks._settings import read_settings

from ssl_vision.config import TrainConfig
from ssl_vision.engine.train import train


def split_settings(
    arguments: Sequence[str], defaults: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """The benchmark's own settings, and the rest of the words, which belong to the recipe.

    Raises:
        SystemExit: A setting of its own is wrong, or `out` is not given; with status 2, after one
            line.
    """
    own = [argument for argument in arguments if argument.partition("=")[0] in defaults]
    settings = read_settings(own, defaults)
    if not settings["out"]:
        print("out=FOLDER is needed: runs are kept there", file=sys.stderr)
        raise SystemExit(2)
    return settings, [argument for argument in arguments if argument not in own]


class KeptScores(dict[str, float]):
    """Scores of one seed that outlive an interrupted benchmark, in `scores.json` of a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "scores.json"
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(json.loads(self._path.read_text()) if self._path.exists() else {})

    def keep(self, **more: float) -> None:
        """Add scores, and write all of them."""
        self.update(more)
        self._path.write_text(json.dumps(self, indent=1))


def train_timed(config: TrainConfig) -> float:
    """Train; CPU seconds."""
    start = time.process_time()
    train(config)
    return time.process_time() - start


def mean_and_each(shares: Sequence[float]) -> str:
    """`66.1 (65.0 / 66.2 / 67.1)`: percent of the mean, and of each seed."""
    percent = [100 * share for share in shares]
    each = " / ".join(f"{value:.1f}" for value in percent)
    return f"{statistics.mean(percent):.1f} ({each})"
