from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.images.masks import (
    keep_largest_component,
    mask_from_probability,
    part_sizes,
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
