"""What features say about themselves, without labels: rank, spectrum, collapse.

Sources: RankMe (Garrido et al. 2023, arXiv 2210.02885), alpha-ReQ (Agrawal et al. 2022), LiDAR
(Thilak et al. 2024, arXiv 2312.04000), uniformity (Wang and Isola 2020). All in float64. Each has
a caveat that belongs beside its number; `caveats` says which apply.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_vision.errors import DataError
from ssl_vision.evaluation.arrays import Array, as_tensor

MAX_ROWS = 25_600  # the sample size of the RankMe paper; more rows change little
_SVD_FLOPS = 2e10  # above this the Gram matrix is used: same values, less time
_EPSILON = 1e-7  # added to probabilities, as in the papers


class PowerLaw(NamedTuple):
    """Fit of log(eigenvalue i) = a - alpha * log(i).

    Attributes:
        alpha: Decay of the spectrum: near 1 for good features, far above when collapsed.
        r_squared: Share of the variance the line explains; below 0.9 alpha means nothing.
        first: First index of the fit, counted from 1.
        last: Last index of the fit, included.
    """

    alpha: float
    r_squared: float
    first: int
    last: int


class Lidar(NamedTuple):
    """LiDAR and what must be read beside it.

    Attributes:
        rank: exp(entropy of the eigenvalues of Sw^-1/2 Sb Sw^-1/2), from 1 to D.
        signal_to_noise: tr(Sb) / tr(Sw): the rank measures the shape of the spectrum, not its
            strength, and is high for pure noise too.
    """

    rank: float
    signal_to_noise: float


class CollapseStats(NamedTuple):
    """Signs of collapse; of features scaled to length 1 where not said otherwise.

    Attributes:
        feature_std: Mean over dimensions of the standard deviation, times sqrt(D): 1 when
            isotropic, 0 when every image has the same feature.
        mean_cosine: Mean cosine of two different images: 0 when isotropic, 1 when collapsed.
        dead_share: Share of dimensions (raw features) that do not vary.
        uniformity: log mean exp(-2 |x - y|^2) over pairs: -4 (spread) to 0 (collapsed).
        participation: (sum l)^2 / sum l^2 of the covariance spectrum (raw): effective dimensions.
        top_share: Share of the variance (raw) in the first principal direction.
    """

    feature_std: float
    mean_cosine: float
    dead_share: float
    uniformity: float
    participation: float
    top_share: float


def rankme(features: Array, *, epsilon: float = _EPSILON) -> float:
    """Effective rank of features, 1 to D: exp(entropy of the normalised singular values).

    The matrix is not centred: centring turns a collapsed network (one vector plus noise) into
    isotropic noise of full rank, the opposite of what is to be found.

    Args:
        features: (N, D), any float type. Compare only values of equal N; N >= 10 D is wanted.
        epsilon: Added to the normalised singular values, as in the paper.
    """
    values = singular_values(features)
    total = values.sum()
    if total == 0:
        return 1.0
    shares = values / total + epsilon
    return float((-(shares * shares.log()).sum()).exp())


def centred_rank(features: Array) -> float:
    """RankMe of (N, D) features about their mean: effective dimensions in which images differ.

    Blind to the direction all images share, which RankMe is full of where features lie in a narrow
    cone, sound or not. Of a fully collapsed network it measures noise: see `feature_std` too.
    """
    matrix = as_matrix(features)
    return rankme(matrix - matrix.mean(dim=0))


def singular_values(features: Array) -> Tensor:
    """Singular values of the raw (N, D) matrix, largest first, float64, (min(N, D),)."""
    matrix = as_matrix(features)
    num_rows, width = matrix.shape
    if num_rows * width * min(num_rows, width) <= _SVD_FLOPS:
        return torch.linalg.svdvals(matrix)
    gram = matrix.T @ matrix if num_rows >= width else matrix @ matrix.T
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)


def covariance_spectrum(features: Array) -> Tensor:
    """Eigenvalues of the covariance of (N, D) features, largest first, float64, (D,)."""
    matrix = as_matrix(features)
    centred = matrix - matrix.mean(dim=0)
    covariance = centred.T @ centred / max(1, len(matrix) - 1)
    return torch.linalg.eigvalsh(covariance).clamp(min=0).flip(0)


def alpha_req(features: Array, *, first: int | None = None, last: int | None = None) -> PowerLaw:
    """Power law of the covariance spectrum (alpha-ReQ).

    Args:
        features: (N, D).
        first: First eigenvalue of the fit, from 1; by default 11 (the head of a spectrum bends),
            or 1 for narrow features.
        last: Last one; by default 0.9 D, or the numerical rank where that is smaller.
    """
    return fit_power_law(covariance_spectrum(features), first=first, last=last)


def fit_power_law(
    spectrum: Tensor, *, first: int | None = None, last: int | None = None
) -> PowerLaw:
    """Least-squares line through (log i, log eigenvalue i); see `alpha_req`."""
    width = len(spectrum)
    # Below float64 rounding of the largest, eigenvalues are noise of the solver.
    num_positive = int((spectrum > spectrum[0] * 1e-13).sum())
    last = min(last or int(0.9 * width), num_positive)
    first = first or (11 if last >= 30 else 1)
    if last - first < 2:
        return PowerLaw(alpha=float("nan"), r_squared=0.0, first=first, last=last)
    x = torch.arange(first, last + 1, dtype=torch.float64).log()
    y = spectrum[first - 1 : last].log()
    x_centred, y_centred = x - x.mean(), y - y.mean()
    slope = (x_centred @ y_centred) / (x_centred @ x_centred)
    variance = y_centred @ y_centred
    residual = (y_centred - slope * x_centred).square().sum()
    # A flat spectrum has no variance to explain; the line of slope 0 is then perfect.
    r_squared = 1.0 if variance < 1e-24 else float(1 - residual / variance)
    return PowerLaw(alpha=-float(slope), r_squared=r_squared, first=first, last=last)


def lidar(features: Array, *, delta: float = 1e-4, epsilon: float = _EPSILON) -> Lidar:
    """Effective rank of the linear discriminant matrix of images and their views.

    Args:
        features: (n, q, D): q augmented views of each of n images. Wanted: n > D, q >= 10.
        delta: Added to the diagonal of the within-image scatter.
        epsilon: Added to the normalised eigenvalues.

    Raises:
        DataError: Not three axes, or a single view.
    """
    views = as_tensor(features).cpu().double()
    if views.ndim != 3 or views.shape[1] < 2:
        raise DataError(f"LiDAR needs features (n, q, D) with q >= 2 views, got {views.shape}.")
    means = views.mean(dim=1)  # (n, D)
    between = means - means.mean(dim=0)
    within = (views - means[:, None]).flatten(0, 1)
    scatter_b = between.T @ between / len(between)
    scatter_w = within.T @ within / len(within)
    values, vectors = torch.linalg.eigh(scatter_w)
    whitening = vectors * (values.clamp(min=0) + delta).rsqrt() @ vectors.T
    spectrum = torch.linalg.eigvalsh(whitening @ scatter_b @ whitening).clamp(min=0)
    shares = spectrum / spectrum.sum().clamp(min=1e-300) + epsilon
    noise = float(scatter_w.trace())
    return Lidar(
        rank=float((-(shares * shares.log()).sum()).exp()),
        signal_to_noise=float(scatter_b.trace()) / noise if noise > 0 else float("inf"),
    )


def collapse_stats(features: Array, *, num_pairs_rows: int = 2048) -> CollapseStats:
    """Signs of collapse of (N, D) features, N >= 2.

    Args:
        features: (N, D).
        num_pairs_rows: Uniformity compares all pairs of this many first rows.
    """
    matrix = as_matrix(features)
    num_rows, width = matrix.shape
    if num_rows < 2:
        raise DataError("collapse statistics need the features of at least two images.")
    unit = matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True).clamp(min=1e-30)
    total = unit.sum(dim=0)
    own = unit.square().sum()  # pairs of an image with itself
    spectrum = covariance_spectrum(matrix)
    scale = matrix.abs().amax(dim=0).clamp(min=1e-30)
    is_dead = matrix.std(dim=0, correction=0) <= 1e-6 * scale
    variance = float(spectrum.sum())
    return CollapseStats(
        feature_std=float(unit.std(dim=0, correction=0).mean()) * width**0.5,
        mean_cosine=float((total @ total - own) / (num_rows * (num_rows - 1))),
        dead_share=float(is_dead.double().mean()),
        uniformity=_uniformity(unit[:num_pairs_rows]),
        participation=variance**2 / float(spectrum.square().sum()) if variance > 0 else 0.0,
        top_share=float(spectrum[0]) / variance if variance > 0 else 1.0,
    )


def _uniformity(unit: Tensor) -> float:
    cosines = unit @ unit.T
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
    squared = 2 - 2 * cosines[rows, columns]
    return float(squared.clamp(min=0).mul(-2).exp().mean().log())


def caveats(num_rows: int, width: int, power_law: PowerLaw | None = None) -> list[str]:
    """What a reader must know before comparing these numbers."""
    notes = ["RankMe, alpha and participation depend on the sample: compare only at equal N."]
    if num_rows < 10 * width:
        notes.append(
            f"{num_rows} images for {width} dimensions: RankMe is biased low below "
            f"{10 * width} images."
        )
    if power_law is not None and power_law.r_squared < 0.9:
        notes.append(
            f"the spectrum is no power law (R2 {power_law.r_squared:.2f}): alpha means nothing."
        )
    return notes


def as_matrix(features: Array) -> Tensor:
    """Features as a finite float64 matrix on the CPU, (N, D).

    Raises:
        DataError: Not two axes, no rows, or values that are not finite.
    """
    matrix = as_tensor(features).cpu().double()
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise DataError(f"features must be a matrix (N, D), got shape {tuple(matrix.shape)}.")
    if not bool(torch.isfinite(matrix).all()):
        raise DataError("features hold NaN or infinite values; the network or its input is broken.")
    return matrix
