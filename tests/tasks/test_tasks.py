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
SECTIONS_OF = {  # others: of their name
    "finetune": ("finetune", "point_finetune"),
    "lidar": (),
    "segment": ("segment", "masks"),
}


@pytest.mark.parametrize("name", TASKS)
def test_each_task_is_a_file_of_its_name_with_its_sections(name: str) -> None:
    assert import_module(f"ssl_vision.tasks.{name}").TASK is TASKS[name]
    assert tuple(TASKS[name].settings) == SECTIONS_OF.get(name, (name,))


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
