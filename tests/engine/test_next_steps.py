"""Printed commands reach the commands' parsers as meant, whatever the run folder is called."""

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ssl_vision.commands.arguments import parse
from ssl_vision.commands.table import COMMANDS
from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.data.module import DataModule
from ssl_vision.engine.next_steps import next_commands
from ssl_vision.engine.train import train
from ssl_vision.recipes import find_recipe
from ssl_vision.zoo.formats import check_formats

NAMES = ["runs/a", "lr=0.1", "a b # 1", "x'y", "$HOME", "{x}", "-v", "zoo:x", 'a"b;ls', "é\\n"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("has_classifier", [False, True])
def test_every_command_names_the_run(name: str, has_classifier: bool) -> None:
    commands = next_commands(Path(name), has_classifier=has_classifier, is_in_timm=True)
    assert ("predict" in commands) == has_classifier
    for line in commands.values():
        shell = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True
        )
        words = shell.stdout.decode().split("\0")[:-1]
        assert words == shlex.split(line)
        assert words[0] == "ssl-vision"
        assert words[1] in COMMANDS
        given = parse(words[1], words[2:], num_words=(1, None))
        if words[1] != "train":
            assert Path(given.words[0]) == Path(name)
            continue
        config = load_train_config([find_recipe(given.words[0])], given.overrides)
        assert Path(config.init_from) == Path(name)
        assert config.run_path == Path(f"{name}_finetuned")


@pytest.mark.parametrize("num", [1, 2, 7, 15, 16, 40, 127, 128, 1000])
def test_fine_tuning_has_a_batch_that_as_many_images_fill(num: int) -> None:
    commands = next_commands(Path("runs/a"), has_classifier=False, is_in_timm=True, num_samples=num)
    words = shlex.split(commands["fine-tune"])
    config = load_train_config([find_recipe("supervised/small")], words[3:])
    assert 1 <= config.data.global_batch_size <= max(1, num)
    assert ("data.global_batch_size" in commands["fine-tune"]) == (num < 128)


def test_fine_tuning_runs_as_printed_where_a_run_had_few_images(
    tmp_path: Path, recipe: Callable[..., TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for name in "abcdefgh":  # of two images one is held out, so that eight are learnt from
        (photos / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (16, 16), (number, 9, 9)).save(photos / name / f"{number}.png")
    train(recipe("mae", f"data.path={photos}", "data.global_batch_size=8", "trainer.max_steps=1"))
    lines = (line.strip() for line in capsys.readouterr().out.splitlines())
    (line,) = (each for each in lines if each.startswith("ssl-vision train "))
    words = shlex.split(line.replace("data.path=DIR", f"data.path={photos}"))
    config = load_train_config([find_recipe(words[2])], words[3:])
    loader = DataModule(config.data, seed=0, is_supervised=True).train_loader()
    assert len(loader.source) == 8
    assert len(loader) >= 1


def test_scores_that_need_labels_are_not_asked_of_data_without() -> None:
    for has_labels in (True, False):
        commands = next_commands(
            Path("a"), has_classifier=False, is_in_timm=True, has_labels=has_labels
        )
        assert ("tasks=knn,linear" in commands["score"]) == has_labels


def test_an_export_is_of_forms_that_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def export() -> str:
        found = next_commands(Path("a"), has_classifier=False, is_in_timm=True)["export"]
        check_formats(found.rpartition("formats=")[2].split(","))
        return found

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "formats=timm,torch_export" in export()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert "formats=timm,onnx" in export()
