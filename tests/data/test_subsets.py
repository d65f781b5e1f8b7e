"""Which training images are used: lists, shares, and what supervised training leaves out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.module import DataModule
from ssl_vision.data.source import Source
from ssl_vision.data.subsets import fraction_rows, rows_of_list, with_classes_of
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.views import ViewConfig


def _folder(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    names = [f"{kind}/{kind}_{i}.png" for kind in ("ant", "bee") for i in range(4)]
    return FolderSource(_folder(tmp_path / "images", [*names, "bee/deep/bee_0.png"]))


def _list(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(text)
    return path


def test_lists_name_files_by_any_end_of_their_path(tmp_path: Path, source: FolderSource) -> None:
    text = "# ten percent\nbee_3.png\n\nant/ant_1.png\n/bee/deep/bee_0.png\n"
    rows = rows_of_list(source, _list(tmp_path, text))
    names = [Path(source.name(int(row))).relative_to(source.root).as_posix() for row in rows]
    assert sorted(names) == ["ant/ant_1.png", "bee/bee_3.png", "bee/deep/bee_0.png"]
    assert rows.tolist() == sorted(rows.tolist())


def test_lists_may_leave_suffixes_out(tmp_path: Path, source: FolderSource) -> None:
    rows = rows_of_list(source, _list(tmp_path, "bee_3\nant/ant_1\nbee/deep/bee_0\n"))
    names = [Path(source.name(int(row))).relative_to(source.root).as_posix() for row in rows]
    assert sorted(names) == ["ant/ant_1.png", "bee/bee_3.png", "bee/deep/bee_0.png"]
    with pytest.raises(DataError, match=r"masks\.val_list=.* names several images"):
        rows_of_list(source, _list(tmp_path, "bee_0\n"), key="masks.val_list")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# nothing\n", "names no image"),
        ("ant_1.png\ncat_1.png\n", "1 of 2 images are not in the data, cat_1.png first"),
        ("ant_1.png\nant/ant_1.png\n", "names 1 images twice"),
        ("nt_1.png\n", "not in the data"),
        ("bee_0.png\n", "names several images"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    tmp_path: Path, source: FolderSource, text: str, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        rows_of_list(source, _list(tmp_path, text))


def test_a_missing_list_is_named(tmp_path: Path, source: FolderSource) -> None:
    with pytest.raises(DataError, match=r"gone\.txt cannot be read"):
        rows_of_list(source, tmp_path / "gone.txt")


def test_shares_are_of_each_class_and_nested() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 3])
    one, ten, all_rows = (
        fraction_rows(153, labels, fraction=fraction) for fraction in (0.01, 0.1, 1.0)
    )
    assert np.bincount(labels[one]).tolist() == [1, 1, 1]
    assert np.bincount(labels[ten]).tolist() == [10, 5, 1]
    assert set(one) < set(ten)
    assert all_rows.tolist() == list(range(153))
    assert ten.tolist() == fraction_rows(153, labels, fraction=0.1).tolist()


def test_shares_of_unlabelled_data_are_of_all() -> None:
    assert len(fraction_rows(200, None, fraction=0.1)) == 20


def test_validation_classes_get_the_training_numbers(tmp_path: Path) -> None:
    train = FolderSource(_folder(tmp_path / "a", ["ant/1.png", "bee/1.png", "cat/1.png"]))
    val = FolderSource(_folder(tmp_path / "b", ["bee/1.png", "cat/1.png"]))
    assert with_classes_of(train, val, must_fit=True).labels.tolist() == [1, 2]
    assert val.class_names == ["ant", "bee", "cat"]
    other = FolderSource(_folder(tmp_path / "c", ["bee/1.png", "eel/1.png"]))
    with pytest.raises(DataError, match=r"classes the training data lacks \(eel\)"):
        with_classes_of(train, other, must_fit=True)
    other = with_classes_of(train, other, must_fit=False)
    assert other.class_names == ["ant", "bee", "cat", "eel"]
    assert other.labels.tolist() == [1, 3]


def _module(tmp_path: Path, *, is_supervised: bool, **changes: object) -> DataModule:
    names = [f"{kind}/{kind}_{i}.png" for kind in ("ant", "bee") for i in range(20)]
    settings = {"path": str(_folder(tmp_path / "set", names)), "global_batch_size": 2}
    views = {"a": ViewConfig(size_px=8)}
    config = ImageData(**settings | changes, views=views)  # type: ignore[arg-type]
    return DataModule(config, seed=0, is_supervised=is_supervised)


def test_supervised_training_never_sees_the_images_it_is_judged_by(tmp_path: Path) -> None:
    module = _module(tmp_path, is_supervised=True)
    train = {module.train_source.name(i) for i in range(len(module.train_source))}
    assert module.val_source is not None
    val = {module.val_source.name(i) for i in range(len(module.val_source))}
    assert len(train) == 32
    assert len(val) == 8
    assert not train & val
    assert len(_module(tmp_path, is_supervised=False).train_source) == 40


def test_lists_and_shares_choose_training_and_bank_images(tmp_path: Path) -> None:
    module = _module(tmp_path, is_supervised=True, train_fraction=0.25)
    assert np.bincount(module.train_source.labels).tolist() == [4, 4]
    assert len(module.bank_source) == 8
    listed = _list(tmp_path, "ant_0.png\nbee_0.png\n")
    module = _module(tmp_path, is_supervised=False, train_list=str(listed))
    assert len(module.train_source) == 2


def test_two_choices_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set one of them"):
        _module(tmp_path, is_supervised=True, train_list="a.txt", train_fraction=0.1)
    with pytest.raises(ConfigError, match="train_fraction=0"):
        _module(tmp_path, is_supervised=True, train_fraction=0.0)


def _names(source: Source | None) -> set[str]:
    assert source is not None
    return {Path(source.name(row)).name for row in range(len(source))}


@pytest.mark.parametrize("is_supervised", [True, False])
def test_what_is_scored_is_held_out_of_what_a_list_does_not_name(
    tmp_path: Path, is_supervised: bool
) -> None:
    held = _names(_module(tmp_path, is_supervised=is_supervised).val_source)
    some = sorted(held)[0]
    others = {f"{kind}_{i}.png" for kind in ("ant", "bee") for i in range(20)} - held
    for listed in ({some, *sorted(others)[:6]}, held, set(sorted(others)[:9])):
        path = _list(tmp_path, "\n".join(sorted(listed)))
        module = _module(tmp_path, is_supervised=is_supervised, train_list=str(path))
        assert _names(module.train_source) == _names(module.bank_source) == listed
        scored = _names(module.val_source)
        assert not scored & listed
        assert len(scored) == len(held)  # as many of each class as without the list
        assert sum(name.startswith("ant") for name in scored) == 4
        assert scored >= held - listed  # the same as without it, as far as they may
        (note,) = (line for line in module.notes if "held out" in line)
        assert "8 of 40 samples" in note
        assert "none of them listed in data.train_list" in note


def test_a_list_of_a_whole_class_leaves_none_of_it_to_score(tmp_path: Path) -> None:
    ants, bees = ([f"{kind}_{i}.png" for i in range(20)] for kind in ("ant", "bee"))
    path = _list(tmp_path, "\n".join([*ants, bees[0]]))
    module = _module(tmp_path, is_supervised=True, train_list=str(path))
    assert {name[:3] for name in _names(module.val_source)} == {"bee"}
    assert any("1 class" in line and "listed whole" in line for line in module.notes)
    path = _list(tmp_path, "\n".join(ants + bees))
    module = _module(tmp_path, is_supervised=True, train_list=str(path))
    assert len(module.train_source) == 40
    assert module.val_source is None
    assert any("names all" in line and "data.val_path" in line for line in module.notes)


def test_listed_images_without_label_are_said_and_not_missing(tmp_path: Path) -> None:
    def build(unlabelled: set[str], *, is_supervised: bool) -> DataModule:
        class Partly(FolderSource):
            def __init__(self) -> None:
                super().__init__(tmp_path / "set")
                names = [Path(self.name(row)).name for row in range(len(self))]
                self.labels[[name in unlabelled for name in names]] = -1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DataModule, "_build", lambda self, data, split: Partly())
            patch.setattr(DataModule, "_build_val", lambda self: None)
            return _module(tmp_path, is_supervised=is_supervised, train_list=str(path))

    path = _list(tmp_path, "ant_0.png\nbee_0.png\nbee_1.png\n")
    module = build({"ant_0.png"}, is_supervised=True)
    assert _names(module.train_source) == {"bee_0.png", "bee_1.png"}
    assert any("1 of 3 images have no label and are left out" in line for line in module.notes)
    module = build({"ant_0.png"}, is_supervised=False)
    assert len(module.train_source) == 3
    assert _names(module.bank_source) == {"bee_0.png", "bee_1.png"}
    every = {"ant_0.png", "bee_0.png", "bee_1.png"}
    assert build(every, is_supervised=False).val_source is None
    with pytest.raises(DataError, match="none of the 3 images it names has a label"):
        build(every, is_supervised=True)
