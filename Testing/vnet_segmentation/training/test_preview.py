"""A preview shows what the training does, where the case lies; the time of an iteration is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.device import Device
from vnet_segmentation.images.metrics import dice
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.training.options import TrainingOptions
from vnet_segmentation.training.preview import iteration_seconds, preview_sample

CPU = Device("cpu", "float32", "It was asked for.")
STILL = {"deformation_strength": 0.0, "histogram_matching": False}


@pytest.fixture
def case(tmp_path: Path, bright_ball) -> Case:
    """A ball off the middle of a turned and flipped scan."""
    scan, mask = bright_ball((9.0, -6.0, 4.0), 14.0, (60, 60, 20), (1.2, 1.2, 3.0))
    for image, name in ((scan, "a.nrrd"), (mask, "a_segmentation.nrrd")):
        image.SetOrigin((30.0, -20.0, 7.0))
        image.SetDirection((-1, 0, 0, 0, 0.96, -0.28, 0, 0.28, 0.96))
        sitk.WriteImage(image, str(tmp_path / name))
    return Case("a", tmp_path / "a.nrrd", tmp_path / "a_segmentation.nrrd")


def options(**changes) -> TrainingOptions:
    settings = {"preset": "paper", "preprocessing": Preprocessing(size=(64, 64, 48))}
    return TrainingOptions(**settings | changes)


def overlap(case: Case, mask: sitk.Image) -> float:
    """Dice of a preview's mask with the case's own, on the case's grid."""
    reference = sitk.ReadImage(str(case.mask))
    return dice(sitk.Resample(mask, reference, sitk.Transform(), sitk.sitkNearestNeighbor), reference)


def test_without_deformation_the_sample_lies_where_the_case_is(case: Case) -> None:
    image, mask = preview_sample(case, options(**STILL), seed=1)
    assert image.GetSize() == mask.GetSize() == (64, 64, 48)
    assert image.GetSpacing() == (1.0, 1.0, 1.5)
    assert overlap(case, mask) > 0.93
    # Bright within the mask, as the scan is.
    inside = sitk.GetArrayFromImage(mask) == 1
    values = sitk.GetArrayFromImage(image)
    assert values[inside].mean() > values[~inside].mean() + 1


def test_a_deformed_sample_differs_from_seed_to_seed_and_comes_again_with_its_seed(case: Case) -> None:
    # The default recipe, which turns and scales too.
    settings = options(preset="default", histogram_matching=False)
    first, mask = preview_sample(case, settings, seed=1)
    again, _ = preview_sample(case, settings, seed=1)
    other, _ = preview_sample(case, settings, seed=2)
    assert np.array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(again))
    assert not np.array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(other))
    assert 0.4 < overlap(case, mask) < 0.95


def test_matching_gives_the_grey_levels_of_the_other_case(case: Case, tmp_path: Path) -> None:
    scan = sitk.ReadImage(str(case.image))
    sitk.WriteImage(400 - scan, str(tmp_path / "b.nrrd"))
    other = Case("b", tmp_path / "b.nrrd", case.mask)
    plain, mask = preview_sample(case, options(**STILL), 1, other)
    matched, _ = preview_sample(case, options(deformation_strength=0.0), 1, other)
    plain_values, values = sitk.GetArrayFromImage(plain), sitk.GetArrayFromImage(matched)
    assert not np.allclose(plain_values, values, atol=0.1)
    # The order of the grey levels stays: the ball is still the brighter part.
    inside = sitk.GetArrayFromImage(mask) == 1
    assert values[inside].mean() > values[~inside].mean()


def test_an_iteration_takes_time(tiny_model: Path) -> None:
    assert 0 < iteration_seconds(TrainingOptions(base=tiny_model), CPU) < 60
