"""Metrics against numbers derived by hand and against MONAI, an independent implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from vnet_segmentation.errors import UserError
from vnet_segmentation.images.metrics import (
    Agreement,
    average_boundary_distance_mm,
    compare,
    dice,
    hausdorff95_mm,
    relative_volume_difference_percent,
)

SIZE = (12, 11, 15)
SPACING_MM = (1.0, 1.0, 1.0)


def mask(
    *boxes: tuple[slice, slice, slice],
    size: tuple[int, int, int] = SIZE,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
) -> sitk.Image:
    """Mask of boxes, each a slice of x, y and z; x runs to the left, y to the back, z to the head."""
    array = np.zeros(size[::-1], np.uint8)
    for x, y, z in boxes:
        array[z, y, x] = 1
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm)
    return image


def cube(x: int, y: int, z: int, side: int = 1) -> tuple[slice, slice, slice]:
    return slice(x, x + side), slice(y, y + side), slice(z, z + side)


def blob(seed: int, size: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> sitk.Image:
    """An irregular mask, some of it at the image's border."""
    noise = sitk.GetImageFromArray(np.random.default_rng(seed).normal(size=size[::-1]))
    image = sitk.SmoothingRecursiveGaussian(noise, 2.0) > 0.01
    image.SetSpacing(spacing_mm)
    return image


def nested_approx(comparison: dict[str, dict[str, float]]) -> dict[str, object]:
    return {part: pytest.approx(metrics) for part, metrics in comparison.items()}


def test_dice_of_a_shifted_cube() -> None:
    # 27 voxels each, 2 x 3 x 3 = 18 in common: 2 * 18 / 54.
    assert dice(mask(cube(3, 3, 3, 3)), mask(cube(4, 3, 3, 3))) == pytest.approx(2 / 3)


def test_volume_difference_is_signed_and_relative_to_the_reference() -> None:
    large, small = mask(cube(1, 1, 1, 4)), mask(cube(1, 1, 1, 2))
    # 64 voxels against 8, and 8 against 64.
    assert relative_volume_difference_percent(large, small) == pytest.approx(700)
    assert relative_volume_difference_percent(small, large) == pytest.approx(-87.5)


def test_single_voxels_are_as_far_apart_as_their_centres_in_mm() -> None:
    spacing_mm = (0.5, 2.0, 3.0)
    first, second = mask(cube(2, 2, 2), spacing_mm=spacing_mm), mask(cube(8, 4, 6), spacing_mm=spacing_mm)
    # 6, 2 and 4 voxels: 3, 4 and 12 mm; 3-4-12-13.
    assert hausdorff95_mm(first, second) == pytest.approx(13)
    assert average_boundary_distance_mm(first, second) == pytest.approx(13)


def test_distances_of_a_shifted_slab() -> None:
    # Each slab is 1 voxel thick and so all surface; every voxel is 4 voxels of 2.5 mm from the other slab.
    whole = slice(None)
    first, second = (mask((whole, whole, slice(z, z + 1)), spacing_mm=(1, 1, 2.5)) for z in (3, 7))
    assert hausdorff95_mm(first, second) == pytest.approx(10)
    assert average_boundary_distance_mm(first, second) == pytest.approx(10)


def test_boundary_distance_pools_both_surfaces() -> None:
    # Result: one voxel at x = 0. Reference: a row from 0 to 8. Distances: 0 from the result's only voxel, 0, 1, ..., 8
    # from the reference's nine. Pooled mean 36 / 10, where the mean of both directions' means would be (0 + 4) / 2.
    result, reference = mask(cube(0, 5, 5)), mask((slice(0, 9), slice(5, 6), slice(5, 6)))
    assert average_boundary_distance_mm(result, reference) == pytest.approx(3.6)
    # The 95th percentile of 0 ... 8 lies at rank 0.95 * 8; the other direction's is 0.
    assert hausdorff95_mm(result, reference) == pytest.approx(7.6)
    assert hausdorff95_mm(reference, result) == pytest.approx(7.6)


def test_the_inside_of_a_mask_is_not_surface() -> None:
    # A 5-cube, and the same with its middle voxel missing. The outer surfaces, 5^3 - 3^3 = 98 voxels, coincide; the six
    # neighbours of the cavity are surface of the second mask only, each 1 voxel from the outer one.
    solid = mask(cube(3, 3, 3, 5))
    hollow = sitk.Image(solid)
    hollow[5, 5, 5] = 0
    assert average_boundary_distance_mm(hollow, solid) == pytest.approx(6 * 1 / (98 + 98 + 6))


