"""The schema of a run, and the only door through which settings come in.

A recipe is one flat YAML file. Files are merged left to right, then `key=value` overrides; the
result is checked against frozen dataclasses, where every default lives. Whatever is wrong ends
here, as one `ConfigError` line, before data or a model is touched.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import (
    asdict,
    dataclass,
    field,
    fields,
    is_dataclass,
    make_dataclass,
    replace,
)
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from ssl_vision.backbones.build import BackboneConfig
from ssl_vision.bounds import MAX_NEIGHBOURS, MAX_SEED, check_bounds
from ssl_vision.data.config import DataConfig, EvalDataConfig
from ssl_vision.data.modalities import AnyEvalData
from ssl_vision.errors import ConfigError, did_you_mean, keys_renamed, with_whole_key
from ssl_vision.evaluation.settings import CacheConfig, OnlineDenseConfig
from ssl_vision.layers import (
    Layer,
    last_given,
    layers_of,
    one_line,
    read_file,
    read_layers,
    take_auto,
)
from ssl_vision.methods import METHODS
from ssl_vision.methods.base import MethodConfig
from ssl_vision.optim.recipe import OptimConfig
from ssl_vision.typed import convert, guess

_Schema = TypeVar("_Schema")
_Entry = TypeVar("_Entry")
# Settings that may be `auto`; and what makes a configuration whole then: it gets the configuration,
# with some value in their place, and their keys.
AUTO_KEYS = ("trainer.epochs", "data.mean", "data.std")
Fill: TypeAlias = Callable[["TrainConfig", tuple[str, ...]], "TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long, where and how safely a run runs."""

    epochs: int | None = 100  # or auto: by the number of training samples; null: until stopped
    max_steps: int | None = None  # stop early; schedules keep the length of `epochs`
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int | None = None  # processes per node; None takes every GPU, or one CPU process
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    precision: Literal["32", "bf16", "16"] = "32"
    sync_batch_norm: bool = True  # statistics of the global batch, over all processes
    accumulate: int = 1  # batches per optimizer update
    log_every_steps: int = 50
    checkpoint_every_epochs: int = 1
    checkpoint_every_steps: int | None = None  # in addition
    keep_checkpoints: int = 2  # the newest; that of the best score stays beside them
    compile: bool = False  # pays on GPUs, not on CPUs
    channels_last: bool = False  # pays for convolutional networks at 224 px
    on_nonfinite: Literal["skip", "stop", "rollback"] = "skip"
    on_data_change: Literal["refuse", "allow"] = "refuse"  # resuming on other data than before

    def __post_init__(self) -> None:
        for name in ("epochs", "max_steps", "devices", "num_nodes", "accumulate",
                     "log_every_steps", "checkpoint_every_epochs", "checkpoint_every_steps",
                     "keep_checkpoints"):  # fmt: skip
            check_bounds(f"trainer.{name}", getattr(self, name), least=1)


