"""The table of modalities: add one folder in data/ and one line here to add a modality."""

from ssl_vision.data.clouds.modality import Clouds
from ssl_vision.data.config import DataConfig
from ssl_vision.data.images.modality import Images
from ssl_vision.data.modality import Modality

MODALITIES: dict[str, Modality] = {each.name: each for each in (Images(), Clouds())}


def modality_of(config: DataConfig) -> Modality:
    """The modality whose settings these are."""
    return next(each for each in MODALITIES.values() if isinstance(config, each.settings))
