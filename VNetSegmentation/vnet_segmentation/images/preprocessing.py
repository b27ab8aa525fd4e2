"""From a scan on any grid to the tensor that the network sees, and from its probability back to the scan's grid.

Training, evaluation and segmentation all go through these functions; their settings travel with the model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from vnet_segmentation.arrays import to_array, to_tensor

ORIENTATION = "LPS"
"""Axes of the network's input: x to the patient's left, y to the back, z to the head, each as near as the scan's
own axes allow. An oblique scan is seen along its own axes, not the patient's, as the training scans were."""

_FULL_WIDTH_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


@dataclass(frozen=True)
class Preprocessing:
    """Settings that a model was trained with. Axis order x, y, z (left-right, front-back, foot-head)."""

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.5)
    """Of the network's grid."""
    size: tuple[int, int, int] = (128, 128, 64)
    """Of the network's field, in voxels."""
    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    """Grey levels beyond are clipped."""
    bias_correction: bool = False
    """N4, see `correct_bias_field`."""

    def as_dict(self) -> dict[str, Any]:
        """For model.json."""
        return asdict(self)

    @staticmethod
    def from_dict(settings: dict[str, Any]) -> Preprocessing:
        """The inverse of `as_dict`.

        Raises:
            TypeError, ValueError: an unknown or ill-formed setting.
        """
        settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        preprocessing = Preprocessing(**settings)
        low, high = preprocessing.clip_percentiles
        if not (
            len(preprocessing.spacing_mm) == len(preprocessing.size) == 3
            and all(0.1 <= spacing <= 10 for spacing in preprocessing.spacing_mm)
            and all(type(n) is int and 16 <= n <= 512 and n % 16 == 0 for n in preprocessing.size)
            # The deepest stage normalises over its voxels, a sixteenth along each axis: one voxel has no variance.
            and preprocessing.size != (16, 16, 16)
            and 0 <= low < high <= 100
            and type(preprocessing.bias_correction) is bool
        ):
            raise ValueError(f"Not preprocessing settings: {settings}")
        return preprocessing

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Sides of the field that the network sees, in mm."""
        x, y, z = (n * spacing for n, spacing in zip(self.size, self.spacing_mm, strict=True))
        return x, y, z


def orient(scan: sitk.Image) -> sitk.Image:
    """The same voxels with axes permuted and flipped to `ORIENTATION`; positions in the patient stay."""
    return sitk.DICOMOrient(scan, ORIENTATION)


def correct_bias_field(scan: sitk.Image, shrink_factor: int = 4) -> sitk.Image:
    """N4 bias field correction (Tustison et al., IEEE TMI 2010), estimated on a shrunken copy.

    Args:
        scan: float32, any orientation.
        shrink_factor: the field, being smooth, is estimated on every n-th voxel along an axis; of axes with coarse
            voxels, and of those with few, less is left out. 4 costs about 1/16 of the time.

    Returns:
        The scan divided by its bias field, float32.
    """
    scan = sitk.Cast(scan, sitk.sitkFloat32)
    spacing = scan.GetSpacing()
    # No axis gets voxels of more than twice the coarsest spacing, nor fewer than 16 of them: 20 thick slices are kept.
    factors = [
        max(1, min(shrink_factor, int(max(spacing) * 2 / s), n // 16))
        for s, n in zip(spacing, scan.GetSize(), strict=True)
    ]
    small = sitk.Shrink(scan, factors)
    foreground = sitk.OtsuThreshold(small, 0, 1, 128)
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations([30, 30, 20])
    corrector.Execute(small, foreground)
    field = sitk.Exp(corrector.GetLogBiasFieldAsImage(scan))
    return sitk.Cast(scan / sitk.Cast(field, sitk.sitkFloat32), sitk.sitkFloat32)


def smooth_for_spacing(scan: sitk.Image, spacing_mm: tuple[float, float, float]) -> sitk.Image:
    """Gaussian smoothing along the axes that are finer than `spacing_mm`, against aliasing.

    The full width at half maximum is what turns a voxel of the scan's spacing into one of the coarser spacing
    (Cardoso et al., "Scale factor point spread function matching", MICCAI 2015): sqrt(coarse^2 - fine^2).
    """
    for axis, (fine, coarse) in enumerate(zip(scan.GetSpacing(), spacing_mm, strict=True)):
        # Below a third of a voxel the filter does nothing that can be seen, and takes as long.
        if coarse > 1.2 * fine and scan.GetSize()[axis] >= 4:
            sigma_mm = math.sqrt(coarse**2 - fine**2) / _FULL_WIDTH_PER_SIGMA
            scan = sitk.RecursiveGaussian(scan, sigma_mm, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis)
    return scan


def prepare(scan: sitk.Image, preprocessing: Preprocessing) -> sitk.Image:
    """Everything that is done once per scan, before any crop: orientation, N4 if asked for, smoothing.

    Args:
        scan: a 3D scalar image, any axes and spacing.

    Returns:
        float32 in `ORIENTATION` at the scan's own spacing.
    """
    oriented = sitk.Cast(orient(scan), sitk.sitkFloat32)
    if preprocessing.bias_correction:
        oriented = correct_bias_field(oriented)
    return smooth_for_spacing(oriented, preprocessing.spacing_mm)


def centre_mm(image: sitk.Image) -> NDArray[np.float64]:
    """Middle of the image's field of view: (x, y, z) in mm, LPS."""
    return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def grid_around(
    image: sitk.Image, point_mm: NDArray[np.float64], spacing_mm: tuple[float, float, float], size: tuple[int, int, int]
) -> sitk.Image:
    """An empty image along `image`'s axes, centred on a point: what lies outside `image` is padding, alike on both
    sides where the point is the image's centre.

    Args:
        point_mm: (x, y, z) in mm, LPS.
        spacing_mm, size: of the grid, in the image's axis order x, y, z.
    """
    grid = sitk.Image(list(size), sitk.sitkUInt8)
    grid.SetSpacing(spacing_mm)
    grid.SetDirection(image.GetDirection())
    to_middle = np.array([(n - 1) / 2 * s for n, s in zip(size, spacing_mm, strict=True)])
    grid.SetOrigin(point_mm - np.array(image.GetDirection()).reshape(3, 3) @ to_middle)
    return grid


