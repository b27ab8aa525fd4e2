"""How sure a result is."""

from __future__ import annotations

import pytest
import torch

from vnet_segmentation.segmentation.confidence import LEVELS, agreement, confidence, confidence_report, expected_dice


def test_agreement_is_the_dice_of_the_two_masks():
    first, second = torch.zeros(10), torch.zeros(10)
    first[:4], second[2:6] = 0.9, 0.6
    # Two voxels in common, four in each.
    assert agreement(first, second, 0.5) == 0.5
    # At 0.7 the second is empty.
    assert agreement(first, second, 0.7) == 0


def test_nothing_found_is_no_confidence():
    assert confidence(torch.zeros(3), torch.zeros(3), 0.5) == 0
    assert confidence_report(0.0) == {"value": 0.0, "level": "low"}
    # Nor are two finds that have nothing in common, however sharp each is.
    assert confidence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5) == 0


def test_expected_dice_is_that_of_masks_drawn_from_the_probability():
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(200_000, generator=generator) ** 3
    drawn = (torch.rand(200_000, generator=generator) < probability).float()
    dice = 2 * (probability * drawn).sum() / ((probability**2).sum() + drawn.sum())
    assert expected_dice(probability) == pytest.approx(dice.item(), abs=0.005)
    assert expected_dice((probability > 0.5).float()) == 1
    assert expected_dice(torch.zeros(4)) == 0


def test_value_is_the_mean_of_agreement_and_expected_dice():
    first, second = torch.zeros(100), torch.zeros(100)
    first[:50], second[10:60] = 0.8, 0.8
    # 40 voxels in common of 50 and 50; the mean has 40 voxels of 0.8 and 20 of 0.4: sums of 40, of squares 28.8.
    expected = (0.8 + 2 * 28.8 / (28.8 + 40)) / 2
    assert confidence(first, second, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "least"), LEVELS)
def test_levels_begin_at_their_limit(name, least):
    assert confidence_report(least + 0.001) == {"value": least + 0.001, "level": name}
    # The value that is shown decides.
    assert confidence_report(least - 0.0004) == {"value": least, "level": name}
    assert confidence_report(max(0, least - 0.001))["level"] != name or least == 0


def test_a_level_that_may_not_be_given_leaves_the_value():
    assert confidence_report(0.99, "medium") == {"value": 0.99, "level": "medium"}
    assert confidence_report(0.5, "medium") == {"value": 0.5, "level": "low"}
