"""The first run of a newcomer: a tiny recipe, scored against what costs nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.config import TrainConfig, load_train_config, split_arguments
from ssl_vision.data.module import DataModule
from ssl_vision.engine.train import build_method, build_plan, train
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.features import extract_features, normalizer
from ssl_vision.evaluation.knn import knn_accuracy
from ssl_vision.types import Features
from ssl_vision.zoo.weights import resolve_weights


class RawPixels(Backbone):
    """The network that does nothing: its features are the pixels of the image."""

    def __init__(self, num_values: int) -> None:
        model = nn.Identity()
        model.num_features = num_values  # type: ignore[assignment]
        super().__init__(model, architecture="pixels", model_args={})

    def forward(self, images: Tensor, *, mask: Tensor | None = None) -> Features:
        """Pixels as they are, (B, C*S*S)."""
        return Features(pooled=images.flatten(1))


def run_quickstart(arguments: Sequence[str]) -> int:
    """`quickstart RECIPE.yaml [key=value ...]`: train, then print kNN beside two baselines.

    Raises:
        SslVisionError: As `train` does.
    """
    config = load_train_config(*split_arguments(arguments))
    result = train(config)
    table = Table(title=f"kNN top-1 on {config.data.path}, k={config.online_eval.k}")
    table.add_column("features")
    table.add_column("top-1 %", justify="right")
    for name, score in compare(config, trained=result.run_dir).items():
        table.add_row(name, f"{100 * score:.1f}")
    console = Console()
    console.print(table)
    console.print(f"report  {result.run_dir / 'report.html'}")
    console.print(f"model   {result.export}")
    return 0


def compare(config: TrainConfig, *, trained: Path) -> dict[str, float]:
    """Score raw pixels, the recipe's backbone untrained, and a finished run by kNN top-1.

    The same images, view, k and temperature for all three.
    """
    data = DataModule(config.data, seed=config.seed)
    size_px = config.data.evaluation_view().size_px
    networks: dict[str, Callable[[], Backbone]] = {
        "raw pixels": lambda: RawPixels(3 * size_px**2),
        "untrained backbone": lambda: build_method(
            config, build_plan(config, data)
        ).export_backbone(),
        "trained backbone": lambda: resolve_weights(trained).backbone,
    }
    return {name: knn_score(build(), data, config) for name, build in networks.items()}


def knn_score(backbone: Backbone, data: DataModule, config: TrainConfig) -> float:
    """Share of validation images that kNN over the training images classifies right.

    Raises:
        ConfigError: The data has no labels.
    """
    val_loader = data.val_loader()
    if val_loader is None:
        raise ConfigError(
            f"data.path={config.data.path} has no class folders, so there is nothing to score by "
            "kNN; train by tools/train.py, and evaluate with tasks=metrics."
        )
    normalize = normalizer(config.data.mean, config.data.std)
    bank, val = (
        extract_features(backbone, loader, normalize=normalize)
        for loader in (data.train_bank_loader(), val_loader)
    )
    k = config.online_eval.k
    assert bank.labels is not None
    assert val.labels is not None
    accuracy = knn_accuracy(
        bank.features["pooled"],
        bank.labels,
        val.features["pooled"],
        val.labels,
        k=[k],
        temperature=config.online_eval.temperature,
    )
    return accuracy[k].top1
