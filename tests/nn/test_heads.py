import numpy as np
import pytest
import torch
from torch import nn

from ssl_vision.nn.heads import ContrastiveHead, PrototypeHead, projector


@pytest.mark.parametrize(
    ("case", "settings"),
    [("plain", {}), ("bn", {"has_batch_norm": True}), ("oneLayer", {"num_layers": 1})],
)
def test_prototype_head_equals_dinos(golden, case, settings):
    values = golden("dino")
    prefix = f"head_{case}_"
    state = {k.removeprefix(prefix + "state_"): torch.tensor(v) for k, v in values.items()
             if k.startswith(prefix + "state_")}  # fmt: skip
    head = PrototypeHead(6, 9, hidden_dim=10, bottleneck_dim=4, **settings)
    incompatible = head.load_state_dict(state, strict=False)
    assert not incompatible.unexpected_keys
    assert all("running" in k or "num_batches" in k for k in incompatible.missing_keys)
    trained = [name for name, p in head.named_parameters() if p.requires_grad]
    assert set(trained) == set(
        str(values[prefix + "requires_grad_names"]).translate({ord(c): None for c in "[]'"}).split()
    )
    x = torch.tensor(values[prefix + "in"], requires_grad=True)
    out = head(x)
    np.testing.assert_allclose(out.detach(), values[prefix + "out"], rtol=1e-5, atol=1e-6)
    # The gradient the authors' head was given: numbers from -1 to 1 over the outputs in order.
    out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
    np.testing.assert_allclose(x.grad, values[prefix + "grad_in"], rtol=1e-4, atol=1e-5)


def test_prototypes_start_at_length_one_with_the_linear_layers_directions():
    torch.manual_seed(0)
    head = PrototypeHead(6, 50, hidden_dim=40, bottleneck_dim=16)
    torch.testing.assert_close(head.last_layer.weight.norm(dim=1), torch.ones(50))
    bound = 1 / 16**0.5  # kaiming-uniform of nn.Linear
    directions = head.last_layer.weight_v.detach()
    assert 0.9 * bound < directions.abs().max() <= bound
    hidden = head.mlp[2].weight
    assert hidden.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_free_gain_is_trained_and_two_dimensional():
    head = PrototypeHead(6, 9, hidden_dim=8, bottleneck_dim=4, is_gain_frozen=False)
    assert head.last_layer.weight_g.requires_grad
    assert head.last_layer.weight_g.shape == (9, 1)


def test_prototypes_may_be_a_plain_layer_of_any_length():
    torch.manual_seed(0)
    head = PrototypeHead(
        6, 400, hidden_dim=8, bottleneck_dim=64, is_last_normalized=False, last_std=0.02
    )
    assert list(head.last_layer.state_dict()) == ["weight"]
    assert head.last_layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    x = torch.randn(3, 6)
    unit = head.mlp(x) / head.mlp(x).norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(x), unit @ head.last_layer.weight.T)
    before = head(x)
    head.last_layer.weight.data *= 7
    torch.testing.assert_close(head(x), 7 * before)


def test_logits_do_not_depend_on_the_length_of_directions():
    torch.manual_seed(0)
    head = PrototypeHead(6, 9, hidden_dim=8, bottleneck_dim=4)
    x = torch.randn(3, 6)
    before = head(x)
    head.last_layer.weight_v.data *= 7
    torch.testing.assert_close(head(x), before)


def test_projector_is_the_papers():
    kinds = [type(layer) for layer in projector((16, 32, 32, 8))]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert all(layer.bias is None for layer in projector((4, 8, 2)) if isinstance(layer, nn.Linear))
    assert projector((4, 2))(torch.ones(3, 4)).shape == (3, 2)


def test_a_last_bias_is_a_choice():
    assert projector((4, 8, 2), has_last_bias=True)[-1].bias is not None


def _simclrs_head(values):
    """The official head's weights: gamma, beta, kernel per layer; then the running statistics."""
    head = ContrastiveHead(10, 6, num_layers=3)
    arrays = [torch.tensor(values[f"proj_w{i}"]) for i in range(14)]
    layers = [(0, 1, 2, 8, 9), (3, 4, 5, 10, 11), (6, None, 7, 12, 13)]
    with torch.no_grad():
        for layer, (gamma, beta, kernel, mean, variance) in zip(head.layers, layers, strict=True):
            layer[0].weight.copy_(arrays[kernel].T)
            layer[1].weight.copy_(arrays[gamma])
            if beta is not None:
                layer[1].bias.copy_(arrays[beta])
            layer[1].running_mean.copy_(arrays[mean])
            layer[1].running_var.copy_(arrays[variance])
    return head


def test_the_contrastive_head_equals_simclrs(golden):
    values = golden("simclr_tf")
    x = torch.tensor(values["proj_in"])
    head = _simclrs_head(values)
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(head.eval()(x).detach().numpy(), values["proj_out_eval"], **close)
    first = head(x, num_layers=1).detach()
    np.testing.assert_allclose(first.numpy(), values["proj_ft1_eval"], **close)
    assert first.min() == 0  # behind the ReLU
    assert torch.equal(head(x, num_layers=0), x)
    np.testing.assert_allclose(head.train()(x).detach().numpy(), values["proj_out_train"], **close)
    mean = head.layers[0][1].running_mean.numpy()
    np.testing.assert_allclose(mean, values["proj_running_mean_after"], **close)


def test_the_contrastive_head_starts_as_simclrs_and_its_last_norm_has_no_shift():
    head = ContrastiveHead(64, 16, num_layers=2)  # that of SimCLR v1
    assert head.layers[0][0].weight.std().item() == pytest.approx(0.01, rel=0.05)
    shapes = [tuple(p.shape) for p in head.parameters() if p.requires_grad]
    assert shapes == [(64, 64), (64,), (64,), (16, 64), (16,)]
    assert not head.layers[-1][1].bias.any()
