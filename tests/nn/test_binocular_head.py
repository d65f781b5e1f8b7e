"""A linear map of several blocks' patches to pixels, against a loop."""

import torch
from torch.nn.functional import layer_norm

from ssl_vision.nn.binocular_head import BinocularHead

WIDTHS, PATCH, SIDE = (6, 4), 2, 3


def _head() -> tuple[BinocularHead, list[torch.Tensor]]:
    torch.manual_seed(0)
    head = BinocularHead(
        WIDTHS, patch_px=PATCH, constant=torch.tensor([5.0, -1.0]), scale=torch.tensor([2.0, 0.5])
    )
    return head, [torch.randn(2, SIDE**2, width) for width in WIDTHS]


def test_it_begins_at_a_constant() -> None:
    head, blocks = _head()
    found = head(blocks)
    assert found.shape == (2, 2, SIDE * PATCH, SIDE * PATCH)
    assert (found[:, 0] == 5).all()
    assert (found[:, 1] == -1).all()


def test_each_pixel_is_a_linear_map_of_its_own_patch() -> None:
    head, blocks = _head()
    torch.nn.init.normal_(head.read.weight)
    torch.nn.init.normal_(head.read.bias)
    found = head(blocks)
    for row in range(SIDE * PATCH):
        for column in range(SIDE * PATCH):
            patch = row // PATCH * SIDE + column // PATCH
            place = row % PATCH * PATCH + column % PATCH
            tokens = torch.cat([layer_norm(b[1, patch], b.shape[2:]) for b in blocks])
            for channel, (constant, scale) in enumerate(((5.0, 2.0), (-1.0, 0.5))):
                output = 2 * place + channel
                value = head.read.weight[output] @ tokens + head.read.bias[output]
                expected = constant + scale * value
                torch.testing.assert_close(found[1, channel, row, column], expected)