def crop(
    prepared: sitk.Image, point_mm: NDArray[np.float64], preprocessing: Preprocessing
) -> tuple[Tensor, sitk.Image]:
    """The network's field of view around a point of the patient.

    Args:
        prepared: as `prepare` returns it.
        point_mm: centre of the crop: (x, y, z) in mm, LPS.

    Returns:
        The normalised crop, (depth, height, width) float32; and its grid, for `to_scan_grid`.
    """
    grid = grid_around(prepared, point_mm, preprocessing.spacing_mm, preprocessing.size)
    resampled = sitk.Resample(prepared, grid, sitk.Transform(), sitk.sitkLinear, math.nan, sitk.sitkFloat32)
    values = to_tensor(sitk.GetArrayFromImage(resampled))
    inside = ~torch.isnan(values)
    return normalise(values.nan_to_num(0.0), inside, preprocessing.clip_percentiles), grid


def normalise(values: Tensor, inside: Tensor, clip_percentiles: tuple[float, float]) -> Tensor:
    """Clipped at two percentiles, then zero mean and unit standard deviation, all over the voxels inside the scan.

    The paper's code scales to [0, 1] and standardises over the voxels above 0; the clip keeps a bright endorectal
    coil or a vessel from squeezing the gland into a few grey levels.

    Args:
        values: (depth, height, width), float32, any unit.
        inside: same shape, bool: False where the crop reaches beyond the scan.

    Returns:
        float32; 0, the mean, outside the scan and where there is no contrast.
    """
    known = values[inside]
    if known.numel() < 2:
        return torch.zeros_like(values)
    # Every seventh voxel gives the percentiles to far below the noise, at a seventh of the sorting.
    ordered = known[::7].sort().values
    low, high = (ordered[round(percentile / 100 * (ordered.numel() - 1))] for percentile in clip_percentiles)
    known = known.clamp(low, high)
    mean, deviation = known.mean(), known.std()
    # Constant up to rounding: nothing to see, and nothing to divide by.
    if deviation <= 1e-6 * (known.abs().max() + 1e-12):
        return torch.zeros_like(values)
    return torch.where(inside, (values.clamp(low, high) - mean) / deviation, 0.0)


def to_scan_grid(probability: Tensor, grid: sitk.Image, scan: sitk.Image) -> sitk.Image:
    """The probability of a crop, linearly interpolated on the scan's own grid.

    Args:
        probability: (depth, height, width) in [0, 1].
        grid: the crop's grid, from `crop`.
        scan: the scan as the user gave it, in its own orientation.

    Returns:
        float32 in [0, 1] with the scan's exact size, spacing, origin and direction; 0 outside the crop.
    """
    image = sitk.GetImageFromArray(to_array(probability.float()))
    image.CopyInformation(grid)
    return sitk.Resample(image, scan, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
