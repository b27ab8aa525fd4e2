"""From a scan to the network's tensor and back."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from vnet_segmentation.images import preprocessing
from vnet_segmentation.images.preprocessing import (
    Preprocessing,
    centre_mm,
    correct_bias_field,
    crop,
    grid_around,
    normalise,
    orient,
    prepare,
    smooth_for_spacing,
    to_scan_grid,
)

SMALL = Preprocessing(spacing_mm=(1.0, 1.0, 1.5), size=(48, 48, 32))


def scan(size=(20, 24, 10), spacing=(1.1, 0.9, 3.0)):
    array = np.random.default_rng(0).uniform(50, 400, size[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-12.0, 30.0, 5.0))
    return image


def rearranged(image):
    """The same patient in all 48 axis orders and directions."""
    for order in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            yield sitk.Flip(sitk.PermuteAxes(image, order), flips)


def test_all_48_axis_orders_are_oriented_to_the_same_voxels():
    image = scan()
    count = 0
    for other in rearranged(image):
        oriented = orient(other)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(oriented), sitk.GetArrayFromImage(image))
        np.testing.assert_allclose(oriented.GetOrigin(), image.GetOrigin(), atol=1e-9)
        np.testing.assert_allclose(oriented.GetDirection(), image.GetDirection(), atol=1e-12)
        count += 1
    assert count == 48


def test_a_grid_is_centred_on_its_point_along_the_images_axes():
    image = scan()
    angle = math.radians(20)
    image.SetDirection([1, 0, 0, 0, math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle)])
    grid = grid_around(image, np.array([3.0, -4.0, 5.0]), (1.0, 2.0, 3.0), (5, 7, 9))
    np.testing.assert_allclose(grid.TransformIndexToPhysicalPoint((2, 3, 4)), (3, -4, 5), atol=1e-9)
    assert grid.GetDirection() == image.GetDirection()


def test_padding_is_the_same_on_both_sides_of_a_centred_crop():
    image = scan(size=(20, 24, 10), spacing=(1.0, 1.0, 1.5))
    values, _ = crop(prepare(image, SMALL), centre_mm(image), SMALL)
    used = values != 0
    for axis, (n, side) in enumerate(((10, 32), (24, 48), (20, 48))):
        assert used.nonzero()[:, axis].unique().tolist() == list(range((side - n) // 2, (side + n) // 2))


def test_a_crop_is_interpolated_between_the_scans_voxels():
    ramp = np.tile(np.arange(18, dtype=np.float32), (16, 20, 1))
    image = sitk.GetImageFromArray(ramp)
    image.SetSpacing((4.0, 4.0, 4.0))
    values, _ = crop(image, centre_mm(image), SMALL)
    # But for its ends, which are clipped.
    steps = values[16, 24, 2:-2].diff()
    assert steps.min().item() == pytest.approx(steps.max().item(), rel=1e-3)
    assert steps.min() > 0


def test_a_scan_is_prepared_by_orienting_and_smoothing_and_by_n4_where_it_is_asked_for(monkeypatch):
    image = scan(spacing=(0.4, 0.4, 3.0))
    turned = sitk.Cast(sitk.Flip(image, (True, False, True)), sitk.sitkUInt16)
    smooth = smooth_for_spacing(sitk.Cast(sitk.Cast(image, sitk.sitkUInt16), sitk.sitkFloat32), SMALL.spacing_mm)
    expected = sitk.GetArrayFromImage(smooth)
    np.testing.assert_allclose(sitk.GetArrayFromImage(prepare(turned, SMALL)), expected, rtol=1e-5)
    # N4 itself is slow.
    monkeypatch.setattr(preprocessing, "correct_bias_field", lambda scan: scan * 2)
    corrected = prepare(turned, replace(SMALL, bias_correction=True))
    np.testing.assert_allclose(sitk.GetArrayFromImage(corrected), 2 * expected, rtol=1e-5)


def test_normalised_values_have_mean_0_and_deviation_1_inside_and_are_0_outside():
    values = torch.rand(20, 20, 20, generator=torch.Generator().manual_seed(0)) * 500
    inside = torch.zeros_like(values, dtype=torch.bool)
    inside[5:15] = True
    result = normalise(values, inside, (0, 100))
    assert result[inside].mean().item() == pytest.approx(0, abs=1e-5)
    assert result[inside].std().item() == pytest.approx(1, abs=1e-3)
    assert not result[~inside].any()


def test_normalisation_ignores_scale_offset_and_a_few_bright_voxels():
    values = torch.rand(20, 20, 20, generator=torch.Generator().manual_seed(0))
    inside = torch.ones_like(values, dtype=torch.bool)
    plain = normalise(values, inside, (0.5, 99.5))
    # Unsigned scans begin at 32768: a contrast of less than a hundredth.
    torch.testing.assert_close(normalise(values * 70 + 32768, inside, (0.5, 99.5)), plain, atol=1e-3, rtol=0)
    glaring = values.clone()
    glaring[0, 0, :3] = 1e6
    result = normalise(glaring, inside, (0.5, 99.5))
    torch.testing.assert_close(result[1:], plain[1:], atol=0.02, rtol=0)
    # They are no brighter than the brightest of the others.
    assert result[0, 0, :3].tolist() == [result[1:].max().item()] * 3


@pytest.mark.parametrize("n_inside", [0, 1, 8000])
def test_nothing_to_normalise_is_0(n_inside):
    inside = (torch.arange(8000) < n_inside).reshape(20, 20, 20)
    assert not normalise(torch.full((20, 20, 20), 7.0), inside, (0.5, 99.5)).any()


def test_smoothing_keeps_a_constant_and_leaves_coarse_scans_alone():
    fine = scan(spacing=(0.5, 0.5, 3.0)) * 0 + 7
    np.testing.assert_allclose(sitk.GetArrayFromImage(smooth_for_spacing(fine, (1, 1, 1.5))), 7, rtol=1e-4)
    coarse = scan(spacing=(1.2, 1.2, 3.0))
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(smooth_for_spacing(coarse, (1, 1, 1.5))), sitk.GetArrayFromImage(coarse)
    )


def test_an_axis_of_three_voxels_is_too_short_to_be_smoothed():
    image = scan(size=(3, 24, 10), spacing=(0.4, 1.2, 3.0))
    smooth = smooth_for_spacing(image, (1, 1, 1.5))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(smooth), sitk.GetArrayFromImage(image))


def test_smoothing_has_the_width_that_makes_the_coarser_voxel():
    # A point of 0.5 mm voxels becomes a Gaussian of FWHM sqrt(1^2 - 0.5^2) = 0.866 mm, sigma 0.368 mm.
    array = np.zeros((5, 41, 41), np.float32)
    array[2, 20, 20] = 1
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.5, 3.0))
    line = sitk.GetArrayFromImage(smooth_for_spacing(image, (1, 1, 1.5)))[2].sum(0)
    x = (np.arange(41) - 20) * 0.5
    assert math.sqrt((line * x**2).sum() / line.sum()) == pytest.approx(0.368, rel=0.1)


@pytest.mark.parametrize(("coarse_mm", "is_smoothed"), [(1.1, False), (1.4, True)])
def test_only_a_grid_that_is_coarser_by_a_fifth_and_more_needs_smoothing(coarse_mm, is_smoothed):
    image = scan(spacing=(1.0, 1.0, 3.0))
    smooth = smooth_for_spacing(image, (coarse_mm, coarse_mm, 3.0))
    assert is_smoothed == (sitk.GetArrayFromImage(smooth) != sitk.GetArrayFromImage(image)).any()


def test_probability_returns_to_the_scans_exact_grid():
    image = scan(size=(40, 44, 14), spacing=(0.9, 0.9, 2.6))
    turned = sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), (True, False, True))
    prepared = prepare(turned, SMALL)
    _, grid = crop(prepared, centre_mm(prepared), SMALL)
    # A probability that is linear in the patient's coordinates is interpolated without error.
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.GetSize()), indexing="ij"), -1).reshape(-1, 3)
    axes = np.array(grid.GetDirection()).reshape(3, 3) * np.array(grid.GetSpacing())
    position = index @ axes.T + np.array(grid.GetOrigin())
    linear = (0.5 + position @ np.array([0.004, -0.003, 0.005])).reshape(grid.GetSize()).transpose(2, 1, 0)
    result = to_scan_grid(torch.from_numpy(linear), grid, turned)
    assert result.GetSize() == turned.GetSize()
    assert result.GetSpacing() == turned.GetSpacing()
    assert result.GetOrigin() == turned.GetOrigin()
    assert result.GetDirection() == turned.GetDirection()
    for voxel in [(0, 0, 0), (7, 20, 22), (13, 39, 43)]:
        expected = 0.5 + np.dot(turned.TransformIndexToPhysicalPoint(voxel), [0.004, -0.003, 0.005])
        assert result[voxel] == pytest.approx(expected, abs=1e-4)


def test_beyond_the_crop_there_is_no_probability():
    # 48 mm of the scan's 60 are seen.
    image = scan(size=(60, 40, 30), spacing=(1.0, 1.0, 1.5))
    _, grid = crop(image, centre_mm(image), SMALL)
    row = sitk.GetArrayFromImage(to_scan_grid(torch.ones(32, 48, 48), grid, image))[15, 20]
    assert row.tolist() == [0] * 6 + [1] * 48 + [0] * 6


def test_n4_flattens_a_bias_field():
    x = np.linspace(-1, 1, 48)
    array = 100 * np.exp(0.4 * x)[None, None, :] * np.ones((12, 48, 1))
    array += np.random.default_rng(0).normal(0, 2, array.shape)
    array[:, :8], array[:, -8:] = 1, 1  # air, so that there is a foreground to find
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing((2.0, 2.0, 4.0))

    def variation(volume):
        tissue = sitk.GetArrayFromImage(volume)[:, 10:-10]
        return tissue.std() / tissue.mean()

    assert variation(correct_bias_field(image, shrink_factor=2)) < variation(image) / 3


@pytest.mark.parametrize(
    ("size", "spacing_mm", "factors"),
    [
        # Thick slices, fewer than 32: all are kept.
        ((64, 64, 20), (0.5, 0.5, 3.6), [4, 4, 1]),
        # Half of many, as the field is smooth; voxels of 2 x 2 x 6 mm are left.
        ((64, 64, 40), (0.5, 0.5, 3.0), [4, 4, 2]),
        # In plane nothing gets coarser than 4.4 mm, twice the slices.
        ((128, 128, 32), (1.3, 1.3, 2.2), [3, 3, 2]),
        # 16 voxels are left where there are 40.
        ((40, 40, 12), (0.5, 0.5, 3.0), [2, 2, 1]),
    ],
)
def test_n4_looks_at_fewer_voxels_where_that_loses_nothing(monkeypatch, size, spacing_mm, factors):
    image = sitk.GaussianSource(sitk.sitkFloat32, size, [s / 4 for s in size], [s / 2 for s in size])
    image.SetSpacing(spacing_mm)
    image.SetOrigin((0.0, 0.0, 0.0))
    asked = []

    def shrink(image, factors):
        asked.append(factors)
        raise KeyboardInterrupt  # N4 itself is slow and not needed here

    monkeypatch.setattr(sitk, "Shrink", shrink)
    with pytest.raises(KeyboardInterrupt):
        correct_bias_field(image)
    assert asked == [factors]


def test_settings_survive_a_round_trip_through_json_types():
    settings = {key: list(v) if isinstance(v, tuple) else v for key, v in SMALL.as_dict().items()}
    assert Preprocessing.from_dict(settings) == SMALL
    assert SMALL.extent_mm == (48.0, 48.0, 48.0)
    assert Preprocessing.from_dict(settings | {"size": [16, 16, 32]}).size == (16, 16, 32)


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},
        {"size": [128, 128]},
        {"size": [100, 128, 64]},
        {"size": [16, 16, 16]},
        {"size": [1 << 20, 128, 64]},
        {"spacing_mm": [0.0, 1.0, 1.5]},
        {"spacing_mm": [1.0, 0.01, 1.5]},
        {"spacing_mm": [1.0, 1.0, 11.0]},
        {"clip_percentiles": [99.0, 1.0]},
        {"clip_percentiles": [50.0, 50.0]},
        {"clip_percentiles": [0.5, 101.0]},
    ],
)
def test_settings_that_no_model_has_are_refused(change):
    with pytest.raises((TypeError, ValueError)):
        Preprocessing.from_dict(SMALL.as_dict() | change)
