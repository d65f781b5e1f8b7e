"""The whole evaluation from one call: every task, cache, labels, files, mistakes."""

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ssl_vision
from ssl_vision.commands.embed import embed
from ssl_vision.commands.main import main
from ssl_vision.config import load_train_config, to_yaml
from ssl_vision.engine.train import train
from ssl_vision.errors import CheckpointError, ConfigError, DataError
from ssl_vision.evaluation.knn import knn_accuracy
from ssl_vision.evaluation.report import load_evaluation
from ssl_vision.evaluation.results import Evaluation
from ssl_vision.recipes import find_recipe
from ssl_vision.tasks import TASKS
from ssl_vision.tasks import run as tasks_run
from ssl_vision.tasks.evaluate import evaluate, method_of, report_folder
from ssl_vision.tasks.few_shot import draw_shots
from ssl_vision.tasks.linear import run_linear
from ssl_vision.tasks.metrics import run_metrics
from ssl_vision.tasks.run import EvalRun, spread
from ssl_vision.tasks.settings import load_settings, make_settings
from ssl_vision.tasks.task import Task
from ssl_vision.zoo.weights import resolve_weights

TINY = "timm:vit_tiny_patch16_224?pretrained=false&img_size=16&patch_size=8&depth=2&embed_dim=24"
CONV = "timm:resnet10t?pretrained=false"
LARGER = {"path": "digits", "max_train": 100, "max_val": 50, "size_px": 32}
SMALL = {"path": "digits", "max_train": 300, "max_val": 100, "size_px": 16}
QUICK = {
    "linear": {"preset": "quick", "epochs": 3, "min_updates": 0},
    "logreg": {"cs": [0.1, 10.0]},
    "few_shot": {"shots": [1, 3], "draws": 2},
    "label_curve": {"labels_per_class": [1, 3, 9], "draws": 2},
    "metrics": {"lidar_images": 40, "lidar_views": 3},
    "map": {"projection": "pca", "num_points": 60, "num_pictures": 10},
    "knn": {"k": [1, 5, 20]},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))


def image_folder(root: Path, classes: dict[str, int], seed: int = 0) -> Path:
    """PNG files in one folder per class; a class is the place of a bright stripe."""
    rng = np.random.default_rng(seed)
    for level, (name, num) in enumerate(sorted(classes.items())):
        (root / name).mkdir(parents=True)
        for i in range(num):
            pixels = rng.integers(0, 60, (24, 24, 3))
            stripe = 4 * (ord(name[0]) - ord("a"))
            pixels[stripe : stripe + 4] += 180
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{level}_{i}.png")
    return root


