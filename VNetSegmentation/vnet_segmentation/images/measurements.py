"""Volume and diameters of a gland, as a radiology report states them, and where it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Measurements:
    """Size of a gland; all 0 for an empty mask.

    The diameters follow the image's own axes, each named after the patient's axis that it is nearest to, so that an
    oblique scan is measured in its own planes, as a reader measures it. An extent reaches from outer edge to outer edge
    of the outermost voxels; what lies between them need not be filled.
    """

    volume_ml: float
    transverse_mm: float
    """Left-right: the largest extent within any one slice across the superior-inferior axis."""
    anteroposterior_mm: float
    """Front-back: likewise the largest within any one slice, which need not be that of the transverse diameter."""
    craniocaudal_mm: float
    """Superior-inferior: number of slices from the lowest to the highest of the mask, times their distance."""
    ellipsoid_ml: float
    """pi / 6 times the three diameters: the volume of an ellipsoid that has them."""


def measure(mask: sitk.Image) -> Measurements:
    """Volume and diameters of a mask.

    Args:
        mask: three-dimensional, 0 outside the gland; any axis order and direction.
    """
    oriented = sitk.DICOMOrient(mask, "LPS")
    gland = sitk.GetArrayViewFromImage(oriented) != 0
    x_mm, y_mm, z_mm = oriented.GetSpacing()
    transverse_mm = _largest_extent(gland.any(axis=1)) * x_mm
    anteroposterior_mm = _largest_extent(gland.any(axis=2)) * y_mm
    craniocaudal_mm = _largest_extent(gland.any(axis=(1, 2))[np.newaxis]) * z_mm
    return Measurements(
        volume_ml=int(np.count_nonzero(gland)) * x_mm * y_mm * z_mm / 1000,
        transverse_mm=transverse_mm,
        anteroposterior_mm=anteroposterior_mm,
        craniocaudal_mm=craniocaudal_mm,
        ellipsoid_ml=math.pi / 6 * transverse_mm * anteroposterior_mm * craniocaudal_mm / 1000,
    )


def ends_mm(mask: sitk.Image) -> tuple[Point, Point] | None:
    """The middles of a gland's highest slice, at the base, and of its lowest, at the apex; None for an empty mask.

    Args:
        mask: three-dimensional, 0 outside the gland; any axis order and direction.

    Returns:
        Base and apex, each (x, y, z) in mm, LPS.
    """
    oriented = sitk.DICOMOrient(mask, "LPS")
    gland = sitk.GetArrayViewFromImage(oriented) != 0
    slices = np.flatnonzero(gland.any(axis=(1, 2)))
    if not slices.size:
        return None

    def middle_of(slice_number: int) -> Point:
        y, x = np.argwhere(gland[slice_number]).mean(axis=0)
        return oriented.TransformContinuousIndexToPhysicalPoint((float(x), float(y), float(slice_number)))

    return middle_of(int(slices[-1])), middle_of(int(slices[0]))


def _largest_extent(rows: NDArray[np.bool_]) -> int:
    """Largest number of voxels from the first to the last one set in any row of (row, column)."""
    filled = rows[rows.any(axis=1)]
    if not filled.size:
        return 0
    first, from_the_end = filled.argmax(axis=1), filled[:, ::-1].argmax(axis=1)
    return int((filled.shape[1] - from_the_end - first).max())
