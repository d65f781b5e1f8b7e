"""Dense tasks on two processes: the numbers of one, also where one cannot read an image."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_vision.distributed import rank
from ssl_vision.tasks.evaluate import evaluate
from tests.tasks.dense_images import WEIGHTS, quarter_images

pytestmark = pytest.mark.distributed
TASKS = ["segment", "dense_knn", "depth", "correspond"]
METRES = np.array([1.0, 2.5, 6.0])


def scores(root: str, out: str, mode: str) -> dict[str, Any]:
    """Every measurement of every task, and what could not be read."""
    os.environ["SSL_VISION_HOME"] = f"{out}/home"
    found = evaluate(
        WEIGHTS,
        tasks=TASKS,
        data={"path": f"{root}/images", "batch_size": 8, "on_error": "substitute"},
        out=f"{out}/report",
        cache={"mode": mode},
        device="cpu",
        baselines=True,
        **{
            "masks.path": f"{root}/masks", "segment.updates": 60, "segment.lr": 0.01,
            "depth.path": f"{root}/depth", "depth.updates": 60, "depth.bins": 16,
            "dense_knn.max_patches": 500, "correspond.max_pairs": 5,
        },
    )  # fmt: skip
    return {
        "rank": rank(),
        "values": {
            f"{task}: {each.name}": each.value
            for task in TASKS
            for each in found[task].measurements
        },
        "unreadable": sorted(Path(name).name for name in found.data["unreadable"]),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of unequal sizes, as many as two processes cannot share equally."""
    for seed, (split, num) in enumerate({"train": 21, "val": 7}.items()):
        masks = quarter_images(tmp_path / "KIND" / split, num=num, seed=seed)
        (tmp_path / "depth" / split).mkdir(parents=True)
        for i, mask in enumerate(masks):
            np.save(tmp_path / f"depth/{split}/{i}.npy", METRES[mask])
    return tmp_path


@pytest.mark.parametrize(("mode", "is_broken"), [("off", False), ("write", True)])
def test_two_processes_score_as_one(
    root, tmp_path, run_distributed, monkeypatch, mode, is_broken
) -> None:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    if is_broken:  # behind its header, which is looked at before
        path = root / "images/train/5.png"
        path.write_bytes(path.read_bytes()[:200])
    one = scores(str(root), str(tmp_path / "one"), mode)
    both = run_distributed(scores, str(root), str(tmp_path / "two"), mode)
    assert [each["rank"] for each in both] == [0, 1]
    assert one["unreadable"] == (["5.png"] if is_broken else [])
    for each in both:
        assert each["unreadable"] == one["unreadable"]
        assert each["values"].keys() == one["values"].keys()
        assert each["values"] == pytest.approx(one["values"], abs=1e-5)
