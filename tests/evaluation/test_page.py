"""Pages are one well-formed file; whatever names hold stays text."""

import io
import re
from html.parser import HTMLParser
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from ssl_vision.evaluation.page import bars, color_keys, embedded, folded, html_table, page

ODD = """<b>&amp; "quoted' \\ é"""


class Reader(HTMLParser):
    """Words of a page, and its elements; fails on ends that close nothing."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.found, self._open = [], [], []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "link"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_what_names_hold_stays_text() -> None:
    parts = [
        html_table(["", ODD], [[ODD, "1"]]),
        bars({ODD: 0.5}),
        color_keys({ODD: "#123456"}),
        folded(ODD, ODD),
        embedded(Image.new("RGB", (2, 2)), alt=ODD),
    ]
    read = Reader(page(ODD, "".join(parts)))
    assert read.words.count(ODD) == 7
    assert [a["alt"] for tag, a in read.found if tag == "img"] == [ODD]
    assert "b" not in {tag for tag, _ in Reader(html_table([ODD], [[ODD]])).found}


def test_pages_fit_phones_and_dark_rooms_and_load_nothing() -> None:
    text = page("t", "")
    assert 'name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import', text)


@pytest.mark.parametrize(("value", "width"), [(0.0, 0), (0.123, 12.3), (1.0, 100), (1.5, 100)])
def test_bars_are_as_long_as_their_shares(value: float, width: float) -> None:
    (style,) = [a["style"] for tag, a in Reader(bars({"x": value}, own=["x"])).found if tag == "i"]
    assert float(re.fullmatch(r"width:([\d.]+)%", style)[1]) == width
    assert bars({}) == ""


def test_images_come_back() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for quality, most in ((0, 0), (95, 80)):
        (tag,) = Reader(embedded(Image.fromarray(levels), alt="x", quality=quality)).found
        with Image.open(io.BytesIO(urlopen(tag[1]["src"]).read())) as found:
            assert found.size == (int(tag[1]["width"]), int(tag[1]["height"])) == (7, 5)
            off = np.abs(np.asarray(found, dtype=int) - levels)
            assert off.mean() <= most
