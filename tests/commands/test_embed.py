"""index.csv opens in a spreadsheet as names, never as formulas."""

import csv
import io

import numpy as np
import pytest

from ssl_vision.commands.embed import _index
from ssl_vision.data.source import Source


class Named(Source):
    """Samples that are nothing but names."""

    def __init__(self, names: list[str], class_names: list[str]) -> None:
        self.names, self.class_names = names, class_names
        self.labels = np.arange(len(names)) % len(class_names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def fingerprint(self, *, num_threads: int | None = None) -> str:
        raise NotImplementedError

    def sample(self, index, decoder=None):
        raise NotImplementedError


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_formulas_are_disarmed(start: str) -> None:
    formula = f'{start}HYPERLINK("http://x";"a,b")'
    source = Named([formula, "a/=b.png", "'x"], [formula, "plain"])
    lines = list(csv.reader(io.StringIO(_index(source, [0, 1, 2]), newline="")))
    assert lines[1] == ["0", f"'{formula}", "0", f"'{formula}"]
    assert lines[2] == ["1", "a/=b.png", "1", "plain"]
    assert lines[3][1] == "'x"
