"""What differs between runs is shown in full, under names that can be told apart."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import ssl_vision
from ssl_vision.errors import CheckpointError, DataError
from ssl_vision.tasks.comparison import ABSENT, distinct_names, sparkline


def write_run(folder: Path, losses: list[float], knn: list[float], **changes: object) -> Path:
    folder.mkdir(parents=True)
    config = {
        "method": {"name": "dino", "num_prototypes": 64},
        "data": {"path": "photos"},
        "optim": {"base_lr": 0.001},
        "run_dir": str(folder),
        **{name: {} for name in ("backbone", "trainer", "online_eval")},
        **{name: None for name in ("seed", "resume", "init_from", "loggers")},
    }
    for key, value in changes.items():
        config[key] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [{"step": 10 * i, "train/loss": loss} for i, loss in enumerate(losses, start=1)]
    lines += [{"step": 20 * i, "eval/knn_top1": each} for i, each in enumerate(knn)]
    lines += [{"step": 40, "eval/verdict": "healthy: spread well"}]
    text = "".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda x: x["step"]))
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_only_what_differs_is_shown_and_the_best_score_has_its_update(tmp_path: Path) -> None:
    a = write_run(tmp_path / "runs/a", [3.0, 2.0, 1.0], [0.2, 0.6, 0.5])
    b = write_run(tmp_path / "runs/b", [3.0, 2.5], [0.2, 0.4], optim={"lr": 1.0, "base_lr": 0.001})
    found = ssl_vision.compare(a, b)
    assert found.names == ["a", "b"]
    assert found.settings == {"optim.lr": [ABSENT, "1.0"]}
    assert found.scores["knn_top1 during training, best"][0] == "60.00 % at update 20"
    assert found.scores["knn_top1 during training, last"] == ["50.00 %", "40.00 %"]
    assert found.scores["loss, last"] == ["1", "2.5"]
    assert found.curves["train/loss"]["b"] == [(10.0, 3.0), (20.0, 2.5)]
    assert found.notes == []


def test_what_does_not_compare_is_said(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [1.0], [0.1])
    b = write_run(tmp_path / "b", [1.0], [0.1], method={"name": "mae"}, data={"path": "other"})
    notes = " ".join(ssl_vision.compare(a, b).notes)
    assert "losses of dino, mae do not compare" in notes
    assert "on other data" in notes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(range(256)) * 4, "metrics.jsonl: lines 1, 2"),
        (b"[]\n", "metrics.jsonl: line 1 is no JSON record"),
        (b'{"step": 1, "train/loss": 1.0}\n{"st', "metrics.jsonl: line 2 is no JSON record"),
        (b'{"step": "1"}\n', "metrics.jsonl: line 1 is no JSON record"),
        (b"", "metrics.jsonl is empty, the run has not begun"),
        (None, "no metrics.jsonl, the run has not begun"),
    ],
)
def test_a_damaged_log_is_said(content: bytes | None, words: str, tmp_path: Path) -> None:
    whole = write_run(tmp_path / "a", [1.0], [0.1])
    log = write_run(tmp_path / "b", [1.0], [0.1]) / "metrics.jsonl"
    log.unlink()
    if content is not None:
        log.write_bytes(content)
    notes = ssl_vision.compare(whole, log.parent).notes
    assert any(line.startswith(f"b: {words}") for line in notes), notes


@pytest.mark.parametrize(("make", "words"), [(os.mkfifo, "named pipe"), (os.mkdir, "folder")])
def test_a_log_that_is_no_file_is_refused(
    make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    whole = write_run(tmp_path / "a", [1.0], [0.1])
    log = write_run(tmp_path / "b", [1.0], [0.1]) / "metrics.jsonl"
    log.unlink()
    make(log)
    with pytest.raises(CheckpointError, match=rf"b/metrics\.jsonl cannot be read .*{words}"):
        ssl_vision.compare(whole, log.parent)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [1.0], [0.1])
    with pytest.raises(DataError, match="neither a run folder"):
        ssl_vision.compare(run, tmp_path)
    with pytest.raises(DataError, match="two or more"):
        ssl_vision.compare(run)
    for content in ("[1, 2", "- a list", "\x00"):
        (run / "config.yaml").write_text(content)
        with pytest.raises(CheckpointError):
            ssl_vision.compare(run, run)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["/x/runs/a/evaluation", "/x/runs/b/evaluation/"], ["a", "b"]),
        (["a", "x/a"], ["a", "x/a"]),
        (["zoo:a", "timm:a"], ["zoo:a", "timm:a"]),
    ],
)
def test_names_leave_out_what_all_have(paths: list[str], names: list[str]) -> None:
    assert distinct_names(paths) == names


LETTERS = st.text(alphabet="ab/_", min_size=1, max_size=60)


@given(st.lists(LETTERS, min_size=2, max_size=12), st.integers(8, 30))
@settings(max_examples=300, deadline=None)
def test_names_are_always_told_apart_and_never_too_long(paths: list[str], width: int) -> None:
    names = distinct_names(paths, width=width)
    assert len(set(names)) == len(paths)
    assert max(map(len, names)) <= width


def test_long_names_that_differ_in_the_middle_stay_readable() -> None:
    long = "dino_vit_small_patch16_224_lr0.00{}_a_very_long_description_of_it"
    names = distinct_names([long.format(1), long.format(2)])
    assert "1" in names[0]
    assert "2" in names[1]


def test_sparkline_goes_from_high_to_low() -> None:
    line = sparkline([(float(i), 100.0 - i) for i in range(100)], width=8)
    assert line == "█▇▆▅▄▃▂▁"
    assert set(sparkline([(0.0, 1.0), (1.0, 1.0)])) == {"▁"}
