"""From a probability to a mask. Needs no torch, so that a panel follows a threshold in its own process."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Box = tuple[NDArray[np.int64], NDArray[np.int64]]
"""First and last index, each x, y, z, of what is found."""

_SPECK_MM2 = 10.0
"""A part of a slice that is smaller, a circle of 3.6 mm, is what a reader erases at a gland's ends and beside it."""
_MOST_SPECKS = 0.05
"""If more than this share of a mask hangs on specks, they are how it is built."""
_THICK_SLICES = 1.5
"""From this ratio to the other spacings the widest one tells how the slices lie."""


def mask_from_probability(probability: sitk.Image, threshold: float = 0.5) -> sitk.Image:
    """The largest connected part (faces touch) of what reaches the threshold, without specks.

    A part of a slice of under 10 mm^2 is a speck, see `slice_axis`. What hangs on specks alone goes with them, unless
    that is more than a twentieth of the mask: then all stays.

    The authors' code turns an empty prediction into a mask that is all prostate; here it stays empty.

    Args:
        probability: float32 in [0, 1].

    Returns:
        uint8 of 0 and 1 on the same grid.
    """
    # The upper limit is above 1 for what rounding may have added.
    whole = keep_largest_component(sitk.BinaryThreshold(probability, threshold, 2.0, 1, 0))
    clean = keep_largest_component(_without_specks(whole))
    return clean if _count(clean) >= (1 - _MOST_SPECKS) * _count(whole) else whole


def slice_axis(image: sitk.Image) -> int:
    """The axis, 0 to 2 for x to z of the image, across which its slices lie: the one with the widest spacing.

    Where no spacing is 1.5 times wider, it is the axis nearest to the patient's foot-head axis.
    """
    spacing_mm = image.GetSpacing()
    widest = int(np.argmax(spacing_mm))
    axes = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    to_the_head = next(axis for axis, letter in enumerate(axes) if letter in "SI")
    return widest if spacing_mm[widest] > _THICK_SLICES * spacing_mm[to_the_head] else to_the_head


def smooth_probability(probability: sitk.Image, sigma_mm: float) -> sitk.Image:
    """A probability from which a smoother mask comes: convolved with a Gaussian.

    Args:
        probability: float32 in [0, 1].
        sigma_mm: standard deviation, the same along all axes whatever their spacing.

    Returns:
        float32 in [0, 1] on the same grid.
    """
    smooth = sitk.DiscreteGaussian(probability, [sigma_mm**2] * 3, useImageSpacing=True)
    return sitk.Clamp(smooth, sitk.sitkFloat32, 0.0, 1.0)


def keep_largest_component(mask: sitk.Image) -> sitk.Image:
    """The largest connected part (faces touch) of a mask of 0 and 1, uint8."""
    box = bounding_box(mask)
    if box is None:
        return mask
    labels, counts = _connected_parts(mask, box)
    if len(counts) == 1:
        return mask
    largest = sitk.Cast(labels == int(counts.argmax()) + 1, sitk.sitkUInt8)
    return sitk.Paste(mask * 0, largest, largest.GetSize(), [0, 0, 0], box[0].tolist())


def _without_specks(mask: sitk.Image) -> sitk.Image:
    """A mask of 0 and 1, uint8, without the parts of slices (edges touch) that are specks."""
    box = bounding_box(mask)
    if box is None:
        return mask
    across = slice_axis(mask)
    pixel_mm2 = math.prod(mask.GetSpacing()) / mask.GetSpacing()[across]
    voxels = sitk.GetArrayFromImage(mask)
    boxed = voxels[tuple(slice(low, high + 1) for low, high in zip(*box, strict=True))[::-1]]
    slices = np.moveaxis(boxed, 2 - across, 0)
    # Empty slices in between keep a slice's parts from being connected with its neighbours'.
    spread = np.zeros((2 * len(slices), *slices.shape[1:]), np.uint8)
    spread[::2] = slices
    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(spread)))[::2]
    slices[(np.bincount(labels.ravel()) * pixel_mm2 < _SPECK_MM2)[labels]] = 0
    clean = sitk.GetImageFromArray(voxels)
    clean.CopyInformation(mask)
    return clean


def part_sizes(mask: sitk.Image) -> list[int]:
    """Voxels of each connected part (corners touch) of a mask of 0 and 1, uint8; the largest first."""
    box = bounding_box(mask)
    return [] if box is None else sorted(_connected_parts(mask, box, corners=True)[1].tolist(), reverse=True)


def _connected_parts(mask: sitk.Image, box: Box, corners: bool = False) -> tuple[sitk.Image, NDArray[np.int64]]:
    """Labels from 1 in the box, and the voxels of each. Labelling the box alone spares most of a large scan.

    Args:
        corners: voxels that share an edge or a corner are connected, too, not only those that share a face.
    """
    size = (box[1] - box[0] + 1).tolist()
    labels = sitk.ConnectedComponent(sitk.RegionOfInterest(mask, size, box[0].tolist()), corners)
    return labels, np.bincount(sitk.GetArrayViewFromImage(labels).ravel())[1:]


def _count(mask: sitk.Image) -> int:
    return int(np.count_nonzero(sitk.GetArrayViewFromImage(mask)))


def bounding_box(mask: sitk.Image) -> Box | None:
    """Where a mask's voxels are; None if it is empty."""
    return array_box(sitk.GetArrayViewFromImage(mask))


def array_box(array: NDArray[Any]) -> Box | None:
    """`bounding_box` of an array (depth, height, width)."""
    ends = []
    for axis in (2, 1, 0):
        used = np.flatnonzero(array.any(axis=tuple(i for i in range(3) if i != axis)))
        if len(used) == 0:
            return None
        ends.append((used[0], used[-1]))
    low, high = np.array(ends, np.int64).T
    return low, high
