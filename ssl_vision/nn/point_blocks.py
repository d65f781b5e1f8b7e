"""Transformer blocks that are told where tokens are before every block (Point-MAE)."""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class PositionedBlocks(nn.ModuleList):
    """Pre-norm blocks of timm; position embeddings are added to the input of each.

    No bias in the query, key and value projection, LayerNorm with eps 1e-5; stochastic depth rises
    linearly from 0 to `drop_path`.
    """

    def __init__(
        self, *, width: int, depth: int, num_heads: int, mlp_ratio: float, drop_path: float
    ) -> None:
        rates = torch.linspace(0, drop_path, depth).tolist()
        super().__init__(
            Block(
                width,
                num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=False,
                drop_path=rate,
                norm_layer=nn.LayerNorm,
            )
            for rate in rates
        )
        self.is_checkpointed = False

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens and their position embeddings, both (B, N, D) -> (B, N, D), not normed."""
        return self.outputs_of(tokens, positions, layers=(len(self) - 1,))[0]

    def outputs_of(
        self, tokens: Tensor, positions: Tensor, *, layers: tuple[int, ...]
    ) -> list[Tensor]:
        """Outputs of several blocks, not normed; `layers` are rising block indices from 0."""
        outputs = []
        for i, block in enumerate(self):
            tokens = tokens + positions
            if self.is_checkpointed and torch.is_grad_enabled():
                tokens = torch.utils.checkpoint.checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            if i in layers:
                outputs.append(tokens)
        return outputs


def position_mlp(width: int, *, hidden: int = 128) -> nn.Sequential:
    """Embedding of coordinates, (..., 3) -> (..., width): Linear, GELU, Linear."""
    return nn.Sequential(nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, width))


class PointPatchEmbed(nn.Module):
    """Mini-PointNet: the points of a patch -> one token (Point-MAE, section 3.1).

    Two shared layers on every point, the patch's maximum joined to each point, two more layers, the
    maximum again. Batch norm sees the points of all patches of all clouds. The parameters are those
    of the authors' 1x1 convolutions without their last dimension.

    Channels stay in the rows and all points in one long dimension: plain matrix products, and a
    batch norm that sums along memory (over a (points, channels) matrix, torch's batch norm on the
    CPU loses two digits).
    """

    def __init__(self, width: int, *, hidden: int = 512) -> None:
        super().__init__()
        quarter, self._half = hidden // 4, hidden // 2
        self.first_conv = nn.Sequential(
            nn.Linear(3, quarter),
            nn.BatchNorm1d(quarter),
            nn.ReLU(inplace=True),
            nn.Linear(quarter, self._half),
        )
        self.second_conv = nn.Sequential(
            nn.Linear(2 * self._half, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, width),
        )

    def forward(self, neighbors: Tensor) -> Tensor:
        """Points relative to their centres, (B, G, k, 3) -> tokens (B, G, width)."""
        num_clouds, num_groups, group_size, _ = neighbors.shape
        shape = (-1, num_clouds * num_groups, group_size)  # channels, patches, points
        lift, norm, relu, widen = self.first_conv
        points = relu(norm(_apply(lift, neighbors.reshape(-1, 3).T)[None]))[0]
        local = _apply(widen, points)  # (hidden / 2, points)
        whole = local.view(shape).amax(dim=2)  # (hidden / 2, patches)
        # The joined (maximum, point) vectors are never built: their layer is applied to the maximum
        # once per patch instead of once per point, which halves the products.
        mix, norm, relu, narrow = self.second_conv
        assert isinstance(mix, nn.Linear)
        from_whole = torch.addmm(mix.bias[:, None], mix.weight[:, : self._half], whole)
        joined = (mix.weight[:, self._half :] @ local).view(shape) + from_whole[:, :, None]
        points = relu(norm(joined.flatten(1)[None]))[0]
        tokens = _apply(narrow, points).view(shape).amax(dim=2)
        return tokens.T.reshape(num_clouds, num_groups, -1)


def _apply(layer: nn.Module, columns: Tensor) -> Tensor:
    """A linear layer on columns instead of rows: (in, n) -> (out, n)."""
    assert isinstance(layer, nn.Linear)
    return torch.addmm(layer.bias[:, None], layer.weight, columns)
