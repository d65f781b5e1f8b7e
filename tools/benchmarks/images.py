"""Cut ImageNet-like JPEGs from the wallpapers a Debian desktop ships, for loader benchmarks.

    tools/make_benchmark_images.py OUT [num=3000] [seed=0]

Needs packages such as plasma-workspace-wallpapers and gnome-backgrounds, whose pictures lie below
/usr/share/wallpapers and /usr/share/backgrounds. Each output is a random window of a random
picture, scaled to 500x375 or 375x500 (a tenth up to 1024x768), with sensor-like noise so that the
entropy coder has as much to do as on photographs: about 110 KB a file, ten class folders.
"""

import sys
from pathlib import Path

import numpy as np
from benchmarks._settings import read_settings
from PIL import Image

SOURCES = (Path("/usr/share/wallpapers"), Path("/usr/share/backgrounds"))
NUM_CLASSES = 10
_SIZES = ((500, 375), (500, 375), (500, 375), (375, 500), (375, 500), (500, 333), (500, 400))
_LARGE = ((640, 480), (800, 600), (1024, 768))


def find_pictures() -> list[Path]:
    """The largest file of each folder of wallpapers, sorted."""
    largest: dict[Path, Path] = {}
    for root in SOURCES:
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp") or path.is_symlink():
                continue
            if "screenshot" in path.name:
                continue
            key = path.parent if root == SOURCES[0] else path
            if key not in largest or path.stat().st_size > largest[key].stat().st_size:
                largest[key] = path
    return sorted(largest.values())


def cut(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """One window, scaled and with noise."""
    sizes = _LARGE if random.random() < 0.1 else _SIZES
    width, height = sizes[random.integers(len(sizes))]
    zoom = random.uniform(1.0, 3.0)
    w, h = min(picture.width, int(width * zoom)), min(picture.height, int(height * zoom))
    left, top = random.integers(picture.width - w + 1), random.integers(picture.height - h + 1)
    window = picture.crop((left, top, left + w, top + h)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(window, np.float32)
    # Noise that grows with brightness, as of photons, plus a slow texture.
    noise = random.normal(0, 1, pixels.shape).astype(np.float32)
    pixels = pixels + noise * (3.0 + 0.35 * np.sqrt(pixels))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def main(arguments: list[str]) -> int:
    """Write the files; the exit status."""
    places = [argument for argument in arguments if "=" not in argument]
    words = [argument for argument in arguments if "=" in argument]
    settings = read_settings(words, {"num": 3000, "seed": 0})
    paths = find_pictures()
    if len(places) != 1 or not paths:
        print(__doc__ if len(places) != 1 else f"no pictures below {SOURCES}", file=sys.stderr)
        return 2
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            image.draft("RGB", (2560, 1600))
            picture = image.convert("RGB")
        picture.thumbnail((2560, 1600))
        pictures.append(picture)
    for number in range(settings["num"]):
        random = np.random.Generator(np.random.Philox([settings["seed"], number]))
        image = cut(pictures[random.integers(len(pictures))], random)
        path = Path(places[0]) / f"class_{number % NUM_CLASSES}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        subsampling = "4:4:4" if random.random() < 0.25 else "4:2:0"
        image.save(path, quality=int(random.integers(88, 97)), subsampling=subsampling)
    print(f"{settings['num']} images in {places[0]}, cut from {len(pictures)} pictures")
    return 0
