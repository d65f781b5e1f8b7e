"""The table of modalities, and that nobody beside it asks which one something is."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_vision.commands.visualize import KINDS
from ssl_vision.config import load_train_config, to_yaml
from ssl_vision.data.clouds.config import CloudData, CloudEvalData
from ssl_vision.data.clouds.modality import Clouds
from ssl_vision.data.config import EvalDataConfig, InputSpec
from ssl_vision.data.images.config import ImageData, ImageEvalData
from ssl_vision.data.images.modality import Images
from ssl_vision.data.modalities import MODALITIES, AnyEvalData, data_of, modality_of
from ssl_vision.data.modality import Modality, as_is
from ssl_vision.data.module import DataModule
from ssl_vision.data.pairs.config import PairData, PairViewConfig
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.raw_inputs import raw_inputs
from ssl_vision.methods import METHODS
from ssl_vision.points.views import PointViewConfig
from ssl_vision.tasks import TASKS
from ssl_vision.tasks.finetune import WAYS
from ssl_vision.tasks.settings import make_settings
from ssl_vision.views import ViewConfig

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "images": ("digits", ViewConfig(size_px=12)),
    "clouds": ("shapes", PointViewConfig()),
    "pairs": ("blocks", PairViewConfig(size_px=12)),
}
_COMMON = {field.name for field in fields(EvalDataConfig)}
SIZE = {  # a modality's first setting of its own is the size it shows
    name: next(f.name for f in fields(each.eval_settings) if f.name not in _COMMON)
    for name, each in MODALITIES.items()
}
# Whose evaluations are their own: a network that learns from pairs is one of images.
EVALUATED = {each.eval_settings: each for each in reversed(MODALITIES.values())}.values()
SPEC = InputSpec(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", 0.9)


@pytest.mark.parametrize("modality", MODALITIES.values(), ids=MODALITIES)
def test_source_loader_settings_and_view_of_a_modality_go_together(modality: Modality) -> None:
    path, view = SMALL[modality.name]
    config = modality.settings(path=path, global_batch_size=4, views={"a": view})
    assert modality_of(config) is modality
    data = DataModule(config, seed=0)
    assert data.train_source.modality == modality.name == modality.loader.modality
    batch = next(iter(data.val_loader() or data.train_bank_loader(max_samples=8)))
    assert list(batch.views) == [modality.view_name]
    (seen,) = data.normalize(batch).views.values()
    assert seen.dtype == torch.float32
    raw = modality.raw.of(seen[:5])
    assert raw.ndim == 2
    assert len(raw) == 5
    assert raw.shape[1] <= modality.raw.width
    assert raw.isfinite().all()
    assert torch.equal(raw_inputs(modality.name)(seen[:5]).pooled, raw)
    (plain,) = batch.views.values()
    tiles = modality.thumbnails(plain[:2], size_px=16)
    assert tiles.dtype == np.uint8
    assert tiles.ndim == 4
    assert tiles.shape[3] == 3


@pytest.mark.parametrize("modality", MODALITIES.values(), ids=MODALITIES)
def test_what_is_shown_follows_the_network_unless_it_is_asked_for(modality: Modality) -> None:
    plain = modality.show(modality.eval_settings(path="x"), SPEC)
    again = modality.show(modality.eval_settings(path="x"), SPEC)
    assert plain.view == again.view
    sizes = {f.name: getattr(plain.view, f.name) for f in fields(plain.view)}
    assert 16 in sizes.values()
    asked = modality.eval_settings(path="x", **{SIZE[modality.name]: 20})
    assert 20 in {f.name: getattr(modality.show(asked, SPEC).view, f.name)
                  for f in fields(plain.view)}.values()  # fmt: skip


def test_images_are_shown_by_the_weights_statistics_and_clouds_as_they_are() -> None:
    images = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    shown = Images().show(ImageEvalData(path="x"), SPEC)
    expected = [(1 - m) / s for m, s in zip(SPEC.mean, SPEC.std, strict=True)]
    torch.testing.assert_close(shown.normalize(images)[0, :, 0, 0], torch.tensor(expected))
    assert shown.mark == "-crop0.9"
    assert shown.transform["interpolation"] == "bilinear"
    assert Clouds().show(CloudEvalData(path="x"), SPEC).normalize is as_is


@pytest.mark.parametrize("count", [1, 3])
def test_sheets_have_a_row_per_sample_and_a_column_per_drawing(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count * 2, 3, 8, 8), generator=generator).to(torch.uint8)
    sheet = MODALITIES["images"].sheet({"a": images}, num_samples=2, tile_px=20)
    assert sheet is not None
    assert sheet.size == (count * 20, 2 * 20)
    clouds = torch.randn(count * 2, 30, 3, generator=generator)
    sheet = MODALITIES["clouds"].sheet({"a": clouds}, num_samples=2, tile_px=20)
    assert sheet is not None
    assert sheet.size == (count * 20, 2 * 20 + 4)
    assert MODALITIES["images"].sheet({"a": images[:, :2]}, num_samples=2, tile_px=20) is None


def test_clouds_are_not_cropped() -> None:
    clouds = Clouds()
    with pytest.raises(ConfigError, match="takes point clouds"):
        clouds.augmented(PointViewConfig(), count=2)
    with pytest.raises(ConfigError, match="takes point clouds"):
        clouds.cropped(PointViewConfig(), count=2, area=(0.5, 1.0))


def test_a_network_that_learns_from_pairs_is_evaluated_as_one_of_images() -> None:
    pairs, images = MODALITIES["pairs"], MODALITIES["images"]
    asked = ImageEvalData(path="x", size_px=20)
    shown, expected = pairs.show(asked, SPEC), images.show(asked, SPEC)
    assert (shown.view, shown.transform) == (expected.view, expected.transform)
    assert type(pairs.data_of(asked, shown)) is PairData
    assert modality_of(ImageData(path="x")) is images
    assert modality_of(PairData(path="x")) is pairs


def test_other_statistics_than_those_of_the_weights_are_told() -> None:
    config = ImageData(path="digits", views={"a": ViewConfig(size_px=8)})
    assert config.mismatch(config.input_spec) == ""
    assert "data.mean=[0.485" in config.mismatch(SPEC)
    assert CloudData(path="shapes", views={"a": PointViewConfig()}).mismatch(SPEC) == ""


# The method chooses the schema ---------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_has_the_data_of_its_method(name: str) -> None:
    recipe = ROOT / "configs" / name / "tiny_cpu.yaml"
    assert type(load_train_config([recipe]).data) is METHODS[name].data


def test_settings_of_another_modality_are_refused() -> None:
    points, images = (
        ROOT / "configs" / name / "tiny_cpu.yaml" for name in ("point_mae", "barlow_twins")
    )
    for recipe, setting in [
        (points, "data.mean=[0,0,0]"),
        (points, "data.augment_on=device"),
        (points, "data.point_views.cloud.num_points=3"),
        (points, "data.views.cloud.size_px=3"),
        (images, "data.eval_num_points=3"),
        (images, "data.views.view_a.num_points=3"),
    ]:
        key = setting.partition("=")[0].split(".")[1]
        with pytest.raises(ConfigError, match=key):
            load_train_config([recipe], [setting])


@pytest.mark.parametrize("name", ["point_mae", "barlow_twins"])
def test_configurations_of_older_runs_load_as_they_were_meant(name: str, tmp_path: Path) -> None:
    config = load_train_config([ROOT / "configs" / name / "tiny_cpu.yaml"])
    common = "    eval_num_points: null\n"
    text = to_yaml(config)
    if name == "point_mae":
        text = text.replace("\n  views:\n", "\n  point_views:\n", 1)
        of_images = "mean: [0.485, 0.456, 0.406]", "std: [0.2, 0.2, 0.2]", "augment_on: cpu"
        common += "".join(f"    {line}\n" for line in (*of_images, "views: {}"))
        common += "    eval_size_px: null\n    eval_interpolation: bicubic\n"
    else:
        common += "    point_views: {}\n"
    old = tmp_path / "config.yaml"
    old.write_text(text.replace("\ndata:\n", "\ndata:\n" + common.replace("    ", "  ")))
    assert "point_views" in old.read_text()
    assert load_train_config([old]) == config


# The weights choose the schema of an evaluation's data -----------------------------------------


@pytest.mark.parametrize("modality", EVALUATED, ids=lambda each: each.name)
def test_an_evaluation_has_the_data_of_its_weights(modality: Modality) -> None:
    values = {"path": "x", "max_val": 3, SIZE[modality.name]: 20}
    asked = make_settings({"weights": "w", "data": values}).data
    assert data_of(asked, modality) == modality.eval_settings(**values)
    assert data_of(data_of(asked, modality), modality) == modality.eval_settings(**values)
    for other in EVALUATED:
        if other is not modality:
            key = SIZE[modality.name]
            with pytest.raises(ConfigError) as caught:
                data_of(asked, other)
            assert f"data.{key}=20 is a setting of {modality.name};" in str(caught.value)
            assert f"these weights take {other.name}." in str(caught.value)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("clouds", {"mean": (0.0, 0.0, 0.0)}),
        ("clouds", {"decode": {"background": (0, 0, 0)}}),
        ("clouds", {"interpolation": "bilinear"}),
        ("images", {"num_groups": 8}),
        ("images", {"is_normalized": False}),
    ],
)
def test_no_setting_of_the_other_modality_is_ignored(name: str, setting: dict) -> None:
    asked = make_settings({"weights": "w", "data": {"path": "x", **setting}}).data
    with pytest.raises(ConfigError, match=rf"data\.{next(iter(setting))}="):
        data_of(asked, MODALITIES[name])


def test_what_an_evaluation_reads_is_what_the_modalities_have() -> None:
    read = {f.name: f.type for f in fields(AnyEvalData)}
    of_modalities = [{f.name: f.type for f in fields(m.eval_settings)} for m in MODALITIES.values()]
    assert read == {name: kind for own in of_modalities for name, kind in own.items()}


@pytest.mark.parametrize("modality", MODALITIES.values(), ids=MODALITIES)
def test_what_a_record_names_in_the_rooms_above_is_there(modality: Modality) -> None:
    assert modality.finetune in WAYS
    assert set(modality.pictures) <= KINDS.keys()
    assert WAYS.keys() == TASKS["finetune"].settings.keys()


# Nobody else asks ----------------------------------------------------------------------------


def test_outside_its_folder_no_line_asks_which_modality_it_is() -> None:
    asks = re.compile(
        r"modality(\.name)?\s*(==|!=|in|is)\s*[\"'(\[]|is_points|\.point_view\b|isinstance\([^)]*"
        r"(ViewConfig|ImageData|CloudData|EvalData|PointSource|PointLoader|MultiViewLoader|PairData|PairSource|PairLoader"
        r"|MaskedPoints)\)|(?<!MODALITIES)\[[\w.]*modality(\.name)?\]"
    )
    found = []
    for path in sorted((ROOT / "ssl_vision").rglob("*.py")):
        if MODALITIES.keys() & set(path.parts):
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if asks.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
