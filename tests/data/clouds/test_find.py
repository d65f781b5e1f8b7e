"""Layouts of point data sets, written in miniature; and what goes wrong with them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ssl_vision.data.clouds.config import CloudData
from ssl_vision.data.clouds.find import build_point_source
from ssl_vision.data.clouds.layouts import read_cloud
from ssl_vision.data.clouds.loader import PointLoader
from ssl_vision.data.clouds.source import PartSource
from ssl_vision.data.module import DataModule
from ssl_vision.data.source import SubsetSource
from ssl_vision.errors import DataError
from ssl_vision.points.views import PointViewConfig

TRIANGLE = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


def write(path: Path, content: str = "0 0 0\n1 0 0\n0 1 0\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_built_in_shapes_are_split_and_balanced() -> None:
    train, val = (build_point_source("shapes", split=s) for s in ("train", "val"))
    assert (len(train), len(val)) == (1000, 300)
    assert np.bincount(train.labels).tolist() == [100] * 10
    assert train.class_names == val.class_names == sorted(train.class_names)
    assert train.fingerprint() != val.fingerprint()
    assert train.class_names[train.labels[7]] in train.name(7)
    assert train.sample(7) is not None
    assert np.array_equal(train.sample(7), build_point_source("shapes", split="train").sample(7))


def test_built_in_parts_are_numbered_by_class() -> None:
    source = build_point_source("shape_parts", split="val")
    assert isinstance(source, PartSource)
    for index in range(4):
        owned = source.parts_of_class[source.labels[index]]
        assert set(np.unique(source.parts(index))) <= set(owned)
        assert len(source.parts(index)) == len(source.sample(index))
    numbers = [part for owned in source.parts_of_class for part in owned]
    assert sorted(numbers) == list(range(len(source.part_names)))


@pytest.mark.parametrize("layout", ["{split}/{kind}/a.txt", "{kind}/{split}/a.txt"])
def test_class_folders_with_splits_above_or_below(tmp_path: Path, layout: str) -> None:
    for kind in ("cup", "box"):
        for split in ("train", "test"):
            write(tmp_path / layout.format(split=split, kind=kind))
    for split in ("train", "val"):
        source = build_point_source(str(tmp_path), split=split)
        assert source.class_names == ["box", "cup"]
        assert source.labels.tolist() == [0, 1]
        assert ("test" if split == "val" else "train") in source.name(0)


def test_class_folders_without_splits_and_flat_folders(tmp_path: Path) -> None:
    write(tmp_path / "a" / "box" / "1.off", TRIANGLE)
    write(tmp_path / "a" / "cup" / "1.txt")
    write(tmp_path / "a" / "cup" / "README.txt", "words")
    source = build_point_source(str(tmp_path / "a"))
    assert source.labels.tolist() == [0, 1]
    write(tmp_path / "b" / "1.txt")
    flat = build_point_source(str(tmp_path / "b"))
    assert flat.labels is None
    assert len(flat) == 1
    with pytest.raises(DataError, match=r"has no val split .* set data\.val_path"):
        build_point_source(str(tmp_path / "a"), split="val")
    views = {"cloud": PointViewConfig(num_points=3)}
    config = CloudData(path=str(tmp_path / "a"), val_path=str(tmp_path / "a"), views=views)
    val = DataModule(config, seed=0).val_source
    assert val is not None
    assert val.name(1).endswith("1.txt")


def test_modelnet_resampled(tmp_path: Path) -> None:
    write(tmp_path / "modelnet40_train.txt", "airplane_0001\nnight_stand_0002\n")
    write(tmp_path / "modelnet40_test.txt", "night_stand_0003\n")
    write(tmp_path / "modelnet40_shape_names.txt", "airplane\nnight_stand\n")
    write(tmp_path / "airplane" / "airplane_0001.txt", "1,2,3,0,0,1\n4,5,6,0,0,1\n")
    for i in (2, 3):
        write(tmp_path / "night_stand" / f"night_stand_000{i}.txt", "1,2,3,0,0,1\n")
    train, test = (build_point_source(str(tmp_path), split=s) for s in ("train", "val"))
    assert train.labels.tolist() == [0, 1]
    assert test.labels.tolist() == [1]
    assert train.sample(0).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_shapenet55(tmp_path: Path) -> None:
    write(tmp_path / "ShapeNet-55" / "train.txt", "02691156-aa.npy\n04379243-b-b.npy\n")
    write(tmp_path / "ShapeNet-55" / "test.txt", "03001627-cc.npy\n")
    (tmp_path / "shapenet_pc").mkdir()
    for name in ("02691156-aa", "04379243-b-b", "03001627-cc"):
        np.save(tmp_path / "shapenet_pc" / f"{name}.npy", np.ones((5, 3)))
    train, test = (build_point_source(str(tmp_path), split=s) for s in ("train", "val"))
    assert train.class_names == test.class_names == ["02691156", "03001627", "04379243"]
    assert train.labels.tolist() == [0, 2]
    assert test.labels.tolist() == [1]


def test_shapenetpart(tmp_path: Path) -> None:
    write(tmp_path / "synsetoffset2category.txt", "Mug\t03797390\nBag\t02773838\n")
    lists = {"train": ["03797390/a"], "val": ["02773838/b"], "test": ["03797390/c"]}
    for part, names in lists.items():
        file = tmp_path / "train_test_split" / f"shuffled_{part}_file_list.json"
        write(file, json.dumps([f"shape_data/{name}" for name in names]))
        for name in names:
            write(tmp_path / f"{name}.txt", "0 0 0 0 0 1 36.0\n1 0 0 0 0 1 37.0\n")
    train = build_point_source(str(tmp_path), split="train")
    assert isinstance(train, PartSource)
    assert train.class_names == ["Bag", "Mug"]
    assert train.labels.tolist() == [1, 0]
    assert train.parts(0).tolist() == [36, 37]
    assert train.sample(0).shape == (2, 3)
    # The published numbering: bags have parts 4 and 5, mugs 36 and 37, of 50.
    assert train.parts_of_class == [[4, 5], [36, 37]]
    assert len(train.part_names) == 50
    assert len(build_point_source(str(tmp_path), split="val")) == 1


def test_scanobjectnn_asks_for_one_variant_and_a_readable_file(tmp_path: Path) -> None:
    for name in ("training_objectdataset.h5", "training_objectdataset_augmentedrot_scale75.h5"):
        write(tmp_path / name, "")
    with pytest.raises(DataError, match=r"2 training files .* give the path of one"):
        build_point_source(str(tmp_path))
    with pytest.raises(DataError, match=r"h5py|cannot be read"):
        build_point_source(str(tmp_path / "training_objectdataset.h5"))
    with pytest.raises(DataError, match=r"test_objectdataset\.h5 does not exist"):
        build_point_source(str(tmp_path / "training_objectdataset.h5"), split="val")


def test_scanobjectnn_is_read_from_its_h5_files(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="reads .h5: pip install 'ssl-vision[h5]'")
    random = np.random.default_rng(0)
    clouds = {name: random.normal(size=(n, 64, 3)) for name, n in (("training", 5), ("test", 2))}
    for name, values in clouds.items():
        with h5py.File(tmp_path / f"{name}_objectdataset.h5", "w") as file:
            file["data"], file["label"] = values.astype(np.float32), np.arange(len(values)) % 15
    train, val = (build_point_source(str(tmp_path), split=split) for split in ("train", "val"))
    assert (len(train), len(val), train.class_names[4]) == (5, 2, "chair")
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(train.sample(3), clouds["training"][3].astype(np.float32))
    assert np.array_equal(val.sample(1), clouds["test"][1].astype(np.float32))


def test_meshes_become_the_same_surface_points_every_time(tmp_path: Path) -> None:
    file = write(tmp_path / "a.off", TRIANGLE)
    cloud = read_cloud(file)
    assert cloud.shape == (8192, 3)
    assert np.array_equal(cloud, read_cloud(file))
    assert (cloud[:, 2] == 0).all()


def test_degenerate_meshes_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "line.off", TRIANGLE.replace("0 1 0\n3", "2 0 0\n3"))
    with pytest.raises(DataError, match=r"line\.off: the surface has no area"):
        read_cloud(file)


def test_unusable_paths_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        build_point_source(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="holds no clouds or meshes"):
        build_point_source(str(tmp_path))
    with pytest.raises(DataError, match="is one file"):
        build_point_source(str(write(tmp_path / "a.txt")))
    write(tmp_path / "modelnet40_train.txt", "cup_0001\n")
    with pytest.raises(DataError, match=r"1 of 1 files are missing, first .*cup_0001\.txt"):
        build_point_source(str(tmp_path))


def test_subsets_pass_clouds_on() -> None:
    source = build_point_source("shapes", split="val")
    part = SubsetSource(source, np.array([5, 2]))
    assert np.array_equal(part.sample(0), source.sample(5))


def _part_set(root: Path, lists: str = '["shape_data/03797390/a"]', part: str = "36") -> None:
    write(root / "synsetoffset2category.txt", "Mug\t03797390\n")
    for name in ("train", "val", "test"):
        write(root / "train_test_split" / f"shuffled_{name}_file_list.json", lists)
    write(root / "03797390/a.txt", f"0 0 0 0 0 1 {part}\n")


@pytest.mark.parametrize(
    "lists", ["{}", "[1]", "null", '"a"', '["a"]', "[", '["x/y"]', '["../a"]', '[["a", "b"]]']
)
def test_lists_of_parts_of_any_shape_are_one_line(tmp_path: Path, lists: str) -> None:
    _part_set(tmp_path, lists)
    with pytest.raises(DataError, match=r"shuffled_train_file_list\.json") as caught:
        build_point_source(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["50", "-1", "1.5", "1e30", "nan"])
def test_parts_are_those_of_the_data_set(tmp_path: Path, part: str) -> None:
    _part_set(tmp_path, part=part)
    source = build_point_source(str(tmp_path))
    with pytest.raises(DataError, match=r"a\.txt: part .* is none of 0\.\.49"):
        source.sample(0)


def test_lists_name_nothing_outside_their_folder(tmp_path: Path) -> None:
    write(tmp_path / "secret_1.txt")
    root = tmp_path / "set"
    for line in ("../secret_1", f"{tmp_path}/secret_1"):
        write(root / "modelnet40_train.txt", f"{line}\n")
        with pytest.raises(DataError, match=r"modelnet40_train\.txt names .* leads out of"):
            build_point_source(str(root))
    (root / "modelnet40_train.txt").unlink()
    (root / "shapenet_pc").mkdir()
    write(root / "train.txt", "../../secret_1.txt\n")
    with pytest.raises(DataError, match=r"train\.txt names .* leads out of"):
        build_point_source(str(root))
    write(root / "train.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"train\.txt is not UTF-8"):
        build_point_source(str(root))


def test_clouds_that_cannot_be_read_are_substituted(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / "cup" / f"{number}.txt", "0 0 0\n1 0 0\n0 1 0\n" * 20)
    os.mkfifo(tmp_path / "cup" / "pipe.txt")
    (tmp_path / "cup" / "gone.npy").symlink_to("nowhere")
    write(tmp_path / "cup" / "bad.ply", "ply\n")
    source = build_point_source(str(tmp_path))
    assert len(source) == 9
    assert source.fingerprint() == build_point_source(str(tmp_path)).fingerprint()
    views = {"cloud": PointViewConfig(num_points=3)}
    loader = PointLoader(source, views, batch_size=9, seed=0, num_threads=2, on_error="substitute")
    batch = next(iter(loader))
    assert batch.views["cloud"].isfinite().all()
    assert sorted(Path(source.name(i)).name for i in loader.bad_samples) == [
        "bad.ply", "gone.npy", "pipe.txt"
    ]  # fmt: skip


H5_FAULTS = ("group", "text", "labels", "range", "fraction", "external", "sparse", "flat")


@pytest.mark.parametrize("fault", H5_FAULTS)
def test_h5_files_of_any_shape_are_one_line(tmp_path: Path, fault: str) -> None:
    h5py = pytest.importorskip("h5py", reason="reads .h5: pip install 'ssl-vision[h5]'")
    data, labels = np.zeros((3, 16, 3), np.float32), np.arange(3)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["data"] = data
    with h5py.File(tmp_path / "training_objectdataset.h5", "w") as file:
        file["label"] = {
            "labels": labels[:2], "range": labels + 13, "fraction": labels / 2
        }.get(fault, labels)  # fmt: skip
        if fault == "group":
            file.create_group("data")
        elif fault == "external":
            file["data"] = h5py.ExternalLink("other.h5", "data")
        elif fault == "sparse":
            file.create_dataset("data", (1 << 20, 1 << 20, 3), np.float32, chunks=(1, 16, 3))
        else:
            file["data"] = {"text": "words", "flat": data[0]}.get(fault, data)
    with pytest.raises(DataError, match=r"training_objectdataset\.h5") as caught:
        build_point_source(str(tmp_path))
    assert "\n" not in str(caught.value)
