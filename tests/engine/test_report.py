import json

import pytest
from PIL import Image

from ssl_vision.engine.curves import curve
from ssl_vision.engine.report import write_report
from ssl_vision.errors import CheckpointError
from ssl_vision.files import write_atomically
from ssl_vision.methods import METHODS

CONFIG = "method: {name: dino}\nbackbone: {name: vit}\ndata: {path: <folder>, views: {local: {}}}\n"


def test_a_page_of_its_own_with_curves_views_verdict_and_help(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    records = [
        {"step": 0, "eval/rankme": 3.0, "eval/verdict": "untrained: x"},
        {"step": 1, "train/loss": 2.0},
        {"step": 2, "train/loss": None},
        {"step": 3, "train/loss": 1.0},
        {"step": 3, "eval/rankme": 1.1, "eval/verdict": "dimensional collapse: <1.1>"},
    ]
    lines = "".join(json.dumps(r) + "\n" for r in records)
    (tmp_path / "metrics.jsonl").write_text(lines)
    (tmp_path / "environment.json").write_text("{}")
    page = write_report(tmp_path, preview=Image.new("RGB", (8, 8))).read_text()
    assert page.count("<svg") == 2  # loss and effective rank
    assert "data:image/png;base64," in page
    assert "sample by sample: local." in page
    assert "&lt;folder&gt;" in page
    assert '<p class="verdict problem">dimensional collapse: &lt;1.1&gt;' in page
    assert METHODS["dino"].module.reading in page
    assert 'src="http' not in page


def test_every_method_says_how_to_read_its_loss():
    assert all(entry.module.reading for entry in METHODS.values())


def test_gaps_stay_gaps_and_single_points_are_seen():
    drawn = curve("loss", [(0, 1.0), (1, 2.0), (2, None), (3, float("nan")), (4, 1.0), (5, 0.5)])
    assert drawn.count("<polyline") == 2
    assert "<circle" in curve("knn", [(10, 0.5)])
    assert "no finite values" in curve("loss", [(1, None)])
    assert curve("x", [(i, float(i)) for i in range(10_000)]).count(",") < 2_000


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"report\.html"):
        write_report(tmp_path)


def test_a_file_is_the_old_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    write_atomically(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]
