from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.images.masks import (
    keep_largest_component,
    mask_from_probability,
    part_sizes,
    slice_axis,
    smooth_probability,
)


def test_only_the_largest_part_is_kept():
    array = np.zeros((6, 20, 20), np.float32)
    array[1:4, 2:8, 2:8] = 0.9  # 108 voxels
    array[4, 8, 8] = 0.9  # touches it by a corner alone
    array[2:4, 12:16, 12:16] = 0.9  # 32 voxels
    array[0, 0, 0] = 0.49
    mask = sitk.GetArrayFromImage(mask_from_probability(sitk.GetImageFromArray(array), 0.5))
    assert mask.sum() == 108
    assert mask[1:4, 2:8, 2:8].all()


@pytest.mark.parametrize("n_first", [2, 4])
def test_of_two_parts_the_larger_is_kept(n_first):
    array = np.zeros((3, 4, 12), np.uint8)
    array[1, 1, 1 : 1 + n_first] = 1
    array[1, 1, 8:11] = 1
    mask = sitk.GetArrayFromImage(keep_largest_component(sitk.GetImageFromArray(array)))
    array[1, 1, slice(0, 6) if n_first == 2 else slice(7, 12)] = 0
    np.testing.assert_array_equal(mask, array)


def test_parts_that_touch_by_a_corner_are_one_when_parts_are_counted():
    array = np.zeros((4, 5, 9), np.uint8)
    assert part_sizes(sitk.GetImageFromArray(array)) == []
    array[1, 1, 1] = array[2, 2, 2] = 1
    array[1:3, 1:3, 6] = 1
    assert part_sizes(sitk.GetImageFromArray(array)) == [4, 2]


def test_an_empty_mask_and_one_part_are_left_as_they_are():
    empty = sitk.Image(4, 4, 4, sitk.sitkUInt8)
    assert not sitk.GetArrayFromImage(keep_largest_component(empty)).any()
    one = sitk.Image(empty)
    one[1, 2, 3] = 1
    np.testing.assert_array_equal(sitk.GetArrayFromImage(keep_largest_component(one)), sitk.GetArrayFromImage(one))


def test_a_probability_that_rounding_took_beyond_1_is_prostate_and_the_threshold_itself_is():
    array = np.array([0.4999, 0.5, 1.0, 1.0000002], np.float32).reshape(1, 1, 4)
    assert sitk.GetArrayFromImage(mask_from_probability(sitk.GetImageFromArray(array))).ravel().tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2, 1)])
def test_specks_beyond_the_ends_and_beside_the_gland_are_left_out_whatever_the_order_of_axes(order):
    array = np.zeros((10, 40, 40), np.float32)
    array[2:8, 5:30, 5:30] = 1
    # Of voxels of 0.25 mm^2, 40 have 10 mm^2.
    array[1, 10:20, 10:14] = 1
    array[8, 10:20, 10:14] = 1
    array[8, 10, 10] = 0
    expected = array.astype(np.uint8)
    expected[8] = 0
    # Beside the gland in its slice, and connected with it by the slices above and below.
    array[5, :, 20:] = 0
    array[5, 10, 25:29] = 1
    expected[5, :, 20:] = 0
    probability = sitk.GetImageFromArray(array)
    probability.SetSpacing((1.0, 0.25, 3.0))
    mask = mask_from_probability(sitk.PermuteAxes(probability, order))
    back = sitk.PermuteAxes(mask, np.argsort(order).tolist())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), expected)
    assert back.GetSpacing() == probability.GetSpacing()


def test_what_hangs_on_a_speck_goes_with_it_unless_it_is_a_share_of_the_mask():
    array = np.zeros((12, 30, 30), np.float32)
    array[0:4, :20, :20] = 1  # 1600 voxels of 1 mm^2
    array[4, 10, 10:12] = 1  # a speck
    array[5, 8:13, 8:13] = 1  # 25 voxels, 1.5 %
    mask = sitk.GetArrayFromImage(mask_from_probability(sitk.GetImageFromArray(array)))
    assert mask.sum() == 1600
    array[5:9, 8:13, 8:13] = 1  # 100 voxels, 5.9 %
    mask = sitk.GetArrayFromImage(mask_from_probability(sitk.GetImageFromArray(array)))
    np.testing.assert_array_equal(mask, array)


def test_a_mask_of_specks_alone_is_left_as_it_is():
    array = np.zeros((9, 12, 12), np.float32)
    array[2:7, 4:7, 4:7] = 1
    mask = sitk.GetArrayFromImage(mask_from_probability(sitk.GetImageFromArray(array)))
    np.testing.assert_array_equal(mask, array)


@pytest.mark.parametrize(
    ("spacing_mm", "axes_of_the_patient", "expected"),
    [
        ((0.5, 0.5, 3.0), "xyz", 2),
        ((3.0, 0.5, 0.5), "xyz", 0),  # sagittal
        ((3.0, 0.5, 0.5), "zxy", 0),  # axial, in another order
        ((0.8, 0.8, 0.7), "xyz", 2),
        ((0.8, 0.8, 0.8), "yzx", 1),  # sagittal, of cubes
        ((1.1, 0.8, 0.8), "xyz", 2),  # not yet 1.5 times
        ((1.3, 0.8, 0.8), "xyz", 0),
    ],
)
def test_slices_lie_across_the_widest_spacing_or_the_foot_head_axis(spacing_mm, axes_of_the_patient, expected):
    image = sitk.Image(4, 5, 6, sitk.sitkUInt8)
    image.SetSpacing(spacing_mm)
    direction = np.zeros((3, 3))
    for column, axis in enumerate(axes_of_the_patient):
        direction["xyz".index(axis), column] = -1
    tilt = np.radians(30)
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    image.SetDirection((about_x @ direction).ravel().tolist())
    assert slice_axis(image) == expected


# A Gaussian's integral: a quarter of a millimetre past the step is sigma / 4, Phi(0.25) = 0.599, or sigma / 8.
@pytest.mark.parametrize(("sigma_mm", "expected"), [(1.0, 0.599), (2.0, 0.550)])
def test_smoothing_rounds_a_step_and_keeps_its_middle_and_the_grid(sigma_mm, expected):
    array = np.zeros((5, 9, 30), np.float32)
    array[:, :, 15:] = 1.0
    sharp = sitk.GetImageFromArray(array)
    sharp.SetSpacing((0.5, 0.5, 3.0))
    sharp.SetOrigin((1.0, 2.0, 3.0))
    smooth = smooth_probability(sharp, sigma_mm)
    row = sitk.GetArrayFromImage(smooth)[2, 4]
    # The step is between voxels 14 and 15, of 0.5 mm. By symmetry both sides of it add up to 1.
    assert (np.diff(row) >= -1e-6).all()
    np.testing.assert_allclose(row[14] + row[15], 1.0, atol=1e-3)
    np.testing.assert_allclose(row[15], expected, atol=0.02)
    assert smooth.GetSpacing() == sharp.GetSpacing()
    assert smooth.GetOrigin() == sharp.GetOrigin()
    assert smooth.GetPixelID() == sitk.sitkFloat32


def test_smoothing_stays_within_0_and_1():
    array = np.random.default_rng(0).integers(0, 2, (4, 8, 8)).astype(np.float32)
    smooth = sitk.GetArrayFromImage(smooth_probability(sitk.GetImageFromArray(array), sigma_mm=0.7))
    assert smooth.min() >= 0
    assert smooth.max() <= 1
