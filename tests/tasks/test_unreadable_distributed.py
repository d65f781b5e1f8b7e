"""Several processes, one of which can read nothing: no hang, one result, labels that follow."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.loader import epoch_order
from ssl_vision.data.module import DataModule
from ssl_vision.distributed import rank
from ssl_vision.engine.data_guard import KIND, DataGuard
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.nn.batch_norm import with_fitted_batch_norms
from ssl_vision.tasks.evaluate import evaluate

pytestmark = pytest.mark.distributed
WEIGHTS = "timm:resnet18?pretrained=false&seed=1"


def coloured(root: Path) -> Path:
    """Eight classes of one colour each: three training images and one test image."""
    random = np.random.default_rng(0)
    for number in range(8):
        colour = random.integers(0, 255, 3)
        for split, count in (("train", 3), ("val", 1)):
            folder = root / split / f"c{number}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(colour + random.normal(0, 3, (16, 16, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def scores(path: str, out: str, mode: str) -> dict[str, object]:
    os.environ["SSL_VISION_HOME"] = f"{out}/home"
    try:
        found = evaluate(
            WEIGHTS,
            tasks=["knn", "metrics"],
            data={"path": path, "size_px": 32, "on_error": "substitute", "batch_size": 4},
            out=f"{out}/report",
            knn={"k": [1]},
            cache={"mode": mode},
            device="cpu",
        )
    except DataError as error:
        return {"error": str(error)}
    return {
        "top1": found["knn"].main.value,
        "numbers": (found.data["num_train"], found.data["num_val"]),
        "unreadable": sorted(Path(name).parts[-3:] for name in found.data["unreadable"]),
    }


def guarded(path: str, saved: str) -> str:
    source = FolderSource(path)
    guard = DataGuard(source, policy="refuse", path=path, is_main=rank() == 0)
    guard.start()
    try:
        guard.expect(saved or KIND + source.fingerprint())
    except ConfigError as error:
        return str(error)
    return "same"


@pytest.mark.parametrize("mode", ["off", "write"])
@pytest.mark.parametrize("which", ["some", "all of rank 1"])
def test_evaluate_leaves_out_what_any_process_cannot_read(
    tmp_path, run_distributed, mode, which
) -> None:
    path = coloured(tmp_path / "set")
    files = sorted((path / "train").rglob("*.png"))
    # Batches of 4 are cut in two: rank 1 has the rows 2 and 3 of each.
    bad = files[1::7] if which == "some" else [f for i, f in enumerate(files) if i % 4 > 1]
    for file in bad:
        file.write_bytes(b"")
    (path / "val/c3/0.png").write_bytes(b"no picture")
    first, second = run_distributed(scores, str(path), str(tmp_path), mode)
    assert first == second
    assert first["top1"] == 1
    assert first["numbers"] == (24 - len(bad), 7)
    assert len(first["unreadable"]) == len(bad) + 1


def fitted(path: str) -> tuple[int, list[float]]:
    """Batches of this process, and means of the first batch norm fitted to all processes'."""
    config = ImageData(
        path=path, eval_size_px=32, eval_batch_size=8, on_error="substitute", global_batch_size=8
    )
    data = DataModule(config, seed=0, rank=rank(), world_size=2)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    for number, parameter in enumerate(network.parameters()):
        nn.init.constant_(parameter, 0.1 * (number + 1))
    batches = [data.normalize(b) for b in data.train_bank_loader(max_samples=24, shuffle=True)]
    found = with_fitted_batch_norms(network, (batch.views["image"] for batch in batches))
    return len(batches), found[1].running_mean.tolist()


def test_batch_norms_are_fitted_where_a_process_can_read_none_of_its_share(
    tmp_path, run_distributed
) -> None:
    path = coloured(tmp_path / "set")
    files = sorted((path / "train").rglob("*.png"))
    order = epoch_order(len(files), seed=0, epoch=0)
    mine = [row for start in range(0, 24, 8) for row in order[start + 4 : start + 8]]
    for row in mine:  # the share of rank 1
        files[row].write_bytes(b"")
    first, second = run_distributed(fitted, str(path))
    assert first == second
    assert first[0] == 3


def failures(path: str, out: str) -> list[bool]:
    return ["error" in scores(path, out, mode) for mode in ("off", "write")]


def test_when_no_process_can_read_anything_all_of_them_say_so(tmp_path, run_distributed) -> None:
    path = coloured(tmp_path / "set")
    for file in (path / "train").rglob("*.png"):
        file.write_bytes(b"")
    assert run_distributed(failures, str(path), str(tmp_path)) == [[True, True]] * 2


def guarded_twice(path: str) -> tuple[str, str]:
    """Against the data themselves, and against others."""
    return guarded(path, ""), guarded(path, f"{KIND}other")


def test_other_data_are_refused_on_every_process(tmp_path, run_distributed) -> None:
    path = coloured(tmp_path / "set") / "train"
    first, second = run_distributed(guarded_twice, str(path))
    assert first == second
    assert first[0] == "same"
    assert "holds other data" in first[1]
