"""Sub-networks out of a run: listed, measured, chosen, written, and loaded by timm alone."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_vision.backbones import elastic
from ssl_vision.commands.extract import (
    ElasticRun,
    SubNetworkCard,
    best_within,
    run_extract,
)
from ssl_vision.commands.extract_scores import Scores, count_flops, weights_key
from ssl_vision.config import load_train_config
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError

RECIPE = """
method:
  name: poa
  elastic: {min_width: 32, width_step: 16, min_depth: [1]}
  num_prototypes: [16, 32]
  hidden_dim: 32
  bottleneck_dim: 16
  patch_start_epochs: 0
backbone:
  name: vit_tiny_patch16_224
  args: {patch_size: 8, embed_dim: 48, depth: 2, num_heads: 3, init_values: 0.1}
data:
  path: digits
  global_batch_size: 32
  num_threads: 1
  views:
    global_1: {size_px: 16}
    global_2: {size_px: 16}
    local: {size_px: 8, count: 2}
optim: {warmup_epochs: 0}
trainer: {epochs: 1, max_steps: 2}
online_eval: {every_epochs: 0}
"""
SIZES = [(32, 1), (32, 2), (48, 1), (48, 2)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A POA run of two steps."""
    folder = tmp_path_factory.mktemp("poa")
    (folder / "recipe.yaml").write_text(RECIPE)
    config = load_train_config([folder / "recipe.yaml"], [f"run_dir={folder / 'run'}"])
    return train(config).run_dir


