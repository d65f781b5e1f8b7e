"""Commands that `train` prints name the run folder, whatever it is called, in any shell line."""

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_vision.commands.arguments import parse
from ssl_vision.config import TrainConfig, as_run_dir, load_train_config
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError
from ssl_vision.typed import as_word
from ssl_vision.zoo.weights import resolve_weights
from tests.runs import write_recipe

NAMES = ["runs/lr=0.1", "lr=0.1", "a b", "x'y", "$HOME", "(1)", "{x}", "-v", "~", "~root/x",
         "zoo:x", "a\\b", 'a"b', "a;ls", "*", "[a]", "#1", "é", "x\ny"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_and_the_commands_take_it_for_the_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = f"evaluate {as_word(Path(name))} data.path=DIR"
    shell = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {printed}"], capture_output=True, check=True
    )
    words = shell.stdout.decode().split("\0")[:-1]
    given = parse("evaluate", words[1:], num_words=(1, None))
    assert given.overrides == ("data.path=DIR",)
    (word,) = given.words
    assert word.partition(":")[0] not in ("zoo", "timm")
    assert tmp_path / Path(word).expanduser() == tmp_path / name


@pytest.mark.parametrize("name", ["lr=0.1", "a b x'y", "{$HOME}(1)"])
def test_what_a_run_prints_leads_to_its_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_recipe(tmp_path / "recipe.yaml", "barlow_twins")
    run_dir = f"run_dir={as_run_dir(name)}"
    train(load_train_config([path], [run_dir, "trainer.max_steps=1"]))
    assert (tmp_path / name / "export").is_dir()
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.strip().startswith("ssl-vision evaluate "))
    words = shlex.split(line)
    assert resolve_weights(words[2]).backbone is not None


def test_run_dir_knows_one_pattern(recipe: Callable[..., TrainConfig], tmp_path: Path) -> None:
    for run_dir, folder in {
        "runs/{method}": "runs/mae",
        "{method}{method}": "maemae",
        "{{method}}": "{method}",
        "{{{method}}}": "{mae}",
        "{{}}": "{}",
        "a}}b": "a}b",
        "plain": "plain",
    }.items():
        assert recipe("mae", f"run_dir={run_dir}").run_path == Path(folder)
    for run_dir in ("{x}", "{", "}", "{}", "{0}", "{method", "{method!r}", "{method.a}", "{{{x}}}"):
        with pytest.raises(ConfigError, match=r"\{method\} is its only pattern"):
            recipe("mae", f"run_dir={run_dir}")
    for name in ("{x}", "}{", "{method}", "{{"):
        assert recipe("mae", f"run_dir={as_run_dir(name)}").run_path == Path(name)
