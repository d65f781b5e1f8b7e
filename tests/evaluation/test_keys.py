"""Equal weights under other settings are other networks."""

import timm
import torch

from ssl_vision.evaluation.keys import code_digest, network_digest


def _network(**settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**sizes, **settings})


def test_settings_that_leave_the_weights_alone_are_seen() -> None:
    plain = network_digest(_network())
    assert network_digest(_network()) == plain
    for settings in ({"num_heads": 4}, {"dynamic_img_size": True}, {"global_pool": "avg"}):
        assert network_digest(_network(**settings)) != plain


def test_the_code_has_one_digest() -> None:
    assert code_digest() == code_digest()
    assert len(code_digest()) == 64
