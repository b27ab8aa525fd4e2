"""How well a mask agrees with a reference: the metrics of the PROMISE12 challenge.

Source: Litjens et al., "Evaluation of prostate segmentation algorithms for MRI: the PROMISE12 challenge", Medical Image
Analysis 18(2), 2014.

Masks are three-dimensional SimpleITK images, 0 outside the gland and anything else within it; both lie on one grid.
A mask's surface is its voxels with a background voxel among their six neighbours, where all that is outside the image
is background; distances run between the centres of surface voxels, in mm, on the image's own grid.

An empty mask has no surface. If one of the two is empty, the gland is missed: Dice is 0 and every distance is the
image's diagonal. If both are, they agree: Dice is 1, distances and volume difference are 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from vnet_segmentation.errors import UserError
from vnet_segmentation.images.masks import array_box

_PERCENTILE = 95
_N_PARTS = 3

_GRID_TOLERANCE_VOXELS = 0.1
"""File formats round a direction or an origin; a tenth of a voxel is beyond any rounding and below any effect."""


@dataclass(frozen=True)
class Agreement:
    """One mask against another, over the whole gland or a part of it."""

    dice: float
    """0 to 1."""
    hausdorff95_mm: float
    average_boundary_distance_mm: float
    relative_volume_difference_percent: float
    """Above 0 where the result is the larger; infinite where only the reference is empty."""


@dataclass(frozen=True)
class Comparison:
    """A result against its reference over the whole gland, its base (superior third) and its apex (inferior third)."""

    whole: Agreement
    base: Agreement
    apex: Agreement


def compare(result: sitk.Image, reference: sitk.Image) -> Comparison:
    """All metrics over the whole gland, the base and the apex.

    The reference's slices, along the image axis nearest to the patient's superior-inferior one, are parted in three;
    base and apex have the same number of slices, a third rounded to the nearest and at least one. What the result has
    beyond the reference's ends belongs to the part at that end. If the reference is empty, so are its parts, and all
    three agreements are the whole gland's.

    Distances of a part start at the surface voxels within it and end anywhere on the other mask's surface: the planes
    of the cut are not taken for surface, and a part that the result does not reach is as far away as the result ends
    from it. Evaluations that cut the masks first and then measure give other distances.

    Args:
        result: mask to judge.
        reference: mask to judge by.

    Raises:
        UserError: the masks lie on different grids.
    """
    pair = _Pair(result, reference)
    whole = pair.agreement()
    slices = np.flatnonzero(pair.reference.any(axis=(1, 2)))
    if not slices.size:
        return Comparison(whole, whole, whole)
    inferior, superior = int(slices[0]), int(slices[-1]) + 1
    n_part = max(1, round((superior - inferior) / _N_PARTS))
    return Comparison(
        whole,
        base=pair.agreement(slice(superior - n_part, None)),
        apex=pair.agreement(slice(0, inferior + n_part)),
    )


def dice(result: sitk.Image, reference: sitk.Image) -> float:
    """Twice the common volume over the sum of the volumes, 0 to 1.

    Raises:
        UserError: the masks lie on different grids.
    """
    return _Pair(result, reference).dice()


def relative_volume_difference_percent(result: sitk.Image, reference: sitk.Image) -> float:
    """100 (|result| / |reference| - 1), signed: above 0 where the result is the larger.

    The challenge's figure is its magnitude. Infinite where only the reference is empty.

    Raises:
        UserError: the masks lie on different grids.
    """
    return _Pair(result, reference).relative_volume_difference_percent()


def hausdorff95_mm(result: sitk.Image, reference: sitk.Image) -> float:
    """The larger of the two directed 95th percentiles (linear between ranks) of the surface distances, in mm.

    Raises:
        UserError: the masks lie on different grids.
    """
    return _Pair(result, reference).hausdorff95_mm()


def average_boundary_distance_mm(result: sitk.Image, reference: sitk.Image) -> float:
    """Mean distance to the other surface, in mm.

    The mean runs over the surface voxels of both masks pooled: the sum of both directed sums of distances over the sum
    of both numbers of voxels.

    Raises:
        UserError: the masks lie on different grids.
    """
    return _Pair(result, reference).average_boundary_distance_mm()


def check_same_grid(
    result: sitk.Image, reference: sitk.Image, result_name: str = "The result", reference_name: str = "the reference"
) -> None:
    """Refuses masks whose voxels do not coincide.

    Args:
        result, reference: images of any kind.
        result_name, reference_name: what the message calls them.

    Raises:
        UserError: sizes differ, or a corner of the grid lies elsewhere by more than a tenth of the smallest spacing.
    """
    if result.GetSize() != reference.GetSize():
        sizes = [" x ".join(map(str, image.GetSize())) for image in (result, reference)]
        difference = f"{sizes[0]} voxels against {sizes[1]}"
    else:
        distance_mm = _largest_corner_distance_mm(result, reference)
        if distance_mm <= _GRID_TOLERANCE_VOXELS * min(reference.GetSpacing()):
            return
        difference = f"it lies up to {distance_mm:.3g} mm away, because spacing, origin or direction differ"
    raise UserError(
        f"{result_name} is not on the grid of {reference_name}: {difference}. "
        "Use a mask that was made on the scan itself, or resample it to the scan's grid first."
    )


def _largest_corner_distance_mm(image: sitk.Image, other: sitk.Image) -> float:
    return max(
        math.dist(image.TransformIndexToPhysicalPoint(corner), other.TransformIndexToPhysicalPoint(corner))
        for corner in product(*((0, n - 1) for n in image.GetSize()))
    )


class _Pair:
    """Two masks as arrays (slice, row, column), slices from inferior to superior, and their surface distances."""

    def __init__(self, result: sitk.Image, reference: sitk.Image) -> None:
        check_same_grid(result, reference)
        # At 45 degrees between two axes a rounded direction could turn one mask another way than the other.
        result = sitk.Image(result)
        result.CopyInformation(reference)
        oriented_result, oriented_reference = (sitk.DICOMOrient(mask, "LPS") for mask in (result, reference))
        self.result, self.reference = (
            sitk.GetArrayViewFromImage(mask) != 0 for mask in (oriented_result, oriented_reference)
        )
        self._spacing_mm = oriented_reference.GetSpacing()
        self._diagonal_mm = math.hypot(
            *(n * s for n, s in zip(oriented_reference.GetSize(), self._spacing_mm, strict=True))
        )
        self._distances: tuple[_SurfaceDistances, _SurfaceDistances] | None = None

    def agreement(self, part: slice = slice(None)) -> Agreement:
        """Over the slices of `part`."""
        return Agreement(
            self.dice(part),
            self.hausdorff95_mm(part),
            self.average_boundary_distance_mm(part),
            self.relative_volume_difference_percent(part),
        )

    def dice(self, part: slice = slice(None)) -> float:
        result, reference = self.result[part], self.reference[part]
        total = _count(result) + _count(reference)
        return 2 * _count(result & reference) / total if total else 1.0

    def relative_volume_difference_percent(self, part: slice = slice(None)) -> float:
        n_result, n_reference = _count(self.result[part]), _count(self.reference[part])
        if n_reference:
            return 100 * (n_result / n_reference - 1)
        return math.inf if n_result else 0.0

    def hausdorff95_mm(self, part: slice = slice(None)) -> float:
        # In a part that one mask does not reach, the other mask's surface alone measures the distance.
        return max(float(np.percentile(d, _PERCENTILE)) for d in self._directed_distances_mm(part) if d.size)

    def average_boundary_distance_mm(self, part: slice = slice(None)) -> float:
        return float(np.mean(np.concatenate(self._directed_distances_mm(part))))

    def _directed_distances_mm(self, part: slice) -> list[NDArray[np.float64]]:
        """From the result's surface voxels within the part to the reference's surface, and the other way."""
        n_filled = int(self.result.any()) + int(self.reference.any())
        if n_filled < 2:
            return [np.array([n_filled * self._diagonal_mm])]
        if self._distances is None:
            self._distances = _surface_distances(self.result, self.reference, self._spacing_mm)
        return [distances.within(part) for distances in self._distances]


@dataclass(frozen=True)
class _SurfaceDistances:
    """From each surface voxel of one mask to the other mask's surface."""

    slice_index: NDArray[np.int64]
    distance_mm: NDArray[np.float64]

    def within(self, part: slice) -> NDArray[np.float64]:
        start, stop = part.start or 0, part.stop
        inside = self.slice_index >= start
        if stop is not None:
            inside &= self.slice_index < stop
        return self.distance_mm[inside]


