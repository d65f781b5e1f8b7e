"""The zoo command, from what is typed to what is printed; on a mirror that is a folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from ssl_vision.commands.main import main
from ssl_vision.zoo.hashes import sha256_of
from ssl_vision.zoo.index import load_index, render_table

HEAD = {"module.linear.weight": torch.randn(5, 768), "module.linear.bias": torch.zeros(5)}


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of an index with one model, its files on a mirror."""
    mirror = tmp_path / "mirror/example.org"
    mirror.mkdir(parents=True)
    args = {"num_classes": 0, "img_size": 32, "depth": 4}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **args)
    torch.save(model.state_dict(), mirror / "a.pth")
    torch.save({"state_dict": HEAD}, mirror / "linear.pth")
    files: dict[str, dict[str, Any]] = {
        "backbone": {"url": "https://example.org/a.pth", "converter": "dino"},
        "linear": {"url": "https://example.org/linear.pth", "head_features": "cls4"},
    }
    entry = {
        "method": "dino",
        "backbone": {"timm": "vit_tiny_patch16_224"},
        "files": {kind: {**file, "sha256": None, "bytes": None} for kind, file in files.items()},
        "input": {},
        "license": "cc-by-nc-4.0",
        "origin": {"repo": "a/b"},
        "data": "nothing",
        "status": "verified_layout",
        "metrics": {"imagenet1k": {"knn": 74.5, "source": "README"}},
    }
    index = tmp_path / "index.yaml"
    text = yaml.safe_dump({"schema": 1, "models": {"a_model": entry}}, sort_keys=False)
    index.write_text(text)
    (tmp_path / "README.md").write_text("# Zoo\n<!-- table:start -->\n<!-- table:end -->\nend\n")
    monkeypatch.setenv("SSL_VISION_ZOO_INDEX", str(index))
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SSL_VISION_MIRROR", (tmp_path / "mirror").as_uri())
    load_index.cache_clear()
    yield tmp_path
    load_index.cache_clear()


def test_list_and_show(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "list", "method=dino"]) == 0
    assert "knn 74.5" in capsys.readouterr().out
    assert main(["zoo", "list", "method=mae"]) == 0
    assert "nothing" in capsys.readouterr().out
    assert main(["zoo", "show", "a_model"]) == 0
    shown = capsys.readouterr().out
    for words in ("cc-by-nc-4.0", "https://example.org/a.pth", "first use trusted", "README"):
        assert words in shown


def test_download_and_pin(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "download", "a_model"]) == 0
    out = capsys.readouterr().out
    assert "not for commercial use" in out
    assert "downloaded: " in out
    assert main(["zoo", "download", "a_model"]) == 0
    assert "was there: " in capsys.readouterr().out
    assert main(["zoo", "pin"]) == 0
    load_index.cache_clear()
    pinned = load_index()["a_model"].files
    assert pinned["backbone"].sha256 == sha256_of(zoo / "mirror/example.org/a.pth")
    assert pinned["linear"].bytes == (zoo / "mirror/example.org/linear.pth").stat().st_size
    assert main(["zoo", "forget", "a_model"]) == 0


def test_convert_a_name_with_its_head_and_a_file(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["zoo", "convert", "a_model", str(zoo / "named")]) == 0
    assert "local-dir:" in capsys.readouterr().out
    heads = load_file(zoo / "named/heads.safetensors")
    assert torch.equal(heads["linear.weight"], HEAD["module.linear.weight"])
    file = str(zoo / "mirror/example.org/a.pth")
    assert main(["zoo", "convert", file, str(zoo / "plain"), "size_px=48"]) == 0
    model = timm.create_model(f"local-dir:{zoo / 'plain'}", pretrained=True)
    assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 192)


def test_table_is_written_between_its_marks(zoo: Path) -> None:
    assert main(["zoo", "table"]) == 0
    text = (zoo / "README.md").read_text()
    assert text.startswith("# Zoo\n")
    assert text.endswith("end\n")
    assert render_table(load_index()) in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["lst"], 2, "Did you mean 'list'?"),
        (["show", "a_modle"], 2, "Did you mean 'a_model'?"),
        (["show"], 2, "usage: ssl-vision zoo show NAME"),
        (["download", "a_model", "file=full"], 2, "no file=full"),
        (["convert", "absent.pth", "out"], 74, "absent.pth is not a file"),
        (["convert", "a_model", "out", "width=3"], 2, "width has no effect"),
        (["list", "methd=x"], 2, "Did you mean 'method'?"),
    ],
)
def test_mistakes_are_one_line(
    zoo: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert main(["zoo", *arguments]) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
