"""Small images of quarters whose colour says their class, with masks, of unequal sizes."""

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = np.array([[220, 40, 40], [40, 200, 60], [50, 60, 230]], np.uint8)
WEIGHTS = "timm:vit_tiny_patch16_224?pretrained=false&img_size=32&patch_size=4&depth=2&embed_dim=24"


def quarters(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Classes of an image of quarters, (H, W)."""
    height, width = size
    rows, columns = (np.arange(n) * 2 // n for n in (height, width))
    return rng.integers(0, 3, (2, 2))[rows[:, None], columns]


def quarter_images(root: Path, *, num: int, seed: int, names: str = "{}") -> list[np.ndarray]:
    """Write images/SPLIT/i.png and masks/SPLIT/i.png below a folder; the masks."""
    rng = np.random.default_rng(seed)
    masks = []
    for i in range(num):
        classes = quarters(rng, (40 + 4 * (i % 5), 64 - 6 * (i % 4)))
        pixels = COLORS[classes].astype(int) + rng.integers(-20, 21, (*classes.shape, 3))
        for folder, values in (("images", pixels.clip(0, 255)), ("masks", classes)):
            path = Path(str(root).replace("KIND", folder)) / f"{names.format(i)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(path)
        masks.append(classes)
    return masks
