"""Curves of patches during training, against the evaluation of the same weights."""

import json
from pathlib import Path

import pytest

from ssl_vision.config import load_train_config
from ssl_vision.data.pairs import scenes
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.tasks.evaluate import evaluate
from tests.tasks.dense_images import quarter_images


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    for seed, (split, num) in enumerate({"train": 16, "val": 6}.items()):
        quarter_images(tmp_path / "KIND" / split, num=num, seed=seed)
    return tmp_path


def scored(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "eval/verdict" in line]


def masks(root: Path, **settings: object) -> list[str]:
    asked = {"images": root / "images", "path": root / "masks", **settings}
    return [f"online_eval.dense.{name}={value}" for name, value in asked.items()]


def test_the_curves_are_what_an_evaluation_says_of_the_weights(recipe, root, capsys):
    steps = ("online_eval.every_epochs=1", "trainer.max_steps=5")
    config = recipe(
        "mae", *steps, *masks(root, max_val=100), "online_eval.dense.correspond_images=20"
    )
    run = train(config).run_dir
    first, last = scored(run)
    assert {"eval/dense_miou", "eval/correspond_16px"} <= first.keys() & last.keys()
    size = config.data.evaluation_view().size_px
    found = evaluate(
        run,
        tasks=["dense_knn"],
        data={"path": str(root / "images"), "size_px": size},
        out=root / "out",
        cache={"mode": "off"},
        **{"masks.path": str(root / "masks")},
    )
    # Features differ in the last bit (by 7e-7), and between two patches of one class each a pixel
    # in the middle is a tie: of 16,000 pixels two or three may fall to the other side.
    assert last["eval/dense_miou"] == pytest.approx(found["dense_knn"].main.value, abs=3e-4)
    assert 0 < last["eval/correspond_16px"] <= 1
    said = capsys.readouterr().out
    assert "masks are read as ids (3 classes)" in said
    assert f"dense miou {last['eval/dense_miou']:.2%}" in said
    page = (run / "report.html").read_text()
    assert ">dense_miou: " in page
    # Nothing of the training is touched.
    plain = train(recipe("mae", *steps, run="plain")).run_dir
    other = scored(plain)[-1]
    assert "eval/dense_miou" not in other
    assert {k: v for k, v in last.items() if k in other} == other


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["online_eval.dense.images=x"], r"online_eval\.dense\.images=x and .*path=None belong"),
        (["online_eval.dense.labels=vok"], r"online_eval\.dense\.labels=vok must be"),
        (["online_eval.dense.max_val=0"], r"online_eval\.dense\.max_val=0"),
    ],
)
def test_settings_that_cannot_be_are_named(recipe, settings, words):
    with pytest.raises(ConfigError, match=words):
        recipe("mae", *settings)


@pytest.mark.parametrize(
    ("method", "words"), [("croco", "holds pairs"), ("point_mae", "holds clouds")]
)
def test_runs_without_single_images_say_so_and_those_of_pairs_may_have_others(
    root, method, words, monkeypatch
):
    monkeypatch.setattr(scenes, "ROOMS", {"train": 20, "val": 4})  # rendering takes its time
    recipe = Path(__file__).parents[2] / "configs" / method / "tiny_cpu.yaml"
    asked = [
        f"run_dir={root / 'run'}",
        *("online_eval.every_epochs=1", "trainer.max_steps=1", "data.global_batch_size=16"),
        "online_eval.dense.correspond_images=4",
    ]
    with pytest.raises(ConfigError, match=words):
        train(load_train_config([recipe], asked))
    if method == "croco":
        run = train(load_train_config([recipe], [*asked, *masks(root)])).run_dir
        assert {"eval/dense_miou", "eval/correspond_16px"} <= scored(run)[-1].keys()


@pytest.mark.parametrize("gone", ["masks/val/1.png", "images"])
def test_what_is_not_there_is_said_before_training(recipe, root, gone):
    asked = masks(root) if gone != "images" else masks(root, images=root / "nothing")
    (root / gone).unlink() if gone != "images" else None
    config = recipe("mae", *asked, "trainer.max_steps=5")
    with pytest.raises(DataError, match=r"has no mask|does not exist"):
        train(config)
    assert not (config.run_path / "metrics.jsonl").exists()