def _count(mask: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))


def _surface_distances(
    mask: NDArray[np.bool_], other: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> tuple[_SurfaceDistances, _SurfaceDistances]:
    found = array_box(mask | other)
    assert found is not None, "an empty mask has no surface"
    box = tuple(slice(int(low), int(high) + 1) for low, high in zip(found[0][::-1], found[1][::-1], strict=True))
    surfaces = _surface(mask[box]), _surface(other[box])
    first, second = (
        _SurfaceDistances(
            slice_index=np.nonzero(surface)[0] + box[0].start,
            distance_mm=_distance_map_mm(target, spacing_mm)[surface].astype(np.float64),
        )
        for surface, target in (surfaces, surfaces[::-1])
    )
    return first, second


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    interior = mask.copy()
    for axis in range(mask.ndim):
        for shift in (0, 2):
            neighbours = tuple(slice(shift, shift + n) if a == axis else slice(1, -1) for a, n in enumerate(mask.shape))
            interior &= padded[neighbours]
    return mask & ~interior


def _distance_map_mm(surface: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> NDArray[np.float32]:
    """Distance from each voxel to the nearest voxel of `surface`."""
    # The signed map is 0 on its object's border. Every voxel of a surface is on the surface's own border, so the map's
    # magnitude is the distance, provided that the filter sees the background outside the image, too.
    image = sitk.GetImageFromArray(np.pad(surface, 1).astype(np.uint8))
    image.SetSpacing(spacing_mm)
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return np.abs(sitk.GetArrayViewFromImage(signed)[1:-1, 1:-1, 1:-1])
