import pytest
import torch
from torch import nn

from ssl_vision.optim import OptimConfig, split_parameters


def _model():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    model.register_parameter("token", nn.Parameter(torch.zeros(1, 1, 3)))
    return model


def _split(config, **settings):
    return split_parameters(
        _model().named_parameters(),
        config=config,
        decays=settings.pop("decays", lambda name, p: p.ndim > 1),
        layer_id=settings.pop("layer_id", lambda name: None),
        num_layers=2,
        **settings,
    )


def _by_name(groups, key):
    return {name: group[key] for group in groups for name in group["names"]}


def test_only_tensors_of_several_dimensions_decay_and_they_come_first():
    groups = _split(OptimConfig())
    assert groups[0]["names"] == ["token", "0.weight", "2.weight"]
    assert [g["weight_decay_scale"] for g in groups] == [1.0, 0.0]
    assert sorted(groups[1]["names"]) == ["0.bias", "1.bias", "1.weight", "2.bias"]


def test_biases_get_their_own_rate_and_no_adaptation():
    groups = _split(OptimConfig(name="lars", base_lr=0.2, bias_base_lr=0.0048))
    scales = _by_name(groups, "lr_scale")
    assert scales["0.weight"] == 1.0
    assert scales["0.bias"] == pytest.approx(0.024)
    assert _by_name(groups, "is_adapted")["1.weight"] is False


def test_exempt_weights_keep_the_rate_of_weights():
    groups = _split(
        OptimConfig(base_lr=0.2, bias_base_lr=0.1), decays=lambda n, p: p.ndim > 1 and n != "token"
    )
    assert _by_name(groups, "lr_scale")["token"] == 1.0
    assert _by_name(groups, "weight_decay_scale")["token"] == 0.0


def test_layer_decay_slows_the_lower_layers_only():
    ids = {"token": 0, "0": 1, "1": 2, "2": None}
    groups = _split(OptimConfig(layer_decay=0.5), layer_id=lambda name: ids[name.split(".")[0]])
    scales = _by_name(groups, "lr_scale")
    assert (scales["token"], scales["0.bias"], scales["1.weight"], scales["2.weight"]) == (
        0.25,
        0.5,
        1.0,
        1.0,
    )


def test_layer_decay_equals_maes(golden):
    values = golden("mae")
    ids = [int(i) for i in values["layer_decay_ids_depth12"]]
    params = [(str(i), nn.Parameter(torch.zeros(2, 2))) for i in range(len(ids))]
    groups = split_parameters(
        params,
        config=OptimConfig(layer_decay=0.65),
        decays=lambda name, p: True,
        layer_id=lambda name: ids[int(name)],
        num_layers=13,
    )
    scales = _by_name(groups, "lr_scale")
    for i, expected in enumerate(values["layer_decay_rederived_scales_0.65_depth12"]):
        assert scales[str(i)] == pytest.approx(expected)


def test_frozen_parameters_are_left_out_and_factors_multiply():
    model = _model()
    model[0].weight.requires_grad_(False)
    groups = split_parameters(
        model.named_parameters(),
        config=OptimConfig(),
        decays=lambda name, p: True,
        layer_id=lambda name: None,
        num_layers=1,
        lr_factor=lambda name: 0.2 if name == "token" else 1.0,
    )
    scales = _by_name(groups, "lr_scale")
    assert "0.weight" not in scales
    assert (scales["token"], scales["2.weight"]) == (0.2, 1.0)
