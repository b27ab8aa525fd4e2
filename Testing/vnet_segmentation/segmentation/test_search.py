"""The gland is found wherever in the scan it lies, and nothing else is taken for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from vnet_segmentation.images.metrics import dice
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.segmentation.inference import Predictor


# The first one is cut by the border of the field that is seen first, 32 mm from the middle.
@pytest.mark.parametrize("centre_mm", [(38, 0, 0), (60, 0, 0), (-70, 75, 0), (0, -78, 30), (80, 80, -40)])
def test_a_gland_away_from_the_centre_of_a_large_field_is_found(segmenter, bright_ball, centre_mm):
    scan, truth = bright_ball(centre_mm, size=(120, 120, 44), spacing_mm=(2, 2, 3))
    result = segmenter.segment(scan)
    assert dice(result.mask, truth) > 0.93
    assert result.report["warnings"] == []


def test_a_gland_at_the_end_of_a_long_oblique_scan_is_found(segmenter, bright_ball):
    # The search follows the scan's axes; along the patient's it would go past this one.
    scan, truth = bright_ball((125, 0, 0), size=(75, 16, 18), spacing_mm=(4, 4, 4))
    c, s = math.cos(math.radians(40)), math.sin(math.radians(40))
    for image in (scan, truth):
        image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    assert dice(segmenter.segment(scan).mask, truth) > 0.9


@pytest.mark.parametrize(("side_mm", "centre_mm"), [(300, (125, -128, 30)), (400, (-170, 175, 0))])
def test_a_gland_in_the_corner_of_a_very_large_field_is_found(segmenter, bright_ball, side_mm, centre_mm):
    segmenter.preprocessing = Preprocessing()
    scan, truth = bright_ball(centre_mm, 20, size=(side_mm // 4, side_mm // 4, 30), spacing_mm=(4, 4, 4))
    assert dice(segmenter.segment(scan).mask, truth) > 0.9


def half_of_the_field(crop):
    """What a network may take for a gland where there is none; in the mirrored look it is the other half."""
    probability = torch.zeros_like(crop)
    probability[:, :, crop.shape[2] // 2 :] = 0.9
    return probability


def test_padding_is_not_taken_for_the_gland(segmenter, bright_ball, monkeypatch):
    sees_bright = Predictor.probability

    def answers_to_nothing(predictor, crop):
        return sees_bright(predictor, crop) if crop.any() else half_of_the_field(crop)

    monkeypatch.setattr(Predictor, "probability", answers_to_nothing)
    scan, truth = (sitk.ConstantPad(image, (240, 240, 0), (0, 0, 0)) for image in bright_ball())
    assert dice(segmenter.segment(scan).mask, truth) > 0.93


def test_what_is_too_large_for_a_prostate_is_compared_last(segmenter, bright_ball, monkeypatch):
    sees_bright = Predictor.probability

    def answers_to_noise(predictor, crop):
        # The ball is far brighter than any noise.
        return sees_bright(predictor, crop) if (crop > 4).sum() > 5000 else half_of_the_field(crop)

    monkeypatch.setattr(Predictor, "probability", answers_to_noise)
    # 128 x 128 x 96 mm, of which a half are 786 ml.
    segmenter.preprocessing = Preprocessing()
    scan, truth = bright_ball((-150, 150, 0), 20, size=(120, 120, 30), spacing_mm=(4, 4, 4))
    assert dice(segmenter.segment(scan).mask, truth) > 0.9


def test_what_is_too_large_for_a_prostate_is_warned_of(segmenter, bright_ball, monkeypatch):
    monkeypatch.setattr(Predictor, "probability", lambda predictor, crop: torch.full_like(crop, 0.9))
    segmenter.preprocessing = Preprocessing()
    # 80 x 80 x 72 mm.
    assert "461 ml is unusual for a prostate: check the mask." in segmenter.segment(bright_ball()[0]).report["warnings"]


def test_a_speck_near_the_centre_is_not_taken_for_the_gland_elsewhere(segmenter, bright_ball):
    grid = {"size": (120, 120, 24), "spacing_mm": (2, 2, 3)}
    # (4/3) pi 1.1^3 = 5.6 ml in the field that is seen first, 17.2 ml in another one.
    speck, _ = bright_ball((5, 0, 0), radius_mm=11, **grid)
    scan, truth = bright_ball((-75, 60, 0), **grid)
    assert dice(segmenter.segment(sitk.Maximum(scan, speck)).mask, truth) > 0.93
    # Alone it is what there is.
    alone = segmenter.segment(speck).report
    assert alone["volume_ml"] == pytest.approx(5.6, rel=0.3)
    assert len(alone["warnings"]) == 1
    assert "ml is unusual" in alone["warnings"][0]


# All of it, or but for a cap above 28 of 48 slices, 6.75 mm from the middle: an eighth of the ball.
@pytest.mark.parametrize("n_blind_slices", [48, 28])
def test_a_look_that_loses_the_gland_is_no_better_look(segmenter, bright_ball, monkeypatch, n_blind_slices):
    sees_bright, calls = Predictor.probability, []

    def blind_the_second_time(predictor, crop):
        calls.append(crop)
        seen = sees_bright(predictor, crop)
        if len(calls) == 2:
            seen[:n_blind_slices] = 0
        return seen

    monkeypatch.setattr(Predictor, "probability", blind_the_second_time)
    # 6 mm from the border of the field that is seen first, 32 mm from the middle.
    scan, truth = bright_ball((14, 0, 0), radius_mm=12)
    assert dice(segmenter.segment(scan).mask, truth) > 0.93
    # The first look, the one that was blind, and the second from another place: nothing is searched.
    assert len(calls) == 3


def test_the_second_look_has_left_and_right_exchanged(segmenter, bright_ball, monkeypatch):
    def sure_to_the_left(predictor, crop):
        return torch.linspace(0, 1, 64).expand_as(crop).clone()

    monkeypatch.setattr(Predictor, "probability", sure_to_the_left)
    # The field of 64 x 64 x 72 mm.
    scan, _ = bright_ball(size=(64, 64, 24))
    probability = sitk.GetArrayFromImage(segmenter.segment(scan).probability)[12, 32]
    # x / 63, and from 8 mm to the left and mirrored 1 - (x - 8) / 63: their mean is the same everywhere.
    np.testing.assert_allclose(probability[10:], (1 + 8 / 63) / 2, atol=1e-3)


def test_the_rest_of_the_scan_is_searched_where_two_looks_disagree_and_the_best_find_is_kept(
    segmenter, bright_ball, monkeypatch
):
    looks = []

    def band_in_the_middle(predictor, crop):
        looks.append(crop)
        probability = torch.zeros_like(crop)
        probability[:, :, slice(20, 44) if len(looks) <= 2 else slice(26, 38)] = 0.9
        return probability

    monkeypatch.setattr(Predictor, "probability", band_in_the_middle)
    result = segmenter.segment(bright_ball(size=(100, 33, 24), spacing_mm=(2, 2, 3))[0])
    # The first look and its second one, six in the rest of the scan, and what they found looked at twice.
    assert len(looks) > 2 + 6
    # From 8 mm to the side a band is seen 8 mm further on. Of the first one's 24 mm, 16 are in common; of the others'
    # 12 mm, 4.
    assert result.report["diameters_mm"]["transverse"] == 24


def test_a_gland_of_9_cm(segmenter, bright_ball):
    segmenter.preprocessing = Preprocessing()
    scan, truth = bright_ball((35, -25, 8), radius_mm=45, size=(80, 80, 40), spacing_mm=(2.5, 2.5, 3))
    result = segmenter.segment(scan)
    # The ball is a quarter of the field, and so hardly above the average at its rim.
    assert dice(result.mask, truth) > 0.92
    assert not any("part of it may be missing" in warning for warning in result.report["warnings"])


@pytest.mark.parametrize(
    ("size", "spacing_mm", "n_looks"),
    [
        # The field of 64 x 64 x 72 mm and two voxels more: the first look and the second one.
        ((66, 66, 25), (1, 1, 3), 2),
        # 28 mm more on either side along x: 120 mm in steps of at most 32 mm are 3 fields, one of them the first look.
        ((60, 33, 24), (2, 2, 3), 4),
        # 68 mm more on either side: 136 mm in 5 such steps are 6 fields, none of them in the middle.
        ((100, 33, 24), (2, 2, 3), 8),
        # Far more than there is time for.
        ((80, 80, 80), (5, 5, 5), 66),
    ],
)
def test_an_empty_scan_is_searched_as_far_as_there_is_time(
    segmenter, bright_ball, monkeypatch, size, spacing_mm, n_looks
):
    looks = []

    def nothing(predictor, crop):
        looks.append(crop)
        return torch.zeros_like(crop)

    monkeypatch.setattr(Predictor, "probability", nothing)
    told = []
    scan, _ = bright_ball(size=size, spacing_mm=spacing_mm)
    result = segmenter.segment(scan, progress=lambda fraction, sentence: told.append(fraction))
    assert result.report["volume_ml"] == 0
    assert len(looks) == n_looks
    assert told == sorted(told)
