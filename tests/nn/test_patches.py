import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_vision.nn.patches import dino_positions, patchify, sincos_2d, unpatchify


@pytest.mark.parametrize(("dim", "grid"), [(8, 3), (16, 4), (32, 14)])
def test_positions_equal_maes(golden, dim, grid):
    expected = golden("mae")[f"sincos_dim{dim}_grid{grid}_cls"]
    np.testing.assert_array_equal(
        sincos_2d(dim, grid=grid, num_prefix=1), expected.astype(np.float32)
    )


def test_positions_encode_the_column_first():
    table = sincos_2d(8, grid=4).view(4, 4, 8)
    assert torch.equal(table[0, 2, :4], table[3, 2, :4])  # first half: same column, any row
    assert torch.equal(table[2, 0, 4:], table[2, 3, 4:])  # second half: same row, any column


def test_patches_equal_maes_and_go_back(golden):
    values = golden("mae")
    images = torch.tensor(values["image"])
    patches = patchify(images, patch_px=int(values["patch_size"]))
    np.testing.assert_array_equal(patches, values["patchify"])
    assert torch.equal(unpatchify(patches, patch_px=int(values["patch_size"])), images)


def test_channel_is_fastest_within_a_patch():
    images = torch.arange(2 * 4 * 4).view(1, 2, 4, 4).float()
    first = patchify(images, patch_px=2)[0, 0]
    expected = [images[0, c, y, x].item() for y in range(2) for x in range(2) for c in range(2)]
    assert first.tolist() == expected


def test_dino_positions_sample_where_the_scale_factor_says():
    torch.manual_seed(0)
    positions = torch.randn(1, 14 * 14, 5)
    resampled = dino_positions(positions, grid=(6, 6))
    square = positions.view(1, 14, 14, 5).permute(0, 3, 1, 2)
    by_size = F.interpolate(square, size=(6, 6), mode="bicubic").flatten(2).transpose(1, 2)
    assert resampled.shape == (1, 36, 5)
    # Close to a resize by size, and not equal: the factor is 6.1 / 14, not 6 / 14.
    assert 0 < (resampled - by_size).abs().max() < 1.5
    at = (torch.arange(6) + 0.5) / (6.1 / 14) - 0.5  # sampling points along a side
    line = square[0, 0, :, 0]  # column of one channel; constant along x to compare in 1-d
    flat = line[:, None].expand(14, 14)[None, None]
    ours = dino_positions(flat.flatten(2).transpose(1, 2), grid=(6, 6)).view(6, 6)[:, 0]
    torch.testing.assert_close(ours, _cubic(line, at), atol=1e-5, rtol=1e-4)


def _cubic(line, at):
    """Cubic convolution with a = -0.75, clamped at the borders, by its definition."""

    def weight(d):
        d, a = abs(d), -0.75
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    values = []
    for x in at.tolist():
        base = int(np.floor(x))
        taps = range(base - 1, base + 3)
        values.append(sum(weight(x - t) * line[min(max(t, 0), 13)].item() for t in taps))
    return torch.tensor(values)
