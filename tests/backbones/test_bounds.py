"""Networks that a small file asks for stay as small as the weights they are to get."""

import threading

import pytest
import torch
from torch import nn

from ssl_vision.backbones.bounds import bounded_network
from ssl_vision.backbones.build import build_from_config
from ssl_vision.errors import ConfigError


def test_a_network_of_exactly_the_bound_is_built_and_one_more_is_not() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    size = sum(v.numel() for v in build().state_dict().values())
    with bounded_network(size):
        build()
    with bounded_network(size - 1), pytest.raises(ConfigError, match=f"more than the {size - 1}"):
        build()
    build()  # no bound is left behind


def test_other_threads_build_what_they_like() -> None:
    built: list[nn.Module] = []
    with bounded_network(1):
        thread = threading.Thread(target=lambda: built.append(nn.Linear(9, 9)))
        thread.start()
        thread.join()
    assert len(built) == 1


@pytest.mark.parametrize(
    "args", [{"embed_dim": 65536, "num_heads": 1}, {"depth": 65536}, {"mlp_ratio": 65536.0},
             {"num_heads": 0}, {"patch_size": 0}, {"img_size": 65536}, {"depth": "x"},
             {"embed_dim": -64}, {"embed_dim": [8]}]
)  # fmt: skip
def test_numbers_no_network_can_have_are_one_line(args: dict[str, object]) -> None:
    name = "vit_tiny_patch16_224"
    small = build_from_config({"architecture": name, "model_args": {"depth": 1}})
    most = 2 * sum(p.numel() for p in small.parameters())
    config = {"architecture": name, "model_args": {"depth": 1, **args}}
    with pytest.raises(ConfigError, match=rf"model_args.* {name}: ") as caught:
        build_from_config(config, max_elements=most)
    assert "\n" not in str(caught.value)
    assert torch.isfinite(next(small.parameters())).all()
