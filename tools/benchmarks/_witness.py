"""Notes which samples a run trains on, batch by batch, and can stop it at one of them.

    tools/benchmarks/_witness.py NOTES.jsonl tools/train.py RECIPE.yaml [key=value ...]

runs a tool as it is, with notes.
"""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

from ssl_vision.methods.base import Method
from ssl_vision.types import Batch, LossOutput


class Stop(NamedTuple):
    """A signal the run sends itself right before a batch is trained on."""

    update: int  # from 1
    by: int  # number of the signal
    batch: int = 0  # of the update, under gradient accumulation


def witness(notes: Path, stop: Stop | None = None) -> None:
    """From now on, runs of this process note their samples, and obey `stop`."""
    forward = Method.forward

    def noting_forward(self: Method, batch: Batch) -> LossOutput:
        place = (self.step + 1, len(self._losses))
        with notes.open("a") as file:
            file.write(json.dumps([*place, batch.index.tolist()]) + "\n")
        if stop is not None and place == (stop.update, stop.batch):
            os.kill(os.getpid(), stop.by)
        return forward(self, batch)

    Method.forward = noting_forward


def samples(notes: Path) -> dict[str, list[int]]:
    """`update 3, batch 0` -> sample ids, in the order of the run.

    Raises:
        ValueError: A batch that was trained on again had other samples than before.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for update, batch, ids in map(json.loads, notes.read_text().splitlines()):
        if found.setdefault((update, batch), ids) != ids:
            raise ValueError(f"update {update}, batch {batch} had other samples the second time.")
    return {f"update {u}, batch {b}": found[u, b] for u, b in sorted(found)}


if __name__ == "__main__":
    notes, tool, *arguments = sys.argv[1:]
    witness(Path(notes))
    sys.argv = [tool, *arguments]
    runpy.run_path(tool, run_name="__main__")
