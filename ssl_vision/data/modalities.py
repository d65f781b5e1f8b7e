"""The table of modalities: add one folder in data/ and two names here to add a modality."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields

from ssl_vision.data.clouds.config import CloudEvalData
from ssl_vision.data.clouds.modality import Clouds
from ssl_vision.data.config import DataConfig, EvalDataConfig
from ssl_vision.data.images.config import ImageEvalData
from ssl_vision.data.images.modality import Images
from ssl_vision.data.modality import Modality
from ssl_vision.data.pairs.modality import Pairs
from ssl_vision.errors import ConfigError

MODALITIES: dict[str, Modality] = {each.name: each for each in (Images(), Clouds(), Pairs())}


@dataclass(frozen=True, kw_only=True)
class AnyEvalData(ImageEvalData, CloudEvalData):
    """Data of an evaluation as they are read, before the weights say of which modality they are."""


def modality_of(config: DataConfig) -> Modality:
    """The modality whose settings these are.

    Raises:
        ConfigError: They are of none: `DataConfig` itself is what all have in common.
    """
    for kind in type(config).__mro__:  # the nearest: settings of pairs are derived from images'
        for each in MODALITIES.values():
            if each.settings is kind:
                return each
    kinds = ", ".join(each.settings.__name__ for each in MODALITIES.values())
    raise ConfigError(f"data of the class {type(config).__name__} are of no modality; use {kinds}.")


def data_of(asked: EvalDataConfig, modality: Modality) -> EvalDataConfig:
    """The settings as the modality of the weights has them.

    Args:
        asked: As they were read.
        modality: Of the weights.

    Raises:
        ConfigError: One is set that is of another modality only.
    """
    kind = modality.eval_settings
    own = {field.name for field in fields(kind)}
    for field in _set(asked):
        if field.name not in own:
            others = [each for each in MODALITIES.values() if _has(each, field.name)]
            names = {each.eval_settings: each.name for each in reversed(others)}  # pairs: images'
            raise ConfigError(
                f"data.{field.name}={getattr(asked, field.name)} is a setting of "
                f"{' and '.join(reversed(names.values()))}; these weights take "
                f"{modality.name}. Leave it out."
            )
    return kind(**{f.name: getattr(asked, f.name) for f in fields(asked) if f.name in own})


def _set(config: EvalDataConfig) -> Iterator[Field[object]]:
    """Fields that have another value than their default."""
    for field in fields(config):
        make = field.default_factory
        default = field.default if make is MISSING else make()
        if getattr(config, field.name) != default:
            yield field


def _has(modality: Modality, setting: str) -> bool:
    return any(field.name == setting for field in fields(modality.eval_settings))
