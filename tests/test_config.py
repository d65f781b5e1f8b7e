import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from ssl_vision.config import load_eval_config, load_train_config, to_yaml
from ssl_vision.errors import ConfigError
from ssl_vision.methods import METHODS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted(CONFIGS.glob("*/*.yaml"))
TINY = CONFIGS / "barlow_twins" / "tiny_cpu.yaml"


def test_there_are_recipes_for_every_method() -> None:
    assert len(RECIPES) >= 10
    assert {path.parent.name for path in RECIPES} >= set(METHODS)
    for method in METHODS:
        assert list((CONFIGS / method).glob("tiny_cpu*.yaml")), f"{method} has no tiny recipe"


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_recipe_loads_tells_its_story_and_round_trips(path: Path, tmp_path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("Run:" in line for line in header), "a recipe says how it is run"
    assert any("Expect:" in line for line in header), "a recipe says what to expect, or 'not run'"
    config = load_train_config([path], ["data.path=somewhere"])
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config))
    assert load_train_config([saved]) == config


MISTAKES = [
    ("optim.base_lrr=1", ["optim.base_lrr", "Did you mean", "'base_lr'"]),
    ("trainr.epochs=1", ["trainr", "Did you mean 'trainer'?"]),
    ("method.redundancy_weigth=1", ["redundancy_weigth", "redundancy_weight"]),
    (
        "method.mask_ratio=0.5",
        ["method.mask_ratio", "no such setting", "redundancy_weight"],
    ),
    ("data.views.a.blurr.prob=1", ["blurr", "blur"]),
    ("data.views.a.flip_prob=2", ["flip_prob=2"]),
    ("trainer.epochs=many", ["trainer.epochs", "many"]),
    ("trainer.epochs=1e2", ["trainer.epochs", "100"]),
    ("trainer.epochs=0", ["trainer.epochs=0"]),
    ("trainer.precision=8", ["trainer.precision", "bf16"]),
    ("resume=maybe", ["resume", "must"]),
    ("method.name=barlow", ["'barlow'", "barlow_twins"]),
    ("seed", ["'seed'", "key=value"]),
    ("--seed=1", ["'--seed=1'", "key=value"]),
    ("data.views.a.crop_area=[0.1,0.2,0.3]", ["crop_area"]),
    ("data.mean=${data.mean}", ["data.mean"]),
    ("data.views.c.size_px=32", ["c"]),
]


