"""Point clouds through the doors of the package: train, evaluate, embed, visualize, load."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_vision
from ssl_vision.commands.embed import embed
from ssl_vision.commands.visualize import visualize
from ssl_vision.config import load_train_config
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.tasks.baselines import FITTED, MAJORITY, UNTRAINED
from ssl_vision.tasks.evaluate import evaluate
from ssl_vision.tasks.settings import make_settings

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("data.path=shape_parts", "data.global_batch_size=8", "trainer.max_steps=3"),
    *("online_eval.every_epochs=0", "data.views.cloud.num_points=64"),
    "backbone.args={embed_dim: 24, depth: 3, num_heads: 3, num_groups: 8, group_size: 8,"
    " patch_hidden: 32}",
]
CACHE = {"mode": "off"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of Point-CMAE from its recipe."""
    folder = tmp_path_factory.mktemp("run") / "cmae"
    recipe = ROOT / "configs" / "point_cmae" / "tiny_cpu.yaml"
    train(load_train_config([recipe], [*SMALL, f"run_dir={folder}"]))
    return folder


def test_a_run_reports_its_clouds_and_exports_its_encoder(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert 'alt="training views"' in page
    assert 'alt="completed clouds"' in page
    model = ssl_vision.load_backbone(str(run / "export"))
    assert model(torch.randn(2, 64, 3)).shape == (2, 48)


def test_resuming_continues_bit_for_bit(run: Path, tmp_path: Path) -> None:
    recipe = ROOT / "configs" / "point_cmae" / "tiny_cpu.yaml"
    short = [*SMALL[:2], "trainer.max_steps=2", *SMALL[3:], f"run_dir={tmp_path / 'b'}"]
    train(load_train_config([recipe], short))
    longer = [*SMALL, f"run_dir={tmp_path / 'b'}"]
    train(load_train_config([recipe], longer))
    networks = [ssl_vision.load_backbone(str(folder)) for folder in (run, tmp_path / "b")]
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_frozen_tasks_measure_it(run: Path, tmp_path: Path) -> None:
    found = evaluate(
        run,
        tasks=["knn", "svm", "n_way", "map"],
        data={"path": "shape_parts", "max_train": 40, "max_val": 20},
        out=tmp_path / "out",
        baselines=True,
        cache=CACHE,
        map={"projection": "pca"},
        n_way={"ways": 3, "shots": 2, "num_queries": 2, "num_folds": 2},
    )
    assert 0 < found.tasks["svm"].measurements[0].value <= 1
    for task in ("knn", "svm"):
        named = {m.name: m for m in found.tasks[task].measurements}
        compared = {name for name in named if name.startswith("top1 of ")}
        assert compared == {f"top1 of {n}" for n in ("raw statistics", UNTRAINED, FITTED, MAJORITY)}
        assert all(named[name].interval is not None for name in compared)
    assert (tmp_path / "out" / "results.json").is_file()


@pytest.fixture(scope="module")
def parts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mugs and bags in ShapeNetPart's layout: upper and lower halves of balls and boxes."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "synsetoffset2category.txt").write_text("Mug\t1\nBag\t2\n")
    (folder / "train_test_split").mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 6)):
        names = [f"{kind}/{split}{i}" for i in range(count) for kind in (1, 2)]
        listed = json.dumps([f"shape_data/{name}" for name in names])
        (folder / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(listed)
        for name in names:
            points = random.normal(size=(80, 3)) if name[0] == "1" else random.random((80, 3)) - 0.5
            part = (36 if name[0] == "1" else 4) + (points[:, 1:2] > 0)
            (folder / name).parent.mkdir(exist_ok=True)
            table = np.concatenate([points, np.zeros((80, 3)), part], axis=1)
            np.savetxt(folder / f"{name}.txt", table, fmt="%.4f")
    return folder


def test_tuned_tasks_measure_it(run: Path, tmp_path: Path, parts_folder: Path) -> None:
    tuning = {"epochs": 2, "batch_size": 8}
    found = evaluate(
        run,
        tasks=["finetune", "parts"],
        data={"path": str(parts_folder)},
        out=tmp_path / "out",
        cache=CACHE,
        point_finetune={"head": "linear", "votes": 2, "farthest_pool": None, "tuning": tuning},
        parts={"num_points": 64, "tuning": tuning},
    )
    assert {m.name for m in found.tasks["finetune"].measurements} == {
        "top1", "top1, 2 views averaged", "top1 of the majority class",
    }  # fmt: skip
    scores = {m.name: m.value for m in found.tasks["parts"].measurements}
    assert set(scores) == {"instance mIoU", "class mIoU", "point accuracy"}
    assert 0.3 < scores["point accuracy"] <= 1  # of the two parts of the object's class
    assert set(found.tasks["parts"].details["by_class"]) == {"Mug", "Bag"}


@pytest.mark.parametrize("mode", ["off", "write"])
def test_objects_that_cannot_be_read_are_left_out_of_parts(
    run: Path, tmp_path: Path, monkeypatch, parts_folder: Path, mode: str
) -> None:
    """The scores are those of the data without them."""
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    damaged, clean = tmp_path / "damaged", tmp_path / "clean"
    for folder in (damaged, clean):
        shutil.copytree(parts_folder, folder)
    victims = ["1/train3", "2/val1", "1/test2"]
    for victim, text in zip(victims, ("", "1 2 3\n", "0 0 0 0 0 0 77\n"), strict=True):
        (damaged / f"{victim}.txt").write_text(text)
    for split in ("train", "val", "test"):
        listed = clean / "train_test_split" / f"shuffled_{split}_file_list.json"
        names = json.loads(listed.read_text())
        kept = [name for name in names if name.removeprefix("shape_data/") not in victims]
        listed.write_text(json.dumps(kept))
    settings = {"parts": {"num_points": 64, "tuning": {"epochs": 2, "batch_size": 8}}}
    found, expected = (
        evaluate(
            run,
            tasks=["parts"],
            data={"path": str(folder), "on_error": "substitute"},
            out=tmp_path / f"out_{folder.name}",
            cache={"mode": mode},
            **settings,
        )
        for folder in (damaged, clean)
    )
    assert sorted(Path(name).stem for name in found.data["unreadable"]) == [
        "test2", "train3", "val1",
    ]  # fmt: skip
    assert (found.data["num_train"], found.data["num_val"]) == (22, 11)
    assert expected.data["unreadable"] == {}
    values = [[m.value for m in each.tasks["parts"].measurements] for each in (found, expected)]
    assert values[0] == pytest.approx(values[1])


def test_parts_of_a_chosen_number_of_objects(run: Path, tmp_path: Path) -> None:
    settings = {"parts": {"num_points": 64, "tuning": {"epochs": 1, "batch_size": 8}}}
    data = {"path": "shape_parts", "max_train": 12, "max_val": 6}
    found = evaluate(run, tasks=["parts"], data=data, out=tmp_path, cache=CACHE, **settings)
    assert (found.data["num_train"], found.data["num_val"]) == (12, 6)
    data["max_train"] = 1
    with pytest.raises(DataError, match="too few for batch norm"):
        evaluate(run, tasks=["parts"], data=data, out=tmp_path, cache=CACHE, **settings)


def test_scans_are_evaluated_raw_in_the_patches_asked_for(run: Path, tmp_path: Path) -> None:
    data = {"path": "shape_parts", "max_train": 24, "max_val": 12, "num_points": 128}
    raw = {"num_groups": 16, "is_normalized": False}
    shown = [
        evaluate(run, tasks=["svm"], data=data | how, out=tmp_path / str(i)).tasks["svm"]
        for i, how in enumerate(({}, raw, {}))
    ]
    assert shown[0].measurements == shown[2].measurements  # features of the others not taken over
    found = evaluate(
        run,
        tasks=["finetune"],
        data=data,
        out=tmp_path / "out",
        cache=CACHE,
        point_finetune={
            "preset": "scanobjectnn",
            "num_points": 256,
            "votes": 0,
            "head": "linear",
            "tuning": {"epochs": 1, "batch_size": 8},
        },
    )
    assert found.tasks["finetune"].protocol == "points-linear-1ep-vote0-128patches-raw/2"


def test_tasks_of_images_and_of_parts_are_refused_with_the_way_out(run: Path) -> None:
    data = {"path": "shapes", "max_train": 40, "max_val": 20}
    with pytest.raises(ConfigError, match=r"takes point clouds\. Use tasks="):
        evaluate(run, tasks=["lidar"], data=data, cache=CACHE)
    with pytest.raises(DataError, match=r"has no parts; use ShapeNetPart"):
        evaluate(run, tasks=["parts"], data={"path": "shapes"}, cache=CACHE)


def test_features_and_pictures_are_written(run: Path, tmp_path: Path) -> None:
    config = make_settings({"weights": str(run), "data": {"path": "shape_parts", "max_train": 12}})
    made = embed(config, tmp_path / "features", has_patches=True)
    assert made.files == {"pooled.npy": (12, 48), "patches.npy": (12, 8, 24)}
    np.savetxt(tmp_path / "cloud.txt", np.random.rand(100, 3))
    paths = visualize(run, ["shape_parts", str(tmp_path / "cloud.txt")], tmp_path / "out", count=2)
    assert [path.name for path in paths] == ["reconstruction.png"]
    with pytest.raises(ConfigError, match="need the run folder of a point_mae or point_cmae run"):
        visualize(run / "export", ["shape_parts"], tmp_path / "out")
