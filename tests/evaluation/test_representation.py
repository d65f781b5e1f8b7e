"""Known-answer spectra, and formulas written out a second time."""

import math

import numpy as np
import pytest
import torch

from ssl_vision.errors import DataError
from ssl_vision.evaluation import representation as rep

WIDTH, ROWS = 128, 4096


def gaussian(seed: int = 0, rows: int = ROWS, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64)


def with_spectrum(eigenvalues: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Rows whose sample covariance has exactly these eigenvalues, in a random basis, mean 0."""
    width = len(eigenvalues)
    raw = gaussian(seed, width=width)
    basis, _ = torch.linalg.qr(raw - raw.mean(dim=0))
    turn, _ = torch.linalg.qr(gaussian(seed + 1, width, width))
    return basis * (eigenvalues * (ROWS - 1)).sqrt() @ turn


def test_isotropic_features_have_full_rank() -> None:
    stats = rep.collapse_stats(gaussian())
    assert rep.rankme(gaussian()) == pytest.approx(127.5, abs=0.5)
    assert stats.feature_std == pytest.approx(1, abs=0.01)
    assert stats.mean_cosine == pytest.approx(0, abs=1e-3)
    assert stats.participation == pytest.approx(WIDTH / (1 + WIDTH / ROWS), rel=0.02)
    assert stats.uniformity < -3.8


def test_rank_16_data_has_rank_16() -> None:
    data = gaussian(1, width=16) @ gaussian(2, 16, WIDTH)
    assert rep.rankme(data) == pytest.approx(15.7, abs=0.4)
    assert rep.rankme(data) < 16.01
    exact = with_spectrum(torch.cat([torch.ones(16), torch.zeros(112)]).double())
    assert rep.rankme(exact) == pytest.approx(16, abs=0.01)


def test_a_power_law_is_read_off_the_spectrum() -> None:
    index = torch.arange(1, WIDTH + 1, dtype=torch.float64)
    data = with_spectrum(1 / index)
    fit = rep.alpha_req(data)
    assert fit.alpha == pytest.approx(1, abs=1e-8)
    assert fit.r_squared == pytest.approx(1, abs=1e-10)
    assert (fit.first, fit.last) == (11, 115)
    assert rep.alpha_req(with_spectrum(index**-2.5)).alpha == pytest.approx(2.5, abs=1e-6)
    singular = index**-0.5
    shares = singular / singular.sum()
    expected = math.exp(-sum(p * math.log(p) for p in shares.tolist()))
    assert rep.rankme(data) == pytest.approx(expected, rel=1e-4)  # 1e-7 is added to each share
    participation = (1 / index).sum() ** 2 / (1 / index**2).sum()
    assert rep.collapse_stats(data).participation == pytest.approx(float(participation), rel=1e-6)
    assert rep.collapse_stats(data).top_share == pytest.approx(1 / float((1 / index).sum()))


def test_a_constant_with_noise_is_collapsed_and_centring_would_hide_it() -> None:
    data = 5 + 1e-3 * gaussian()
    assert rep.rankme(data) < 1.2
    assert rep.rankme(data - data.mean(dim=0)) > 127
    stats = rep.collapse_stats(data)
    assert stats.feature_std < 0.01
    assert stats.mean_cosine > 0.999
    assert stats.uniformity == pytest.approx(0, abs=1e-3)


def test_the_centred_rank_counts_the_directions_in_which_images_differ() -> None:
    data = gaussian(1, width=16) @ gaussian(2, 16, WIDTH)
    shared = 1e4 * gaussian(3, rows=1)
    assert rep.centred_rank(data + shared) == pytest.approx(rep.centred_rank(data), abs=1e-3)
    assert rep.centred_rank(data + shared) == pytest.approx(15.7, abs=0.4)
    assert rep.rankme(data + shared) < 1.5


def test_a_fully_collapsed_network() -> None:
    data = torch.full((100, 8), 3.0)
    stats = rep.collapse_stats(data)
    assert rep.rankme(data) == pytest.approx(1, abs=1e-4)
    assert stats.feature_std == 0
    assert stats.mean_cosine == pytest.approx(1)
    assert stats.dead_share == 1
    assert rep.rankme(torch.zeros(10, 4)) == 1
    assert math.isnan(rep.alpha_req(data).alpha)


def test_dead_dimensions_are_counted() -> None:
    data = gaussian(3, 200, 10)
    data[:, 7:] = 2.0
    assert rep.collapse_stats(data).dead_share == pytest.approx(0.3)


def test_the_gram_route_equals_the_singular_value_route(monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ((300, 40), (40, 300)):
        data = gaussian(4, *shape) @ torch.diag(torch.arange(1, shape[1] + 1).double() ** -1)
        direct = rep.singular_values(data)
        value = rep.rankme(data)
        with monkeypatch.context() as patch:
            patch.setattr(rep, "_SVD_FLOPS", 0)
            torch.testing.assert_close(rep.singular_values(data), direct, rtol=1e-8, atol=1e-9)
            assert rep.rankme(data) == pytest.approx(value, rel=1e-8)


def test_pairwise_statistics_equal_loops() -> None:
    data = gaussian(5, 30, 6) + 0.5
    unit = data / data.norm(dim=1, keepdim=True)
    cosines, kernels = [], []
    for i in range(30):
        for j in range(i):
            cosines.append(float(unit[i] @ unit[j]))
            kernels.append(math.exp(-2 * float((unit[i] - unit[j]).square().sum())))
    stats = rep.collapse_stats(data)
    assert stats.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-12)
    assert stats.uniformity == pytest.approx(math.log(np.mean(kernels)), abs=1e-12)


def test_lidar_of_known_scatters() -> None:
    # Within-image scatter I, between-image scatter of rank 4: four equal discriminants.
    num, views, width = 400, 50, 16
    centres = with_spectrum(torch.tensor([9.0] * 4 + [0.0] * 12).double(), seed=7)[:num]
    noise = gaussian(8, num * views, width).view(num, views, width)
    noise = noise - noise.mean(dim=1, keepdim=True)  # exact means
    found = rep.lidar(centres[:, None] + noise)
    assert found.rank == pytest.approx(4, abs=0.1)
    between = float((centres - centres.mean(dim=0)).square().sum() / num)
    within = float(noise.square().sum() / (num * views))
    assert found.signal_to_noise == pytest.approx(between / within, rel=1e-9)
    # Pure noise has a high LiDAR and no signal: why both are printed.
    nothing = rep.lidar(gaussian(9, num * views, width).view(num, views, width))
    assert nothing.rank > 14
    assert nothing.signal_to_noise < 0.1
    with pytest.raises(DataError, match="q >= 2"):
        rep.lidar(torch.zeros(5, 1, 3))


def test_caveats_apply_where_they_should() -> None:
    flat = rep.PowerLaw(alpha=0.3, r_squared=0.4, first=11, last=100)
    assert len(rep.caveats(10_000, 128)) == 1
    assert any("biased low" in note for note in rep.caveats(500, 128))
    assert any("alpha means nothing" in note for note in rep.caveats(10_000, 128, flat))


def test_broken_features_are_refused() -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        rep.rankme(np.array([[1.0, np.nan]]))
    with pytest.raises(DataError, match="matrix"):
        rep.rankme(torch.zeros(3))
