#!/usr/bin/env python3
"""Whether CroCo reads the second view: its loss on held-out pairs with true and other second views.

Run: tools/benchmark.py cross_view data=ROOMS out=FOLDER [recipe=croco/tiny_cpu] [seeds=0,1,2]
     [kinds=true,shuffled] [setting=value ...]

data= is a folder of tools/render_rooms.py (train.txt, val.txt), or `blocks` (kinds=true alone).
Each seed trains on the true pairs and on the same ones with second views of other pairs
(`shuffled`); further words are settings of the recipe. A run in FOLDER is not trained again.
Losses are means over all held-out pairs in whole batches, in an order that puts other rooms side by
side, as the recipe shows them: with `true` second views, those of `other` pairs, and `black` ones.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from benchmarks._runs import KeptScores, split_settings, train_timed

from ssl_vision.config import load_train_config
from ssl_vision.data.find import find_source
from ssl_vision.data.modalities import modality_of
from ssl_vision.engine.saved_config import load_run_config
from ssl_vision.engine.saved_method import load_method
from ssl_vision.methods.croco import Croco
from ssl_vision.recipes import find_recipe

_DEFAULTS = {
    "data": "blocks", "out": "", "recipe": "croco/tiny_cpu", "seeds": "0,1,2",
    "kinds": "true,shuffled",
}  # fmt: skip
_BATCH = 32
_COMMON = (
    "data.num_threads=1", "trainer.accelerator=cpu", "trainer.checkpoint_every_epochs=100000",
    "online_eval.every_epochs=0", "resume=never",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Train what is missing, and print the table; the exit status."""
    settings, words = split_settings(arguments, _DEFAULTS)
    torch.set_num_threads(1)
    print("| trained on | seed | true | other | black | other - true | black - true | CPU s |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for kind in settings["kinds"].split(","):
        gaps = []
        for seed in settings["seeds"].split(","):
            found = _scores(settings, words, kind, int(seed))
            true, other, black = (found[name] for name in ("true", "other", "blank"))
            gaps.append((other - true, black - true))
            row = (
                f"{true:.3f} | {other:.3f} | {black:.3f} | {gaps[-1][0]:+.3f} | {gaps[-1][1]:+.3f}"
            )
            print(f"| {kind} pairs | {seed} | {row} | {found['cpu_s']:.0f} |", flush=True)
        means = [statistics.mean(each) for each in zip(*gaps, strict=True)]
        print(f"| {kind} pairs | mean |  |  |  | {means[0]:+.3f} | {means[1]:+.3f} |  |")
    return 0


def _scores(
    settings: dict[str, str], words: Sequence[str], kind: str, seed: int
) -> dict[str, float]:
    """CPU seconds and losses of one seed, trained unless that was done."""
    folder = Path(settings["out"]) / kind / f"seed_{seed}"
    kept = KeptScores(folder)
    if "cpu_s" not in kept:
        data = settings["data"]
        path = data if kind == "true" else str(_shuffled(Path(data), Path(settings["out"]), seed))
        own = [*_COMMON, *words, f"data.path={path}", f"seed={seed}", f"run_dir={folder / 'run'}"]
        kept.keep(cpu_s=train_timed(load_train_config([find_recipe(settings["recipe"])], own)))
    if "true" not in kept:
        kept.keep(**held_out_losses(folder / "run", settings["data"]))
    return kept


def _shuffled(data: Path, out: Path, seed: int) -> Path:
    """The list of training pairs with second views of others."""
    pairs = [line.split("\t") for line in (data / "train.txt").read_text().splitlines()]
    order = np.random.default_rng(seed).permutation(len(pairs))
    mixed = [
        (str((data / first).resolve()), str((data / pairs[other][1]).resolve()))
        for (first, _), other in zip(pairs, order, strict=True)
    ]
    path = out / f"shuffled_{seed}.txt"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in mixed if a != b))
    return path


def held_out_losses(run: Path, path: str) -> dict[str, float]:
    """Mean `Croco.cross_view_losses` over the held-out pairs of a data path.

    Args:
        run: Folder of a CroCo run.
        path: A data set of pairs with a split `val`.
    """
    config, method = load_run_config(run), load_method(run)
    assert isinstance(method, Croco)
    method.eval()
    modality, data = modality_of(config.data), config.data
    loader = modality.loader(
        find_source(path, split="val", config=data),
        data.loaded_views(),
        batch_size=_BATCH,
        seed=0,
        shuffle=True,
        drop_last=True,
    )
    normalize = modality.normalizer(data)
    batches = []
    for batch in loader:
        views = {name: normalize(view) for name, view in batch.views.items()}
        batches.append(method.cross_view_losses(replace(batch, views=views)))
    return {name: statistics.mean(each[name] for each in batches) for name in batches[0]}
