"""The tool render_rooms: which rooms, who renders them, which views are pairs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks._settings import read_settings
from rooms.catalogue import FURNITURE, Catalogue
from rooms.output import Plan, Room, write_rooms

from ssl_vision.data.pairs.scenes import make_scene, render
from ssl_vision.errors import ConfigError, SslVisionError
from ssl_vision.randomness import derive_key

_DEFAULTS = {
    "kind": "furniture", "rooms": 150, "val_rooms": 25, "pairs": 8, "size_px": 128, "seed": 0,
    "furniture": str(FURNITURE),
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Render; the exit status."""
    settings = read_settings(arguments[1:], _DEFAULTS)
    kind, furniture = settings.pop("kind"), Path(settings.pop("furniture"))
    out, plan = Path(arguments[0]), Plan(**settings)
    try:
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty; give a new folder.")
        if kind not in ("furniture", "blocks"):
            raise ConfigError(f"kind={kind} must be furniture or blocks.")
        with TemporaryDirectory() as cache:
            room_of = blocks(plan) if kind == "blocks" else _furnished(plan, furniture, Path(cache))
            write_rooms(out, plan, room_of)
    except SslVisionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return max(_list_pairs(out, split, plan) for split in ("train", "val"))


def _list_pairs(out: Path, split: str, plan: Plan) -> int:
    """Decide which views are pairs; the exit status.

    In a process of its own: where Mesa's LLVM is loaded, Triton's crashes as it is imported.
    """
    words = [str(out / "images" / split), str(out / f"{split}.txt"), f"window={2 * plan.pairs - 1}"]
    return subprocess.run([sys.executable, "-m", "ssl_vision", "pairs", *words]).returncode


def blocks(plan: Plan) -> Callable[[str, int], Room]:
    """The package's own rooms."""

    def room_of(split: str, number: int) -> Room:
        scene = make_scene(np.random.default_rng(derive_key(plan.seed, "room", split, number)))
        kinds = ["", *["thing"] * (len(scene.boxes.centers) - 1)]
        return Room(scene.boxes, kinds, lambda camera: render(scene, camera, size_px=plan.size_px))

    return room_of


def _furnished(plan: Plan, furniture: Path, cache: Path) -> Callable[[str, int], Room]:
    """Rooms with models of a catalogue.

    Raises:
        ConfigError: pyvista is not installed.
        DataError: There is no furniture.
    """
    try:
        from rooms.furnish import furnish
        from rooms.renderer import Models, RoomRenderer
    except ImportError as error:
        raise ConfigError(f"kind=furniture needs pyvista ({error}); pip install pyvista.") from None
    catalogue = Catalogue(furniture, cache)
    models = Models(catalogue)
    renderer = RoomRenderer(models, catalogue, size_px=plan.size_px)

    def room_of(split: str, number: int) -> Room:
        random = np.random.default_rng(derive_key(plan.seed, "room", split, number))
        room = furnish(catalogue.pieces, random, can_use=models.can_use)
        renderer.open(room, random)
        return Room(room.boxes, room.kinds, renderer.render)

    return room_of
