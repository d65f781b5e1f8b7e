"""Golden values inside the repository: licensed, small, equal to those they were taken from."""

import os
from pathlib import Path

import numpy as np
import pytest

INSIDE = Path(__file__).parent / "golden"
FILES = sorted(INSIDE.glob("*.npz"))


def test_every_file_has_its_origin_and_licence_named_and_is_small() -> None:
    allowed, excluded = (INSIDE / "README.md").read_text().split("\nNot here")
    assert FILES
    for file in FILES:
        (line,) = [line for line in allowed.splitlines() if f"`{file.name}`" in line]
        assert "MIT" in line or "Apache-2.0" in line
        assert file.name not in excluded
        assert file.stat().st_size < 1_000_000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_arrays_are_those_of_the_whole_file(file: Path) -> None:
    outside = os.environ.get("SSL_VISION_GOLDEN") or INSIDE.parents[2] / "shared" / "golden"
    whole = Path(outside) / file.name
    if not whole.exists():
        pytest.skip(f"{whole} is not there to compare with")
    with np.load(file) as kept, np.load(whole) as all_:
        for name in kept.files:
            assert kept[name].dtype == all_[name].dtype
            np.testing.assert_array_equal(kept[name], all_[name])
