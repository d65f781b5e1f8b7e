"""The `train` command."""

from collections.abc import Sequence

from ssl_vision.commands.arguments import parse
from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError
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
    return load_train_config([find_recipe(word) for word in given.words], given.overrides)
