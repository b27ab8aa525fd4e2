"""The synthetic scan."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.images.phantom import PhantomGrid, _Lattice, _smooth_noise, _Waves, make_phantom

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


def test_waves_are_sums_of_cosines_at_the_voxels():
    scan, _ = make_phantom(0, PhantomGrid(size=(9, 7, 5), spacing_mm=(2.4, 2.0, 5.0)))
    waves = _Waves(np.random.default_rng(0), wavelength_mm=14, n_waves=6)
    got = waves.at(_Lattice.of_voxels(scan, 0.25), component=1)
    assert got.shape == (5, 7, 9)
    for index in ((0, 0, 0), (8, 0, 4), (3, 6, 2)):
        x, y, z = index
        position = scan.TransformContinuousIndexToPhysicalPoint((x, y, z + 0.25))
        expected = np.cos(waves.wave_vectors[1] @ position + waves.phases[1]).sum() * np.sqrt(2 / 6)
        assert got[z, y, x] == pytest.approx(expected, abs=1e-4)


def test_smooth_noise_is_a_spline_through_its_nodes():
    got = _smooth_noise((5, 9, 13), 3, np.random.default_rng(1))
    nodes = np.random.default_rng(1).normal(size=(3, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(got[::2, ::4, ::6], nodes, atol=1e-5)
    image = sitk.GetImageFromArray(nodes)
    spline = sitk.Resample(image, (13, 9, 5), sitk.Transform(), sitk.sitkBSpline, (0.0,) * 3, (1 / 6, 1 / 4, 1 / 2))
    np.testing.assert_allclose(got, sitk.GetArrayFromImage(spline), atol=1e-4)
