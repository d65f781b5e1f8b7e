"""The `extract` command: sub-networks of a POA run, measured, chosen by budget, written out."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from ssl_vision.backbones import elastic
from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.elastic_grid import ElasticConfig, Size
from ssl_vision.backbones.elastic_stock import find_stock_name
from ssl_vision.bounds import check_bounds
from ssl_vision.commands.arguments import parse
from ssl_vision.commands.extract_report import draw_picture, markdown_table, print_table
from ssl_vision.commands.extract_scores import (
    Scores,
    count_flops,
    knn_key,
    knn_top1,
    machine_key,
    measure_latency_ms,
    weights_key,
)
from ssl_vision.config import TrainConfig
from ssl_vision.data.loader import EpochLoader
from ssl_vision.data.module import DataModule
from ssl_vision.engine.saved_config import load_run_config
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.report import left_out_warning
from ssl_vision.files import Output, check_output, check_replaceable, write_atomically
from ssl_vision.methods.poa import PoaConfig
from ssl_vision.zoo.card import ModelCard
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.weights import LoadedBackbone, resolve_weights

SCORES_NAME = "extract.json"  # in the run folder: what was measured
_LATENCY_PASSES = 2


@dataclass(frozen=True, kw_only=True)
class SubNetworkCard:
    """What is known of one size.

    Attributes:
        size: (width, depth, ...).
        name: Name under which timm builds it without further arguments; None where there is none.
        num_parameters: Of the exported network.
        gflops: 1e9 operations per image, two per multiply-add.
        latency_ms: Fastest of several forwards of one image on this machine; None: not measured.
        knn_top1: Accuracy of its features; None: not measured, or no labels.
    """

    size: Size
    name: str | None
    num_parameters: int
    gflops: float
    latency_ms: float | None = None
    knn_top1: float | None = None

    @property
    def label(self) -> str:
        """Name of the size's export folder, such as 384x12."""
        return "x".join(str(number) for number in self.size)


