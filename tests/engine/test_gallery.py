"""The report's pictures against brute force, of images and clouds, with and without labels."""

import html
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_vision.config import load_train_config
from ssl_vision.data.module import DataModule
from ssl_vision.engine.gallery import gallery, look, queries_of
from ssl_vision.engine.train import train
from ssl_vision.evaluation.raw_inputs import raw_inputs
from tests.runs import write_recipe

NUM = 8  # images of a class
COLORS = {"blue & <b>": (0, 0, 1), "green": (0, 1, 0), "red": (1, 0, 0)}


def write_photos(folder: Path, *, is_split: bool, num: int = NUM) -> Path:
    """Images of three colours, a class each, or all in one folder."""
    random = np.random.default_rng(0)
    for name, color in COLORS.items():
        for i in range(num):
            noise = random.integers(0, 120, (20, 20, 3))
            pixels = np.minimum(noise + 130 * np.array(color), 255).astype(np.uint8)
            place = folder / name if is_split else folder
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{name[:3].strip()}{i}.png")
    return folder


def module(tmp_path: Path, photos: Path, *overrides: str) -> DataModule:
    recipe = write_recipe(tmp_path / "r.yaml", "mae")
    words = [f"data.path={photos}", "data.global_batch_size=4", *overrides]
    return DataModule(load_train_config([recipe], words).data, seed=0)


def figures(body: str) -> list[tuple[str, str]]:
    return re.findall(r'<figure class="(\w*)" title="([^"]*)">', body)


def test_neighbours_are_those_of_brute_force(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", is_split=False)
    data = module(tmp_path, photos, "data.eval_size_px=20", "data.eval_center_fraction=1.0")
    sections = gallery(data, raw_inputs("images"))
    assert [section.title for section in sections] == ["Nearest neighbours", "Map"]
    names = sorted(str(path) for path in photos.iterdir())
    pixels = np.stack([np.asarray(Image.open(name)) for name in names]) / 255
    mean, std = data.config.input_spec.mean, data.config.input_spec.std
    rows = ((pixels - mean) / std).reshape(len(names), -1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rows @ rows.T
    found = figures(sections[0].body)
    assert len(found) == 6 * 11
    for block in range(0, len(found), 11):
        (kind, query), near = found[block], found[block + 1 : block + 6]
        assert kind == "query"
        assert near == found[block + 6 : block + 11]  # the network is the raw input
        row = names.index(html.unescape(query))
        order = [i for i in np.argsort(-cosine[row]) if i != row]
        assert [html.unescape(name) for _, name in near] == [names[i] for i in order[:5]]


def test_few_samples_have_a_map_alone(tmp_path: Path) -> None:
    """A fifth of each class is held out: three images, of which none has five others."""
    photos = write_photos(tmp_path / "photos", is_split=True, num=4)
    sections = gallery(module(tmp_path, photos), raw_inputs("images"))
    assert [section.title for section in sections] == ["Map"]


def test_the_same_class_is_outlined_and_counted(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", is_split=True)
    data = module(tmp_path, photos, f"data.val_path={photos}")
    body = gallery(data, raw_inputs("images"))[0].body
    found = figures(body)
    assert [kind for kind, _ in found].count("query") == 3
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", body)
    count = 0
    for block in range(0, len(found), 11):
        for place in range(block + 1, block + 11):
            is_same = captions[place] == captions[block]
            assert (found[place][0] == "same") == is_same
            count += is_same and place < block + 6
    assert count > 10  # colours tell the classes apart
    assert f"Of these 15: {count} by the network, {count} without." in body
    assert "blue &amp; &lt;b&gt;" in captions
    assert "<b>" not in body


def test_map_shows_every_sample_once(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", is_split=True)
    data = module(tmp_path, photos, f"data.val_path={photos}")
    body = gallery(data, raw_inputs("images"))[1].body
    svg = ET.fromstring(re.search(r"<svg.*</svg>", body, re.S)[0])
    shown = len(list(svg.iter("image"))) + len(list(svg.iter("circle")))
    assert shown == 3 * NUM
    assert len({e.attrib["stroke"] for e in svg.iter("rect")}) == 3
    assert body == gallery(data, raw_inputs("images"))[1].body  # deterministic


def test_more_classes_than_colours_have_neighbours_and_a_map(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(30):
        place = tmp_path / "photos" / f"class {i % 15:02}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")
    neighbours, plane = gallery(module(tmp_path, tmp_path / "photos"), raw_inputs("images"))
    assert figures(neighbours.body)
    assert "15 classes are too many to colour" in plane.body


def test_queries_are_of_all_classes_evenly() -> None:
    labels = [0] * 50 + [1] * 2 + [2] * 30
    assert [labels[row] for row in queries_of(labels, 82, num=6)] == [0, 1, 2]
    many = [i // 3 for i in range(90)]
    chosen = [many[row] for row in queries_of(many, 90, num=6)]
    assert len(set(chosen)) == 6
    assert max(chosen) - min(chosen) > 20
    rows = queries_of(None, 100, num=6)
    assert len(set(rows)) == 6
    assert {row // 34 for row in rows} == {0, 1, 2}
    assert queries_of(None, 2, num=6) == [0, 1]


def test_clouds_have_neighbours_and_a_map_too(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "configs/point_mae/tiny_cpu.yaml"
    config = load_train_config([recipe], ["data.views.cloud.num_points=64", "run_dir=x"])
    data = DataModule(config.data, seed=0)
    sections = gallery(data, raw_inputs("clouds"))
    assert [section.title for section in sections] == ["Nearest neighbours", "Map"]
    assert len(look(data, raw_inputs("clouds")).views) <= 240


def test_report_of_a_run_looks_inside_its_network(recipe) -> None:
    config = recipe("dino", "online_eval.every_epochs=1", "trainer.max_steps=1")
    result = train(config)
    page = (result.run_dir / "report.html").read_text()
    titles = re.findall(r"<h2>([^<]*)</h2>", page)
    assert [t for t in titles if t in ("Nearest neighbours", "Map", "Inside the network")] == [
        "Nearest neighbours",
        "Map",
        "Inside the network",
    ]


def test_a_run_is_not_lost_for_want_of_pictures(recipe, monkeypatch, capsys) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no memory for pictures")

    monkeypatch.setattr("ssl_vision.engine.train.gallery", fail)
    result = train(recipe("mae", "trainer.max_steps=1"))
    assert (result.run_dir / "report.html").exists()
    assert result.export.exists()
    out = capsys.readouterr().out
    assert "lacks its neighbours and map: RuntimeError: no memory for pictures" in out
