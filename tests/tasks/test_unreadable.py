"""Unreadable samples are in neither features nor labels, on every way to a score."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.commands.embed import embed
from ssl_vision.engine.train import train
from ssl_vision.errors import DataError
from ssl_vision.tasks.evaluate import evaluate
from ssl_vision.tasks.settings import make_settings

WEIGHTS = "timm:resnet18?pretrained=false&seed=1"


def coloured(root: Path, *, train: int = 2, val: int = 1, classes: int = 8) -> Path:
    """Classes that any network tells apart: each has a colour."""
    random = np.random.default_rng(0)
    for number in range(classes):
        colour = random.integers(0, 255, 3)
        for split, count in (("train", train), ("val", val)):
            folder = root / split / f"c{number}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(colour + random.normal(0, 3, (16, 16, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def run(path: Path, out: Path, task: str = "knn", **settings):
    return evaluate(
        WEIGHTS,
        tasks=[task],
        data={"path": str(path), "size_px": 32, "on_error": "substitute", "batch_size": 4},
        out=out,
        knn={"k": [1]},
        **settings,
    )


@pytest.mark.parametrize("mode", ["off", "write"])
@pytest.mark.parametrize("victim", ["train/c0/0.png", "val/c3/0.png"])
def test_labels_follow_the_samples_that_are_left(tmp_path, monkeypatch, mode, victim) -> None:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    path = coloured(tmp_path / "set")
    (path / victim).write_bytes(b"")
    for _ in range(2):  # the second time from the store
        found = run(path, tmp_path / "out", cache={"mode": mode}, baselines=False)
        assert found["knn"].main.value == 1
        (name,) = found.data["unreadable"]
        assert name.endswith(victim)
        assert (found.data["num_train"], found.data["num_val"]) == (
            (15, 8) if victim.startswith("train") else (16, 7)
        )
    for report in ("report.md", "report.html"):
        assert "1 samples could not be read" in (tmp_path / "out" / report).read_text()


def test_every_task_without_labels_goes_on(tmp_path) -> None:
    path = coloured(tmp_path / "set")
    (path / "train/c2/1.png").write_bytes(b"no picture")
    for task in ("metrics", "map", "linear"):
        found = run(path, tmp_path / task, task, cache={"mode": "off"})
        assert len(found.data["unreadable"]) == 1


def test_when_nothing_can_be_read_it_is_said(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    path = coloured(tmp_path / "set", classes=2)
    for file in (path / "train").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="not one of the 4 samples"):
        run(path, tmp_path / "out")


def test_embed_leaves_them_out_of_arrays_and_index(tmp_path) -> None:
    path = coloured(tmp_path / "set")
    settings = {"path": str(path), "size_px": 32, "on_error": "substitute"}
    config = make_settings({"weights": WEIGHTS, "data": settings})
    whole = embed(config, tmp_path / "whole").folder
    (path / "train/c1/0.png").write_bytes(b"")
    made = embed(config, tmp_path / "part")
    assert made.files["pooled.npy"] == (15, 512)
    expected = np.delete(np.load(whole / "pooled.npy"), 2, axis=0)
    np.testing.assert_allclose(np.load(made.folder / "pooled.npy"), expected, atol=1e-5)
    with (made.folder / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(15))
    assert [row["class"] for row in rows[:4]] == ["c0", "c0", "c1", "c2"]
    assert any("c1/0.png" in note for note in made.notes)
    assert len(json.loads((made.folder / "meta.json").read_text())["unreadable"]) == 1


def test_embed_embeds_all_of_a_folder_that_is_not_split(tmp_path) -> None:
    path = coloured(tmp_path / "set", train=5) / "train"
    config = make_settings({"weights": WEIGHTS, "data": {"path": str(path), "size_px": 32}})
    made = embed(config, tmp_path / "out")
    assert made.files["pooled.npy"] == (40, 512)
    assert made.notes == ()


def test_training_counts_them_in_its_metrics_its_terminal_and_its_report(
    tmp_path, recipe, capsys
) -> None:
    path = coloured(tmp_path / "set", train=4, val=2)
    for victim in ("train/c0/1.png", "train/c5/3.png", "val/c3/0.png"):
        (path / victim).write_bytes(b"no picture")
    config = recipe(
        "mae",
        f"data.path={path}",
        *("data.on_error=substitute", "data.global_batch_size=8", "online_eval.every_epochs=2"),
    )
    run = train(config).run_dir
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/unreadable"] for line in lines if "train/unreadable" in line][-1] == 2
    scores = [line for line in lines if "eval/unreadable" in line]
    assert [line["eval/unreadable"] for line in scores] == [3, 3]  # of the bank and of val
    assert all(line["eval/knn_top1"] >= 0 for line in scores)
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 training samples could not be read so far" in shown
    assert "scores leave out 3 samples" in shown
    page = (run / "report.html").read_text()
    assert "2 training samples could not be read; others took their place" in page
    assert "3 samples could not be read; scores leave them out" in page
    assert "c0/1.png" in page


def test_a_report_of_sound_data_says_nothing_of_them(tmp_path, recipe) -> None:
    path = coloured(tmp_path / "set", train=4, val=2)
    settings = ("data.on_error=substitute", "data.global_batch_size=8", "trainer.max_steps=1")
    run = train(recipe("mae", f"data.path={path}", *settings)).run_dir
    assert "could not be read" not in (run / "report.html").read_text()