@dataclass(frozen=True, kw_only=True)
class OnlineEvalConfig:
    """Scores during training: kNN where labels exist, label-free metrics always."""

    every_epochs: int = 10  # 0 turns it off; the last epoch is always scored otherwise
    k: int = 20
    temperature: float = 0.07
    max_bank: int = 50_000  # samples of the training set kept for the search
    dense: OnlineDenseConfig = field(default_factory=OnlineDenseConfig)

    def __post_init__(self) -> None:
        check_bounds("online_eval.every_epochs", self.every_epochs, least=0)
        check_bounds("online_eval.k", self.k, least=1, most=MAX_NEIGHBOURS)
        check_bounds("online_eval.temperature", self.temperature, above=0)
        check_bounds("online_eval.max_bank", self.max_bank, least=2)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything about one pretraining or supervised run."""

    method: MethodConfig = MISSING
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = MISSING
    optim: OptimConfig = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    online_eval: OnlineEvalConfig = field(default_factory=OnlineEvalConfig)
    seed: int = 0
    run_dir: str = "runs/{method}"  # {method} is the method's name; {{ and }} are braces
    resume: Literal["auto", "must", "never"] = "auto"
    init_from: str | None = None  # weights to start from: run folder, export, zoo:..., timm:...
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()  # beside metrics.jsonl

    def __post_init__(self) -> None:
        _filled(self.run_dir, method="")
        if len(set(self.loggers)) < len(self.loggers):
            raise ConfigError(f"loggers={','.join(self.loggers)}: name each once.")
        check_bounds("seed", self.seed, least=0, most=MAX_SEED)

    @property
    def run_path(self) -> Path:
        """Folder of the run."""
        return Path(_filled(self.run_dir, method=self.method.name))


def as_run_dir(path: str | Path) -> str:
    """The `run_dir` that means a path, braces and all."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _filled(run_dir: str, *, method: str) -> str:
    def fill(found: re.Match[str]) -> str:
        if len(found[0]) == 1:
            raise ConfigError(
                f"run_dir={run_dir}: {{method}} is its only pattern; braces are {{{{ and }}}}."
            )
        return method if found[0] == "{method}" else found[0][0]

    return re.sub(r"\{\{|\}\}|\{method\}|[{}]", fill, run_dir)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What to measure of which weights."""

    weights: str = MISSING  # run folder, export folder, zoo:name or timm:name
    data: EvalDataConfig = MISSING  # read as AnyEvalData, of which the weights choose a part
    tasks: tuple[str, ...] = ()  # none: knn, linear and metrics, as far as the data have labels
    out: str | None = None  # folder of the report; None: evaluation/ in the weights' folder or here
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32", "bf16", "16"] = "32"  # of the frozen forward
    method: str | None = None  # for published numbers; None: from the run or the zoo
    baselines: bool = False  # kNN, SVM, dense tasks also on raw inputs and the untrained network
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        check_bounds("seed", self.seed, least=0, most=MAX_SEED)

    def settings(self, kind: type[_Schema]) -> _Schema:
        """The section of a task, by its dataclass.

        Raises:
            KeyError: No task of this evaluation has such a section.
        """
        for each in fields(self):
            value = getattr(self, each.name)
            if type(value) is kind:
                return value
        raise KeyError(kind.__name__)


@dataclass(frozen=True, kw_only=True)
class Sections:
    """Sections of an `EvalConfig` beside the common ones.

    Attributes:
        kinds: Name -> dataclass of its settings.
        presets: Name -> named values, chosen by `NAME.preset`.
    """

    kinds: Mapping[str, type] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def config(self) -> type[EvalConfig]:
        """`EvalConfig` with a field for each section, its data as they are read."""
        made: list[tuple[str, type, Any]] = [("data", AnyEvalData, field(default=MISSING))]
        made += [(n, kind, field(default_factory=kind)) for n, kind in self.kinds.items()]
        return make_dataclass("EvalConfig", made, bases=(EvalConfig,), frozen=True, kw_only=True)


def load_train_config(
    paths: Sequence[str | Path], overrides: Sequence[str] = (), *, fill: Fill | None = None
) -> TrainConfig:
    """Recipe files and overrides -> a checked, frozen configuration.

    Args:
        paths: YAML files, merged left to right.
        overrides: `key=value`, applied last.
        fill: Chooses what is `auto` (`engine.auto`); without one that is refused.

    Raises:
        ConfigError: One line that names the file or override, the full key, and the way out.
    """
    return finish_train(read_layers(paths, overrides), fill=fill)


def make_train_config(
    recipe: str | Path | Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    backbone: Mapping[str, Any] | None = None,
    fill: Fill | None = None,
) -> TrainConfig:
    """As `load_train_config`, for programs.

    Args:
        recipe: A YAML file, or its content.
        values: Settings by full name (`trainer.epochs`) or nested, applied last.
        backbone: Settings that replace the recipe's whole `backbone`; its args fit no other.
        fill: As of `load_train_config`.

    Raises:
        ConfigError: As `load_train_config`.
    """
    return finish_train([recipe_layer(recipe, backbone), *layers_of(values)], fill=fill)


def recipe_layer(
    recipe: str | Path | Mapping[str, Any], backbone: Mapping[str, Any] | None = None
) -> Layer:
    """A recipe as the lowest layer; `backbone` as of `make_train_config`."""
    is_content = isinstance(recipe, Mapping)
    content = dict(recipe) if is_content else read_file(Path(recipe))  # type: ignore[arg-type]
    if backbone is not None:
        content = {**content, "backbone": dict(backbone)}
    return ("recipe" if is_content else str(recipe), content)


def finish_train(layers: Iterable[Layer], *, fill: Fill | None = None) -> TrainConfig:
    """The configuration of layers; as `load_train_config`."""
    layers = list(layers)
    method = METHODS[_method_name(layers)]
    schema = OmegaConf.structured(TrainConfig)
    OmegaConf.set_readonly(schema, False)  # frozen dataclasses make read-only schemas
    schema.method = OmegaConf.structured(method.config)
    schema.data = OmegaConf.structured(method.data)
    schema.optim = OmegaConf.structured(OptimConfig)
    kinds = {"method": method.config, "data": method.data}
    layers = [(origin, upgraded(content, method.data)) for origin, content in layers]
    layers, wanted = take_auto(layers, _auto_keys(method.data))
    # What a method has depends on which it is: a setting of another one is the common mistake.
    with keys_renamed({"; method has ": f"; method.name={_method_name(layers)} has "}):
        config = _finish(schema, layers, TrainConfig, kinds=kinds)
    config.method.check_views(config.data.views)
    if not wanted:
        return config
    if fill is None:
        raise ConfigError(
            f"{wanted[0]}=auto is chosen where a run starts (ssl-vision train, ssl_vision.train); "
            "give a number here."
        )
    return fill(config, wanted)


def _auto_keys(data: type[DataConfig]) -> list[str]:
    own = {f"data.{each.name}" for each in fields(data)}
    return [key for key in AUTO_KEYS if not key.startswith("data.") or key in own]


def upgraded(content: dict[str, Any], data: type[DataConfig]) -> dict[str, Any]:
    """A config.yaml as it is written now; older ones had the views of clouds beside `views`.

    Args:
        content: Of the file.
        data: Schema of its `data`, as its method names it.
    """
    given = content.get("data")
    if not isinstance(given, dict) or not {"views", "point_views"} <= given.keys():
        return content
    return {**content, "data": data.upgraded(given)}


def load_eval_config(
    paths: Sequence[str | Path], overrides: Sequence[str] = (), *, sections: Sections | None = None
) -> EvalConfig:
    """As `load_train_config`, for an evaluation; presets lie under what is given explicitly.

    Args:
        paths: YAML files, merged left to right.
        overrides: `key=value`, applied last.
        sections: Of the tasks; none by default (`tasks.settings` has all).
    """
    return _finish_eval(read_layers(paths, overrides), sections or Sections())


def make_eval_config(values: Mapping[str, Any], *, sections: Sections | None = None) -> EvalConfig:
    """As `load_eval_config`, from values nested or by full name (`knn.k`), the later last.

    Nested: `{"weights": ..., "data": {"path": ...}}`.
    """
    return _finish_eval(layers_of(values), sections or Sections())


def _finish_eval(layers: Sequence[Layer], sections: Sections) -> EvalConfig:
    kind = sections.config()
    schema = OmegaConf.structured(kind)
    OmegaConf.set_readonly(schema, False)
    schema.data = OmegaConf.structured(AnyEvalData)
    for section, presets in sections.presets.items():
        name = last_given(layers, section, "preset")
        if name is not None:
            schema[section] = OmegaConf.structured(_look_up(name, presets, f"{section}.preset"))
    return _finish(schema, layers, kind)


def load_settings(
    kind: type[_Schema], overrides: Sequence[str] | Mapping[str, Any] = ()
) -> _Schema:
    """As `load_train_config` or `make_train_config`, where the settings are one dataclass."""
    given = overrides
    layers = layers_of(given) if isinstance(given, Mapping) else read_layers([], given)
    return _finish(OmegaConf.structured(kind), layers, kind)


def to_yaml(config: TrainConfig | EvalConfig) -> str:
    """The resolved configuration as YAML; loads back into an equal one."""
    return yaml.dump(asdict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1e9)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that a reader of YAML 1.1 or 1.2 would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never: what occurs twice is written twice, so that each part can be read alone."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    style = None if guess(text) == text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _method_name(layers: Sequence[Layer]) -> str:
    """`method.name` after merging; the schema of `method` depends on it."""
    name = last_given(layers, "method", "name")
    if name is None:
        raise ConfigError(
            f"method.name is missing; give a recipe file, or method.name={'|'.join(METHODS)}."
        )
    _look_up(name, METHODS, "method.name")
    return str(name)


def _look_up(name: Any, table: Mapping[str, _Entry], key: str) -> _Entry:
    if name not in table:
        hint = did_you_mean(name, table)
        raise ConfigError(f"{key}={name!r} is unknown; choose one of {', '.join(table)}.{hint}")
    return table[name]


def _finish(
    schema: Any,
    layers: Sequence[Layer],
    kind: type[_Schema],
    kinds: Mapping[str, Any] | None = None,
) -> _Schema:
    """Merge the layers into the schema one by one, so that an error can name its layer."""
    for origin, content in layers:
        try:
            values = _without_removed(schema, convert(content, kind, kinds=kinds))
            schema = OmegaConf.merge(schema, OmegaConf.create(_hide(values)))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{origin}: {_explain(error)}") from error
        except ConfigError as error:  # of the reader, or from a __post_init__ that OmegaConf ran
            raise ConfigError(_shown(f"{origin}: {error}")) from error
    try:
        missing = OmegaConf.missing_keys(schema)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error
    if missing:
        raise ConfigError(f"{', '.join(sorted(missing))}: no value; add {min(missing)}=VALUE.")
    try:
        return cast(_Schema, _reveal(OmegaConf.to_object(schema)))
    except ConfigError as error:
        raise ConfigError(_shown(_refused(schema) or str(error))) from error
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, ConfigError):
            raise ConfigError(_shown(str(error.__cause__))) from error
        raise ConfigError(_explain(error)) from error


def _without_removed(node: DictConfig, values: Any) -> Any:
    """The values of a layer without what they take away from the layers below, in place.

    In a mapping of any names (teachers, views, args) `null` removes an entry that is there, and
    `null` or `{}` for the mapping all of them.
    """
    if not isinstance(values, dict):
        return values
    rest = {}
    for name, value in values.items():
        child = None if name not in node or OmegaConf.is_missing(node, name) else node[name]
        if value is None and name in node and _is_open(node):
            _remove(node, [name])
        elif value in (None, {}) and isinstance(child, DictConfig) and _is_open(child):
            _remove(child, list(child))
        else:
            rest[name] = _without_removed(child, value) if isinstance(child, DictConfig) else value
    return rest


def _remove(node: DictConfig, names: Sequence[Any]) -> None:
    with flag_override(node, ["readonly", "struct"], False):  # as of frozen dataclasses
        for name in names:
            del node[name]


def _is_open(node: DictConfig) -> bool:
    """Whether a mapping takes entries of any name."""
    return OmegaConf.get_type(node) is dict


def _refused(node: DictConfig, section: str = "") -> str | None:
    """What the innermost section that refuses its values says, by whole keys."""
    for name in map(str, node):
        child = None if OmegaConf.is_missing(node, name) else node[name]
        if isinstance(child, DictConfig):
            found = _refused(child, f"{section}.{name}".lstrip("."))
            if found is not None:
                return found
    kind = OmegaConf.get_type(node)
    if kind is None or not is_dataclass(kind):
        return None
    try:
        OmegaConf.to_object(node)
    except ConfigError as error:
        names = [each.name for each in fields(kind)]
        return with_whole_key(str(error), section=section, names=names)
    return None


# OmegaConf reads ${...} as a reference and ??? as "no value yet". Texts that it would misread go
# through it in a form that it cannot, and come out as they were.
_HIDDEN = re.compile("\ue000([0-9a-f]*)\ue001")


def _hide(values: Any) -> Any:
    if isinstance(values, str):
        is_odd = "${" in values or values == "???" or "\ue000" in values
        return f"\ue000{values.encode('utf-8', 'surrogatepass').hex()}\ue001" if is_odd else values
    if isinstance(values, dict):
        return {name: _hide(each) for name, each in values.items()}
    return [_hide(each) for each in values] if isinstance(values, list) else values


def _shown(text: str) -> str:
    return _HIDDEN.sub(lambda found: bytes.fromhex(found[1]).decode("utf-8", "surrogatepass"), text)


def _reveal(value: Any) -> Any:
    if isinstance(value, str):
        return _shown(value)
    if isinstance(value, list | tuple):
        return type(value)(_reveal(each) for each in value)
    if isinstance(value, dict):
        return {_reveal(name): _reveal(each) for name, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        old = {field.name: getattr(value, field.name) for field in fields(value)}
        new = {name: _reveal(each) for name, each in old.items()}
        return value if new == old else replace(value, **new)
    return value


def _explain(error: OmegaConfBaseException) -> str:
    """First line of the message, led by the full key."""
    key = getattr(error, "full_key", None)
    message = _shown(one_line(error))
    return f"{key}: {message}" if key and str(key) not in message else message
