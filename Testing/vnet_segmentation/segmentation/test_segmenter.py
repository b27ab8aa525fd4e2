"""From a scan on any grid to a mask on that grid."""

from __future__ import annotations

import json
import math
from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from vnet_segmentation.device import Device, choose_device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.metrics import dice
from vnet_segmentation.images.phantom import PhantomGrid, make_phantom
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.images.scans import read_scan
from vnet_segmentation.models.library import find_model
from vnet_segmentation.segmentation.inference import Predictor, ladder
from vnet_segmentation.segmentation.segmenter import Segmenter


@pytest.fixture(scope="module")
def real_segmenter():
    return Segmenter(find_model(None), choose_device("cpu"))


@pytest.fixture(scope="module")
def case11(real_segmenter, promise12):
    """A real scan and the bundled model's mask of it."""
    scan = read_scan(promise12 / "Case11.nii.gz")
    return scan, real_segmenter.segment(scan).mask


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


def test_all_48_axis_orders_give_the_same_mask_in_the_patient(segmenter, bright_ball, monkeypatch):
    def sees_the_ball_beyond_a_slanting_plane(predictor, crop):
        z, y, x = np.indices(crop.shape)
        return ((crop > 1) & torch.from_numpy(x + 2 * y + 3 * z > 160)).float()

    monkeypatch.setattr(Predictor, "probability", sees_the_ball_beyond_a_slanting_plane)
    scan, ball = bright_ball(centre_mm=(9, -7, 5))
    scan, ball = turned(scan, 15), turned(ball, 15)
    # Where both looks see it: part of the ball, which would be another part if an axis were mistaken for another.
    expected = segmenter.segment(scan, 0.6).mask
    assert 0.3 < dice(expected, ball) < 0.9
    for order in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            other = sitk.Flip(sitk.PermuteAxes(scan, order), flips)
            mask = segmenter.segment(other, 0.6).mask
            assert same_grid(mask, other)
            assert dice(on_the_grid_of(mask, expected), expected) >= 0.99


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("degrees", [7, 21, 38])
def test_an_oblique_scan_gives_the_same_mask_in_the_patient(segmenter, bright_ball, axis, degrees):
    scan, _ = bright_ball(centre_mm=(9, -7, 5))
    expected = segmenter.segment(scan).mask
    result = segmenter.segment(turned(scan, degrees, axis)).mask
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), sitk.GetArrayFromImage(expected))


@pytest.mark.parametrize(
    ("size", "spacing_mm"),
    [((160, 160, 10), (0.4, 0.4, 8.0)), ((40, 40, 40), (2.0, 2.0, 2.0)), ((200, 60, 12), (0.3, 1.2, 6.0))],
)
def test_anisotropic_scans(segmenter, bright_ball, size, spacing_mm):
    scan, truth = bright_ball(size=size, spacing_mm=spacing_mm)
    assert dice(segmenter.segment(scan).mask, truth) > 0.9


def test_slices_that_are_not_axial_are_warned_of(segmenter, bright_ball):
    for size, spacing_mm in (((24, 80, 80), (3, 1, 1)), ((80, 24, 80), (1, 3, 1))):
        scan, truth = bright_ball(size=size, spacing_mm=spacing_mm)
        result = segmenter.segment(scan)
        assert dice(result.mask, truth) > 0.95
        assert [warning for warning in result.report["warnings"] if "not axial" in warning]
        assert result.report["confidence"]["value"] > 0.94
        assert result.report["confidence"]["level"] == "medium"
    axial = segmenter.segment(bright_ball()[0]).report
    assert (axial["warnings"], axial["confidence"]["level"]) == ([], "high")


def test_what_is_not_part_of_the_gland_is_not_warned_of(segmenter, bright_ball):
    scan, _ = bright_ball(size=(120, 80, 24))
    # A bright bar of 4 ml at the border of the field, which the mask does not have.
    z, y, x = np.indices(scan.GetSize()[::-1])
    bar = sitk.GetImageFromArray((300 * ((x > 80) & (abs(y - 40) < 8) & (abs(z - 12) < 2))).astype(np.float32))
    bar.CopyInformation(scan)
    assert segmenter.segment(sitk.Maximum(scan, bar)).report["warnings"] == []


def test_a_gland_cut_by_the_border_of_the_scan_is_warned_of(segmenter, bright_ball):
    scan, _ = bright_ball(centre_mm=(34, 0, 0))
    assert any("touches the border of the scan" in warning for warning in segmenter.segment(scan).report["warnings"])


def test_a_gland_larger_than_the_field_of_the_model_is_warned_of(segmenter, bright_ball, monkeypatch):
    def bar_from_side_to_side(predictor, crop):
        probability = torch.zeros_like(crop)
        probability[18:30, 25:40, :] = 0.7
        probability[18:30, 25:40, 20:44] = 0.9
        return probability

    monkeypatch.setattr(Predictor, "probability", bar_from_side_to_side)
    scan, _ = bright_ball(size=(120, 100, 30))
    assert any("that the model sees" in warning for warning in segmenter.segment(scan).report["warnings"])
    # What is above a higher threshold ends before.
    assert not any("that the model sees" in warning for warning in segmenter.segment(scan, 0.85).report["warnings"])


