"""Data sets of images by name, and what is said of a path that is not there; without torch.

A command tells a mistyped path before it imports anything that takes seconds.
"""

IMAGE_SETS = (
    "digits",
    "mnist5k",
    "cifar10",
    "cifar100",
    "stl10",
    "imagenette",
    "flowers102",
)


def no_images_at(path: str, *, what: str = "data path") -> str:
    """The message about a path that does not exist; `what` it is to who typed it."""
    return (
        f"{what} {path!r} does not exist; give a folder of images, a .beton file, a "
        f"table of paths (.csv), or one of {', '.join(IMAGE_SETS)}."
    )
