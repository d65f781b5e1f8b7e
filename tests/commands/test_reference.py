"""Reference pages hold what the code says."""

import inspect

import ssl_vision
from ssl_vision.commands.reference import python_page, settings_page


def test_signatures_are_those_of_the_functions() -> None:
    page = python_page()
    assert f"ssl_vision.predict{inspect.signature(ssl_vision.predict)}" in page
    assert "ssl_vision.ImageIndex.search" in page
    for name in (
        "losses.dino_loss",
        "backbones.wrap",
        "backbones.elastic.extract",
        "views.ViewConfig",
        "views.transform",
        "errors.DataError",
        "recipes.recipe_names",
    ):
        assert f"### `ssl_vision.{name}`" in page, name


def test_tables_have_one_row_per_setting_and_no_stray_columns() -> None:
    rows = [line for line in settings_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 200
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)
    assert any("| `threshold` | `0.95` | float |" in row for row in rows)
