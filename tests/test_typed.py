"""Texts are what was typed; numbers and truths are those of YAML 1.2."""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml

from ssl_vision.config import (
    TrainConfig,
    load_train_config,
    to_yaml,
)
from ssl_vision.errors import ConfigError
from ssl_vision.methods import METHODS
from ssl_vision.tasks.settings import SECTIONS, load_settings, make_settings
from ssl_vision.typed import Typed, convert, read_yaml

TINY = Path(__file__).resolve().parents[1] / "configs" / "barlow_twins" / "tiny_cpu.yaml"

# What YAML, OmegaConf or a shell-like reader would take for something else.
TEXTS = [
    *("2019_03", "0042", "3.10", "7:45", "2e5", "0xff", "0o7", "0b1", "yes", "False", "n", "~/x"),
    *("2019-03-01", "set #2", "#", "a: b", "[x]", "[", "{x}", "{", "@x", "`x", "%x", "!x", "&x"),
    *("*x", "- x", "| x", "> x", "a,b", "a = b", "==", "'q'", '"q"', "'", "C:\\n", "\\", "é 漢 🎈"),
    *(
        " front",
        "back  ",
        "???",
        "${seed}",
        "${",
        "\\${x}",
        "${oc.env:HOME}",
        ".inf",
        ".nan",
        "nan",
    ),
    *("1_000", "-5", "+5", ".5", "a\tb", "a\nb", "\x1b[0m", "\ue000aa\ue001", "bytes \udcff", "=x"),
]


def plain_value(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree[name]
    return tree


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["backbone.name", "data.path", "data.val_path", "init_from"])
def test_a_text_is_as_typed_on_the_command_line_and_after_saving(
    text: str, key: str, tmp_path: Path
) -> None:
    config = load_train_config([TINY], [f"{key}={text}", f"backbone.args.word=w{text}"])
    found: Any = config
    for name in key.split("."):
        found = getattr(found, name)
    assert found == text
    (tmp_path / "c.yaml").write_text(to_yaml(config), encoding="utf-8")
    again = load_train_config([tmp_path / "c.yaml"])
    assert again == config
    plain = yaml.safe_load(to_yaml(config))  # as other readers of YAML see it
    assert plain_value(plain, key) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_as_given_from_python_and_in_quotes(text: str, tmp_path: Path) -> None:
    config = make_settings({"weights": text, "data": {"path": text}, "out": text})
    assert (config.weights, config.data.path, config.out) == (text, text, text)
    dumped = yaml.dump({"data": {"path": text}, "init_from": text}, default_style='"')
    (tmp_path / "c.yaml").write_text(dumped)
    loaded = load_train_config([TINY, tmp_path / "c.yaml"])
    assert (loaded.data.path, loaded.init_from) == (text, text)


@pytest.mark.parametrize(
    "text",
    [
        *("2019_03", "0042", "3.10", "7:45", "2e5", "0xff", "yes", "2019-03-01", "a=b", "set#2"),
        *(
            "a:b",
            "[x]",
            "[x, y]",
            "{x}",
            "{x: 1}",
            "C:\\n",
            "???",
            "${seed}",
            "é 漢",
            "1_000",
            ".inf",
        ),
    ],
)
def test_a_text_without_quotes_in_a_file_is_as_written(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"init_from: {text}  # a remark\ndata: {{path: x}}\n")
    assert load_train_config([TINY, tmp_path / "c.yaml"]).init_from == text


def test_lists_of_text_are_as_typed(tmp_path: Path) -> None:
    given = ["weights=w", "data.path=x"]
    for value in ("007,1.10, on ,12:30", "[007, 1.10, on, '12:30']"):
        config = load_settings([], [*given, f"tasks={value}"])
        assert config.tasks == ("007", "1.10", "on", "12:30")
    (tmp_path / "c.yaml").write_text("tasks:\n- 007\n- 1.10\n- on\n- '12:30 '\n")
    config = load_settings([tmp_path / "c.yaml"], given)
    assert config.tasks == ("007", "1.10", "on", "12:30 ")
    with pytest.raises(ConfigError, match=r"tasks: no value was given; \[\] is a list without"):
        load_settings([], [*given, "tasks="])
    assert load_settings([], [*given, "tasks=[]"]).tasks == ()


def test_null_is_none_only_unquoted_and_only_where_none_is_allowed(tmp_path: Path) -> None:
    assert load_train_config([TINY], ["init_from=null"]).init_from is None
    assert load_train_config([TINY], ["run_dir=null"]).run_dir == "null"
    assert load_train_config([TINY], ["init_from=~"]).init_from == "~"
    for written, found in (("null", None), ("~", None), ("", None), ("'null'", "null")):
        (tmp_path / "c.yaml").write_text(f"init_from: {written}\n")
        assert load_train_config([TINY, tmp_path / "c.yaml"]).init_from == found
    config = make_settings({"weights": "null", "data": {"path": "x", "name": None}, "out": "~"})
    assert (config.weights, config.data.name, config.out) == ("null", None, "~")


