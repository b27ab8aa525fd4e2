"""Every fault of a pair is listed, in a sentence that names the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.datasets.dataset import Case, find_cases
from vnet_segmentation.datasets.inspection import inspect_cases, refuse_problems
from vnet_segmentation.errors import UserError

SIZE = (20, 24, 12)
SPACING_MM = (1.5, 1.25, 3.0)


def scan_image(size: tuple[int, int, int] = SIZE) -> sitk.Image:
    voxels = np.random.default_rng(0).integers(50, 400, size[::-1]).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING_MM)
    image.SetOrigin((-20.0, 30.0, 5.0))
    return image


def mask_image(size: tuple[int, int, int] = SIZE) -> sitk.Image:
    voxels = np.zeros(size[::-1], np.uint8)
    voxels[4:8, 8:16, 6:14] = 1
    mask = sitk.GetImageFromArray(voxels)
    mask.CopyInformation(scan_image(size))
    return mask


def write(image: sitk.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(
        "Case00",
        write(scan_image(), tmp_path / "Case00.nii.gz"),
        write(mask_image(), tmp_path / "Case00_segmentation.nii.gz"),
    )


def problems(case: Case, for_training: bool = True) -> list[str]:
    (found,) = inspect_cases([case], for_training)
    return found.problems


def test_a_sound_case_has_no_problems(case: Case) -> None:
    assert problems(case) == []


def test_label_value_does_not_matter(case: Case) -> None:
    write(mask_image() * 255, case.mask)
    assert problems(case) == []


def test_rounded_headers_are_tolerated(case: Case) -> None:
    mask = mask_image()
    # A tenth of the shortest voxel side, 1.25 mm, is 0.125 mm.
    mask.SetOrigin((-20.0, 30.12, 5.0))
    write(mask, case.mask)
    assert problems(case) == []


def test_another_origin(case: Case) -> None:
    mask = mask_image()
    mask.SetOrigin((-20.0, 30.0 + 3.0, 5.0 - 4.0))
    write(mask, case.mask)
    # sqrt(3^2 + 4^2) = 5
    assert len(problems(case)) == 1
    assert (
        "Case00_segmentation.nii.gz is not on the grid of Case00.nii.gz: it lies up to 5 mm away" in problems(case)[0]
    )


def test_another_spacing(case: Case) -> None:
    mask = mask_image()
    mask.SetSpacing((1.5, 1.25, 3.5))
    write(mask, case.mask)
    # 12 slices: the last one's middle is 11 * 0.5 mm off.
    assert "lies up to 5.5 mm away" in problems(case)[0]


def test_another_direction(case: Case) -> None:
    mask = mask_image()
    mask.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    write(mask, case.mask)
    # The far corner is at +(28.5, 28.75) mm against -(28.5, 28.75): 2 * sqrt(28.5^2 + 28.75^2) = 80.96
    assert "lies up to 81 mm away" in problems(case)[0]


def test_another_size(case: Case) -> None:
    write(mask_image((20, 24, 11)), case.mask)
    assert problems(case) == [
        "Case00_segmentation.nii.gz is not on the grid of Case00.nii.gz: 20 x 24 x 11 voxels against 20 x 24 x 12. "
        "Use a mask that was made on the scan itself, or resample it to the scan's grid first."
    ]


def test_empty_mask(case: Case) -> None:
    write(mask_image() * 0, case.mask)
    assert "Case00_segmentation.nii.gz is empty" in problems(case)[0]


def test_mask_of_everything(case: Case) -> None:
    write(mask_image() * 0 + 1, case.mask)
    assert "Case00_segmentation.nii.gz covers the whole image" in problems(case)[0]


def test_mask_of_less_than_a_gland(case: Case) -> None:
    mask = mask_image() * 0
    # 5.625 mm3 each: 0.09 ml.
    mask[4:12, 6:8, 5] = 1
    write(mask, case.mask)
    assert "Case00_segmentation.nii.gz has 0.09 ml: too little" in problems(case)[0]
    assert problems(case, for_training=False) == []
    mask[4:6, 8, 5] = 1
    write(mask, case.mask)
    assert problems(case) == []


def test_mask_in_two_parts(case: Case) -> None:
    mask = mask_image()
    # 256 voxels have a tenth of 25.6.
    mask[0:5, 0:5, 0] = 1
    write(mask, case.mask)
    assert problems(case) == []
    mask[0, 0, 1] = 1
    write(mask, case.mask)
    assert "Case00_segmentation.nii.gz has a second part, of 10% of the largest" in problems(case)[0]
    assert problems(case, for_training=False) == []
    # A zone that is one label of several may lie in parts.
    assert problems(replace(case, label=1)) == []


def test_several_labels_are_named(case: Case) -> None:
    mask = mask_image()
    mask[8, 10, 5] = 3
    write(mask, case.mask)
    assert "2 labels (1, 3)" in problems(case)[0]


def test_image_with_nan(tmp_path: Path, case: Case) -> None:
    image = sitk.Cast(scan_image(), sitk.sitkFloat32)
    image[3, 3, 3] = float("nan")
    # Not NIfTI: ITK's reader of it replaces NaN by 0.
    write(image, tmp_path / "nan.mha")
    assert "nan.mha has voxels that are not a number" in problems(Case("nan", tmp_path / "nan.mha", case.mask))[0]


def test_image_of_several_channels(case: Case) -> None:
    write(sitk.JoinSeries([scan_image(), scan_image()]), case.image)
    assert "Case00.nii.gz is 4D" in problems(case)[0]


def test_image_and_mask_exchanged_are_two_problems(case: Case) -> None:
    of_scan, of_mask = problems(Case("Case00", case.mask, case.image))
    assert case.mask.name in of_scan
    assert case.image.name in of_mask


def test_all_problems_of_all_cases_are_listed(tmp_path: Path, case: Case) -> None:
    shifted = mask_image() * 0
    shifted.SetOrigin((0.0, 0.0, 0.0))
    cases = [
        Case("both-missing", tmp_path / "no.nii", tmp_path / "no_segmentation.nii"),
        case,
        Case("empty-and-shifted", case.image, write(shifted, tmp_path / "shifted.nii.gz")),
        Case("unreadable", tmp_path / "text.nii.gz", case.mask),
    ]
    (tmp_path / "text.nii.gz").write_text("no image", encoding="utf-8")
    with pytest.raises(UserError) as raised:
        refuse_problems(cases)
    heading, *lines = str(raised.value).splitlines()
    assert heading.startswith("3 cases have problems")
    expected = [
        "both-missing: no.nii is missing",
        "both-missing: no_segmentation.nii is missing",
        "empty-and-shifted: shifted.nii.gz is empty",
        "empty-and-shifted: shifted.nii.gz is not on the grid",
        # One scan in two cases could be trained on and validated with.
        "empty-and-shifted: Case00.nii.gz is the same scan as that of Case00.",
        "unreadable: text.nii.gz",
    ]
    assert len(lines) == len(expected)
    assert all(line.strip().startswith(start) for line, start in zip(lines, expected, strict=True)), lines


def test_promise12_is_sound(promise12: Path) -> None:
    assert len(refuse_problems(find_cases(promise12))) == 40
