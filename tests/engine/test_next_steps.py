"""Printed commands reach the commands' parsers as meant, whatever the run folder is called."""

import shlex
import subprocess
from pathlib import Path

import pytest

from ssl_vision.commands.arguments import parse
from ssl_vision.commands.table import COMMANDS
from ssl_vision.config import load_train_config
from ssl_vision.engine.next_steps import next_commands
from ssl_vision.recipes import find_recipe

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
