"""The task `correspond`: the nearest patch across two views of known geometry."""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ssl_vision.data.decode import upright_size
from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.images.two_views import (
    Geometry,
    WarpedSource,
    read_geometry,
    read_pairs,
    size_of,
)
from ssl_vision.data.source import JoinedSource, SubsetSource
from ssl_vision.errors import DataError
from ssl_vision.evaluation.correspondence import (
    CorrespondConfig,
    Matches,
    Shares,
    View,
    match_views,
    shares_within,
)
from ssl_vision.evaluation.dense import PatchMaps, bootstrap
from ssl_vision.evaluation.plots import Axis, line_chart, picture_table
from ssl_vision.evaluation.results import Measurement, TaskResult
from ssl_vision.files import shown
from ssl_vision.randomness import derive_key
from ssl_vision.tasks.baselines import compare_with_baselines
from ssl_vision.tasks.dense import patch_maps, picture_rows, shown_whole, small_picture
from ssl_vision.tasks.run import EvalRun, first_of
from ssl_vision.tasks.task import Task, no_features

_NUM_DOTS = 25  # matches shown of a pair, at most
_DOT_PX = 3


@dataclass(frozen=True, kw_only=True)
class TwoViews:
    """Pairs of images.

    Attributes:
        run: Whose bank are all images of the pairs.
        rows: Number of each pair's images among them, (n, 2).
        geometry: Number of a pair -> how its views belong together.
        size: Number of an image -> its height and width.
        name: Number of an image -> what messages call it.
        mark: Of the pairs, in a protocol's name.
    """

    run: EvalRun
    rows: NDArray[np.int64]
    geometry: Callable[[int], Geometry]
    size: Callable[[int], tuple[int, int]]
    name: Callable[[int], str]
    mark: str


def run_correspond(run: EvalRun) -> TaskResult:
    """Share of places whose nearest patch in the other view is near the true place."""
    config, views = run.config.settings(CorrespondConfig), _open(run)
    pairs = _readable_pairs(views)
    shares = _shares(views, pairs, views.run, config)
    name = f"within {config.quoted_px:g} px"
    column = config.within_px.index(config.quoted_px)

    def measured(found: NDArray[np.float64]) -> Measurement:
        values = found[:, column]
        interval = bootstrap(
            lambda draws: draws @ values / len(values), len(values), seed=run.config.seed
        )
        return Measurement(name=name, value=float(values.mean()), interval=interval)

    own = measured(shares.found)
    compared, problems = compare_with_baselines(
        views.run, own, lambda other: measured(_shares(views, pairs, other, config).found)
    )
    still = float(shares.still[:, column].mean())
    if own.value <= still:
        problems.append(f"not better than if nothing had moved: {100 * still:.1f} % {name}.")
    means = {key: value.mean(axis=0) for key, value in shares._asdict().items()}
    return TaskResult(
        task="correspond",
        protocol=f"correspond-{views.mark}-{config.quoted_px:g}px{views.run.mark}/1",
        headline=name,
        measurements=(
            own,
            *(
                Measurement(name=f"within {limit:g} px", value=float(means["found"][i]))
                for i, limit in enumerate(config.within_px)
                if i != column
            ),
            *compared,
            Measurement(name=f"{name} of the same place", value=still, note="nothing had moved"),
            Measurement(name=f"{name} of chance", value=float(means["chance"][column])),
            Measurement(
                name=f"best possible {name}",
                value=float(means["best"][column]),
                note="by the nearest centre of a patch",
            ),
        ),
        details={
            "num_pairs": len(pairs),
            "within_px": list(config.within_px),
            **{key: value.tolist() for key, value in means.items()},
        },
        plots=(_curve(means, config), _pictures(views, pairs)),
        warnings=tuple(problems),
    )


# Pairs ------------------------------------------------------------------------------------------


def _open(run: EvalRun) -> TwoViews:
    """The pairs, opened once.

    Raises:
        ConfigError: The network has no map.
        DataError: Pairs or their geometry cannot be read.
    """
    if "two views" not in run.made:
        config = run.config.settings(CorrespondConfig)
        whole = shown_whole(run, task="correspond")
        run.made["two views"] = _of_pairs(whole, config) if config.pairs else _warped(whole, config)
    views: TwoViews = run.made["two views"]
    return views


def _of_pairs(run: EvalRun, config: CorrespondConfig) -> TwoViews:
    path = Path(str(config.pairs)).expanduser()
    pairs = read_pairs(path)
    names = list(dict.fromkeys(name for pair in pairs for name in pair[:2]))
    number = {name: i for i, name in enumerate(names)}
    for pair in pairs:
        read_geometry(pair)
    run.bank_source = FilesSource(names, decode=run.shown.decode)
    return TwoViews(
        run=run,
        rows=np.array([[number[pair.first], number[pair.second]] for pair in pairs]),
        geometry=lambda pair: read_geometry(pairs[pair]),
        size=cache(lambda row: upright_size(names[row])),
        name=lambda row: shown(names[row]),
        mark="pairs",
    )


