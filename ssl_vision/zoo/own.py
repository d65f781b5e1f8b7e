"""Exports of networks that only their program can build: weights, and how to build it."""

import copy
from pathlib import Path

import torch
from torch import nn

from ssl_vision.backbones.backbone import Backbone, OwnClass
from ssl_vision.zoo.safe_load import safe_load


def reloaded_copy(backbone: Backbone, weights: Path) -> nn.Module:
    """The module with the weights of a file, every one of them: a copy is emptied before.

    Args:
        backbone: An own network.
        weights: model.safetensors.
    """
    model: nn.Module = copy.deepcopy(backbone.model).cpu()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()
    model.load_state_dict(safe_load(weights))
    return model.eval()


def how_to_build(own: OwnClass) -> str:
    """Lines of Python that build the network: "from mine import Net" and "Net(width=8)"."""
    module, _, name = own.name.rpartition(".")
    arguments = (
        "..." if own.kwargs is None else ", ".join(f"{k}={v!r}" for k, v in own.kwargs.items())
    )
    return f"from {module} import {name}\nmodel = {name}({arguments})"


def usage_of_own(own: OwnClass, folder: str = "THIS_FOLDER") -> str:
    """Lines of Python that load the weights without this package."""
    return (
        "import safetensors.torch\n"
        f"{how_to_build(own)}\n"
        f'model.load_state_dict(safetensors.torch.load_file("{folder}/model.safetensors"))\n'
        "model.eval()"
    )