class ElasticRun:
    """A POA run seen as the collection of its sub-networks.

    Args:
        folder: Run folder.
        overrides: Changes of the run's settings, e.g. `data.path=DIR` where the data moved.
        told: Takes lines on what was chosen of the data where their paths leave a choice.

    Raises:
        ConfigError: Not a run of POA.
        CheckpointError: The run has no readable weights.
    """

    def __init__(
        self,
        folder: str | Path,
        overrides: Sequence[str] = (),
        *,
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._told = told
        self.folder = Path(folder)
        self.config = _read_config(self.folder, overrides)
        assert isinstance(self.config.method, PoaConfig)
        self.elastic: ElasticConfig = self.config.method.elastic
        self.loaded: LoadedBackbone = resolve_weights(self.folder)
        self.parent: Backbone = self.loaded.backbone
        key = weights_key(self.loaded, self.elastic)
        self._scores = Scores(self.folder / SCORES_NAME, weights=key)

    @property
    def sizes(self) -> list[Size]:
        """The grid of the run, rising."""
        return elastic.sizes(self.parent, self.elastic)

    def describe(self, size: Size) -> SubNetworkCard:
        """Cost of a size by its shapes; measurements as far as they were made before."""
        skeleton = elastic.skeleton_of(self.parent, size, self.elastic)
        assert isinstance(skeleton, Backbone)
        card = SubNetworkCard(
            size=tuple(size),
            name=find_stock_name(skeleton.model, self.parent.architecture, self.parent.model_args),
            num_parameters=elastic.num_parameters(self.parent, size, self.elastic),
            gflops=count_flops(skeleton, self.image_shape) / 1e9,
        )
        return self._completed(card)

    def measure_latency(self, cards: Sequence[SubNetworkCard]) -> list[SubNetworkCard]:
        """Add latencies where they are missing; kept in the run folder.

        In two passes over all sizes, so that a busy moment of the machine spoils no size.
        """
        missing = [card for card in cards if card.latency_ms is None]
        fastest = {card.label: float("inf") for card in missing}
        for _ in range(_LATENCY_PASSES):
            for card in missing:
                network = elastic.extract(self.parent, card.size, self.elastic).eval()
                latency = measure_latency_ms(network.model, self.image_shape)
                fastest[card.label] = min(fastest[card.label], latency)
        for label, latency in fastest.items():
            self._scores.add("latency_ms", self._machine, label, latency)
        return [self._completed(card) for card in cards]

    def measure_knn(self, cards: Iterable[SubNetworkCard]) -> list[SubNetworkCard]:
        """Add kNN accuracies where they are missing and labels exist; kept in the run folder.

        Raises:
            DataError: The run's images are not where they were; `data.path=` says where they are.
        """
        measured = []
        for card in cards:
            score = self._scores.get("knn_top1", self._knn_key, card.label)
            if score is None:
                network = elastic.extract(self.parent, card.size, self.elastic).eval()
                score = self.knn_top1(network)
                if score is not None:
                    self._scores.add("knn_top1", self._knn_key, card.label, score)
            measured.append(replace(card, knn_top1=score))
        return measured

    def knn_top1(self, network: Backbone) -> float | None:
        """Accuracy of a network's features by the run's protocol; None without labels."""
        if self.data.val_source is None:
            return None
        return knn_top1(network, self.data, self._loaders, self.config)

    def _completed(self, card: SubNetworkCard) -> SubNetworkCard:
        """The card with what was measured of its size, on this machine and these data."""
        latency = self._scores.get("latency_ms", self._machine, card.label)
        key = self._known_key
        knn = None if key is None else self._scores.get("knn_top1", key, card.label)
        return replace(card, latency_ms=latency, knn_top1=knn)

    @cached_property
    def _machine(self) -> str:
        return machine_key(next(self.parent.parameters()).device)

    @cached_property
    def data(self) -> DataModule:
        """The run's images."""
        data = DataModule(self.config.data, seed=self.config.seed)
        for line in data.notes:
            self._told(line)
        return data

    @cached_property
    def _loaders(self) -> list[EpochLoader[Any]]:
        """Of the samples that vote, and of those that are classified where there are any."""
        val = self.data.val_loader()
        max_bank = self.config.online_eval.max_bank
        bank = self.data.train_bank_loader(max_samples=max_bank)
        return [bank] if val is None else [bank, val]

    @cached_property
    def _knn_key(self) -> str:
        return knn_key(self._loaders, self.config)

    @cached_property
    def _known_key(self) -> str | None:
        """The key if any accuracy was measured before, else no data need be opened."""
        if not self._scores.has("knn_top1"):
            return None
        try:
            return self._knn_key
        except DataError as error:
            self._told(f"accuracies measured before are not shown: {error}")
            return None

    def data_warnings(self) -> list[str]:
        """What makes accuracies doubtful, a line each, as an evaluation says it; reads files."""
        loaders = self._loaders
        unreadable = {loader.source.name(row): why for loader in loaders
                      for row, why in loader.bad_samples.items()}  # fmt: skip
        return [*self.data.warnings(), *left_out_warning(unreadable)]

    def write(
        self, card: SubNetworkCard, folder: str | Path, *, is_scale_folded: bool = False
    ) -> Path:
        """Write a sub-network as a folder timm loads, verified by reloading.

        Raises:
            ConfigError: A Swin of the paper's block choice, which timm cannot build from a file.
        """
        if not elastic.is_stock(self.parent, card.size, self.elastic):
            raise ConfigError(
                f"size {card.label} shifts windows in another order than timm's Swins do "
                "(method.elastic.block_choice=paper), so no folder can describe it; use "
                "backbones.elastic.extract in Python, or train with block_choice=stock."
            )
        network = elastic.extract(
            self.parent, card.size, self.elastic, is_scale_folded=is_scale_folded
        )
        metrics = {} if card.knn_top1 is None else {"eval/knn_top1": f"{card.knn_top1:.4g}"}
        return export_backbone(
            network,
            folder,
            mean=self.loaded.mean,
            std=self.loaded.std,
            interpolation=self.loaded.interpolation,
            size_px=self.loaded.input_size,
            crop_pct=self.loaded.crop_pct,
            decode=self.loaded.decode,
            card=ModelCard(
                title=f"{network.architecture}, {card.label} of a POA run",
                method="poa",
                data=str(self.config.data.path),
                tag="poa",
                source=str(self.folder),
                metrics=metrics,
                notes=[f"Sub-network {card.label} of {self.parent.architecture}, cut exactly."],
            ),
        ).folder

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, S, S) of the images features are taken from."""
        size_px = self.loaded.input_size
        return int(self.parent.model_args.get("in_chans", 3)), size_px, size_px


def _read_config(folder: Path, overrides: Sequence[str]) -> TrainConfig:
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"{folder} is not a run folder (it has no config.yaml); sub-networks are taken out of "
            "a run of ssl-vision train poa/..."
        )
    config = load_run_config(folder, overrides)
    if not isinstance(config.method, PoaConfig):
        raise ConfigError(
            f"{folder} is a run of method.name={config.method.name}; only POA trains the "
            "sub-networks of its network."
        )
    return config


def best_within(
    cards: Sequence[SubNetworkCard],
    *,
    max_params: float | None,
    max_latency_ms: float | None,
) -> SubNetworkCard:
    """The size of highest kNN accuracy within the budget; of equals, the one of fewer parameters.

    Without accuracies (no labels) the largest size within the budget.

    Args:
        cards: Measured sizes.
        max_params: Most parameters.
        max_latency_ms: Longest latency.

    Raises:
        ConfigError: Nothing is that small or fast; the message says what is.
    """
    fitting = [
        card
        for card in cards
        if (max_params is None or card.num_parameters <= max_params)
        and (max_latency_ms is None or (card.latency_ms or 0.0) <= max_latency_ms)
    ]
    if not fitting:
        least = min(cards, key=lambda card: card.num_parameters)
        raise ConfigError(
            f"no size has at most {max_params or float('inf'):g} parameters and "
            f"{max_latency_ms or float('inf'):g} ms; the smallest, {least.label}, has "
            f"{least.num_parameters:,} and {least.latency_ms or float('nan'):.2f} ms."
        )
    if any(card.knn_top1 is None for card in fitting):
        return max(fitting, key=lambda card: card.num_parameters)
    return max(fitting, key=lambda card: (card.knn_top1 or 0.0, -card.num_parameters))


# The command -----------------------------------------------------------------------------------


_SIZES = "[0-9]*x[0-9]*"
OUTPUT = Output(
    command="extract", marks=(_SIZES,), names=(_SIZES, "table.json", "table.md", "accuracy.png")
)


@dataclass(frozen=True, kw_only=True)
class ExtractSettings:
    """Settings of `extract` beside those of the run."""

    list: bool = False  # all sizes and their costs; nothing is written
    size: str | None = None  # width and depths: 384,12; may be given several times
    all: bool = False  # all sizes
    max_params: float | None = None  # the best of at most so many parameters
    max_latency_ms: float | None = None  # the best that is at least so fast here
    fold: bool = False  # LayerScale into its projections
    knn: bool = True  # measure accuracies

    def __post_init__(self) -> None:
        check_bounds("max_params", self.max_params, above=0)
        check_bounds("max_latency_ms", self.max_latency_ms, above=0)

    @property
    def has_budget(self) -> bool:
        """Whether one size is to be chosen."""
        return self.max_params is not None or self.max_latency_ms is not None


def run_extract(arguments: Sequence[str]) -> int:
    """`extract RUN [list=true] [size=W,D ...] [all=true] [max_params=N] [OUT]`."""
    given = parse("extract", arguments, num_words=(1, 2))
    sizes = [_size(o) for o in given.overrides if o.startswith("size=")]
    rest = tuple(o for o in given.overrides if not o.startswith("size="))
    settings, overrides = replace(given, overrides=rest).take(ExtractSettings)
    folder, out = given.words[0], given.words[1] if len(given.words) > 1 else None
    console = Console()
    run = ElasticRun(
        folder,
        overrides,
        told=lambda line: console.print(f"[dim]{escape(line)}[/dim]", soft_wrap=True),
    )
    _extract(run, out, sizes, settings, console)
    return 0


def extract(
    run: str | Path,
    out: str | Path | None = None,
    *,
    size: Size | None = None,
    max_params: float | None = None,
    max_latency_ms: float | None = None,
    fold: bool = False,
    knn: bool = True,
) -> list[SubNetworkCard]:
    """Sub-networks of a POA run: measured, chosen by a budget, written as plain timm folders.

    Args:
        run: Run folder.
        out: Folder of the exports, one per size by its label; None writes nothing.
        size: Width and depths of the one to take; by default all, or the best within the budget.
        max_params: Most parameters.
        max_latency_ms: Longest latency of an image on this machine.
        fold: LayerScale into its projections.
        knn: Measure accuracies where something is written or chosen.

    Returns:
        What was chosen, or all.

    Raises:
        ConfigError: Not a run of POA, or nothing within the budget.
        CheckpointError: The run has no readable weights, or the exports cannot be written.
    """
    settings = ExtractSettings(
        all=True, max_params=max_params, max_latency_ms=max_latency_ms, fold=fold, knn=knn
    )
    sizes = [] if size is None else [tuple(size)]
    folder = None if out is None else str(out)
    return _extract(ElasticRun(run), folder, sizes, settings, Console(quiet=True))


def _extract(
    run: ElasticRun,
    out: str | None,
    sizes: Sequence[Size],
    settings: ExtractSettings,
    console: Console,
) -> list[SubNetworkCard]:
    if out is not None:
        data = run.config.data
        check_output(Path(out), key="OUT", data=(data.path, data.val_path))
        if replaced := check_replaceable(Path(out), OUTPUT):
            console.print(replaced, soft_wrap=True, markup=False, highlight=False)
    if not (sizes or settings.list or settings.all or settings.has_budget):
        raise ConfigError(
            "say which sizes: list=true, size=W,D, all=true or a budget (max_params=, "
            "max_latency_ms=)."
        )
    cards = [run.describe(size) for size in sizes or run.sizes]
    if settings.max_params is not None:  # what is too large need not be measured
        cards = [c for c in cards if c.num_parameters <= settings.max_params] or cards[:1]
    is_written = out is not None and not settings.list
    if is_written or settings.has_budget:
        cards = _measured(run, cards, settings, console)
    print_table(console, [asdict(card) | {"label": card.label} for card in cards])
    if settings.has_budget:
        best = best_within(
            cards, max_params=settings.max_params, max_latency_ms=settings.max_latency_ms
        )
        console.print(f"best within the budget: {best.label}")
        cards = [best]
    if is_written:
        assert out is not None
        _write_all(run, cards, Path(out), is_folded=settings.fold, console=console)
    return cards


def _measured(
    run: ElasticRun, cards: list[SubNetworkCard], settings: ExtractSettings, console: Console
) -> list[SubNetworkCard]:
    """Latencies of all, accuracies of those that are fast enough."""
    cards = run.measure_latency(cards)
    if settings.max_latency_ms is not None:
        cards = [c for c in cards if (c.latency_ms or 0) <= settings.max_latency_ms] or cards[:1]
    if settings.knn:
        cards = run.measure_knn(track(cards, "kNN", console=console, transient=True))
        for line in run.data_warnings():
            console.print(f"[yellow]data: {escape(line)}[/yellow]", soft_wrap=True)
    return cards


def _size(override: str) -> Size:
    """`size=384,12` or `size=384x12`."""
    text = override.removeprefix("size=")
    if not re.fullmatch(r"\d+([,x]\d+)*", text):
        raise ConfigError(f"{override}: a size needs numbers like 384,12 (width, depth).")
    return tuple(int(number) for number in re.split("[,x]", text))


def _write_all(
    run: ElasticRun,
    cards: Sequence[SubNetworkCard],
    out: Path,
    *,
    is_folded: bool,
    console: Console,
) -> None:
    """Folders of all sizes, and for several the table and the picture."""
    for card in cards:
        folder = run.write(card, out / card.label, is_scale_folded=is_folded)
        console.print(f'timm.create_model("local-dir:{folder.resolve()}", pretrained=True).eval()')
    if len(cards) < 2:
        return
    rows = [asdict(card) | {"label": card.label} for card in cards]
    write_atomically(out / "table.json", json.dumps(rows, indent=1))
    write_atomically(out / "table.md", markdown_table(rows))
    console.print(f"table   {out / 'table.md'}", soft_wrap=True)
    picture = draw_picture(rows, out / "accuracy.png")
    console.print(f"picture {picture}" if picture else "no picture: no accuracies or matplotlib")
