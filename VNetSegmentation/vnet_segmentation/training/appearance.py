"""How a training crop looks: histogram matching (Milletari et al., 3DV 2016, section 4) and what scanners vary.

As for the deformation, a sampler draws parameters and a deterministic transform applies them. The parameters, not
the transform, hold all that is random.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vnet_segmentation.training.deformation import N_COEFFICIENTS, displacement_field

N_QUANTILES = 65
"""Points of a grey-level distribution, the smallest and largest value included."""


@dataclass(frozen=True)
class AppearanceSettings:
    """What `sample_appearance` draws from; a probability of 0 switches a change off."""

    histogram_matching_probability: float = 0.5
    """Grey levels get the distribution of another case's."""
    gamma_probability: float = 0.0
    """Grey levels are raised to a power."""
    gamma_log_range: float = 0.4
    """Largest magnitude of log(gamma)."""
    bias_field_probability: float = 0.0
    """A smooth change of brightness over the field."""
    bias_field_sigma: float = 0.25
    """Standard deviation of the B-spline coefficients of the field's logarithm."""
    coil_probability: float = 0.0
    """An endorectal coil: signal that falls off steeply from a point behind the gland."""
    coil_gain: float = 4.0
    """Largest relative signal at the coil."""
    noise_probability: float = 0.0
    """Gaussian noise."""
    noise_sigma: float = 0.15
    """Largest standard deviation of the noise, relative to the crop's."""
    blur_probability: float = 0.0
    """Thicker slices or a coarser matrix than the scan's: the mean over 2 or 3 voxels along one axis or in plane."""


@dataclass(frozen=True)
class Appearance:
    """Parameters of one change of appearance; None or 1 where a change is off."""

    matches_histogram: bool
    gamma: float
    bias_coefficients: Tensor | None
    """(1, 5, 5, 5): B-spline coefficients of the logarithm of the field."""
    coil_gain: float
    coil_position: tuple[float, float, float]
    """(x, y, z) as fractions of the crop from its centre, -0.5 to 0.5."""
    coil_radius: float
    """Radius at which the gain has fallen to exp(-1/2), as a fraction of the crop's width."""
    noise_sigma: float
    noise_seed: int
    blur_voxels: tuple[int, int, int]
    """(x, y, z): sides of the averaged box."""


def sample_appearance(settings: AppearanceSettings, generator: torch.Generator) -> Appearance:
    """Draws a change of appearance; the same generator state gives the same one."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    def happens(probability: float) -> bool:
        return uniform(0, 1) < probability

    has_bias = happens(settings.bias_field_probability)
    has_coil = happens(settings.coil_probability)
    has_blur = happens(settings.blur_probability)
    n_blurred = int(uniform(2, 4))
    return Appearance(
        matches_histogram=happens(settings.histogram_matching_probability),
        gamma=float(torch.tensor(uniform(-1, 1) * settings.gamma_log_range).exp())
        if happens(settings.gamma_probability)
        else 1.0,
        bias_coefficients=settings.bias_field_sigma * torch.randn(1, *[N_COEFFICIENTS] * 3, generator=generator)
        if has_bias
        else None,
        coil_gain=uniform(1, settings.coil_gain) if has_coil else 1.0,
        coil_position=(uniform(-0.1, 0.1), uniform(0.1, 0.35), uniform(-0.15, 0.15)),
        coil_radius=uniform(0.12, 0.3),
        noise_sigma=uniform(0, settings.noise_sigma) if happens(settings.noise_probability) else 0.0,
        noise_seed=int(torch.randint(2**31, (), generator=generator)),
        blur_voxels=((1, 1, n_blurred) if happens(0.5) else (2, 2, 1)) if has_blur else (1, 1, 1),
    )


def quantiles(values: Tensor) -> Tensor:
    """The grey-level distribution of a volume: `N_QUANTILES` values at equal steps of probability, float32."""
    ordered = values.float().flatten().sort().values
    index = torch.linspace(0, ordered.numel() - 1, N_QUANTILES, device=values.device).round().long()
    return ordered[index]


def match_histogram(values: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Maps grey levels so that a distribution with quantiles `source` gets the quantiles `target`.

    Piecewise linear between quantiles; values beyond the source's range are clipped to it.

    Args:
        values: any shape, float32.
        source, target: (`N_QUANTILES`,), ascending, as `quantiles` gives them.
    """
    # From the smallest on: beside a large offset (unsigned scans begin at 32768) float32 would lose the steps below.
    values, source = values - source[0], source - source[0]
    # Equal quantiles (a background of zeros) have no slope between them; a tiny step keeps the order strict.
    step = source[-1].clamp(min=1e-12) * 1e-6
    knots = source + step * torch.arange(len(source), device=source.device)
    index = torch.searchsorted(knots, values.contiguous()).clamp(1, len(knots) - 1)
    low, high = knots[index - 1], knots[index]
    fraction = ((values - low) / (high - low)).clamp(0, 1)
    return torch.lerp(target[index - 1], target[index], fraction)


def change_appearance(crop: Tensor, inside: Tensor, appearance: Appearance) -> Tensor:
    """Applies all but the histogram matching, which needs the whole case, to a crop.

    Args:
        crop: (depth, height, width), float32, any unit.
        inside: same shape, bool: False where the crop reaches beyond the scan.

    Returns:
        float32, in an arbitrary unit: normalise afterwards.
    """
    known = crop[inside]
    if known.numel() < 2:
        return crop
    low, high = known.min(), known.max()
    x = ((crop - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    if appearance.gamma != 1:
        x = x**appearance.gamma
    if appearance.bias_coefficients is not None:
        shape = (crop.shape[0], crop.shape[1], crop.shape[2])
        x = x * displacement_field(appearance.bias_coefficients.to(crop.device), shape)[..., 0].exp()
    if appearance.coil_gain != 1:
        x = x * _coil_field(crop, appearance)
    if appearance.blur_voxels != (1, 1, 1):
        x = _box_blur(x, appearance.blur_voxels)
    if appearance.noise_sigma:
        generator = torch.Generator(crop.device).manual_seed(appearance.noise_seed)
        noise = torch.randn(crop.shape, generator=generator, device=crop.device)
        x = x + noise * (appearance.noise_sigma * x[inside].std())
    return x


def _coil_field(crop: Tensor, appearance: Appearance) -> Tensor:
    width = crop.shape[2]
    square = torch.zeros((), device=crop.device)
    for axis, position in zip((2, 1, 0), appearance.coil_position, strict=True):
        n = crop.shape[axis]
        distance = (torch.arange(n, device=crop.device) - (n - 1) / 2 - position * n) / (appearance.coil_radius * width)
        square = square + (distance**2).reshape([-1 if i == axis else 1 for i in range(3)])
    return 1 + (appearance.coil_gain - 1) * torch.exp(-square / 2)


def _box_blur(x: Tensor, voxels: tuple[int, int, int]) -> Tensor:
    """Averages boxes and interpolates between them, as a scan of thicker voxels resampled to this grid looks."""
    depth, height, width = x.shape
    box = (voxels[2], voxels[1], voxels[0])
    pooled = functional.avg_pool3d(x[None, None], box, box, ceil_mode=True, count_include_pad=False)
    blurred = functional.interpolate(pooled, size=(depth, height, width), mode="trilinear", align_corners=False)
    return blurred[0, 0]
