import pytest
from click.testing import CliRunner

from ssl_vision.commands.main import group
from ssl_vision.commands.recipes import headline
from ssl_vision.config import load_train_config
from ssl_vision.recipes import find_recipe, recipe_names


def _shown(*arguments: str) -> str:
    done = CliRunner().invoke(group(), list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_the_list_has_every_recipe_with_the_first_sentence_of_its_header() -> None:
    shown = " ".join(_shown("recipes").split())
    for name in recipe_names():
        assert name in shown
        words = headline(find_recipe(name)).split()
        assert len(words) > 3, name
        assert " ".join(words[:3]) in shown


def test_one_recipe_shows_its_values_with_meanings_and_the_defaults_of_all_others() -> None:
    shown = " ".join(_shown("recipes", "mae/tiny_cpu").split())
    assert "method.mask_ratio=0.6 fraction of the patches hidden" in shown
    assert "data.views.view.size_px=28" in shown
    assert "trainer.accumulate=1 batches per optimizer update" in shown
    assert "method.mask_ratio=0.75" not in shown


def test_a_recipe_by_name_is_the_file_of_that_name() -> None:
    by_name = load_train_config([find_recipe("dino/tiny_cpu")], ["run_dir=x"])
    by_path = load_train_config(["configs/dino/tiny_cpu.yaml"], ["run_dir=x"])
    assert by_name == by_path


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dino/tiny_cpuu", "Did you mean"),
        ("dino", "Of dino: dino/"),
        ("photos", "ssl-vision recip"),
    ],
)
def test_an_unknown_name_is_answered_with_the_way_out(name: str, hint: str) -> None:
    with pytest.raises(Exception, match=hint):
        find_recipe(name)
