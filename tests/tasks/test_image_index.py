"""An index finds what a plain comparison of features finds, also after a round trip over disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ssl_vision
from ssl_vision.errors import ConfigError, DataError, SslVisionWarning

TINY = "timm:vit_tiny_patch16_224?pretrained=false&img_size=32&patch_size=8&depth=1"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures, one of them three times: as it is, as JPEG, a pixel brighter."""
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    (folder / "deep # 1").mkdir(parents=True)
    a, b = (random.integers(0, 255, (4, 4, 3), dtype=np.uint8) for _ in range(2))
    pictures = [Image.fromarray(each).resize((40, 40), Image.Resampling.BICUBIC) for each in (a, b)]
    pictures[0].save(folder / "a.png")
    pictures[0].save(folder / "deep # 1/a.jpg", quality=95)
    Image.fromarray(np.asarray(pictures[0]) // 2 * 2).save(folder / "a_again.png")
    pictures[1].save(folder / "b.png")
    (folder / "broken.png").write_bytes(b"no")
    return folder


def test_search_finds_the_picture_itself_first(photos: Path, tmp_path: Path) -> None:
    made = ssl_vision.ImageIndex.build(TINY, photos)
    assert list(made.unreadable) == [str(photos / "broken.png")]
    made.save(tmp_path / "index")
    loaded = ssl_vision.ImageIndex.load(tmp_path / "index")
    assert loaded.names == made.names
    for index in (made, loaded):
        found = index.search(photos / "b.png", k=9, with_self=True)
        (query,) = found
        assert query == str(photos / "b.png")
        assert found[query][0].name == query
        unit = made.features.astype(np.float64)
        row = made.names.index(query)
        expected = np.sort(unit @ unit[row])[::-1]
        similarities = [match.similarity for match in found[query]]
        np.testing.assert_allclose(similarities, expected, atol=1e-5)


def test_duplicates_are_grouped_and_others_left_alone(photos: Path) -> None:
    groups = ssl_vision.duplicates(TINY, photos, threshold=0.99)
    assert [sorted(Path(name).name for name in group.names) for group in groups] == [
        ["a.jpg", "a.png", "a_again.png"]
    ]
    (group,) = groups
    assert min(group.similarities) >= 0.99
    assert all(a != b for a, b in zip(group.names, group.nearest, strict=True))


def test_damaged_folders_and_other_weights_are_refused(photos: Path, tmp_path: Path) -> None:
    index = ssl_vision.ImageIndex.build(TINY, photos)
    with pytest.raises(ConfigError, match="is not empty and no index"):
        index.save(photos)
    with pytest.raises(DataError, match=r"is no index \(index.json is missing\)"):
        ssl_vision.ImageIndex.load(photos)
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")  # again: fine
    path = tmp_path / "index/index.json"
    text = path.read_text()
    for bad in (
        "[]",
        "{",
        '{"names": 3}',
        text.replace('"names"', '"n"'),
    ):
        path.write_text(bad)
        with pytest.raises(DataError, match="damaged; make the index again"):
            ssl_vision.ImageIndex.load(tmp_path / "index")
    path.write_text(text.replace('"names": [', '"names": ["one more",'))
    with pytest.raises(DataError, match="4 rows and 5 names"):
        ssl_vision.ImageIndex.load(tmp_path / "index")
    path.write_text(text.replace(index.sha256, "0" * 64))
    with pytest.raises(ConfigError, match="are not those the index was made with"):
        ssl_vision.ImageIndex.load(tmp_path / "index").search(photos / "b.png")


def test_an_image_of_the_index_is_left_out_of_its_own_matches(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "copy.png").write_bytes((photos / "a.png").read_bytes())
    elsewhere = tmp_path / "upload.png"
    elsewhere.write_bytes((photos / "b.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    index = ssl_vision.ImageIndex.build(TINY, "photos")  # names are relative, queries are not
    answers = index.answers([photos / "a.png", elsewhere], k=2)
    own, uploaded = answers[str(photos / "a.png")], answers[str(elsewhere)]
    assert own.itself == "photos/a.png"
    assert own.matches[0].name == "photos/copy.png"  # another file of that content is a finding
    assert uploaded.itself == "photos/b.png"
    assert all(len(answer.matches) == 2 for answer in answers.values())
    assert "photos/b.png" not in [match.name for match in uploaded.matches]
    ((first, *others),) = index.search(elsewhere, k=2, with_self=True).values()
    assert (first.name, len(others)) == ("photos/b.png", 1)


def test_rows_of_other_arrays_are_not_taken_for_those_of_the_index() -> None:
    indexed, asked = np.random.default_rng(0).integers(0, 255, (2, 3, 32, 32, 3), dtype=np.uint8)
    asked[1] = indexed[1]
    index = ssl_vision.ImageIndex.build(TINY, indexed)
    found = list(index.answers(asked, k=3).values())
    assert [answer.itself for answer in found] == [None, index.names[1], None]
    assert [len(answer.matches) for answer in found] == [3, 2, 3]


def test_a_threshold_that_groups_much_is_doubted(photos: Path) -> None:
    index = ssl_vision.ImageIndex.build(TINY, photos)
    with pytest.warns(SslVisionWarning, match="75 % of the images are grouped at threshold=0.99"):
        index.duplicates(threshold=0.99)