@pytest.mark.parametrize(("override", "words"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_gives_one_line_with_the_key_and_the_way_out(
    override: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_train_config([TINY], [override])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_mistakes_in_files_name_the_file(tmp_path: Path) -> None:
    typo = tmp_path / "cluster.yaml"
    typo.write_text("trainer:\n  epoch: 3\n")
    with pytest.raises(ConfigError, match=r"cluster\.yaml.*epoch"):
        load_train_config([TINY, typo])
    twice = tmp_path / "twice.yaml"
    twice.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml"):
        load_train_config([TINY, twice])
    with pytest.raises(ConfigError, match=r"absent\.yaml.*no such"):
        load_train_config([tmp_path / "absent.yaml"])
    listing = tmp_path / "list.yaml"
    listing.write_text("- 1\n")
    with pytest.raises(ConfigError, match="mapping"):
        load_train_config([listing])


def test_missing_values_are_named() -> None:
    with pytest.raises(ConfigError, match=r"method\.name is missing"):
        load_train_config([])
    with pytest.raises(ConfigError, match=r"data\.path.*add .*=VALUE"):
        load_train_config([], ["method.name=mae"])


def test_later_layers_win_and_the_result_is_frozen(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("trainer: {epochs: 7, accumulate: 2}\n")
    config = load_train_config([TINY, cluster], ["trainer.epochs=9"])
    assert (config.trainer.epochs, config.trainer.accumulate) == (9, 2)
    with pytest.raises(FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


WORDS = [word for plain in ("on", "off", "yes", "no") for word in (plain, plain.title())]


@pytest.mark.parametrize("word", WORDS)
def test_on_and_off_are_words_where_a_word_is_wanted_and_truths_where_a_truth_is(
    word: str, tmp_path: Path
) -> None:
    is_on = word.lower() in ("on", "yes")
    settings = [f"run_dir={word}", f"loggers=[{word}]", f"trainer.compile={word}"]
    with pytest.raises(ConfigError, match=rf"loggers.*{word}"):
        load_train_config([TINY], settings)
    config = load_train_config([TINY], [settings[0], settings[2], f"backbone.args.a={word}"])
    assert (config.run_dir, config.trainer.compile) == (word, is_on)
    assert config.backbone.args["a"] is is_on  # as always: no schema says what timm wants
    file = tmp_path / "words.yaml"
    file.write_text(f"# on, off\nrun_dir: {word}\ntrainer: {{compile: {word}, epochs: 3}}\n")
    again = load_train_config([TINY, file])
    assert (again.run_dir, again.trainer.compile, again.trainer.epochs) == (word, is_on, 3)
    file.write_text(to_yaml(config))
    assert load_train_config([file]) == config


@pytest.mark.parametrize(("word", "truth"), [("true", True), ("false", False), ("True", True)])
def test_truths_stay_truths(word: str, truth: bool) -> None:
    config = load_train_config([TINY], [f"trainer.compile={word}", f"backbone.args.a={word}"])
    assert config.trainer.compile is truth
    assert config.backbone.args["a"] is truth


def test_the_cache_can_be_switched_off() -> None:
    given = ["weights=timm:resnet18", "data.path=digits"]
    assert load_eval_config([], [*given, "cache.mode=off"]).cache.mode == "off"
    assert load_eval_config([], [*given, "cache={mode: off}"]).cache.mode == "off"
    with pytest.raises(ConfigError, match=r"cache\.mode.*on"):
        load_eval_config([], [*given, "cache.mode=on"])


def test_words_in_quotes_and_in_other_words_stay_as_written(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text("run_dir: \"no\"\ninit_from: off by one\nbackbone: {name: 'yes'}\n")
    config = load_train_config([TINY, file])
    assert (config.run_dir, config.init_from, config.backbone.name) == ("no", "off by one", "yes")


@pytest.mark.parametrize(
    ("recipe", "typed", "key"),
    [
        ("barlow_twins", "data.views.a.size_px=0", "data.views.a.size_px=0"),
        ("barlow_twins", "data.views.b.count=0", "data.views.b.count=0"),
        ("barlow_twins", "data.views.b.crop_area=[0.5,0.2]", "data.views.b.crop_area="),
        ("barlow_twins", "data.views.a.blur.prob=3", "data.views.a.blur.prob=3"),
        ("barlow_twins", "data.views.a.jitter.hue=0.9", "data.views.a.jitter.hue=0.9"),
        ("barlow_twins", "data.views.a.solarize={threshold: 300}", "data.views.a.solarize.thresh"),
        ("barlow_twins", "data.views.a.erase={prob: -1}", "data.views.a.erase.prob=-1"),
        ("barlow_twins", "data.views.new.size_px=-4", "data.views.new.size_px=-4"),
        ("barlow_twins", "data.decode.white_level=-1", "data.decode.white_level=-1"),
        ("barlow_twins", "data.mean=[0,0,2]", "data.mean="),
        ("point_mae", "data.views.cloud.num_points=0", "data.views.cloud.num_points=0"),
        ("point_mae", "data.views.cloud.scale=[2,1]", "data.views.cloud.scale="),
        ("point_mae", "data.views.cloud.shift=-1", "data.views.cloud.shift=-1"),
        ("point_mae", "data.views.cloud.count=2", "data.views.cloud.count=2"),
        ("distill", "method.teachers.x={weights: timm:resnet18, weight: 0}",
         "method.teachers.x.weight=0"),
        ("ijepa", "method.blocks.num_targets=0", "method.blocks.num_targets=0"),
    ],
)  # fmt: skip
def test_what_a_section_refuses_is_named_by_its_whole_key(
    recipe: str, typed: str, key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_train_config([CONFIGS / recipe / "tiny_cpu.yaml"], [typed])
    assert str(caught.value).startswith(key)
    assert "data.data." not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "typed"),
    [
        ("simclr", "data.views.b.size_px=33"),
        ("dino", "data.views.global_2.size_px=33"),
        ("mae", "method.decoder_num_heads=3"),
        ("point_mae", "method.decoder_heads=0"),
        ("point_mae", "data.views.cloud.farthest_pool=1"),
        ("ijepa", "method.blocks.min_keep=-1"),
        ("barlow_twins", "optim.infinite={anneal_start: 0.1, cooldown_end: 0.5}"),
        ("supervised", "data.views.more.size_px=8"),
        ("distill", "data.views.more.size_px=8"),
        ("poa", "method.elastic.min_width=0"),
    ],
)
def test_every_setting_of_a_message_is_written_as_it_is_typed(recipe: str, typed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_train_config([CONFIGS / recipe / "tiny_cpu.yaml"], [typed])
    keys = re.findall(r"([\w.]+)=", str(caught.value))
    assert keys
    assert {key.partition(".")[0] for key in keys} <= {"data", "method", "optim"}
