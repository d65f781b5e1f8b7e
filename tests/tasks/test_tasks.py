"""The table of tasks: one file a task, named as it is, and sections that belong to one owner."""

from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from ssl_vision.errors import DataError
from ssl_vision.tasks import TASKS
from ssl_vision.tasks.evaluate import evaluate
from ssl_vision.tasks.settings import SECTIONS, load_settings, make_settings

GIVEN = ["weights=w", "data.path=x"]
FILES = {
    "ssl_vision.tasks.knn": ("knn",),
    "ssl_vision.tasks.linear": ("linear",),
    "ssl_vision.tasks.logreg": ("logreg",),
    "ssl_vision.tasks.finetune": ("finetune", "point_finetune"),
    "ssl_vision.tasks.few_shot": ("few_shot",),
    "ssl_vision.tasks.label_curve": ("label_curve",),
    "ssl_vision.tasks.svm": ("svm",),
    "ssl_vision.tasks.n_way": ("n_way",),
    "ssl_vision.tasks.parts": ("parts",),
    "ssl_vision.tasks.retrieval": ("retrieval",),
    "ssl_vision.tasks.clustering": ("clustering",),
    "ssl_vision.tasks.metrics": ("metrics",),
    "ssl_vision.tasks.lidar": (),
    "ssl_vision.tasks.map": ("map",),
}


def test_each_task_is_a_file_of_its_name_with_its_sections() -> None:
    assert {f"ssl_vision.tasks.{name}" for name in TASKS} == set(FILES)
    for place, sections in FILES.items():
        name = place.rpartition(".")[2]
        assert import_module(place).TASK is TASKS[name]
        assert tuple(TASKS[name].settings) == sections


@pytest.mark.parametrize("section", SECTIONS.kinds)
def test_a_section_is_found_by_its_dataclass_and_by_its_name(section: str) -> None:
    kind = SECTIONS.kinds[section]
    config = load_settings([], GIVEN)
    assert type(config.settings(kind)) is kind
    assert config.settings(kind) is getattr(config, section)


def test_a_preset_lies_under_what_is_given() -> None:
    config = load_settings([], [*GIVEN, "knn.preset=lightly", "knn.temperature=0.5"])
    values = config.settings(SECTIONS.kinds["knn"])
    expected = SECTIONS.presets["knn"]["lightly"]
    assert values.k == expected.k  # type: ignore[attr-defined]
    assert values.temperature == 0.5  # type: ignore[attr-defined]


def test_sections_of_no_task_are_refused() -> None:
    with pytest.raises(Exception, match=r"knnn.*Did you mean"):
        load_settings([], [*GIVEN, "knnn.k=3"])
    with pytest.raises(KeyError, match="Path"):
        make_settings({"weights": "w", "data": {"path": "x"}}).settings(Path)


def test_tasks_that_need_several_samples_refuse_one_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "data/one.png")
    weights = "timm:resnet18?pretrained=false"
    for task in ("map", "lidar"):
        data = {"path": str(tmp_path / "data"), "size_px": 8}
        with pytest.raises(DataError, match=rf"tasks={task} needs at least .* has 1 here"):
            evaluate(weights, data=data, tasks=[task], out=tmp_path / "out")
