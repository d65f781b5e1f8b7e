"""A card says what is known, and nothing about what is not."""

import yaml

from ssl_vision.zoo.card import ModelCard, render_card

FACTS = {
    "architecture": "vit_tiny_patch16_224",
    "num_features": 192,
    "num_parameters": 5_500_000,
    "preprocessing": {"mean": [0.5]},
    "checks": {"reloaded": "largest relative difference 0.0e+00"},
}


def test_header_is_what_model_hubs_read() -> None:
    text = render_card(ModelCard(method="dino", license="cc0-1.0"), **FACTS)  # type: ignore
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "cc0-1.0"
    assert header["library_name"] == "timm"
    assert "dino" in header["tags"]


def test_known_facts_are_shown_and_unknown_ones_left_out() -> None:
    card = ModelCard(title="A title", metrics={"kNN": "90 %"}, recipe="tools/train.py x.yaml")
    text = render_card(card, **FACTS)  # type: ignore[arg-type]
    for words in ("# A title", "5.50 M", "| kNN | 90 % |", "tools/train.py x.yaml", "0.0e+00"):
        assert words in text
    assert "None" not in text
    assert "Optimizer updates" not in text
    assert "## Notes" not in text