def test_outside_the_image_is_background() -> None:
    # The mask fills the image: its surface is the image's shell. The centre of 5 x 5 x 5 is 2 voxels from it, and each
    # of the 98 voxels of the shell, 5^3 - 3^3, is as far from the centre as its position says.
    full, centre = mask(cube(0, 0, 0, 5), size=(5, 5, 5)), mask(cube(2, 2, 2), size=(5, 5, 5))
    offsets = [o for o in product(range(-2, 3), repeat=3) if max(map(abs, o)) == 2]
    expected = (2 + sum(math.hypot(*offset) for offset in offsets)) / (1 + 98)
    assert average_boundary_distance_mm(centre, full) == pytest.approx(expected)


def test_identical_masks() -> None:
    gland = mask(cube(3, 3, 3, 6))
    perfect = Agreement(1.0, 0.0, 0.0, 0.0)
    comparison = compare(gland, gland)
    assert (comparison.whole, comparison.base, comparison.apex) == (perfect, perfect, perfect)


def test_a_missed_gland_counts_as_far_as_the_image_is_long() -> None:
    gland, nothing = mask(cube(3, 3, 3, 6), spacing_mm=(1, 2, 3)), mask(spacing_mm=(1, 2, 3))
    # 12 x 1, 11 x 2 and 15 x 3 mm.
    far_mm = math.sqrt(12**2 + 22**2 + 45**2)
    missed = asdict(Agreement(0.0, far_mm, far_mm, -100.0))
    assert asdict(compare(nothing, gland)) == nested_approx({"whole": missed, "base": missed, "apex": missed})


def test_a_gland_that_is_not_there() -> None:
    gland, nothing = mask(cube(3, 3, 3, 6)), mask()
    comparison = compare(gland, nothing)
    far_mm = math.sqrt(12**2 + 11**2 + 15**2)
    assert asdict(comparison.whole) == pytest.approx(asdict(Agreement(0.0, far_mm, far_mm, math.inf)))
    assert comparison.whole == comparison.base == comparison.apex


def test_two_empty_masks_agree() -> None:
    comparison = compare(mask(), mask())
    assert comparison.whole == comparison.base == comparison.apex == Agreement(1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("n_slices", "n_part"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (9, 3), (10, 3), (11, 4)]
)
def test_base_and_apex_are_a_third_of_the_slices_each(n_slices: int, n_part: int) -> None:
    plane = slice(4, 7), slice(4, 7)
    reference = mask((*plane, slice(2, 2 + n_slices)))
    # The result has the uppermost slice only: one slice in common with the n_part of the base.
    comparison = compare(mask((*plane, slice(n_slices + 1, n_slices + 2))), reference)
    assert comparison.base.dice == pytest.approx(2 / (1 + n_part))
    assert comparison.apex.dice == (1.0 if n_slices == 1 else 0.0)


def test_what_the_result_has_beyond_the_reference_belongs_to_the_part_at_that_end() -> None:
    plane = slice(4, 7), slice(4, 7)
    # Reference: slices 3 to 8, the base 7 and 8. The result goes on to slice 10: 2 slices of 4 in common.
    comparison = compare(mask((*plane, slice(3, 11))), mask((*plane, slice(3, 9))))
    assert comparison.base.dice == pytest.approx(2 * 2 / (4 + 2))
    assert comparison.base.relative_volume_difference_percent == pytest.approx(100)
    assert comparison.apex == Agreement(1.0, 0.0, 0.0, 0.0)


def test_a_part_that_the_result_does_not_reach_is_as_far_as_the_result_ends() -> None:
    column = slice(4, 5), slice(4, 5)
    # A column of single voxels, all surface. Reference: slices 0 to 8, the base 6 to 8; the result ends at slice 4,
    # which is 2, 3 and 4 slices of 2 mm away: mean 6 mm, 95th percentile at rank 0.95 * 2 of 4, 6, 8.
    comparison = compare(
        mask((*column, slice(0, 5)), spacing_mm=(1, 1, 2)), mask((*column, slice(0, 9)), spacing_mm=(1, 1, 2))
    )
    assert asdict(comparison.base) == pytest.approx(asdict(Agreement(0.0, 7.8, 6.0, -100.0)))


def test_parts_of_a_gland_follow_the_patient_in_every_axis_order() -> None:
    spacing_mm = (1.0, 2.0, 3.0)
    result = mask(cube(3, 3, 3, 5), cube(5, 5, 8, 2), spacing_mm=spacing_mm)
    reference = mask(cube(4, 3, 2, 5), cube(5, 5, 7, 4), spacing_mm=spacing_mm)
    expected = compare(result, reference)
    assert len({expected.whole.dice, expected.base.dice, expected.apex.dice}) == 3
    for axes in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            turned = [sitk.Flip(sitk.PermuteAxes(image, axes), flips, False) for image in (result, reference)]
            assert asdict(compare(*turned)) == nested_approx(asdict(expected))


