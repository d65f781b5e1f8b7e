"""Features of point clouds: raw statistics, untrained networks, Point-MAE, Point-CMAE.

    tools/benchmark.py clouds [data=shapes|meshes] [meshes=FOLDER] [seeds=0,1,2]
        [methods=point_mae,point_cmae] out=FOLDER [KEY=VALUE of the recipes ...]

Trains the tiny recipes, equally long, and scores frozen features by kNN and linear SVM. A method
may be `point_cmae/all`: the authors' form of the contrast. Runs are kept in FOLDER and not
repeated.

data=meshes: every .off, .obj and .ply file below `meshes` that is a solid surface of its own makes
a class: 4 clouds of it to train (also the pre-training), 6 to test, each of 2,048 other points of
the surface, turned about the vertical, stretched by 0.8 to 1.25 per axis, with 1 % of noise. On
Debian:

    apt-get install assimp-testmodels glmark2-data libcgal-dev
    tar -xzf /usr/share/doc/libcgal-dev/data.tar.gz -C FOLDER
    cp -r /usr/share/assimp/models /usr/share/glmark2/models FOLDER
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks._runs import KeptScores, mean_and_each, split_settings, train_timed

from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.data.clouds.layouts import read_cloud
from ssl_vision.errors import DataError
from ssl_vision.points.views import PointViewConfig, render_view
from ssl_vision.randomness import derive_key
from ssl_vision.tasks.evaluate import evaluate

_DEFAULTS = {
    "data": "shapes", "meshes": "", "seeds": "0,1,2", "methods": "point_mae,point_cmae", "out": "",
}  # fmt: skip
_MESHES = (".off", ".obj", ".ply")
_FILE_BYTES = range(2_000, 1_200_000)  # smaller ones are single faces, larger ones take minutes
_NUM_VIEWS = {"train": 4, "test": 6}
_VIEW = PointViewConfig(
    num_points=2048, rotate="vertical", scale=(0.8, 1.25), shift=0.0, jitter_sigma=0.01
)


def main(arguments: Sequence[str]) -> int:
    """Run what is missing and print the table; the exit status."""
    settings, overrides = split_settings(arguments, _DEFAULTS)
    out = Path(settings["out"])
    path = settings["data"]
    if path == "meshes":
        source = Path(settings["meshes"] or "(not given)")
        path = str(_prepare_meshes(source, out / "meshes"))
        overrides = ["trainer.epochs=100", *overrides]  # as many updates as on the larger `shapes`
    torch.set_num_threads(1)
    rows = []
    for seed in map(int, settings["seeds"].split(",")):
        folder = out / f"{settings['data']}_seed_{seed}"
        scores = KeptScores(folder)
        for method in settings["methods"].split(","):
            name, _, pairs = method.partition("/")
            words = [*overrides, f"seed={seed}", f"data.path={path}"]
            words += [f"method.contrast_pairs={pairs}"] if pairs else []
            words.append(f"run_dir={folder / method.replace('/', '_')}")
            config = load_train_config([f"configs/{name}/tiny_cpu.yaml"], words)
            if f"cpu {method}" not in scores:
                scores.keep(**{f"cpu {method}": train_timed(config)})
            if f"svm {method}" not in scores:
                _score(config, method, scores, vote_of=20 if path == "shapes" else 1)
        rows.append(scores)
    print(_table(rows))
    return 0


def _score(config: TrainConfig, method: str, scores: KeptScores, *, vote_of: int) -> None:
    """Accuracies of a run, and of the baselines where they are not known yet."""
    found = evaluate(
        config.run_dir,
        tasks=["knn", "svm"],
        data={"path": config.data.path},
        baselines="svm raw statistics" not in scores,  # the same for all methods of a seed
        knn={"k": [vote_of]},
        cache={"mode": "off"},
    )
    for task in ("knn", "svm"):
        for measured in found.tasks[task].measurements:
            if measured.name == "top1":
                scores.keep(**{f"{task} {method}": measured.value})
            elif measured.name.startswith("top1 of "):
                baseline = measured.name.removeprefix("top1 of ")
                scores.keep(**{f"{task} {baseline}": measured.value})


def _table(rows: Sequence[Mapping[str, float]]) -> str:
    names = [key.removeprefix("svm ") for key in rows[0] if key.startswith("svm ")]
    lines = ["| features | kNN top-1 % | linear SVM % | CPU s |", "|---|---|---|---|"]
    for name in names:
        cells = [mean_and_each([row[f"{task} {name}"] for row in rows]) for task in ("knn", "svm")]
        seconds = [row[f"cpu {name}"] for row in rows if f"cpu {name}" in row]
        cells.append(" / ".join(f"{each:.0f}" for each in seconds))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _prepare_meshes(source: Path, out: Path) -> Path:
    """Clouds of every surface below a folder, in class folders; done once."""
    if out.is_dir():
        return out
    if not source.is_dir():
        raise SystemExit(f"meshes={source} is no folder; see `tools/benchmark.py clouds help`.")
    unfinished = out.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    known: set[float] = set()
    for file in sorted(source.rglob("*")):
        if file.suffix.lower() not in _MESHES or file.stat().st_size not in _FILE_BYTES:
            continue
        try:
            cloud = read_cloud(file)
        except DataError as error:  # assimp's models are broken on purpose, some of them
            print(f"left out: {error}", file=sys.stderr)
            continue
        print_of = round(float(np.abs(cloud).sum()), 3)  # the same surface under another name
        if len(cloud) < _VIEW.num_points or print_of in known:
            continue
        known.add(print_of)
        name = f"{len(known):03d}_{file.stem}"
        first = 0
        for split, count in _NUM_VIEWS.items():
            folder = unfinished / split / name
            folder.mkdir(parents=True)
            ids = torch.arange(first, first + count)
            key = derive_key("meshes", name)
            views = render_view([torch.from_numpy(cloud)] * count, _VIEW, key=key, ids=ids)
            for i, view in enumerate(views):
                np.save(folder / f"{i}.npy", view.numpy())
            first += count
    print(f"{len(known)} meshes", file=sys.stderr)
    if not known:
        raise SystemExit(f"meshes={source} holds no mesh ({', '.join(_MESHES)}) of its own.")
    unfinished.rename(out)
    return out
