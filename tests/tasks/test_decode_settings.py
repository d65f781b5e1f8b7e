"""What image files mean is decided once, in training, and holds wherever its weights are used."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.commands.embed import embed
from ssl_vision.commands.visualize import visualize
from ssl_vision.data.images.beton import index_path
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.images.pack import PackConfig, pack
from ssl_vision.data.levels import AskedDecode, DecodeConfig
from ssl_vision.engine.train import train
from ssl_vision.errors import DataError
from ssl_vision.tasks.evaluate import evaluate
from ssl_vision.tasks.settings import make_settings
from ssl_vision.zoo.weights import resolve_weights

OWN = DecodeConfig(background=(0, 10, 200), white_level=4095)


def transparent(root: Path) -> Path:
    """Two classes of pictures that are nothing but transparent, and a gray one of 12 bits each."""
    for name in "ab":
        (root / name).mkdir(parents=True)
        for i in range(4):
            rgba = np.zeros((16, 16, 4), np.uint8)
            Image.fromarray(rgba).save(root / name / f"{i}.png")
        deep = np.full((16, 16), 2048, np.uint16)
        Image.fromarray(deep).save(root / name / "deep.png")
    return root


@pytest.fixture
def run(tmp_path, recipe):
    """A run of one update on such pictures, with settings of its own, and the pictures."""
    path = transparent(tmp_path / "set")
    settings = ("data.decode.background=[0,10,200]", "data.decode.white_level=4095")
    more = ("data.global_batch_size=4", "trainer.max_steps=1")
    return train(recipe("mae", f"data.path={path}", *settings, *more)).run_dir, path


def test_weights_carry_them_and_evaluation_embed_and_visualize_follow(run, tmp_path, capsys):
    folder, path = run
    for weights in (folder, folder / "export"):
        assert resolve_weights(weights).decode == OWN
    checkpoint = next((folder / "checkpoints").glob("step_*"))
    assert resolve_weights(checkpoint).decode == OWN

    def pooled(out: str, **decode):
        data = {"path": str(path), **({"decode": decode} if decode else {})}
        made = embed(make_settings({"weights": str(folder), "data": data}), tmp_path / out)
        return np.load(made.folder / "pooled.npy"), made.notes

    own, notes = pooled("own")
    assert any("as in training" in line and "[0, 10, 200]" in line for line in notes)
    same, _ = pooled("same", background=[0, 10, 200], white_level=4095)
    np.testing.assert_array_equal(own, same)
    other, notes = pooled("other", background=[255, 255, 255])
    assert np.abs(other - own)[:4].max() > 1e-3
    np.testing.assert_array_equal(other[4], own[4])  # the white level stays that of the run
    assert any("were trained with data.decode.background=[0, 10, 200]" in line for line in notes)

    found = evaluate(str(folder), tasks=["knn"], data=str(path), knn={"k": [1]}, out=tmp_path / "e")
    assert any("as in training" in line for line in found.data["notes"])
    assert found.data["transform"]["decode"]["background"] == [0, 10, 200]

    said: list[str] = []
    file = str(path / "a" / "0.png")
    visualize(folder, [file], tmp_path / "v", what=["reconstruction"], note=said.append)
    with Image.open(tmp_path / "v" / "reconstruction.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert (0, 10, 200) in colours
    assert any("as in training" in line for line in said)
    white = AskedDecode(background=(255, 255, 255))
    visualize(folder, [file], tmp_path / "w", what=["reconstruction"], decode=white)
    with Image.open(tmp_path / "w" / "reconstruction.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert (0, 10, 200) not in colours


def test_weights_trained_by_default_say_nothing(tmp_path):
    path = transparent(tmp_path / "set")
    weights = "timm:resnet18?pretrained=false"
    data = {"path": str(path), "size_px": 32}
    found = evaluate(weights, tasks=["knn"], data=data, knn={"k": [1]}, out=tmp_path / "e")
    assert not any("decode" in line for line in found.data["notes"])
    assert "decode" not in found.data["transform"]


def test_a_packed_file_keeps_what_was_decided_and_refuses_what_contradicts_it(tmp_path):
    path = transparent(tmp_path / "set")
    packed = tmp_path / "p.beton"
    pack(FolderSource(path, decode=OWN), packed, PackConfig(mode="raw"))
    source = build_source(str(packed), decode=OWN)
    assert source.decided is not None
    assert (source.decided.transparent, source.decided.deep) == (8, 2)
    assert (source.sample(0)[0, 0] == (0, 10, 200)).all()
    for asked, setting in [
        (DecodeConfig(), r"data\.decode\.background=\[0,10,200\]"),
        (DecodeConfig(background=(0, 10, 200)), r"data\.decode\.white_level=4095"),
        (DecodeConfig(background=(0, 10, 201), white_level=4095), r"data\.decode\.background"),
    ]:
        with pytest.raises(DataError, match=setting):
            build_source(str(packed), decode=asked)
    again = tmp_path / "again.beton"
    pack(source, again, PackConfig())
    with pytest.raises(DataError, match="packed with"):
        build_source(str(again))


def test_settings_that_decided_nothing_are_no_conflict(tmp_path):
    (tmp_path / "set").mkdir()
    for i in range(3):
        Image.new("RGB", (9, 9), (i, 2, 3)).save(tmp_path / "set" / f"{i}.png")
    packed = tmp_path / "p.beton"
    pack(FolderSource(tmp_path / "set"), packed, PackConfig(mode="raw"))
    source = build_source(str(packed), decode=OWN)
    assert len(source) == 3
    assert source.notes == ()


def test_a_file_that_does_not_say_how_it_was_packed_is_read_and_that_is_said(tmp_path):
    packed = tmp_path / "p.beton"
    pack(FolderSource(transparent(tmp_path / "set"), decode=OWN), packed, PackConfig(mode="raw"))
    sidecar = json.loads(index_path(packed).read_text())
    del sidecar["decided"]
    index_path(packed).write_text(json.dumps(sidecar))
    assert build_source(str(packed)).notes == ()
    (line,) = build_source(str(packed), decode=OWN).notes
    assert "is not applied" in line
    for damaged in (7, {}, {"decode": {"background": [1]}}, {"decode": OWN.text()}):
        index_path(packed).write_text(json.dumps({**sidecar, "decided": damaged}))
        with pytest.raises(DataError, match="damaged"):
            build_source(str(packed))