def test_parts_follow_the_axis_nearest_to_the_patients() -> None:
    result, reference = mask(cube(3, 3, 3, 5)), mask(cube(4, 3, 2, 5))
    expected = compare(result, reference)
    # Tilted by 40 degrees about the left-right axis: still the axis of the slices is the nearest to head-foot.
    c, s = math.cos(math.radians(40)), math.sin(math.radians(40))
    for image in (result, reference):
        image.SetDirection((1, 0, 0, 0, c, -s, 0, s, c))
        image.SetOrigin((-70, 33, 512))
    assert asdict(compare(result, reference)) == nested_approx(asdict(expected))


def test_at_45_degrees_a_rounded_direction_turns_no_mask_another_way() -> None:
    result, reference = mask(cube(3, 2, 4, 5)), mask(cube(3, 2, 4, 5))
    for image, c, s in ((result, 0.70710, 0.70711), (reference, 0.70711, 0.70710)):
        image.SetDirection((1, 0, 0, 0, c, -s, 0, s, c))
    assert dice(result, reference) == 1
    assert hausdorff95_mm(result, reference) == 0


@pytest.mark.filterwarnings("ignore:monai.metrics.utils:FutureWarning")
@pytest.mark.parametrize(
    ("seed", "size", "spacing_mm"),
    [(0, (20, 18, 14), (1.0, 1.0, 1.0)), (1, (25, 20, 9), (0.5, 0.7, 3.0)), (2, (9, 30, 16), (3.3, 0.4, 0.4))],
)
def test_against_monai(seed: int, size: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> None:
    monai_metrics = pytest.importorskip("monai.metrics", reason="needs MONAI, the independent implementation")
    pytest.importorskip("scipy", reason="MONAI's surface distances need SciPy")
    result, reference = blob(2 * seed, size, spacing_mm), blob(2 * seed + 1, size, spacing_mm)
    batches = [torch.from_numpy(sitk.GetArrayFromImage(image))[None, None].float() for image in (result, reference)]
    options = {"include_background": True, "spacing": spacing_mm[::-1]}
    whole = compare(result, reference).whole
    assert whole.dice == pytest.approx(monai_metrics.compute_dice(*batches).item())
    assert whole.hausdorff95_mm == pytest.approx(
        monai_metrics.compute_hausdorff_distance(*batches, percentile=95, **options).item()
    )
    assert whole.average_boundary_distance_mm == pytest.approx(
        monai_metrics.compute_average_surface_distance(*batches, symmetric=True, **options).item()
    )


def test_the_single_metrics_are_those_of_the_comparison() -> None:
    result, reference = blob(7, (14, 15, 16), (1, 2, 3)), blob(8, (14, 15, 16), (1, 2, 3))
    assert compare(result, reference).whole == Agreement(
        dice(result, reference),
        hausdorff95_mm(result, reference),
        average_boundary_distance_mm(result, reference),
        relative_volume_difference_percent(result, reference),
    )


def test_masks_of_other_sizes_are_refused() -> None:
    with pytest.raises(UserError, match=r"12 x 11 x 14 voxels against 12 x 11 x 15"):
        dice(mask(size=(12, 11, 14)), mask())


@pytest.mark.parametrize(
    "move",
    [
        lambda image: image.SetOrigin((0.2, 0, 0)),
        lambda image: image.SetSpacing((1, 1, 1.02)),
        lambda image: image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1)),
    ],
)
def test_masks_that_lie_elsewhere_are_refused(move: Callable[[sitk.Image], None]) -> None:
    moved = mask(cube(3, 3, 3, 5))
    move(moved)
    with pytest.raises(UserError, match="spacing, origin or direction"):
        compare(moved, mask(cube(3, 3, 3, 5)))


def test_rounding_of_a_header_is_not_another_grid() -> None:
    rounded = mask(cube(3, 3, 3, 5))
    rounded.SetOrigin((1e-5, 0, 0))
    rounded.SetSpacing((1, 1, 1.000001))
    comparison = compare(rounded, mask(cube(3, 3, 3, 5)))
    assert comparison.whole == Agreement(1.0, 0.0, 0.0, 0.0)


def test_a_real_gland_shifted_by_one_voxel(promise12: Path) -> None:
    reference = sitk.ReadImage(str(promise12 / "Case10_segmentation.nii.gz"))
    shifted = sitk.Resample(reference, reference, sitk.TranslationTransform(3, (reference.GetSpacing()[0], 0, 0)))
    whole = compare(shifted, reference).whole
    # No surface voxel is farther than the shift from the other surface; where that runs along the shift, it is nearer.
    assert 0 < whole.average_boundary_distance_mm < whole.hausdorff95_mm
    assert whole.hausdorff95_mm == pytest.approx(reference.GetSpacing()[0])
