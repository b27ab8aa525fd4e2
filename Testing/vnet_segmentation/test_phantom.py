"""The synthetic scan."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.phantom import PhantomGrid, make_phantom

SMALL = PhantomGrid(size=(64, 64, 16), spacing_mm=(2.4, 2.4, 5.0))


def test_the_same_seed_gives_the_same_volume_and_another_another():
    first, again, other = (sitk.GetArrayFromImage(make_phantom(seed, SMALL)[0]) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 1


@pytest.mark.parametrize("seed", range(4))
def test_the_gland_is_one_piece_of_a_plausible_size_inside_the_scan(seed):
    _, mask = make_phantom(seed, SMALL)
    labels = sitk.ConnectedComponent(mask)
    sizes = np.bincount(sitk.GetArrayFromImage(labels).ravel())[1:]
    assert 12 < sizes.sum() * 2.4 * 2.4 * 5 / 1000 < 150
    assert sizes.max() > 0.98 * sizes.sum()
    array = sitk.GetArrayFromImage(mask)
    assert not array[:, [0, -1]].any()
    assert not array[:, :, [0, -1]].any()


def test_the_grid_is_as_asked_and_tilted():
    scan, mask = make_phantom(0, SMALL)
    assert scan.GetSize() == mask.GetSize() == SMALL.size
    assert scan.GetSpacing() == SMALL.spacing_mm
    assert scan.GetDirection()[8] == pytest.approx(np.cos(np.radians(12)))
    assert scan.GetPixelID() == sitk.sitkFloat32
    assert mask.GetPixelID() == sitk.sitkUInt8
