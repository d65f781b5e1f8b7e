"""The `train` command."""

import os
from collections.abc import Sequence

from rich.console import Console

from ssl_vision.commands.arguments import parse
from ssl_vision.commands.saying import say
from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.engine.auto import Auto
from ssl_vision.engine.start_weights import with_network_of_start
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError
from ssl_vision.layers import read_layers
from ssl_vision.recipes import find_recipe


def run_train(arguments: Sequence[str]) -> int:
    """`train RECIPE [more.yaml ...] [key=value ...]`."""
    train(recipe_config("train", arguments))
    return 0


def recipe_config(command: str, arguments: Sequence[str]) -> TrainConfig:
    """Configuration of a command that takes a recipe.

    Raises:
        ConfigError: No recipe, one that is not there, or a setting that does not fit.
    """
    given = parse(command, arguments, num_words=(0, None))
    if not given.words:
        raise ConfigError(
            f"{command} needs a recipe, for example: {command} barlow_twins/tiny_cpu; "
            "ssl-vision recipes lists those there are."
        )
    auto = Auto()
    if given.words == ("auto",):
        config = auto.load(read_layers([], given.overrides))
    else:
        recipes = [find_recipe(word) for word in given.words]
        config = load_train_config(recipes, given.overrides, fill=auto.fill)
    config, line = with_network_of_start(config, given.given)
    lines = auto.lines + ([] if line is None else [line])
    if int(os.environ.get("RANK", "0")) == 0:
        for each in lines:
            say(Console(), each)
    return config
