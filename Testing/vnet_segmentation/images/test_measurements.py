"""Volume and diameters against numbers derived by hand, in every axis order."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.images.measurements import Measurements, ends_mm, measure


def mask(array: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing(spacing_mm)
    return image


def box_mask() -> sitk.Image:
    """4 x 5 x 6 voxels (x, y, z) of 0.5 x 2 x 3 mm, away from the image's middle."""
    array = np.zeros((12, 11, 10))
    array[5:11, 1:6, 4:8] = 1
    return mask(array, (0.5, 2.0, 3.0))


# 4 x 0.5 = 2 mm, 5 x 2 = 10 mm, 6 x 3 = 18 mm; 360 mm3.
BOX = {
    "volume_ml": 0.36,
    "transverse_mm": 2.0,
    "anteroposterior_mm": 10.0,
    "craniocaudal_mm": 18.0,
    "ellipsoid_ml": math.pi / 6 * 0.36,
}


def test_box() -> None:
    assert asdict(measure(box_mask())) == pytest.approx(BOX)


def test_any_axis_order_and_sense() -> None:
    for axes in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            turned = sitk.Flip(sitk.PermuteAxes(box_mask(), axes), flips, False)
            assert asdict(measure(turned)) == pytest.approx(BOX)


def test_the_ends_are_the_middles_of_the_highest_and_the_lowest_slice() -> None:
    array = np.zeros((12, 11, 10))
    array[5:11, 1:6, 4:8] = 1
    array[10, 1:6, 7] = 0
    highest, lowest = (2.5, 6.0, 30.0), (2.75, 6.0, 15.0)
    for axes in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            turned = sitk.Flip(sitk.PermuteAxes(mask(array, (0.5, 2.0, 3.0)), axes), flips, False)
            base, apex = ends_mm(turned) or ((), ())
            assert base == pytest.approx(highest)
            assert apex == pytest.approx(lowest)
    assert ends_mm(mask(np.zeros((3, 3, 3)))) is None


def test_an_oblique_scan_is_measured_along_its_own_axes() -> None:
    oblique = box_mask()
    c, s = math.cos(math.radians(35)), math.sin(math.radians(35))
    oblique.SetDirection((1, 0, 0, 0, c, -s, 0, s, c))
    assert asdict(measure(oblique)) == pytest.approx(BOX)


def test_in_plane_diameters_are_the_largest_within_one_slice() -> None:
    # Two slices: one row of 3 voxels on the left at the front, one of 4 on the right, a column of 2 at the back.
    array = np.zeros((3, 10, 10))
    array[0, 1, 0:3] = 1
    array[1, 7:9, 9] = 1
    array[1, 7, 6:10] = 1
    measured = measure(mask(array))
    # The masks of both slices together would reach over 10 and 8 voxels.
    assert (measured.transverse_mm, measured.anteroposterior_mm, measured.craniocaudal_mm) == (4.0, 2.0, 2.0)


def test_gaps_within_an_extent_belong_to_it() -> None:
    array = np.zeros((9, 9, 9))
    array[2, 2, 1] = array[2, 2, 7] = array[6, 2, 4] = 1
    measured = measure(mask(array))
    assert (measured.transverse_mm, measured.craniocaudal_mm) == (7.0, 5.0)
    assert measured.volume_ml == pytest.approx(0.003)


def test_ellipsoid_formula_holds_for_an_ellipsoid() -> None:
    z, y, x = np.ogrid[-22:23, -22:23, -22:23]
    ellipsoid = (x / 20.5) ** 2 + (y / 15.5) ** 2 + (z / 18.5) ** 2 <= 1
    measured = measure(mask(ellipsoid))
    # Diameters 41, 31 and 37 voxels: 4/3 pi 20.5 * 15.5 * 18.5 = 24.6 ml.
    assert measured.ellipsoid_ml == pytest.approx(24.62, abs=0.01)
    assert measured.volume_ml == pytest.approx(measured.ellipsoid_ml, rel=0.01)


def test_empty_mask() -> None:
    assert measure(mask(np.zeros((3, 4, 5)))) == Measurements(0.0, 0.0, 0.0, 0.0, 0.0)


def test_values_are_plain_numbers_for_a_report() -> None:
    assert json.loads(json.dumps(asdict(measure(box_mask()))))["volume_ml"] == pytest.approx(0.36)


def test_a_real_gland(promise12: Path) -> None:
    measured = measure(sitk.ReadImage(str(promise12 / "Case00_segmentation.nii.gz")))
    # 45.8 ml in cases.csv; the ellipsoid formula is known to be right to a fifth or so.
    assert measured.volume_ml == pytest.approx(45.8, abs=0.1)
    assert measured.ellipsoid_ml == pytest.approx(measured.volume_ml, rel=0.25)