def test_a_scan_smaller_than_the_field_of_the_model(segmenter, bright_ball):
    scan, truth = bright_ball(radius_mm=14, size=(48, 48, 12))
    assert dice(segmenter.segment(scan).mask, truth) > 0.9


def test_an_empty_result_stays_empty_and_is_warned_of(segmenter, bright_ball):
    # The authors' code turns this into a mask that is all prostate.
    scan, _ = bright_ball(brightness=100)
    scan = sitk.DiscreteGaussian(scan, 30.0) * 0 + 5
    result = segmenter.segment(scan)
    assert result.report["volume_ml"] == 0
    assert not sitk.GetArrayViewFromImage(result.mask).any()
    assert result.report["confidence"] == {"value": 0.0, "level": "low"}
    assert "No prostate was found" in result.report["warnings"][0]


def test_an_empty_mask_has_no_confidence_whatever_the_looks_found(segmenter, bright_ball, monkeypatch):
    def finds_a_speck(predictor, crop):
        probability = torch.zeros_like(crop)
        probability[20:28, 28:36, 28:36] = 0.9
        return probability

    monkeypatch.setattr(Predictor, "probability", finds_a_speck)
    # 0.8 mm in the middle, where eight voxels of the scan meet.
    segmenter.preprocessing = Preprocessing(spacing_mm=(0.1, 0.1, 0.1), size=(64, 64, 48))
    report = segmenter.segment(bright_ball()[0]).report
    assert (report["volume_ml"], report["confidence"]) == (0, {"value": 0.0, "level": "low"})


def test_a_higher_threshold_gives_a_smaller_mask(segmenter, bright_ball):
    scan = sitk.SmoothingRecursiveGaussian(bright_ball()[0], 3.0)
    volumes = [segmenter.segment(scan, threshold).report["volume_ml"] for threshold in (0.2, 0.5, 0.8)]
    assert volumes[0] > volumes[1] > volumes[2] > 0


def test_the_confidence_is_that_of_the_masks_at_the_threshold(segmenter, bright_ball, monkeypatch):
    looks = []

    def less_sure_the_second_time(predictor, crop):
        looks.append(crop)
        return (crop > 1) * (0.95 if len(looks) % 2 else 0.7)

    monkeypatch.setattr(Predictor, "probability", less_sure_the_second_time)
    at_half, above = (segmenter.segment(bright_ball()[0], threshold).report for threshold in (0.5, 0.8))
    assert at_half["volume_ml"] == pytest.approx(above["volume_ml"], rel=0.1)
    # Their mean of 0.825 is above 0.8, and the second look alone is not.
    assert at_half["confidence"]["value"] > 0.85
    assert above["confidence"]["value"] == 0


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


def test_memory_that_runs_out_is_in_the_report_and_the_mask_is_right(tiny_model, bright_ball, monkeypatch):
    segmenter = Segmenter(tiny_model, Device("cpu", "bfloat16", "For tests."))
    shapes = []

    def whole(predictor, crop):
        shapes.append(tuple(crop.shape))
        if len(shapes) == 1:
            raise MemoryError
        return (crop > 1).float()

    monkeypatch.setattr(Predictor, "_whole", whole)
    scan, truth = bright_ball()
    result = segmenter.segment(scan)
    assert dice(result.mask, truth) > 0.95
    assert result.report["warnings"] == ["Memory ran out on cpu in bfloat16; went on with cpu in bfloat16, in tiles."]
    # One failure in one piece, then two looks of four tiles: 64 * 0.625 = 40, up to a multiple of 16.
    assert shapes == [(48, 64, 64)] + [(48, 48, 48)] * 8


def test_progress_rises_to_one(segmenter, bright_ball):
    told = []
    segmenter.segment(bright_ball()[0], progress=lambda fraction, sentence: told.append((fraction, sentence)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert all(sentence for _, sentence in told)


def test_the_bundled_model_segments_phantoms(real_segmenter):
    scan, truth = make_phantom(1, PhantomGrid(size=(192, 192, 24), spacing_mm=(0.9, 0.9, 3.3)))
    assert dice(real_segmenter.segment(scan).mask, truth) > 0.8


def test_the_bundled_model_in_tiles_agrees_with_the_whole(case11):
    scan, expected = case11
    in_tiles = Segmenter(find_model(None), choose_device("cpu"))
    in_tiles._predictor._rungs = [rung for rung in ladder(choose_device("cpu")) if rung.tiled]
    assert dice(in_tiles.segment(scan).mask, expected) > 0.9


def test_the_bundled_model_is_indifferent_to_axes_and_tilt(real_segmenter, case11):
    scan, expected = case11
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


def test_the_bundled_model_on_real_cases(real_segmenter, case11, promise12):
    # It has learned from them: this shows that all steps fit together. What it does on others is in its card.
    masks = {"Case11": case11[1], "Case27": real_segmenter.segment(read_scan(promise12 / "Case27.nii.gz")).mask}
    for case, mask in masks.items():
        assert dice(mask, sitk.ReadImage(str(promise12 / f"{case}_segmentation.nii.gz"), sitk.sitkUInt8)) > 0.85