def test_sizes_are_listed_with_their_costs(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ElasticRun(run_folder)
    assert run.sizes == SIZES
    for size in SIZES:
        card = run.describe(size)
        small = elastic.extract(run.parent, size).model
        assert card.num_parameters == sum(p.numel() for p in small.parameters())
    assert run_extract([str(run_folder), "list=true"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{width}x{depth}" in shown for width, depth in SIZES)
    assert "kNN" not in shown  # nothing was measured


def test_operations_are_those_of_the_matrix_products(run_folder: Path) -> None:
    run = ElasticRun(run_folder)
    width, tokens, depth = 32, 5, 2
    block = 12 * width**2 * tokens + 2 * width * tokens**2  # multiply-adds: linear, attention
    embedding = 4 * 3 * 8 * 8 * width
    skeleton = elastic.skeleton_of(run.parent, (width, depth))
    assert count_flops(skeleton, run.image_shape) == 2 * (depth * block + embedding)


def test_all_sizes_load_in_a_process_without_this_package(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all"
    assert run_extract([str(run_folder), "all=true", str(out)]) == 0
    labels = [f"{width}x{depth}" for width, depth in SIZES]
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == sorted(labels)
    assert (out / "accuracy.png").read_bytes()[1:4] == b"PNG"
    rows = json.loads((out / "table.json").read_text())
    assert [row["label"] for row in rows] == labels
    assert all(0 < row["knn_top1"] <= 1 and row["latency_ms"] > 0 for row in rows)
    assert (out / "table.md").read_text().count("\n") == 2 + len(SIZES)

    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.save(image, tmp_path / "image.pt")
    code = f"""
import sys, timm, torch
image = torch.load({str(tmp_path / "image.pt")!r})
features = []
for label in {labels!r}:
    model = timm.create_model(f"local-dir:{out}/{{label}}", pretrained=True).eval()
    with torch.no_grad():
        features.append(model(image))
assert "ssl_vision" not in sys.modules
torch.save(features, {str(tmp_path / "features.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    run = ElasticRun(run_folder)
    for size, found in zip(SIZES, torch.load(tmp_path / "features.pt"), strict=True):
        with torch.no_grad():
            expected = elastic.forward(run.parent, image, size).pooled
        assert (found - expected).abs().max() <= 1e-6


def test_measurements_are_kept_beside_the_run_and_hold_for_its_weights(run_folder: Path) -> None:
    run = ElasticRun(run_folder)
    (measured,) = run.measure_knn(run.measure_latency([run.describe((48, 1))]))
    again = ElasticRun(run_folder).describe((48, 1))
    assert again == measured
    moved = ElasticRun(run_folder, ["data.path=mnist5k"])
    assert moved.describe((48, 1)).knn_top1 is None
    for other in ("online_eval.k=3", "online_eval.temperature=0.5", "data.eval_size_px=24"):
        assert ElasticRun(run_folder, [other]).describe((48, 1)).knn_top1 is None


def colours(root: Path) -> Path:
    """Two classes of colours: six training images each, two test images."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for number in range(2 * count):
            path = root / split / f"c{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return root


def test_accuracies_hold_for_what_files_hold_wherever_they_lie(
    run_folder: Path, tmp_path: Path
) -> None:
    def found(path: Path) -> float | None:
        return ElasticRun(run_folder, [f"data.path={path}"]).describe((48, 1)).knn_top1

    first = colours(tmp_path / "first")
    run = ElasticRun(run_folder, [f"data.path={first}"])
    (card,) = run.measure_knn([run.describe((48, 1))])
    shutil.copytree(first, tmp_path / "copy")
    assert found(tmp_path / "copy") == card.knn_top1
    for changed in ("val/c1/1.png", "train/c0/4.png"):
        before = (first / changed).read_bytes()
        Image.new("RGB", (16, 16)).save(first / changed)
        assert found(first) is None
        (first / changed).write_bytes(before)
        assert found(first) == card.knn_top1


def test_sizes_are_listed_without_accuracies_where_the_data_are_gone(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = colours(tmp_path / "data")
    run = ElasticRun(run_folder, [f"data.path={data}"])
    run.measure_knn([run.describe((48, 1))])
    shutil.rmtree(data)
    assert run_extract([str(run_folder), "list=true", f"data.path={data}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("accuracies measured before are not shown: ") == 1
    assert "48x1" in shown


def test_latencies_hold_for_one_machine(run_folder: Path, monkeypatch) -> None:
    run = ElasticRun(run_folder)
    (here,) = run.measure_latency([run.describe((32, 2))])
    assert ElasticRun(run_folder).describe((32, 2)).latency_ms == here.latency_ms
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert ElasticRun(run_folder).describe((32, 2)).latency_ms is None


def test_what_other_programs_left_is_measured_anew(run_folder: Path, tmp_path: Path) -> None:
    key = weights_key(ElasticRun(run_folder).loaded, "")
    for text in ("", "[]", "{", '{"weights": 1}', json.dumps({"weights": key, "latency_ms": 3})):
        (tmp_path / "file").write_text(text)
        scores = Scores(tmp_path / "file", weights=key)
        assert not scores.has("latency_ms")
        scores.add("latency_ms", "here", "8x1", 2.0)
        assert Scores(tmp_path / "file", weights=key).get("latency_ms", "here", "8x1") == 2.0
        assert Scores(tmp_path / "file", weights="other").get("latency_ms", "here", "8x1") is None


def test_what_was_guessed_of_the_data_and_left_out_is_said(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = colours(tmp_path / "data") / "train"  # has no val split
    victim = data / "c0" / "4.png"
    victim.write_bytes(b"no picture")
    settings = [f"data.path={data}", "data.on_error=substitute"]
    run_extract([str(run_folder), "size=32,1", *settings, str(tmp_path / "out")])
    shown = " ".join(capsys.readouterr().out.split())
    assert "has no val split: 2 of 12 samples, a fifth of each class, are held out" in shown
    assert "data: 1 samples could not be read and are left out, features and labels" in shown
    assert f"first {victim}" in shown


def test_one_size_and_a_budget(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_extract([str(run_folder), "size=32,2", "size=48x1", str(tmp_path / "a"), "knn=false"])
    assert sorted(p.name for p in (tmp_path / "a").iterdir() if p.is_dir()) == ["32x2", "48x1"]
    limit = ElasticRun(run_folder).describe((32, 2)).num_parameters
    run_extract([str(run_folder), f"max_params={limit}", str(tmp_path / "b")])
    assert len(list((tmp_path / "b").iterdir())) == 1
    assert "best within the budget: 32x" in capsys.readouterr().out


def test_folded_folders_have_no_layer_scale(run_folder: Path, tmp_path: Path) -> None:
    run_extract([str(run_folder), "size=32,1", "fold=true", "knn=false", str(tmp_path)])
    config = json.loads((tmp_path / "32x1" / "config.json").read_text())
    assert "init_values" not in config["model_args"]


def card(label: int, *, ms: float, knn: float | None) -> SubNetworkCard:
    return SubNetworkCard(
        size=(label, 1), name=None, num_parameters=label, gflops=1.0, latency_ms=ms, knn_top1=knn
    )


def test_the_best_within_a_budget() -> None:
    cards = [card(1, ms=1, knn=0.5), card(2, ms=3, knn=0.7), card(3, ms=2, knn=0.7)]
    assert best_within(cards, max_params=None, max_latency_ms=2.5) is cards[2]
    assert best_within(cards, max_params=2, max_latency_ms=None) is cards[1]
    assert best_within(cards, max_params=9, max_latency_ms=9) is cards[1]  # of equals the smaller
    unlabelled = [card(1, ms=1, knn=None), card(2, ms=2, knn=None)]
    assert best_within(unlabelled, max_params=5, max_latency_ms=None) is unlabelled[1]
    with pytest.raises(ConfigError, match=r"the smallest, 1x1, has 1 and 1\.00 ms"):
        best_within(cards, max_params=0.5, max_latency_ms=None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say which sizes"),
        (["size=OUT"], "needs numbers like 384,12"),
        (["size=33,1"], "size 33,1 does not fit"),
        (["--frobnicate"], "without dashes"),
        (["list=true", "data.pth=x"], "pth"),
    ],
)
def test_mistakes_are_explained(run_folder: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_extract([str(run_folder), *arguments])


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        ElasticRun(tmp_path)
