"""Find duplicates and similar images by the features of a run, in a FAISS index."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import ssl_vision


def make_photos(folder: Path, num: int = 300) -> None:
    """Files of digits, among them copies: one brighter, one as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray((each * 15.9).astype(np.uint8)) for each in load_digits().images]
    for number, image in enumerate(images[:num]):
        image.resize((32, 32)).save(folder / f"{number:03}.png")
    images[7].resize((32, 32)).point(lambda level: min(255, level + 3)).save(folder / "copy_7.png")
    images[8].resize((32, 32)).save(folder / "copy_8.jpg", quality=95)


def main(run_dir: str = "runs/similar", **settings: Any) -> list[set[str]]:
    """Train on a folder, index it, search it, find its duplicates; names of each group."""
    photos = Path(run_dir) / "photos"
    make_photos(photos)
    run = ssl_vision.train(
        "barlow_twins/tiny_cpu",
        data=photos,
        run_dir=Path(run_dir) / "run",
        **{"trainer.epochs": 10, **settings},
    )
    index = ssl_vision.ImageIndex.build(run.run_dir, photos)
    index.save(Path(run_dir) / "photos.index")

    # Later, elsewhere: the index knows its weights. `index.faiss` is FAISS's own format.
    index = ssl_vision.ImageIndex.load(Path(run_dir) / "photos.index")
    for query, matches in index.search(photos / "042.png", k=3).items():
        print(query, "is like", ", ".join(f"{m.name} ({m.similarity:.3f})" for m in matches))
    plain = faiss.read_index(str(Path(run_dir) / "photos.index" / "index.faiss"))
    print(plain.ntotal, "images of", plain.d, "numbers")

    groups = index.duplicates(threshold=0.99)  # what it means depends on the weights: look first
    for group in groups:
        print("alike:", ", ".join(group.names))
    return [{Path(name).name for name in group.names} for group in groups]


if __name__ == "__main__":
    main()
