"""From a scan on any grid to a mask on that grid."""

from __future__ import annotations

import json
import math
from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from vnet_segmentation.device import choose_device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.inference import Predictor
from vnet_segmentation.metrics import dice
from vnet_segmentation.model_library import find_model
from vnet_segmentation.phantom import PhantomGrid, make_phantom
from vnet_segmentation.scans import read_scan
from vnet_segmentation.segmenter import Segmenter, keep_largest_component, mask_from_probability


@pytest.fixture
def segmenter(tiny_model, sees_bright):
    return Segmenter(tiny_model, choose_device("cpu", "float32"))


@pytest.fixture(scope="module")
def real_segmenter():
    return Segmenter(find_model(None), choose_device("cpu"))


def on_the_grid_of(mask, image):
    return sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)


def same_grid(first, second):
    return (
        first.GetSize() == second.GetSize()
        and first.GetSpacing() == second.GetSpacing()
        and first.GetOrigin() == second.GetOrigin()
        and first.GetDirection() == second.GetDirection()
    )


def turned(image, degrees, axis=0):
    """The same voxels in a patient who lies obliquely."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    matrix = np.roll(np.roll(matrix, axis, 0), axis, 1)
    result = sitk.Image(image)
    result.SetDirection((matrix @ np.array(image.GetDirection()).reshape(3, 3)).ravel().tolist())
    result.SetOrigin((matrix @ np.array(image.GetOrigin())).tolist())
    return result


def test_the_mask_is_the_gland_on_the_scans_own_grid(segmenter, bright_ball):
    scan, truth = bright_ball(centre_mm=(4, -3, 2))
    result = segmenter.segment(scan)
    assert same_grid(result.mask, scan)
    assert same_grid(result.probability, scan)
    assert result.mask.GetPixelID() == sitk.sitkUInt8
    assert dice(result.mask, truth) > 0.95
    # (4/3) pi 1.6^3 = 17.2 ml
    assert result.report["volume_ml"] == pytest.approx(17.2, rel=0.06)


def test_all_48_axis_orders_give_the_same_mask_in_the_patient(segmenter, bright_ball):
    scan, _ = bright_ball(centre_mm=(9, -7, 5))
    expected = segmenter.segment(scan).mask
    for order in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            other = sitk.Flip(sitk.PermuteAxes(scan, order), flips)
            mask = segmenter.segment(other).mask
            assert same_grid(mask, other)
            assert dice(on_the_grid_of(mask, expected), expected) >= 0.99


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("degrees", [7, 21, 38])
def test_an_oblique_scan_gives_the_same_mask_in_the_patient(segmenter, bright_ball, axis, degrees):
    scan, _ = bright_ball(centre_mm=(9, -7, 5))
    expected = segmenter.segment(scan).mask
    result = segmenter.segment(turned(scan, degrees, axis)).mask
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), sitk.GetArrayFromImage(expected))


@pytest.mark.parametrize("centre_mm", [(60, 0, 0), (-70, 75, 0), (0, -78, 30), (80, 80, -40)])
def test_a_gland_away_from_the_centre_of_a_large_field_is_found(segmenter, bright_ball, centre_mm):
    scan, truth = bright_ball(centre_mm, size=(120, 120, 44), spacing_mm=(2, 2, 3))
    result = segmenter.segment(scan)
    assert dice(result.mask, truth) > 0.93
    assert result.report["warnings"] == []


def test_a_gland_cut_by_the_border_of_the_scan_is_warned_of(segmenter, bright_ball):
    scan, _ = bright_ball(centre_mm=(34, 0, 0))
    assert any("touches the border of the scan" in warning for warning in segmenter.segment(scan).report["warnings"])


def test_a_gland_larger_than_the_field_of_the_model_is_warned_of(segmenter, bright_ball, monkeypatch):
    def bar_from_side_to_side(predictor, crop):
        probability = torch.zeros_like(crop)
        probability[18:30, 25:40, :] = 0.9
        return probability

    monkeypatch.setattr(Predictor, "probability", bar_from_side_to_side)
    scan, _ = bright_ball(size=(120, 100, 30))
    assert any("that the model sees" in warning for warning in segmenter.segment(scan).report["warnings"])


def test_a_scan_smaller_than_the_field_of_the_model(segmenter, bright_ball):
    scan, truth = bright_ball(radius_mm=14, size=(48, 48, 12))
    assert dice(segmenter.segment(scan).mask, truth) > 0.9


def test_an_empty_result_stays_empty_and_is_warned_of(segmenter, bright_ball):
    # The authors' code turns this into a mask that is all prostate.
    scan, _ = bright_ball(brightness=100)
    scan = sitk.DiscreteGaussian(scan, 30.0) * 0 + 5
    result = segmenter.segment(scan)
    assert result.is_empty
    assert not sitk.GetArrayViewFromImage(result.mask).any()
    assert result.report["confidence"] == {"value": 0.0, "level": "low"}
    assert "No prostate was found" in result.report["warnings"][0]


def test_a_higher_threshold_gives_a_smaller_mask(segmenter, bright_ball):
    scan = sitk.SmoothingRecursiveGaussian(bright_ball()[0], 3.0)
    volumes = [segmenter.segment(scan, threshold).report["volume_ml"] for threshold in (0.2, 0.5, 0.8)]
    assert volumes[0] > volumes[1] > volumes[2] > 0


@pytest.mark.parametrize("threshold", [0, 1, -0.5, math.nan])
def test_thresholds_out_of_range_are_refused(segmenter, bright_ball, threshold):
    with pytest.raises(UserError, match="between 0 and 1") as caught:
        segmenter.segment(bright_ball()[0], threshold)
    assert caught.value.exit_code == ExitCode.USAGE


def test_the_report_is_complete_plain_json(segmenter, bright_ball):
    report = json.loads(json.dumps(segmenter.segment(bright_ball()[0]).report))
    assert set(report) == {
        "volume_ml",
        "diameters_mm",
        "ellipsoid_volume_ml",
        "confidence",
        "threshold",
        "model",
        "device",
        "seconds",
        "warnings",
    }
    # 32 voxels of 1 mm lie within 16 mm of the middle, and 10 slices of 3 mm.
    assert report["diameters_mm"] == pytest.approx({"transverse": 32, "anteroposterior": 32, "craniocaudal": 30}, abs=1)
    assert report["model"]["name"] == "tiny"
    assert len(report["model"]["sha256"]) == 64
    assert report["device"]["name"] == "cpu"
    assert report["device"]["reason"]
    assert set(report["seconds"]) == {"prepare", "network", "mask"}


def test_progress_rises_to_one(segmenter, bright_ball):
    told = []
    segmenter.segment(bright_ball()[0], progress=lambda fraction, sentence: told.append((fraction, sentence)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert all(sentence for _, sentence in told)


def test_only_the_largest_part_is_kept():
    array = np.zeros((6, 20, 20), np.float32)
    array[1:4, 2:8, 2:8] = 0.9  # 108 voxels
    array[4, 8, 8] = 0.9  # touches it by a corner alone
    array[2:4, 12:16, 12:16] = 0.9  # 32 voxels
    array[0, 0, 0] = 0.49
    mask = sitk.GetArrayFromImage(mask_from_probability(sitk.GetImageFromArray(array), 0.5))
    assert mask.sum() == 108
    assert mask[1:4, 2:8, 2:8].all()


def test_an_empty_mask_and_one_part_are_left_as_they_are():
    empty = sitk.Image(4, 4, 4, sitk.sitkUInt8)
    assert not sitk.GetArrayFromImage(keep_largest_component(empty)).any()
    one = sitk.Image(empty)
    one[1, 2, 3] = 1
    np.testing.assert_array_equal(sitk.GetArrayFromImage(keep_largest_component(one)), sitk.GetArrayFromImage(one))


def test_the_bundled_model_segments_phantoms(real_segmenter):
    scan, truth = make_phantom(1, PhantomGrid(size=(192, 192, 24), spacing_mm=(0.9, 0.9, 3.3)))
    assert dice(real_segmenter.segment(scan).mask, truth) > 0.8


def test_the_bundled_model_is_indifferent_to_axes_and_tilt(real_segmenter, promise12):
    scan = read_scan(promise12 / "Case42.nii.gz")
    expected = real_segmenter.segment(scan).mask
    for order, flips in (((2, 0, 1), (True, False, True)), ((1, 2, 0), (False, True, False))):
        mask = real_segmenter.segment(sitk.Flip(sitk.PermuteAxes(scan, order), flips)).mask
        assert dice(on_the_grid_of(mask, expected), expected) >= 0.99
    tilted = real_segmenter.segment(turned(scan, 17)).mask
    tilted.CopyInformation(expected)
    assert dice(tilted, expected) >= 0.99


def test_the_bundled_model_agrees_with_itself_in_three_planes(real_segmenter, native):
    masks = [
        real_segmenter.segment(read_scan(native / f"ProstateX-0217_t2_tse_{plane}.nrrd")).mask
        for plane in ("tra", "sag", "cor")
    ]
    for other in masks[1:]:
        assert dice(on_the_grid_of(other, masks[0]), masks[0]) > 0.7


def test_the_bundled_model_on_cases_that_it_has_not_seen(real_segmenter, promise12):
    # Two of its validation cases, from two sites; the model card has all.
    for case in ("Case11", "Case27"):
        mask = real_segmenter.segment(read_scan(promise12 / f"{case}.nii.gz")).mask
        assert dice(mask, sitk.ReadImage(str(promise12 / f"{case}_segmentation.nii.gz"), sitk.sitkUInt8)) > 0.85
