#!/usr/bin/env python3
"""How well the pair maker tells pairs among photos, by views whose overlap is known.

    tools/known_pairs/photos.py PHOTOS VIEWS [key=value of ssl-vision pairs ...]

Each photo is scaled to a shorter side of 720 px and gives four views of 320 px: quadrangles around
squares of 320 to 480 px, whose corners lie up to 12 % of the side elsewhere, under changed
brightness and contrast. The overlap of two views of one photo is what either shows of the other,
the smaller share; of two photos it is 0. Then `ssl-vision pairs` chooses among all of them.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from ssl_vision.commands.arguments import parse
from ssl_vision.data.images.folder import list_images
from ssl_vision.data.images.two_views import apply_homography, homography_of
from ssl_vision.data.pairs.make import PairsConfig, make_pairs

VIEW_PX, PHOTO_PX, NUM_VIEWS = 320, 720, 4
LEAST = 0.2  # true overlap of views that are worth pairing
_CELLS = 64  # along a side of a view, of which it is asked where they lie in another

Matrix = NDArray[np.float64]  # (3, 3), places of a view -> places of its photo


class Counts(NamedTuple):
    """What was kept of pairs of views.

    Attributes:
        tried: All pairs.
        overlapping: Of them, those whose true overlap is at least LEAST.
        kept: Those that were chosen.
        right: Of these, those whose true overlap is at least LEAST.
        touching: Of these, those that overlap at all.
        off: Median of the estimated less the true overlap of these.
    """

    tried: int
    overlapping: int
    kept: int
    right: int
    touching: int
    off: float


def cut_view(
    photo: Image.Image, random: np.random.Generator, *, is_recolored: bool = True
) -> tuple[Image.Image, Matrix]:
    """A view of a part of a photo, and where its places lie in it."""
    side = random.uniform(320, 480)
    corner = random.uniform(0, 1, 2) * (np.array(photo.size) - side)
    ends = corner + side * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    ends = np.clip(ends + random.uniform(-0.12, 0.12, (4, 2)) * side, 0, photo.size)
    whole = VIEW_PX * np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    matrix = homography_of(whole, ends)
    view = photo.transform(
        (VIEW_PX, VIEW_PX), Image.Transform.PERSPECTIVE, matrix.reshape(-1)[:8].tolist(),
        Image.Resampling.BICUBIC,
    )  # fmt: skip
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast) if is_recolored else ():
        view = kind(view).enhance(random.uniform(0.7, 1.3))
    return view, matrix


def true_overlap(first: Matrix, second: Matrix) -> float:
    """Share of either view that the other shows, the smaller of the two."""
    centers = (np.arange(_CELLS) + 0.5) * VIEW_PX / _CELLS
    places = np.stack(np.meshgrid(centers, centers), axis=-1).reshape(-1, 2)

    def shown(one: Matrix, other: Matrix) -> float:
        found = apply_homography(np.linalg.inv(other) @ one, places)
        return float(((found >= 0) & (found <= VIEW_PX)).all(axis=1).mean())

    return min(shown(first, second), shown(second, first))


def write_views(photos: list[Path], folder: Path, *, seed: int) -> dict[str, tuple[int, Matrix]]:
    """Views as PNG files; name -> number of its photo, and where its places lie in it."""
    found = {}
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(photos):
        random = np.random.default_rng((seed, number))
        photo = Image.open(path).convert("RGB")
        scale = PHOTO_PX / min(photo.size)
        size = round(photo.width * scale), round(photo.height * scale)
        photo = photo.resize(size, Image.Resampling.LANCZOS)
        for view in range(NUM_VIEWS):
            name = f"{number:03d}_{'abcd'[view]}.png"
            pixels, matrix = cut_view(photo, random)
            pixels.save(folder / name)
            found[name] = (number, matrix)
    return found


def count(folder: Path, views: dict[str, tuple[int, Matrix]], config: PairsConfig) -> Counts:
    """What the pair maker keeps of views of which the overlap is known."""
    names = sorted(views)
    truth = {
        (a, b): true_overlap(views[a][1], views[b][1]) if views[a][0] == views[b][0] else 0.0
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
    made = make_pairs(folder, config, progress=lambda done, of: None)
    kept = {(a, b): share for a, b, share in made.pairs}
    known = {pair: truth[min(pair), max(pair)] for pair in kept}
    return Counts(
        tried=made.num_tried,
        overlapping=sum(share >= LEAST for share in truth.values()),
        kept=len(kept),
        right=sum(share >= LEAST for share in known.values()),
        touching=sum(share > 0 for share in known.values()),
        off=float(np.median([kept[p] - known[p] for p in kept])) if kept else 0.0,
    )


def main(arguments: list[str]) -> int:
    """Make views, choose pairs, print what is right of them."""
    given = parse("pairs", arguments, num_words=(2, 2))
    root, folder = map(Path, given.words)
    photos = [root / name for name in list_images(root)]
    views = write_views(photos, folder, seed=0)
    found = count(folder, views, given.settings(PairsConfig))
    print(f"{len(photos)} photos, {len(views)} views: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
