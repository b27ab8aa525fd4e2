"""What other scanners, coils and positions make of a scan: simulated on labelled cases, whose true mask is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk

Pair = tuple[sitk.Image, sitk.Image]
"""Scan, float32, and mask, uint8, on one grid."""
Degradation = Callable[[sitk.Image, sitk.Image, np.random.Generator], Pair]


def as_it_is(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    return scan, mask


def fine_matrix(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """0.4 mm in plane and slices of 3.6 mm, as scanners write them."""
    return _resampled(scan, mask, (0.4, 0.4, 3.6))


def coarse_matrix(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """2 mm in plane and slices of 5 mm."""
    return _resampled(scan, mask, (2.0, 2.0, 5.0))


def small_field(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """120 mm in plane, as near to the scan's centre as the whole gland allows."""
    return _field(scan, mask, 120.0, 4.0)


def large_field(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """400 mm in plane; what the scan does not show is air."""
    return _field(scan, mask, 400.0, 0.0)


def off_centre(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """The gland's box 5 mm from two borders of the image in plane, and at least two slices from both ends."""
    low, high = _box(mask)
    size, spacing = np.array(scan.GetSize()), np.array(scan.GetSpacing())
    first, last = np.zeros(3, int), size - 1
    for axis in (0, 1):
        margin = math.ceil(5 / spacing[axis])
        if random.random() < 0.5:
            first[axis] = max(0, low[axis] - margin)
        else:
            last[axis] = min(size[axis] - 1, high[axis] + margin)
    first[2], last[2] = max(0, low[2] - 2), min(size[2] - 1, high[2] + 2)
    return _cropped(scan, first, last), _cropped(mask, first, last)


def noisy(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """Rician noise of 15 % of the brightest tissue."""
    values = sitk.GetArrayFromImage(scan)
    deviation = 0.15 * np.percentile(values, 99)
    real, imaginary = (deviation * random.standard_normal(values.shape) for _ in range(2))
    return _with_values(scan, np.hypot(values + real, imaginary)), mask


def biased(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """A coil in front or at one side: brightness falls to a fifth across the image."""
    direction = np.array([random.uniform(-1, 1), -1.0, random.uniform(-0.3, 0.3)])
    distance = np.einsum("i,i...->...", direction / np.abs(direction).sum(), _positions(scan))
    return _with_values(scan, sitk.GetArrayFromImage(scan) * np.exp(math.log(5) * distance)), mask


def endorectal_coil(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """Ten times as bright at the rectal wall behind the gland, half of that 20 mm away."""
    low, high = _box(mask)
    behind = np.array([(low[0] + high[0]) / 2, high[1] + 8 / scan.GetSpacing()[1], (low[2] + high[2]) / 2])
    index = np.indices(scan.GetSize()[::-1])[::-1].astype(np.float32)
    away_mm = np.sqrt(sum(((index[i] - behind[i]) * scan.GetSpacing()[i]) ** 2 for i in range(3)))
    return _with_values(scan, sitk.GetArrayFromImage(scan) * (1 + 9 * 0.5 ** (away_mm / 20))), mask


def ghosted(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """Motion between every third line along the phase-encoding axis, left to right: ghosts at a quarter."""
    values = sitk.GetArrayFromImage(scan)
    lines = np.fft.fft(values, axis=2)
    shift = np.exp(2j * np.pi * np.fft.fftfreq(values.shape[2]) * random.uniform(3, 6))
    moved = np.arange(values.shape[2]) % 3 == 0
    ghost = np.abs(np.fft.ifft(lines * np.where(moved, shift, 1), axis=2))
    return _with_values(scan, ghost), mask


def oblique(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """The same voxels with slices that were angled by 20 degrees."""
    turned = []
    angle = math.radians(20)
    turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    for image in (scan, mask):
        copy = sitk.Image(image)
        copy.SetDirection((turn @ np.array(image.GetDirection()).reshape(3, 3)).ravel().tolist())
        turned.append(copy)
    return turned[0], turned[1]


def small_gland(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """The whole patient scaled so that the gland has 15 ml."""
    return _with_gland_of(15.0, scan, mask)


def large_gland(scan: sitk.Image, mask: sitk.Image, random: np.random.Generator) -> Pair:
    """The whole patient scaled so that the gland has 200 ml."""
    return _with_gland_of(200.0, scan, mask)


DEGRADATIONS: tuple[Degradation, ...] = (
    as_it_is,
    fine_matrix,
    coarse_matrix,
    small_field,
    large_field,
    off_centre,
    oblique,
    noisy,
    biased,
    endorectal_coil,
    ghosted,
    small_gland,
    large_gland,
)


def degrade(name: str, scan: sitk.Image, mask: sitk.Image, seed: int) -> Pair:
    """A degradation by its function's name.

    Args:
        scan: 3D, scalar.
        mask: 1 in the gland, 0 elsewhere, on the same grid.
        seed: the same seed gives the same pair.

    Returns:
        Scan, float32, and mask, uint8, on one grid, which may be another one.

    Raises:
        KeyError: there is no such degradation.
    """
    function = {function.__name__: function for function in DEGRADATIONS}[name]
    return function(sitk.Cast(scan, sitk.sitkFloat32), mask, np.random.default_rng(seed))


def _resampled(scan: sitk.Image, mask: sitk.Image, spacing_mm: tuple[float, float, float]) -> Pair:
    size = [
        max(1, round(n * old / new)) for n, old, new in zip(scan.GetSize(), scan.GetSpacing(), spacing_mm, strict=True)
    ]
    first_mm = [(new - old) / 2 for old, new in zip(scan.GetSpacing(), spacing_mm, strict=True)]
    origin = np.array(scan.GetOrigin()) + np.array(scan.GetDirection()).reshape(3, 3) @ first_mm
    arguments = (size, sitk.Transform())
    geometry = (origin.tolist(), spacing_mm, scan.GetDirection())
    blurred = scan
    for axis, (old, new) in enumerate(zip(scan.GetSpacing(), spacing_mm, strict=True)):
        if new > 1.2 * old:
            sigma_mm = math.sqrt(new**2 - old**2) / 2.355
            blurred = sitk.RecursiveGaussian(
                blurred, sigma_mm, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis
            )
    new_scan = sitk.Resample(blurred, *arguments, sitk.sitkLinear, *geometry, 0.0, sitk.sitkFloat32, True)
    share = sitk.Resample(
        sitk.Cast(mask, sitk.sitkFloat32), *arguments, sitk.sitkLinear, *geometry, 0.0, sitk.sitkFloat32, True
    )
    return new_scan, sitk.Cast(share >= 0.5, sitk.sitkUInt8)


def _field(scan: sitk.Image, mask: sitk.Image, field_mm: float, margin_mm: float) -> Pair:
    """Another field of view in plane, centred like the scan's unless the gland would be cut."""
    low, high = _box(mask)
    first, last = np.zeros(3, int), np.array(scan.GetSize()) - 1
    for axis in (0, 1):
        n = round(field_mm / scan.GetSpacing()[axis])
        margin = math.ceil(margin_mm / scan.GetSpacing()[axis])
        start = (scan.GetSize()[axis] - n) // 2
        start = min(start, low[axis] - margin)
        first[axis] = max(start, high[axis] + margin - n + 1)
        last[axis] = first[axis] + n - 1
    return _cropped(scan, first, last), _cropped(mask, first, last)


def _cropped(image: sitk.Image, first: np.ndarray, last: np.ndarray) -> sitk.Image:
    """From index `first` to `last`, padded with 0 where these lie outside."""
    size = np.array(image.GetSize())
    before, after = np.maximum(0, -first), np.maximum(0, last - size + 1)
    padded = sitk.ConstantPad(image, before.tolist(), after.tolist(), 0.0)
    return sitk.RegionOfInterest(padded, (last - first + 1).tolist(), (first + before).tolist())


def _with_gland_of(volume_ml: float, scan: sitk.Image, mask: sitk.Image) -> Pair:
    now_ml = np.count_nonzero(sitk.GetArrayViewFromImage(mask)) * math.prod(mask.GetSpacing()) / 1000
    scale = (volume_ml / now_ml) ** (1 / 3)
    scaled = []
    for image in (scan, mask):
        copy = sitk.Image(image)
        copy.SetSpacing([spacing * scale for spacing in image.GetSpacing()])
        scaled.append(copy)
    return scaled[0], scaled[1]


def _box(mask: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """First and last index of the gland, x, y, z."""
    inside = np.argwhere(sitk.GetArrayViewFromImage(mask))[:, ::-1]
    return inside.min(0), inside.max(0)


def _positions(scan: sitk.Image) -> np.ndarray:
    """(3, depth, height, width): x, y, z from -0.5 to 0.5."""
    axes = [np.linspace(-0.5, 0.5, n) if n > 1 else np.zeros(1) for n in scan.GetSize()[::-1]]
    return np.stack(np.meshgrid(*axes, indexing="ij"))[::-1]


def _with_values(scan: sitk.Image, values: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.CopyInformation(scan)
    return image