def test_every_task_runs_and_is_reported_and_the_cache_gives_the_same(tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = [name for name in TASKS if name not in ("finetune",) and "point" not in name]
    names = [
        name for name in names if name in QUICK or name in ("retrieval", "clustering", "lidar")
    ]
    first = evaluate(TINY, tasks=names, data=SMALL, out=out, baselines=True, **QUICK)
    assert list(first.tasks) == names
    assert first.data["num_computed"] >= 400
    again = evaluate(TINY, tasks=names, data=SMALL, out=out, baselines=True, **QUICK)
    assert again.data["num_computed"] == 0
    for name in names:
        assert again[name].measurements == first[name].measurements, name
    # Files: results read back, the earlier ones kept, pages without outside files.
    stored = load_evaluation(out)
    assert stored.tasks["knn"].measurements == again.tasks["knn"].measurements
    assert len(list(out.glob("results*.json"))) == 2
    page = (out / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("<svg") >= 5
    assert all(f"<h2>{name}</h2>" in page for name in names)
    assert "| knn: top1 |" in (out / "report.md").read_text()
    # Off: nothing read, nothing written, the same numbers.
    off = evaluate(TINY, tasks=["knn"], data=SMALL, out=out, cache={"mode": "off"}, **QUICK)
    assert off.data["num_computed"] == 400
    assert off["knn"].main.value == first["knn"].main.value


def test_raw_pixels_are_what_the_pixels_say(tmp_path: Path) -> None:
    found = evaluate(TINY, tasks=["knn"], data="digits", out=tmp_path, baselines=True, **QUICK)
    values = {each.name: each.value for each in found["knn"].measurements}
    assert values["top1 of raw pixels"] > 0.95
    assert 0.1 < values["top1 of the untrained network"] < values["top1 of raw pixels"]


def test_networks_without_class_token_use_their_pooling(tmp_path: Path) -> None:
    found = evaluate(
        CONV,
        tasks=["linear"],
        data=LARGER,
        out=tmp_path,
        linear={"epochs": 1, "steps_per_epoch": 5, "min_updates": 0},
    )
    assert {head["features"] for head in found["linear"].details["heads"]} == {"pooled"}
    online = evaluate(
        CONV,
        tasks=["linear"],
        data=LARGER,
        out=tmp_path,
        linear={"preset": "quick", "augment": "online", "epochs": 1, "min_updates": 0},
    )
    cached = evaluate(
        CONV,
        tasks=["linear"],
        data=LARGER,
        out=tmp_path,
        linear={"preset": "quick", "augment": "cached", "min_updates": 30, "cached_views": 2},
    )
    for each in (online, cached):
        assert 0 < each["linear"].main.value <= 1
        assert each["linear"].main.interval is not None


def test_a_probe_below_what_needs_no_training_is_said(tmp_path: Path) -> None:
    weak = {"preset": "quick", "epochs": 1, "min_updates": 0, "base_lrs": [1e-6]}
    given = {**QUICK, "linear": weak}
    found = evaluate(TINY, tasks=["knn", "linear", "logreg"], data=SMALL, out=tmp_path, **given)
    text = " ".join(found["linear"].warnings)
    for name in ("knn", "logreg"):
        assert found[name].main.value > found["linear"].main.value
        assert f"of {name}" in text
    alone = evaluate(TINY, tasks=["linear"], data=SMALL, out=tmp_path, **given)
    assert "is below" not in " ".join(alone["linear"].warnings)


def test_images_without_labels_have_metrics_and_a_map(tmp_path: Path) -> None:
    flat = image_folder(tmp_path / "all", {"b": 12}) / "b"
    found = evaluate(TINY, data={"path": str(flat)}, out=tmp_path / "out", **QUICK)
    assert list(found.tasks) == ["metrics", "map"]
    assert found.data["num_classes"] is None
    with pytest.raises(DataError, match="task knn needs labelled"):
        evaluate(TINY, tasks=["knn"], data={"path": str(flat)}, out=tmp_path / "out")


def test_classes_are_matched_by_name_not_by_number(tmp_path: Path) -> None:
    image_folder(tmp_path / "set" / "train", {"a": 8, "b": 8, "c": 8, "d": 8})
    image_folder(tmp_path / "set" / "val", {"b": 5, "d": 5}, seed=1)
    found = evaluate(
        TINY,
        tasks=["knn"],
        data={"path": str(tmp_path / "set")},
        out=tmp_path / "out",
        cache={"mode": "off"},
        knn={"k": [1], "features": "pooled"},
        baselines=True,
    )
    values = {each.name: each.value for each in found["knn"].measurements}
    assert found.data["num_classes"] == 4
    # b and d are right although they are classes 0 and 1 of the val folder.
    assert values["top1 of raw pixels"] == 1.0


def test_the_value_is_that_of_the_pure_function(tmp_path: Path) -> None:
    found = evaluate(TINY, tasks=["knn"], data=SMALL, out=tmp_path, **QUICK)
    config = load_settings(
        (),
        [
            f"weights={TINY}",
            "data.path=digits",
            "data.max_train=300",
            "data.max_val=100",
            "data.size_px=16",
        ],
    )
    bank = embed(config, tmp_path / "train", split="train")
    embed(config, tmp_path / "val", split="val", has_patches=True)
    assert bank.files == {"pooled.npy": (300, 24)}
    labels = {}
    for split in ("train", "val"):
        with (tmp_path / split / "index.csv").open() as file:
            labels[split] = [int(row["label"]) for row in csv.DictReader(file)]
    assert np.load(tmp_path / "val" / "patches.npy").shape == (100, 4, 24)
    expected = knn_accuracy(
        np.load(tmp_path / "train" / "pooled.npy"),
        np.array(labels["train"]),
        np.load(tmp_path / "val" / "pooled.npy"),
        np.array(labels["val"]),
        k=[20],
        temperature=0.07,
    )
    assert found["knn"].main.value == pytest.approx(expected[20].top1)
    assert found["knn"].main.interval == pytest.approx(expected[20].interval)
    meta = json.loads((tmp_path / "train" / "meta.json").read_text())
    assert meta["sha256"] == found.weights["sha256"]


def test_embedding_without_labels(tmp_path: Path) -> None:
    flat = image_folder(tmp_path / "all", {"b": 5}) / "b"
    assert main(["embed", TINY, f"data.path={flat}", str(tmp_path / "out"), "dtype=float16"]) == 0
    with (tmp_path / "out" / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"].rsplit("/", 1)[-1] for row in rows] == [f"0_{i}.png" for i in range(5)]
    assert {row["label"] for row in rows} == {""}
    assert np.load(tmp_path / "out" / "pooled.npy").dtype == np.float16


def test_embedding_honours_the_precision(tmp_path: Path) -> None:
    given = [TINY, "data.path=digits", "data.size_px=16", "data.max_train=8"]
    assert main(["embed", *given, str(tmp_path / "whole")]) == 0
    assert main(["embed", *given, str(tmp_path / "half"), "precision=bf16"]) == 0
    whole, half = (np.load(tmp_path / name / "pooled.npy") for name in ("whole", "half"))
    assert 0 < np.abs(whole - half).max() < 0.1
    assert json.loads((tmp_path / "half" / "meta.json").read_text())["precision"] == "bf16"


def test_several_weights_end_in_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        "data.path=digits",
        "data.max_train=100",
        "data.max_val=50",
        "tasks=knn",
        "knn.k=5",
        f"out={tmp_path}",
    ]
    assert main(["evaluate", TINY, TINY + "&seed=1", *settings]) == 0
    table = (tmp_path / "comparison.md").read_text()
    assert TINY + " |" in table
    assert TINY + "&seed=1 |" in table
    assert "knn-pooled-k5-t0.07-crop0.9-train100-val50/3" in table
    folders = sorted(str(path.parent) for path in tmp_path.glob("*/results.json"))
    assert len(folders) == 2
    assert main(["evaluate", "compare", *folders, f"out={tmp_path / 'again'}"]) == 0
    assert (tmp_path / "again" / "comparison.html").exists()
    assert "comparison.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tasks=knnn"], 2, "'knnn' is unknown; choose from knn"),
        (["tasks=liner"], 2, "Did you mean 'linear'?"),
        (["knn.k=0"], 2, "knn.k"),
        (["linear.preset=dinov"], 2, "Did you mean 'dinov2'?"),
        (["linear.epocs=1"], 2, "Did you mean 'epochs'?"),
        (["data.path=/nowhere"], 65, "does not exist"),
        (["data.size_px=20"], 2, "does not take images of 20 px"),
        (["device=cuda"], 2, "no GPU can be used"),
        (["linear.feature_sets=[cls0]"], 2, "is not understood"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = ["data.path=digits", "data.max_train=50", f"out={tmp_path}", *arguments]
    assert main(["evaluate", TINY, *given]) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_network_that_changes_under_evaluation_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = TASKS["metrics"].run

    def spoil(run: Any) -> Any:
        next(run.loaded.backbone.parameters()).data.add_(1)
        return kept(run)

    spoiling = Task(run=spoil, needs_labels=False, needs_val=False)
    monkeypatch.setitem(TASKS, "metrics", spoiling)
    with pytest.raises(CheckpointError, match="changed while it was evaluated"):
        evaluate(TINY, tasks=["metrics"], data=SMALL, out=tmp_path)


def test_where_reports_go_and_what_method_weights_have(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    config = load_train_config([find_recipe("dino/tiny_cpu")])
    (run / "config.yaml").write_text(to_yaml(config))
    for weights, folder in (
        (str(run), run / "evaluation"),
        (str(run / "export"), run / "evaluation"),
        ("timm:resnet50?pretrained=false", Path("evaluation/timm_resnet50_pretrained_false")),
    ):
        config = load_settings((), [f"weights={weights}", "data.path=digits"])
        assert report_folder(config) == folder
    assert method_of(str(run)) == method_of(str(run / "export")) == "dino"
    assert method_of("timm:resnet50") is None


def test_shots_are_drawn_per_class() -> None:
    labels = torch.tensor([0] * 10 + [3] * 4 + [5] * 2)
    rows = draw_shots(labels, 3, seed=0, draw=0)
    assert labels[rows].bincount().tolist() == [3, 0, 0, 3, 0, 2]
    assert not torch.equal(rows, draw_shots(labels, 3, seed=0, draw=1))
    assert torch.equal(rows, draw_shots(labels, 3, seed=0, draw=0))


def test_a_fixed_draw_of_rows() -> None:
    rows = spread(100, 10, seed=0, name="map")
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 10
    assert torch.equal(rows, spread(100, 10, seed=0, name="map"))
    assert spread(5, 10, seed=0, name="map").tolist() == [0, 1, 2, 3, 4]


def test_the_table_holds_the_tasks() -> None:
    assert TASKS["linear"].run is run_linear
    assert TASKS["metrics"].run is run_metrics
    assert not TASKS["metrics"].needs_labels


def test_the_python_door(tmp_path: Path) -> None:
    assert ssl_vision.evaluate is evaluate
    with pytest.raises(ConfigError, match=r"data\.path"):
        ssl_vision.evaluate(TINY)
    found = ssl_vision.evaluate(TINY, tasks=["metrics"], data=SMALL, out=tmp_path)
    assert isinstance(found, Evaluation)
    own = {"knn.k": 3, "data.max_val": 50, "seed": 1}
    found = ssl_vision.evaluate(TINY, tasks=["knn"], data=SMALL, out=tmp_path, **own)
    assert (found.config["knn"]["k"], found.config["data"]["max_val"]) == ([3], 50)


def test_settings_by_full_name_are_those_nested() -> None:
    data = {"path": "digits", "size_px": 16}
    nested = make_settings({"weights": TINY, "data": data, "knn": {"k": [3]}, "device": "cpu"})
    dotted = make_settings(
        {"weights": TINY, "data": data, "data.size_px": 16, "knn.k": 3, "device": "cpu"}
    )
    assert asdict(dotted) == asdict(nested)
    typed = load_settings(
        [], [f"weights={TINY}", "data.path=digits", "data.size_px=16", "knn.k=3", "device=cpu"]
    )
    assert asdict(dotted) == asdict(typed)
    with pytest.raises(ConfigError, match=r"knn\.kk"):
        make_settings({"weights": TINY, "data": data, "knn.kk": 3})


def test_a_runs_features_at_another_size_are_its_own_wherever_they_come_from(
    recipe, tmp_path: Path
) -> None:
    image_folder(tmp_path / "data", {"a": 4, "b": 4})
    settings = ("method.position_rule=dino", "trainer.max_steps=1")
    run = train(recipe("dino", *settings)).run_dir
    loaded = resolve_weights(run)
    config = make_settings(
        {"weights": str(run), "data": {"path": str(tmp_path / "data"), "size_px": 24}}
    )
    evaluated = EvalRun(config, loaded, say=print)
    features = evaluated.features("train", "pooled")
    loader = evaluated.loader(evaluated.bank_source, evaluated.view)
    images = torch.cat([evaluated.normalize(batch.views["image"]) for batch in loader])
    with torch.inference_mode():
        torch.testing.assert_close(features, loaded.backbone(images).pooled)
        torch.testing.assert_close(features, ssl_vision.load_backbone(run)(images))
        loaded.backbone.set_position_rule("timm")
        assert not torch.allclose(features, loaded.backbone(images).pooled)
    # Nor are features of the other rule found in the cache.
    again = EvalRun(config, loaded, say=print)
    assert not torch.allclose(features, again.features("train", "pooled"))


def test_pictures_that_change_during_the_pass_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(tmp_path / "photos", {"a": 8, "b": 8})
    fill = tasks_run.fill_store  # type: ignore[attr-defined]

    def fill_and_change(*arguments: Any, **settings: Any) -> int:
        number = fill(*arguments, **settings)
        shutil.copy(root / "b" / "1_0.png", root / "a" / "0_0.png")
        return number

    monkeypatch.setattr(tasks_run, "fill_store", fill_and_change)
    with pytest.raises(DataError, match="changed while they were read"):
        evaluate(TINY, tasks=["knn"], data=root, out=tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    assert not list((tmp_path / "home").rglob("*.npy"))
    found = evaluate(TINY, tasks=["knn"], data=root, out=tmp_path / "out")
    assert found.data["num_computed"] == 16


@pytest.mark.parametrize("weights", [TINY, CONV])
def test_batches_of_one_are_scored_like_others(weights: str, tmp_path: Path) -> None:
    root = image_folder(tmp_path / "photos", {"a": 6, "b": 7})
    scores = [
        evaluate(
            weights,
            tasks=["knn"],
            data={"path": str(root), "batch_size": size},
            cache={"mode": "off"},
            out=tmp_path / str(size),
        )["knn"].measurements[0].value
        for size in (1, 4, 12, 64)
    ]  # fmt: skip
    assert len(set(scores)) == 1
