"""POA's sub-networks beside the same sizes untrained, and each trained alone by DINO.

    tools/benchmark.py sizes [recipe=configs/poa/tiny_cpu.yaml] [seeds=0,1,2] [alone=yes|no]
        out=FOLDER [KEY=VALUE of the recipe ...]

For every seed: one POA run; the kNN accuracy of each size taken out of it and of the same cut of
the network before training; and, with alone=yes, of each size trained by itself for as many updates
on the same batches, with POA's own objective less the elastic branch (cross-view and patch losses,
Sinkhorn, KoLeo, the largest of POA's heads): DINO as POA would run it. Runs are kept in FOLDER and
not repeated; the table has means over the seeds, and the spread between them.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from benchmarks._runs import KeptScores, mean_and_each, split_settings, train_timed

from ssl_vision.backbones import elastic
from ssl_vision.backbones.elastic_grid import Size
from ssl_vision.commands.extract import ElasticRun
from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.engine.saved_method import untrained_backbone
from ssl_vision.methods.poa import PoaConfig

Scores = Mapping[str, float]  # kNN accuracy by kind and size, and CPU seconds
_DEFAULTS = {
    "recipe": "configs/poa/tiny_cpu.yaml", "seeds": "0,1,2", "alone": "yes", "out": "",
}  # fmt: skip
_KINDS = {"untrained": "cut from the untrained parent", "poa": "from POA", "alone": "alone by DINO"}


def main(arguments: Sequence[str]) -> int:
    """Run what is missing and print the table; the exit status."""
    settings, overrides = split_settings(arguments, _DEFAULTS)
    torch.set_num_threads(1)
    rows = []
    for seed in map(int, settings["seeds"].split(",")):
        folder = Path(settings["out"]) / f"seed_{seed}"
        config = load_train_config(
            [settings["recipe"]], [*overrides, f"seed={seed}", f"run_dir={folder / 'poa'}"]
        )
        rows.append(_one_seed(config, folder, has_alone=settings["alone"] == "yes"))
    print(_table(rows))
    return 0


def _one_seed(config: TrainConfig, folder: Path, *, has_alone: bool) -> Scores:
    """Everything of one seed; finished parts are not repeated."""
    scores = KeptScores(folder)
    if "cpu poa" not in scores:
        scores.keep(**{"cpu poa": train_timed(config)})
    run = ElasticRun(folder / "poa")
    first = untrained_backbone(folder / "poa")
    for size in run.sizes:
        name = "x".join(map(str, size))
        for kind, parent in (("poa", run.parent), ("untrained", first)):
            if f"{kind} {name}" not in scores:
                network = elastic.extract(parent, size, run.elastic).eval()
                scores.keep(**{f"{kind} {name}": run.knn_top1(network) or 0.0})
        if has_alone and f"alone {name}" not in scores:
            alone = _alone(run, size, folder / f"alone_{name}")
            cpu_s = train_timed(alone)
            lines = (Path(alone.run_dir) / "metrics.jsonl").read_text().splitlines()
            scored = [json.loads(line) for line in lines if "eval/knn_top1" in line]
            scores.keep(
                **{f"alone {name}": scored[-1]["eval/knn_top1"], f"cpu alone {name}": cpu_s}
            )
    return scores


def _alone(run: ElasticRun, size: Size, folder: Path) -> TrainConfig:
    """The recipe that trains one size by itself."""
    poa = run.config.method
    assert isinstance(poa, PoaConfig)
    network = elastic.extract(run.parent, size, run.elastic)
    recipe = asdict(run.config) | {"run_dir": str(folder), "online_eval": {"every_epochs": 1000}}
    recipe["backbone"] |= {"args": dict(network.model_args)}
    recipe["method"] = {
        "name": "dino",
        "num_prototypes": poa.num_prototypes[-1],
        "centering": "sinkhorn",
        "is_gain_frozen": False,
        "koleo_weight": poa.koleo_weight / 2,
        "patch_weight": 1.0 if poa.has_patch_loss else 0.0,
        "teacher_temperature_epochs": int(poa.teacher_temperature_epochs),
        "freeze_last_layer_epochs": int(poa.freeze_last_layer_epochs),
        **{
            name: getattr(poa, name)
            for name in (
                "hidden_dim", "bottleneck_dim", "teacher_momentum", "teacher_momentum_end",
                "teacher_temperature", "teacher_temperature_start", "patch_start_epochs",
            )
        },
    }  # fmt: skip
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(json.loads(json.dumps(recipe))))
    return load_train_config([path], [])


def _table(rows: Sequence[Scores]) -> str:
    kinds = [kind for kind in _KINDS if any(key.startswith(f"{kind} ") for key in rows[0])]
    sizes = [key.split()[1] for key in rows[0] if key.startswith("poa ")]
    lines = [
        f"kNN top-1 %, mean of {len(rows)} seeds (each seed)", "",
        f"| size | {' | '.join(_KINDS[kind] for kind in kinds)} |",
        "|---|" + "---|" * len(kinds),
    ]  # fmt: skip
    for size in sizes:
        cells = []
        for kind in kinds:
            cells.append(mean_and_each([row[f"{kind} {size}"] for row in rows]))
        lines.append(f"| {size} | {' | '.join(cells)} |")
    lines += ["", *_summary(rows, kinds, sizes)]
    return "\n".join(lines)


def _summary(rows: Sequence[Scores], kinds: Sequence[str], sizes: Sequence[str]) -> list[str]:
    """Mean lead of POA over the other kinds, and the CPU seconds of both ways."""
    lines = []
    for kind in kinds:
        if kind == "poa":
            continue
        leads = [
            statistics.mean(100 * (row[f"poa {size}"] - row[f"{kind} {size}"]) for size in sizes)
            for row in rows
        ]
        each = ", ".join(f"{lead:+.1f}" for lead in leads)
        lines.append(f"POA less {_KINDS[kind]}, mean over sizes, each seed: {each}")
    poa = statistics.mean(row["cpu poa"] for row in rows)
    alone = [sum(v for key, v in row.items() if key.startswith("cpu alone")) for row in rows]
    lines.append(f"CPU seconds: POA {poa:.0f}; all sizes alone {statistics.mean(alone):.0f}")
    return lines
