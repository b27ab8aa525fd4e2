"""How sure a result is."""

from __future__ import annotations

import pytest
import torch

from vnet_segmentation.confidence import LEVELS, agreement, confidence_report


def test_agreement_is_the_dice_of_the_two_masks():
    first, second = torch.zeros(10), torch.zeros(10)
    first[:4], second[2:6] = 0.9, 0.6
    # Two voxels in common, four in each.
    assert agreement(first, second, 0.5) == 0.5
    # At 0.7 the second is empty.
    assert agreement(first, second, 0.7) == 0


def test_nothing_found_is_no_confidence():
    assert confidence_report(torch.zeros(3), torch.zeros(3), 0.5) == {"value": 0.0, "level": "low"}


@pytest.mark.parametrize(("name", "least"), LEVELS)
def test_levels_begin_at_their_limit(name, least):
    n = 1000
    first, second = torch.zeros(2 * n), torch.zeros(2 * n)
    first[:n] = 1
    overlap = round(least * n)
    second[n - overlap : 2 * n - overlap] = 1
    assert confidence_report(first, second, 0.5) == {"value": least, "level": name}
