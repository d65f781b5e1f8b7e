"""Reports and comparisons in a real browser: on a phone and a desk, in light and dark.

PAGES=DIR keeps pictures of the pages there.
"""

import os
from pathlib import Path

import pytest

from ssl_vision.commands.main import main
from ssl_vision.config import load_train_config
from ssl_vision.engine.train import train
from tests.browser import BROWSER, browser, faults
from tests.runs import write_recipe

pytest.importorskip("playwright", reason="no Playwright: pip install '.[dev]'")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium: apt-get install chromium-headless-shell"
)
LONG = "a_folder_with_a_long_name_" * 4  # which no line may break on
CLOUDS = [
    "data.views.cloud.num_points=64",
    "backbone.args={embed_dim: 24, depth: 2, num_heads: 3, num_groups: 8, group_size: 8,"
    " patch_hidden: 32}",
]


@pytest.fixture(scope="module")
def shown():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of runs on images and clouds, of an evaluation, and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    clouds = Path(__file__).parents[1] / "configs/point_mae/tiny_cpu.yaml"
    runs = {
        f"dino_{LONG}": (write_recipe(folder / "dino.yaml", "dino"), []),
        f"mae_{LONG}": (write_recipe(folder / "mae.yaml", "mae"), ["seed=1"]),
        "clouds": (clouds, [*CLOUDS, "trainer.max_steps=2"]),
    }
    for name, (recipe, words) in runs.items():
        given = [*words, "online_eval.every_epochs=1", f"run_dir={folder / name}"]
        train(load_train_config([recipe], given))
    first, second, third = (folder / name for name in runs)
    assert main(["compare", str(first), str(second), str(third), f"out={folder / 'both'}"]) == 0
    tasks = "tasks=knn,map,metrics,linear"
    words = [str(first), "data.path=digits", tasks, f"out={folder / 'scores'}", "cache.mode=off"]
    assert main(["evaluate", *words]) == 0
    return {
        "images": first / "report.html",
        "masked": second / "report.html",
        "clouds": third / "report.html",
        "comparison": folder / "both/comparison.html",
        "evaluation": folder / "scores/report.html",
    }


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["images", "masked", "clouds", "comparison", "evaluation"])
def test_page_is_whole(shown, pages, name: str, width: int, scheme: str) -> None:
    kept = os.environ.get("PAGES")
    picture = Path(kept) / f"{name}_{width}_{scheme}.png" if kept else None
    assert faults(shown, pages[name], width=width, scheme=scheme, picture=picture) == []


BAD = {
    "scrolls sideways": "<div style='width:2000px'>x</div>",
    "no image": "<img alt='x' src='data:image/png;base64,AAAA'>",
    "image without words": "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>",
    "console": "<script>console.error('x')</script>",
    "error": "<script>nothing.there</script>",
    "not loaded": "<img alt='x' src='missing.png'>",
    "asks": "<img alt='x' src='missing.png'>",
    "contrast": "<p style='color:#777;background:#888'>x</p>",
    "letters too small": "<svg width='99' height='30'><text font-size='4' y='9'>x</text></svg>",
    "dark page on a background": "<p style='color:#777'>x</p>",
}


@pytest.mark.parametrize("fault", BAD)
def test_faults_are_found(shown, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "bad.html"
    path.write_text(f"<!doctype html><html lang='en'><body>{BAD[fault]}</body></html>")
    found = faults(shown, path, width=390, scheme="dark" if fault[:4] == "dark" else "light")
    assert any(line.startswith(fault) for line in found), found
