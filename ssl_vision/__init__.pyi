# The public names as type checkers see them; at run time they are looked up on first use.
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
from ssl_vision.commands.visualize import visualize as visualize
from ssl_vision.engine.api import train as train
from ssl_vision.engine.callbacks import Callbacks as Callbacks
from ssl_vision.tasks.comparison import compare as compare
from ssl_vision.tasks.embedder import Embedder as Embedder
from ssl_vision.tasks.embedder import embed as embed
from ssl_vision.tasks.evaluate import evaluate as evaluate
from ssl_vision.tasks.image_index import ImageIndex as ImageIndex
from ssl_vision.tasks.image_index import duplicates as duplicates
from ssl_vision.types import Batch as Batch
from ssl_vision.zoo.weights import load_backbone as load_backbone

__version__: str
__all__: list[str]
