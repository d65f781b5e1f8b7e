"""Heads on pooled features: projectors of joint embeddings, DINO's prototype head."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def projector(dims: Sequence[int], *, has_last_bias: bool = False) -> nn.Sequential:
    """Linear, batch norm, ReLU between all widths, and a bare linear layer last; no biases.

    Args:
        dims: Widths from the backbone's to the projection's, e.g. (2048, 8192, 8192, 8192).
        has_last_bias: Whether the last layer has one; before a batch norm it would do nothing.
    """
    layers: list[nn.Module] = []
    for width, next_width in pairwise(dims[:-1]):
        layers += [
            nn.Linear(width, next_width, bias=False),
            nn.BatchNorm1d(next_width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Linear(dims[-2], dims[-1], bias=has_last_bias))


class ContrastiveHead(nn.Module):
    """SimCLR's head: layers of Linear, batch norm and, but for the last, ReLU; no biases.

    The layers stay apart, as fine-tuning may keep the first of them (SimCLRv2's head layer 1 is
    ReLU(BN(W h)), the vector behind the ReLU). The last batch norm has no shift.

    Attributes:
        layers: One `nn.Sequential` each.

    Args:
        width: Of the features, and of the hidden layers.
        out_dim: Width of the projection.
        num_layers: 3 in SimCLRv2, 2 in SimCLR.
    """

    def __init__(self, width: int, out_dim: int, *, num_layers: int) -> None:
        super().__init__()
        dims = [width] * num_layers + [out_dim]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dims[i], dims[i + 1], bias=False),
                nn.BatchNorm1d(dims[i + 1]),
                *([nn.ReLU(inplace=True)] if i < num_layers - 1 else []),
            )
            for i in range(num_layers)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
        # Frozen at 0, not left out: batch norms over processes expect it.
        self.layers[-1][1].bias.requires_grad_(False)  # type: ignore[index]

    def forward(self, features: Tensor, *, num_layers: int | None = None) -> Tensor:
        """Features -> projections, not of unit length, (B, D) -> (B, E).

        Args:
            features: Pooled.
            num_layers: Stop behind so many layers; all by default.
        """
        for layer in self.layers[:num_layers]:
            features = layer(features)
        return features


class PrototypeHead(nn.Module):
    """DINO's head: an MLP, unit length, and a weight-normalised layer of K prototypes.

    Names in the state dict are those of DINO's code: `mlp.0.weight`, ..., `last_layer.weight_g`,
    `last_layer.weight_v`.

    Args:
        in_dim: Width of the features, D.
        num_prototypes: K.
        hidden_dim: Width of the hidden layers.
        bottleneck_dim: Width before the prototypes.
        num_layers: Linear layers of the MLP; 1 is a single layer without activation.
        has_batch_norm: Batch norm before each activation; for convolutional networks.
        is_gain_frozen: Keep every prototype at length 1 (`norm_last_layer` in DINO's code).
        is_last_normalized: Without it the prototypes are a plain linear layer, `last_layer.weight`.
        last_std: Draw the prototypes from a normal law of this width, cut off at 2; None draws them
            as `nn.Linear` does.
    """

    def __init__(
        self,
        in_dim: int,
        num_prototypes: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        num_layers: int = 3,
        has_batch_norm: bool = False,
        is_gain_frozen: bool = True,
        is_last_normalized: bool = True,
        last_std: float | None = None,
    ) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), bottleneck_dim]
        self.mlp = _mlp(dims, has_batch_norm=has_batch_norm)
        # Before the last layer exists: its directions keep nn.Linear's initialisation.
        self.mlp.apply(_init_linear)
        self.last_layer: WeightNormLinear | nn.Linear
        if is_last_normalized:
            self.last_layer = WeightNormLinear(
                bottleneck_dim, num_prototypes, is_gain_frozen=is_gain_frozen
            )
        else:
            self.last_layer = nn.Linear(bottleneck_dim, num_prototypes, bias=False)
        if last_std is not None:
            drawn = "weight_v" if is_last_normalized else "weight"
            nn.init.trunc_normal_(self.last_layer.get_parameter(drawn), std=last_std)

    def forward(self, features: Tensor) -> Tensor:
        """Features -> logits, (B, D) -> (B, K)."""
        logits: Tensor = self.last_layer(self.bottleneck(features))
        return logits

    def bottleneck(self, features: Tensor) -> Tensor:
        """Features -> unit vectors before the prototypes, (B, D) -> (B, bottleneck_dim)."""
        return F.normalize(self.mlp(features), dim=-1)


class WeightNormLinear(nn.Module):
    """Linear layer without bias whose rows are gain * direction / ||direction||.

    Attributes:
        weight_g: Gains, (K, 1), 1 at the start.
        weight_v: Directions, (K, D), nn.Linear's initialisation.
    """

    def __init__(self, in_dim: int, num_rows: int, *, is_gain_frozen: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(num_rows, 1), requires_grad=not is_gain_frozen)
        self.weight_v = nn.Parameter(nn.Linear(in_dim, num_rows, bias=False).weight.detach())

    @property
    def weight(self) -> Tensor:
        """Prototypes as they act, with their norms applied, (K, D)."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., D) to logits (..., K)."""
        return F.linear(features, self.weight)


def _mlp(dims: Sequence[int], *, has_batch_norm: bool) -> nn.Module:
    """Linear layers with GELU between them, laid out as in DINO's code."""
    if len(dims) == 2:
        return nn.Linear(dims[0], dims[1])
    layers: list[nn.Module] = []
    for width, next_width in pairwise(dims[:-1]):
        layers.append(nn.Linear(width, next_width))
        if has_batch_norm:
            layers.append(nn.BatchNorm1d(next_width))
        layers.append(nn.GELU())
    return nn.Sequential(*layers, nn.Linear(dims[-2], dims[-1]))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
