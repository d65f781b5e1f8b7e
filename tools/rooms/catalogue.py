"""Furniture of Debian's `sweethome3d-furniture`: what there is, of which kind, and its files.

The package (CC-BY and CC0 models, apt-get install sweethome3d-furniture) holds libraries `.sh3f`:
zip files with a catalogue in the form of Java properties and a folder with .obj, .mtl and pictures
for each model.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from ssl_vision.errors import DataError

FURNITURE = Path("/usr/share/sweethome3d/furniture")
SURFACES = ("floor", "wall", "ceiling")
_CATALOGUE = "PluginFurnitureCatalog.properties"
_CATEGORIES = (
    "Office", "Bedroom", "Living room", "Kitchen", "Bathroom", "Lights", "Miscellaneous",
    "Characters", "Doors and windows",
)  # fmt: skip
# A kind by the last word of the name, else by the category; everything else is `thing`.
_WORDS = {
    "bed": "bed crib futon mattress",
    "chair": "chair armchair stool seat bench puff ottoman",
    "sofa": "sofa couch",
    "table": "table desk workbench",
    "cabinet": "cabinet wardrobe cupboard bookcase shelves chest dresser safe locker drawers stand",
    "plant": "plant cactus orchids bamboo tulips yucca spathiphyllum lily flowers ficus tree",
    "appliance": "fridge refrigerator oven stove cooker machine brewer maker freezer tv microwave",
    "window": "window windows panes pane",
    "door": "door elevator",
}
_OF_CATEGORY = {"Lights": "lamp", "Bathroom": "bathroom", "Characters": "person"}
KINDS = (*SURFACES, *_WORDS, *_OF_CATEGORY.values(), "thing")
_SHELL = re.compile(
    r"wood|parquet|tile|carpet|bois|marbl|stone|fabric|tissu|oak|cloth|leather|brick|madera|"
    r"wallpaper|granit|teak|alder",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One model of the catalogue.

    Attributes:
        library: File that holds it.
        model: Its .obj in there.
        name: In English.
        kind: One of `KINDS`.
        size: Width, height and depth, metres.
        elevation: Of its lower side above the floor, metres.
        top: Height at which things stand on it, above its lower side; None: nowhere.
        rotation: Nine numbers, from the model's axes to those of width, height and depth.
    """

    library: Path
    model: str
    name: str
    kind: str
    size: tuple[float, float, float]
    elevation: float
    top: float | None
    rotation: tuple[float, ...]


class Catalogue:
    """All models for a room, and pictures for its walls.

    Args:
        folder: Where the libraries are.
        cache: Where files are unpacked, as they are wanted.

    Raises:
        DataError: There are no libraries.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self._cache = cache
        self._libraries = {path: ZipFile(path) for path in sorted(folder.glob("*.sh3f"))}
        if not self._libraries:
            raise DataError(
                f"furniture={folder} holds no .sh3f libraries; apt-get install "
                "sweethome3d-furniture, or name their folder."
            )
        self.pieces = [piece for path in self._libraries for piece in self._read(path)]

    @cached_property
    def textures(self) -> list[tuple[Path, str]]:
        """Pictures of materials, by their names; which library, and the name in it."""
        found: dict[str, tuple[Path, str]] = {}
        for path, library in self._libraries.items():
            for name in sorted(library.namelist()):
                base = PurePosixPath(name)
                if base.suffix.lower() in (".jpg", ".jpeg") and _SHELL.search(base.name):
                    found.setdefault(base.name, (path, name))  # several models have the same
        return list(found.values())

    def unpacked(self, library: Path, name: str) -> Path:
        """Path of a file on the disk, with those beside it."""
        target = self._cache / library.stem
        file = target / name
        if not file.exists():
            folder = str(PurePosixPath(name).parent) + "/"
            archive = self._libraries[library]
            archive.extractall(target, [n for n in archive.namelist() if n.startswith(folder)])
        return file

    def _read(self, path: Path) -> list[Piece]:
        text = self._libraries[path].read(_CATALOGUE).decode("latin-1")
        rows: dict[int, dict[str, str]] = {}
        for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*?)\r?$", text, re.MULTILINE):
            rows.setdefault(int(number), {})[key] = value
        found = [rows[number] for number in sorted(rows)]
        return [_piece(path, row) for row in found if row["category"] in _CATEGORIES]


def _piece(library: Path, row: dict[str, str]) -> Piece:
    width, height, depth = (float(row[key]) / 100 for key in ("width", "height", "depth"))
    top = float(row.get("dropOnTopElevation", 100 * height)) / 100
    return Piece(
        library=library,
        model=row["model"].lstrip("/"),
        name=row["name"],
        kind=_kind(row["name"], row["category"]),
        size=(width, height, depth),
        elevation=float(row.get("elevation", 0)) / 100,
        top=top if top > 0 else None,
        rotation=tuple(map(float, row.get("modelRotation", "1 0 0 0 1 0 0 0 1").split())),
    )


def _kind(name: str, category: str) -> str:
    """By the last word before `with`, numbers and letters of a model."""
    head = re.split(r" with | \d|,", name)[0]
    words = [word.lower() for word in head.split() if word == "TV" or not word.isupper()]
    for kind, known in _WORDS.items():
        if words and words[-1] in known.split():
            return kind
    if category == "Doors and windows":
        return "window" if "window" in name.lower() else "door"
    return _OF_CATEGORY.get(category, "thing")
