"""What a task needs is looked at before features are computed; a task that fails fails alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_vision.errors import ConfigError, DataError, DeviceMemoryError
from ssl_vision.evaluation.report import load_evaluation
from ssl_vision.tasks import TASKS
from ssl_vision.tasks.evaluate import evaluate
from ssl_vision.tasks.few_shot import warn_of_fewer
from ssl_vision.tasks.run import EvalRun
from ssl_vision.tasks.task import Task

TINY = "timm:vit_tiny_patch16_224?pretrained=false&img_size=16&patch_size=8&depth=2&embed_dim=24"
SMALL = {"path": "digits", "max_train": 60, "max_val": 30, "size_px": 16}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))


@pytest.fixture
def no_features(monkeypatch):
    """No sample may be read: the refusal comes before."""

    def refuse(self: EvalRun, *arguments: object, **more: object) -> None:
        raise AssertionError("features were computed")

    monkeypatch.setattr(EvalRun, "prepare", refuse)
    monkeypatch.setattr(EvalRun, "loader", refuse)


def two_classes(root: Path) -> Path:
    for folder in ("train/a", "train/b", "val/a", "val/b"):
        (root / folder).mkdir(parents=True)
        for i in range(4):
            pixels = np.full((20, 20, 3), 9 * i + len(folder), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("task", "settings", "error", "words"),
    [
        ("parts", {}, ConfigError, "point clouds"),
        ("n_way", {"n_way": {"by": "finetune"}}, ConfigError, "point clouds"),
        ("n_way", {"n_way": {"ways": 50}}, DataError, "50 ways need more"),
        ("clustering", {"clustering": {"num_clusters": 31}}, ConfigError, "31 is above the 30"),
        ("linear", {"linear": {"augment": "cached"}}, DataError, "linear.augment=cached"),
    ],
)
def test_what_a_task_needs_is_asked_before_features(no_features, task, settings, error, words):
    with pytest.raises(error, match=words):
        evaluate(TINY, tasks=["knn", task], data=SMALL, **settings)


@pytest.mark.parametrize("task", ["svm", "logreg", "linear", "few_shot", "finetune"])
def test_one_class_is_none(no_features, tmp_path, task):
    data = {"path": str(two_classes(tmp_path / "data")), "size_px": 16, "max_train": 1}
    with pytest.raises(DataError, match=rf"tasks={task} needs two classes or more"):
        evaluate(TINY, tasks=["knn", task], data=data)


@pytest.mark.parametrize(
    ("caught", "raised"), [(DataError("no luck."), DataError), (MemoryError(), DeviceMemoryError)]
)
def test_a_failing_task_leaves_the_others_results(tmp_path, monkeypatch, caught, raised):
    def fail(run: EvalRun) -> None:
        raise caught

    monkeypatch.setitem(TASKS, "svm", Task(run=fail))  # type: ignore[arg-type]
    with pytest.raises(raised, match=r"task svm: .*The other results are in .*out") as error:
        evaluate(TINY, tasks=["svm", "metrics"], data=SMALL, out=tmp_path / "out")
    assert error.value.exit_code in (65, 70)
    found = load_evaluation(tmp_path / "out")
    assert list(found.tasks) == ["metrics"]
    assert list(found.failures) == ["svm"]
    for name in ("report.md", "report.html"):
        assert "Task svm failed" in (tmp_path / "out" / name).read_text()


def test_alone_a_failing_task_is_its_error(tmp_path, monkeypatch):
    def fail(run: EvalRun) -> None:
        raise DataError("no luck.")

    monkeypatch.setitem(TASKS, "svm", Task(run=fail))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"^no luck\.$"):
        evaluate(TINY, tasks=["svm"], data=SMALL, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"num_points": 8}, "data.num_points=8 is a setting of clouds; these weights take images"),
        ({"is_normalized": False}, "data.is_normalized=False is a setting of clouds"),
        ({"size_px": 10_000_000}, "lower data.size_px"),
    ],
)
def test_settings_that_cannot_be_are_one_line(data, words):
    with pytest.raises((ConfigError, DeviceMemoryError), match=words):
        evaluate(TINY, tasks=["knn"], data={**SMALL, **data})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": ["knn", "knn"]}, "knn is given twice"),
        ({"tasks": ["knn"], "method": "zz"}, "method=zz is unknown; choose from"),
    ],
)
def test_names_that_say_nothing_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        evaluate(TINY, data=SMALL, **settings)


def test_fewer_shots_than_asked_are_counted_per_class():
    labels = torch.tensor([0] * 12 + [1] * 3 + [2] * 5)
    found = list(warn_of_fewer(labels, (1, 5, 10), ["ant", "bee", "cat"]))
    assert [line.partition(" (")[2] for line in found] == ["bee 3).", "bee 3, cat 5)."]
    assert found[0].startswith("5 shots: 1 of 3 classes have fewer training images")
    assert found[1].startswith("10 shots: 2 of 3 classes")