def _warped(run: EvalRun, config: CorrespondConfig) -> TwoViews:
    """Images beside themselves, seen from elsewhere."""
    seed, source = run.config.seed, run.val_source or run.bank_source
    source = first_of(source, config.max_pairs, seed, "correspond")
    warped = WarpedSource(source, strength=config.warp, key=derive_key(seed, "homographies"))
    joined = JoinedSource([source, warped])
    joined.is_identified = source.is_identified
    run.bank_source, num = joined, len(source)
    size = cache(lambda row: size_of(source, row))
    run.say(f"no correspond.pairs: {num} images beside themselves under random homographies")
    return TwoViews(
        run=run,
        rows=np.stack([np.arange(num), np.arange(num) + num], axis=1),
        geometry=lambda pair: warped.geometry(pair, size(pair)),
        size=lambda row: size(row % num),
        name=lambda row: shown(joined.name(row)),
        mark=f"warp{config.warp:g}",
    )


def _readable_pairs(views: TwoViews) -> list[int]:
    """Pairs of which both images can be read; other images leave the run's bank."""
    patch_maps(views.run, "train")
    places = _places(views.run)
    kept = [row for row, pair in enumerate(views.rows) if {*pair.tolist()} <= places.keys()]
    if not kept:
        raise DataError("tasks=correspond: of no pair can both images be read.")
    return kept


def _places(run: EvalRun) -> dict[int, int]:
    """Number of an image among all -> its place among those that can be read."""
    source = run.bank_source
    rows = source.indices.tolist() if isinstance(source, SubsetSource) else range(len(source))
    return {int(row): place for place, row in enumerate(rows)}


# Scores -----------------------------------------------------------------------------------------


def _matches(views: TwoViews, pair: int, maps: PatchMaps, places: dict[int, int]) -> Matches:
    """Matches of a pair.

    Raises:
        DataError: No place of the first view is seen in the second.
    """
    numbers = views.rows[pair].tolist()
    patches = maps.patches(torch.tensor([places[number] for number in numbers]))
    first, second = (View(p, views.size(n)) for p, n in zip(patches, numbers, strict=True))
    found = match_views(first, second, views.geometry(pair), size_px=views.run.view.size_px)
    if not len(found.first):
        raise DataError(
            f"no place of {views.name(numbers[0])} is seen in {views.name(numbers[1])} by their "
            "geometry; remove the pair, or is its direction the other?"
        )
    return found


def _shares(views: TwoViews, pairs: list[int], run: EvalRun, config: CorrespondConfig) -> Shares:
    """Shares within each distance of every pair, (pairs, distances), of a network."""
    maps, places = patch_maps(run, "train"), _places(views.run)
    each = [shares_within(_matches(views, pair, maps, places), config.within_px) for pair in pairs]
    return Shares(*(np.stack([getattr(s, name) for s in each]) for name in Shares._fields))


# Pictures ---------------------------------------------------------------------------------------


def _curve(means: dict[str, NDArray[np.float64]], config: CorrespondConfig) -> str:
    names = {"found": "matches", "still": "same place", "chance": "chance", "best": "best possible"}
    order = np.argsort(config.within_px)
    series = {
        names[key]: [(config.within_px[i], float(values[i])) for i in order]
        for key, values in means.items()
    }
    return line_chart(
        "Places within a distance",
        series,
        x=Axis("distance, px of the network's input"),
        y=Axis("share of places, %", is_share=True),
    )


def _pictures(views: TwoViews, pairs: list[int]) -> str:
    """Pairs with some places, where they are, and where they were found."""
    maps, places, rows = patch_maps(views.run, "train"), _places(views.run), []
    for pair in (pairs[i] for i in picture_rows(len(pairs))):
        found = _matches(views, pair, maps, places)
        chosen = np.unique(np.linspace(0, len(found.first) - 1, _NUM_DOTS).astype(int))
        sources = [views.run.bank_source.sample(places[n]) for n in views.rows[pair].tolist()]
        views_px = [small_picture(pixels) for pixels in sources]
        first, second = (pixels.shape[:2] for pixels in sources)
        rows.append(
            [
                _dotted(views_px[0], found.first[chosen], first),
                _dotted(views_px[1], found.second[chosen], second),
                _dotted(views_px[1], found.found[chosen], second),
            ]
        )
    columns = ("first view", "second view: true places", "second view: matches")
    return picture_table("Places of one colour belong together", rows, columns=columns)


def _dotted(
    picture: NDArray[np.uint8], places: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """A small picture with a dot at each place of the image, coloured by its number."""
    image = Image.fromarray(picture)
    draw, scale = ImageDraw.Draw(image), max(image.size) / max(size)
    for i, (x, y) in enumerate(places * scale):
        hue = colorsys.hsv_to_rgb(i / len(places), 1.0, 1.0)
        color = tuple(round(255 * level) for level in hue)
        box = (x - _DOT_PX, y - _DOT_PX, x + _DOT_PX, y + _DOT_PX)
        draw.ellipse(box, fill=color, outline="white")
    return np.asarray(image)


def _check(run: EvalRun) -> None:
    """Before a pass over the images: pairs and their geometry."""
    _open(run)


TASK = Task(
    run=run_correspond,
    settings={"correspond": CorrespondConfig},
    needs_labels=False,
    needs_val=False,
    feature_sets=no_features,
    check=_check,
)
