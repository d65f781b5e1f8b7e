import json
import re

import pytest
from PIL import Image

from ssl_vision.engine.curves import curve
from ssl_vision.engine.gallery import Section
from ssl_vision.engine.report import write_report
from ssl_vision.errors import CheckpointError
from ssl_vision.files import write_atomically
from ssl_vision.methods import METHODS
from tests.runs import bars_of

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
    sections = [Section("Map <1>", "<p>a map</p>")]
    preview = Image.new("RGB", (8, 8))
    page = write_report(tmp_path, preview=preview, sections=sections).read_text()
    assert "<h2>Map &lt;1&gt;</h2><p>a map</p>" in page
    assert page.count("<svg") == 2  # loss and effective rank
    assert "data:image/png;base64," in page
    assert "sample by sample: local." in page
    assert "&lt;folder&gt;" in page
    assert '<p class="verdict problem">dimensional collapse: &lt;1.1&gt;' in page
    assert METHODS["dino"].module.reading in page
    assert 'src="http' not in page


def test_scores_stand_beside_what_costs_nothing(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    scores = {0: 0.2, 10: 0.625, 20: 0.5}
    records = [{"step": s, "eval/knn_top1": v, "eval/rankme": 3.0} for s, v in scores.items()]
    records[0] |= {"eval/majority_class": 0.125, "eval/raw_knn_top1": 0.75}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (tmp_path / "environment.json").write_text("{}")
    best = {"step": 10, "score": "knn_top1", "value": 0.625}
    (tmp_path / "best.json").write_text(json.dumps(best))
    page = write_report(tmp_path).read_text()
    assert bars_of(page) == {
        "update 20": ("50.00 %", 0.5),
        "update 10, the best": ("62.50 %", 0.625),
        "before training": ("20.00 %", 0.2),
        "majority class": ("12.50 %", 0.125),
        "kNN of the inputs themselves": ("75.00 %", 0.75),
    }
    table = page.split("<table>")[1].split("</table>")[0]
    head, *rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in table.split("<tr>")[1:]]
    assert head == ["", "update 0", "update 10 (best)", "update 20"]
    assert ["knn_top1", "0.2", "0.625", "0.5"] in rows


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
