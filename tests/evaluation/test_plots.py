"""Pictures are well-formed XML, show every point inside the frame, and survive odd input."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from ssl_vision.evaluation.plots import (
    HEIGHT,
    WIDTH,
    Axis,
    distinct_colors,
    heat_map,
    line_chart,
    picture_map,
    picture_table,
    ramp_colors,
)


def circles(svg: str) -> list[tuple[float, float]]:
    ET.fromstring(svg)
    return [
        (float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.-]+)" cy="([\d.-]+)"', svg)
    ]


def test_points_rise_and_stay_in_the_frame() -> None:
    points = [(10, 0.2), (20, 0.5), (100, 0.7), (200, 0.9)]
    svg = line_chart(
        "kNN <k>", {"top-1": points}, x=Axis("k", is_log=True), y=Axis("%", is_share=True)
    )
    places = circles(svg)
    assert len(places) == 4
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in places)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    # Equal factors are equal distances on a logarithmic axis.
    assert places[1][0] - places[0][0] == pytest.approx(places[3][0] - places[2][0], abs=0.2)
    assert "kNN &lt;k&gt;" in svg


@pytest.mark.parametrize(
    "points",
    [[], [(1.0, 1.0)], [(1.0, math.nan), (2.0, 3.0)], [(0.0, 5.0), (1.0, 5.0)], [(1.0, -1.0)]],
)
def test_odd_curves_draw_something(points: list[tuple[float, float]]) -> None:
    for is_log in (False, True):
        svg = line_chart("t", {"a": points, "b": []}, x=Axis("x", is_log=is_log), y=Axis("y"))
        assert all(math.isfinite(value) for place in circles(svg) for value in place)


def test_names_stand_below_and_keep_their_colour_where_one_has_no_points() -> None:
    names = ["a", "none", "a long name, " + "very " * 30 + "long"]
    some = [(0.0, 1.0), (1.0, 2.0)]
    svg = line_chart("t", {n: [] if n == "none" else some for n in names}, x=Axis("x"), y=Axis("y"))
    root = ET.fromstring(svg)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    keys = [(e.attrib["fill"], float(e.attrib["y"])) for e in root.iter("rect")]
    assert len(keys) == 3
    assert all(HEIGHT <= y < height for _, y in keys)
    words = [e.text for e in root.iter("text") if e.attrib.get("x") == "24.0"]
    assert " ".join(words).split() == " ".join(names).split()
    assert max(map(len, words)) * 7 < width
    drawn = {e.attrib["stroke"] for e in root.iter("path") if e.attrib.get("stroke-width") == "1.8"}
    assert drawn == {keys[0][0], keys[2][0]}
    assert 'd="M"' not in svg


def test_ticks_are_few_and_round() -> None:
    for high in (0.003, 0.7, 1.0, 17.0, 4000.0):
        svg = line_chart("t", {"a": [(0.0, 0.0), (high, high)]}, x=Axis("x"), y=Axis("y"))
        labels = re.findall(
            r'text-anchor="middle" font-size="12" fill="currentColor">([\d.e-]+)<', svg
        )
        assert 3 <= len(labels) <= 8, (high, labels)


def test_heat_map_marks_the_chosen_and_crosses_the_diverged() -> None:
    svg = heat_map(
        "t", [[0.1, 0.9], [math.nan, 0.5]], rows=["a", "b"], columns=["1", "2"], marked=(0, 1)
    )
    ET.fromstring(svg)
    assert svg.count("<rect") == 4
    assert svg.count("#d55e00") == 1
    assert svg.count("×") == 1
    ET.fromstring(heat_map("t", [[math.nan]], rows=["a"], columns=["1"]))


def test_map_has_points_and_pictures() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 2))
    picture = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
    svg = picture_map(
        "t",
        points,
        groups=[i % 3 for i in range(20)],
        group_names=["a", "b", "c"],
        pictures={3: picture, 7: picture},
    )
    assert len(circles(svg)) == 18
    assert svg.count("<image") == 2
    assert svg.count('href="data:image/jpeg;base64,') == 2
    same = picture_map("t", np.zeros((4, 2)))
    assert len(circles(same)) == 4


def test_a_picture_table_has_every_picture_and_grows_with_them() -> None:
    rows = [[np.zeros((h, 160, 3), np.uint8), np.full((h, 160, 3), 9, np.uint8)] for h in (90, 120)]
    svg = picture_table("t", rows, columns=("a", "b"), legend={"one": (1, 2, 3)})
    root = ET.fromstring(svg)
    images = [each for each in root.iter() if each.tag.endswith("image")]
    assert [(each.get("x"), each.get("y")) for each in images] == [
        ("8", "48"), ("176", "48"), ("8", "146"), ("176", "146")
    ]  # fmt: skip
    assert "rgb(1, 2, 3)" in svg
    assert float(root.get("height")) >= 146 + 120
    (exact,) = {each.get("href").split(",")[0] for each in images[1::2]}
    assert exact == "data:image/png;base64"


@pytest.mark.parametrize("num", [2, 12, 40, 150])
def test_classes_have_colours_of_their_own(num: int) -> None:
    colors = distinct_colors(num)
    assert colors.shape == (num, 3)
    assert len({tuple(color) for color in colors.tolist()}) == num


def test_a_ramp_rises_and_black_is_nothing() -> None:
    found = ramp_colors(np.array([[0.0, 0.5, 1.0, np.nan, 2.0]]))
    assert found[0, 0].tolist() == [40, 20, 90]
    assert found[0, 1].tolist() == [30, 160, 140]
    assert found[0, 2].tolist() == found[0, 4].tolist() == [250, 230, 50]
    assert found[0, 3].tolist() == [0, 0, 0]
