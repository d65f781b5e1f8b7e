"""The `train` command."""

from collections.abc import Sequence

from ssl_vision.config import load_train_config, split_arguments
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError


def run_train(arguments: Sequence[str]) -> int:
    """`train RECIPE [more.yaml ...] [key=value ...]`."""
    files, overrides = split_arguments(arguments)
    if not files:
        raise ConfigError(
            "train needs a recipe, for example: train barlow_twins/tiny_cpu; ssl-vision recipes "
            "lists those there are"
        )
    train(load_train_config(files, overrides))
    return 0
