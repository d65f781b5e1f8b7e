"""The shipped index keeps its rules, and each rule is a rule."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml

from ssl_vision.errors import ConfigError
from ssl_vision.zoo.convert import CONVERTERS
from ssl_vision.zoo.index import (
    describe_metrics,
    find_entry,
    index_path,
    load_index,
    pin_file,
    render_table,
)

ENTRY: dict[str, Any] = {
    "method": "dino",
    "backbone": {"timm": "vit_small_patch16_224"},
    "files": {"backbone": {"url": "https://example.org/a.pth", "converter": "dino"}},
    "input": {"size": [3, 224, 224]},
    "license": "apache-2.0",
    "origin": {"repo": "a/b"},
    "data": "x",
    "status": "verified_layout",
    "metrics": {"imagenet1k": {"knn": 74.5, "source": "README"}},
}


def write(tmp_path: Path, entry: dict[str, Any]) -> Path:
    path = tmp_path / "index.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "models": {"a_model": entry}}))
    load_index.cache_clear()
    return path


def test_shipped_index_is_valid_and_covers_the_official_releases() -> None:
    index = load_index()
    assert {entry.method for entry in index.values()} >= {"dino", "mae", "barlow_twins", "smmix"}
    for entry in index.values():
        assert entry.origin.get("repo") or entry.origin.get("recipe")
        for file in entry.files.values():
            assert (file.converter or "dino") in CONVERTERS
        if entry.timm_alias:
            assert entry.timm_alias in timm.list_pretrained()
        for line in describe_metrics(entry):
            assert "reproduced" in line


def test_shipped_table_is_the_one_of_the_index() -> None:
    readme = (index_path().parent / "README.md").read_text()
    assert render_table(load_index()) in readme, "run tools/zoo.py table to bring it up to date"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"license": None}, "license is missing"),
        ({"licence": "mit"}, "licence is not a key. Did you mean 'license'?"),
        ({"backbone": {"timm": "vit_smal_patch16_224"}}, "not a timm"),
        ({"backbone": {}}, "needs timm: NAME"),
        ({"status": "verified"}, "status='verified' must be one of"),
        ({"origin": {"paper": "x"}}, "origin needs the repo"),
        ({"metrics": {"imagenet1k": {"knn": 1}}}, "metrics.imagenet1k needs a source"),
        (
            {"metrics": {"imagenet1k": {"knn": 1, "source": "x", "reproduced": True}}},
            "does not go with verified_layout",
        ),
        ({"files": {"linear": {"url": "https://a.org/b"}}}, "needs a backbone"),
        (
            {"files": {"backbone": {"url": "http://a.org/b", "converter": "dino"}}},
            "must start with https",
        ),
        (
            {"files": {"backbone": {"url": "https://a.org/b", "converter": "dyno"}}},
            "Did you mean 'dino'?",
        ),
        ({"files": {"backbone": {"url": "https://a.org/b"}}}, "converter=None must be one of"),
        ({"files": {"backbone": {"converter": "dino"}}}, "needs one of url, path and page"),
        (
            {"files": {"backbone": {"path": "own", "format": "timm_folder"}}},
            "own files carry their sha256",
        ),
        (
            {"files": {"backbone": {"url": "https://a.org/b", "converter": "mae", "sha256": "ab"}}},
            "64 hexadecimal",
        ),
        *[
            (
                {"files": {"backbone": {"url": f"https://a.org/{end}", "converter": "dino"}}},
                "can name no file",
            )
            for end in ("", "x/..", ".hidden", "a b", "-rf", "a%00b")
        ],
        *[
            (
                {
                    "files": {
                        "backbone": {"path": place, "format": "timm_folder", "sha256": "a" * 64}
                    }
                },
                "leads out of the folder of the index",
            )
            for place in ("/etc", "../../x", "own/../../x")
        ],
        ({"input": {"sise": [3, 1, 1]}}, "input.sise is not a key. Did you mean 'size'?"),
        ({"data": ...}, "lacks 'data'"),
    ],
)
def test_rules(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    assert "a_model" in load_index(write(tmp_path, ENTRY))
    entry = {k: v for k, v in {**ENTRY, **change}.items() if v is not ...}
    with pytest.raises(ConfigError) as caught:
        load_index(write(tmp_path, entry))
    assert words in str(caught.value)
    assert "a_model" in str(caught.value)


def test_a_name_given_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "index.yaml"
    path.write_text("schema: 1\nmodels:\n  a: {}\n  a: {}\n")
    load_index.cache_clear()
    with pytest.raises(ConfigError, match="'a' stands twice"):
        load_index(path)


def test_unknown_names_have_neighbours() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'dino_vit_small_16'"):
        find_entry("dino_vit_small16")


def test_pinning_changes_two_values_and_no_other_character(tmp_path: Path) -> None:
    path = tmp_path / "index.yaml"
    text = textwrap.dedent("""\
        # a comment
        models:
          a:
            files:
              backbone:
                url: https://example.org/a.pth
                sha256: null  # unknown
                bytes: null
              linear:
                url: https://example.org/b.pth
                sha256: null
                bytes: null
        """)
    path.write_text(text)
    pin_file(path, url="https://example.org/b.pth", sha256="f" * 64, num_bytes=12)
    head, tail = text.split("      linear:")
    expected = tail.replace("sha256: null", "sha256: " + "f" * 64).replace("null", "12")
    assert path.read_text() == head + "      linear:" + expected
    pin_file(path, url="https://example.org/b.pth", sha256="f" * 64, num_bytes=12)
    with pytest.raises(ConfigError, match=r":11 pins f+, the file has e+"):
        pin_file(path, url="https://example.org/b.pth", sha256="e" * 64, num_bytes=12)
    with pytest.raises(ConfigError, match="0 lines"):
        pin_file(path, url="https://example.org/c.pth", sha256="e" * 64, num_bytes=12)
