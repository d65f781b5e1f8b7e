import pytest

from ssl_vision.commands.help import command_help
from ssl_vision.commands.table import COMMANDS
from ssl_vision.errors import ConfigError


@pytest.mark.parametrize(
    "arguments", [["mae/tiny_cpu"], ["method.name=mae"], ["x.y=1", "mae/tiny_cpu"]]
)
def test_the_settings_of_the_method_named_are_shown(arguments: list[str]) -> None:
    shown = " ".join(command_help("train", arguments).split())
    assert "method.mask_ratio=0.75 fraction of the patches hidden" in shown
    assert "teacher_momentum" not in shown


def test_without_a_method_the_settings_of_all_are_left_out_and_words_are_listed() -> None:
    shown = " ".join(command_help("train").split())
    assert "mask_ratio" not in shown
    assert "trainer.strategy=auto (auto|ddp|fsdp2)" in shown


def test_a_method_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"method\.name='mea' is unknown; choose one of .*mae"):
        command_help("train", ["method.name=mea"])


def test_every_sub_command_of_the_zoo_has_help():
    from ssl_vision.commands.zoo import _COMMANDS

    parts = COMMANDS["zoo"].parts
    assert list(parts) == list(_COMMANDS)
    for name, part in parts.items():
        text = command_help("zoo", [name])
        assert text.startswith(f"Usage: ssl-vision zoo {name}")
        assert part.summary[1:] in " ".join(text.split())
        assert name in command_help("zoo")
    assert "pos_interp=" in command_help("zoo", ["convert"])


def test_what_everybody_sets_comes_first_and_required_ones_say_so() -> None:
    shown = command_help("train")
    order = [shown.index(f"  {key}=") for key in ("data.path", "run_dir", "seed", "backbone.args")]
    assert order == sorted(order)
    assert shown.count("  data.path=") == shown.count("  seed=") == 1
    assert "???" not in shown
    assert shown.count("required") == 2  # data.path and method.name
    for name, command in COMMANDS.items():
        assert all(f"  {key}=" in command_help(name) for key in command.first)