@pytest.mark.parametrize("key", ["data.path", "init_from", "run_dir", "trainer.epochs"])
def test_a_forgotten_value_is_refused(key: str) -> None:
    """`data.path=$UNSET` would be the folder one stands in."""
    with pytest.raises(ConfigError, match=key):
        load_train_config([TINY], [f"{key}="])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("10", 10),
            ("010", 10),
            ("-3", -3),
            ("+3", 3),
            ("0x1F", 31),
            ("0o17", 15),
            ("1e3", 1000.0),
        ),
        *(("1.", 1.0), (".5", 0.5), ("-1.5E-2", -0.015), ("1_000", "1_000"), ("12:30", "12:30")),
        *(("0b11", "0b11"), ("2019-03-01", "2019-03-01"), ("On", True), ("no", False), ("y", "y")),
        *(("null", None), ("~", None), ("true", True), ("nan", "nan"), ("1e", "1e"), ("e3", "e3")),
    ],
)
def test_where_nothing_says_what_is_wanted_yaml_1_2_does(
    text: str, value: object, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(f"backbone: {{args: {{a: {text}, b: '{text}'}}}}\n")
    in_file = load_train_config([TINY, tmp_path / "c.yaml"]).backbone.args
    typed = load_train_config([TINY], [f"backbone.args.a={text}"]).backbone.args
    assert in_file["b"] == text
    for found in (in_file["a"], typed["a"]):
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["1_0", "12:30", "0b1", "1.5", "1e1", "ten", "", "null", "9" * 500]
)
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.log_every_steps") as caught:
        load_train_config([TINY], [f"trainer.log_every_steps={text}"])
    assert "\n" not in str(caught.value)


def _numbers(kind: Any, prefix: str, kinds: dict[str, Any]) -> list[str]:
    """Full keys of all settings that hold floats."""
    keys = []
    for each in fields(kind):
        wanted = kinds.get(each.name, get_type_hints(kind)[each.name])
        options = [wanted, *get_args(wanted)]
        keys += [f"{prefix}{each.name}"] if float in options else []
        for option in options:
            if is_dataclass(option):
                entry = ".a" if get_origin(wanted) is dict else ""
                keys += _numbers(option, f"{prefix}{each.name}{entry}.", {})
    return keys


NUMBERS = [
    (name, key)
    for name, method in METHODS.items()
    for key in _numbers(TrainConfig, "", {"method": method.config})
]
EVAL_CONFIG = SECTIONS.config()
EVAL_NUMBERS = _numbers(EVAL_CONFIG, "", {})


def _nested(key: str, word: str) -> Any:
    tree: Any = Typed(word, is_plain=True, is_argument=True)
    for name in reversed(key.split(".")):
        tree = {name: tree}
    return tree


def test_no_number_of_any_setting_may_be_endless() -> None:
    assert len(NUMBERS) > 100
    assert len(EVAL_NUMBERS) > 20
    for word in ("nan", ".nan", "inf", "-.inf", "Infinity", "1e999"):
        for name, key in NUMBERS:
            kinds = {"method": METHODS[name].config}
            with pytest.raises(ConfigError, match=f"{key}=.*finite number"):
                convert(_nested(key, word), TrainConfig, kinds=kinds)
        for key in EVAL_NUMBERS:
            with pytest.raises(ConfigError, match=f"{key}=.*finite number"):
                convert(_nested(key, word), EVAL_CONFIG)
    with pytest.raises(ConfigError, match="base_lr=nan must be a finite number"):
        load_train_config([TINY], ["optim.base_lr=nan"])
    with pytest.raises(ConfigError, match="finite number"):
        make_settings({"weights": "x", "data": {"path": "x"}, "knn": {"temperature": math.inf}})
    with pytest.raises(ConfigError, match="finite number"):
        load_train_config([TINY], ["data.mean=[0.1, nan, 0.2]"])


_GROWING = "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefg")
)
HOSTILE = {
    "a: &a [*a]\n": "deeply",
    "[" * 5000: "deeply",
    "seed: !!python/object/apply:os.getcwd []\n": "tag",
    "seed: !own 3\n": "tag",
    "? [a]\n: 1\n": "key",
    "seed: 1\nseed: 2\n": "twice",
    f"a: &a [x,x,x,x,x,x,x,x,x]\n{_GROWING}": "values",
}


@pytest.mark.parametrize("content", HOSTILE)
def test_files_that_mean_harm_end_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=HOSTILE[content]) as caught:
        load_train_config([TINY, tmp_path / "c.yaml"])
    assert "\n" not in str(caught.value)


@dataclass
class _Inner:
    share: float = 0.5
    word: str | None = None


@dataclass
class _Outer:
    inner: _Inner | None = None
    sizes: tuple[int, ...] = ()
    names: dict[str, _Inner] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


def test_nested_kinds_are_read_each_by_its_own() -> None:
    tree = read_yaml(
        "names: {7: &b {share: 1e-1, word: 010}}\n"
        "inner: {<<: *b, word: on}\nsizes: 1, 0x10\nfree: {7: 010, x: [on, 'on']}\n"
    )
    assert convert(tree, _Outer) == {
        "inner": {"share": 0.1, "word": "on"},
        "sizes": [1, 16],
        "names": {"7": {"share": 0.1, "word": "010"}},
        "free": {"7": 10, "x": [True, "on"]},
    }
    with pytest.raises(ConfigError, match=r"^inner.shar: there is no such.*Did you mean 'share'"):
        convert(read_yaml("inner: {shar: 1}"), _Outer)
    typed = Typed("{share: 2, word: 1.10}", is_plain=True, is_argument=True)
    assert convert({"inner": typed}, _Outer) == {"inner": {"share": 2, "word": "1.10"}}
