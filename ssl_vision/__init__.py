"""Self-supervised pretraining of vision backbones, for images and point clouds."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers and editors read; `_PUBLIC` and `_ROOMS` say the same
    from ssl_vision import backbones as backbones
    from ssl_vision import config as config
    from ssl_vision import errors as errors
    from ssl_vision import evaluation as evaluation
    from ssl_vision import losses as losses
    from ssl_vision import methods as methods
    from ssl_vision import mixing as mixing
    from ssl_vision import optim as optim
    from ssl_vision import points as points
    from ssl_vision import recipes as recipes
    from ssl_vision import views as views
    from ssl_vision import zoo as zoo
    from ssl_vision.commands.export import export as export
    from ssl_vision.commands.extract import extract as extract
    from ssl_vision.commands.predict import predict as predict
    from ssl_vision.commands.prepare import prepare as prepare
    from ssl_vision.commands.visualize import visualize as visualize
    from ssl_vision.engine.api import start as start
    from ssl_vision.engine.api import train as train
    from ssl_vision.engine.callbacks import Callbacks as Callbacks
    from ssl_vision.engine.callbacks import Progress as Progress
    from ssl_vision.engine.live import LiveRun as LiveRun
    from ssl_vision.engine.train import RunResult as RunResult
    from ssl_vision.tasks.comparison import compare as compare
    from ssl_vision.tasks.embedder import Embedder as Embedder
    from ssl_vision.tasks.embedder import embed as embed
    from ssl_vision.tasks.evaluate import evaluate as evaluate
    from ssl_vision.tasks.image_index import ImageIndex as ImageIndex
    from ssl_vision.tasks.image_index import duplicates as duplicates
    from ssl_vision.tasks.pair_features import encode_pair as encode_pair
    from ssl_vision.types import Batch as Batch
    from ssl_vision.zoo.weights import load_backbone as load_backbone

__version__ = "0.2.0"

# Public names are looked up on first use: `import ssl_vision` must not cost the seconds that
# importing torch and Lightning takes, and must work where an optional part is missing.
_PUBLIC = {  # name -> where it is
    "train": "ssl_vision.engine.api",
    "start": "ssl_vision.engine.api",
    "RunResult": "ssl_vision.engine.train",
    "LiveRun": "ssl_vision.engine.live",
    "Callbacks": "ssl_vision.engine.callbacks",
    "Progress": "ssl_vision.engine.callbacks",
    "evaluate": "ssl_vision.tasks.evaluate",
    "compare": "ssl_vision.tasks.comparison",
    "embed": "ssl_vision.tasks.embedder",
    "Embedder": "ssl_vision.tasks.embedder",
    "encode_pair": "ssl_vision.tasks.pair_features",
    "predict": "ssl_vision.commands.predict",
    "ImageIndex": "ssl_vision.tasks.image_index",
    "duplicates": "ssl_vision.tasks.image_index",
    "prepare": "ssl_vision.commands.prepare",
    "load_backbone": "ssl_vision.zoo.weights",
    "export": "ssl_vision.commands.export",
    "extract": "ssl_vision.commands.extract",
    "visualize": "ssl_vision.commands.visualize",
    "Batch": "ssl_vision.types",
}
_ROOMS = (
    "backbones",
    "config",
    "errors",
    "evaluation",
    "losses",
    "methods",
    "mixing",
    "optim",
    "points",
    "recipes",
    "views",
    "zoo",
)
__all__ = ["__version__", *_PUBLIC, *_ROOMS]

if not TYPE_CHECKING:  # a type checker would take every misspelt name for something it returns

    def __getattr__(name: str) -> object:
        if name in _PUBLIC:
            return getattr(import_module(_PUBLIC[name]), name)
        if name in _ROOMS:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module 'ssl_vision' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
