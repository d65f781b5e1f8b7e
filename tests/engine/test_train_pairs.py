"""A run of CroCo to its end: packed pairs, stops, its export, and all that reads it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ssl_vision
from ssl_vision.commands.main import main
from ssl_vision.commands.prepare import prepare
from ssl_vision.engine.train import train
from ssl_vision.evaluation.report import load_evaluation
from tests.data.conftest import picture
from tests.tasks.dense_images import quarter_images

_IN_TIMM_ALONE = """
import sys, timm, torch
model = timm.create_model(sys.argv[1], pretrained=True).eval()
assert not any(name.partition(".")[0] == "ssl_vision" for name in sys.modules)
with torch.inference_mode():
    torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
"""


def photo_pairs(root: Path) -> Path:
    root.mkdir()
    for i in range(24):
        for side in (1, 2):
            picture(2 * i + side).save(root / f"{i:02d}_{side}.jpg", quality=90)
    return root


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "export" / "model.safetensors")


def equal(ours: Path, theirs: Path) -> bool:
    mine, others = weights_of(ours), weights_of(theirs)
    return mine.keys() == others.keys() and all(torch.equal(mine[k], others[k]) for k in mine)


def test_packed_pairs_train_to_the_weights_of_their_files_also_when_stopped(
    tmp_path, recipe, capsys
) -> None:
    folder = photo_pairs(tmp_path / "pairs")
    prepare(folder, tmp_path / "pairs.beton", modality="pairs")
    short = ["data.global_batch_size=8", "trainer.epochs=2"]  # six updates
    runs = {}
    for name, path, stops in (
        ("files", folder, ()), ("packed", tmp_path / "pairs.beton", ()),
        ("stopped", tmp_path / "pairs.beton", (2, 4)), ("other", folder, ()),
    ):  # fmt: skip
        given = [*short, f"data.path={path}", *(["seed=1"] if name == "other" else [])]
        for stop in stops:
            train(recipe("croco", *given, f"trainer.max_steps={stop}", run=name))
        train(recipe("croco", *given, run=name))
        runs[name] = tmp_path / name
    told = capsys.readouterr()
    assert (told.out + told.err).count("resuming") == 2
    assert equal(runs["files"], runs["packed"])
    assert equal(runs["files"], runs["stopped"])
    assert not equal(runs["files"], runs["other"])


@pytest.fixture
def croco_run(tmp_path: Path, recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    train(recipe("croco", "data.global_batch_size=32", "trainer.max_steps=3"))
    return tmp_path / "run"


def test_an_export_with_fixed_positions_is_a_plain_timm_model(croco_run, tmp_path) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16)
    torch.save(images, tmp_path / "images.pt")
    words = [f"local-dir:{croco_run / 'export'}", tmp_path / "images.pt", tmp_path / "out.pt"]
    subprocess.run([sys.executable, "-c", _IN_TIMM_ALONE, *words], check=True)
    with torch.inference_mode():
        ours = ssl_vision.load_backbone(str(croco_run)).eval()(images)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), ours)


def test_all_that_reads_a_run_reads_one_of_croco(croco_run, tmp_path, capsys) -> None:
    for seed, (split, num) in enumerate({"train": 12, "val": 4}.items()):
        masks = quarter_images(tmp_path / "q" / "KIND" / split, num=num, seed=seed)
        (tmp_path / "q" / "depth" / split).mkdir(parents=True)
        for i, mask in enumerate(masks):
            np.save(tmp_path / f"q/depth/{split}/{i}.npy", mask + 1.0)
    q, out = tmp_path / "q", tmp_path / "dense"
    dense = [
        "tasks=depth,segment,dense_knn,correspond", f"depth.path={q}/depth", "depth.head=dpt",
        f"masks.path={q}/masks", "segment.updates=20", "depth.updates=5",
    ]  # fmt: skip
    assert main(["evaluate", str(croco_run), f"data.path={q}/images", f"out={out}", *dense]) == 0
    found = load_evaluation(out)
    assert set(found.tasks) == {"depth", "segment", "dense_knn", "correspond"}
    assert found.weights["method"] == "croco"
    assert found["segment"].main.value > 0.3  # three colours
    pooled = ["data.path=digits", "data.max_train=200", "tasks=knn,metrics"]
    assert main(["evaluate", str(croco_run), *pooled, f"out={tmp_path / 'knn'}"]) == 0
    assert load_evaluation(tmp_path / "knn")["knn"].main.value > 0.2  # ten classes
    assert main(["visualize", str(croco_run), "blocks", str(tmp_path / "pictures")]) == 0
    made = {path.stem for path in (tmp_path / "pictures").glob("*.png")}
    assert {"attention", "features", "reconstruction"} <= made
    assert "first views completed from second ones" in (croco_run / "report.html").read_text()
    assert "error" not in capsys.readouterr().err
