from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.datasets.case_folder import add_case
from vnet_segmentation.datasets.dataset import find_cases
from vnet_segmentation.datasets.inspection import inspect_cases, refuse_problems
from vnet_segmentation.errors import ExitCode, UserError


def _scan(seed: int = 0) -> sitk.Image:
    scan = sitk.GetImageFromArray(np.random.default_rng(seed).integers(0, 900, (12, 40, 40)).astype(np.int16))
    scan.SetSpacing((0.7, 0.7, 3.3))
    scan.SetOrigin((1 / 3, -20.5, 7.0))
    scan.SetDirection(sitk.VersorTransform((0.1, 0.2, 0.97), 0.3).GetMatrix())
    return scan


def _mask(scan: sitk.Image, depth: int = 4) -> sitk.Image:
    voxels = np.zeros((12, 40, 40), np.uint8)
    voxels[3 : 3 + depth, 10:30, 12:28] = 1
    mask = sitk.GetImageFromArray(voxels)
    mask.CopyInformation(scan)
    return mask


def test_a_pair_is_a_case_that_can_be_trained_on(tmp_path):
    scan = _scan()
    added = add_case(tmp_path / "cases", scan, _mask(scan))
    (case,) = find_cases(tmp_path / "cases")
    assert (case.name, case.image, case.mask) == (added.name, added.image, added.mask)
    refuse_problems([case])
    assert not added.replaced
    read = sitk.ReadImage(str(case.image))
    assert read.GetPixelID() == sitk.sitkInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(scan))
    assert read.GetSpacing() == scan.GetSpacing()
    np.testing.assert_allclose(read.GetOrigin(), scan.GetOrigin(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(read.GetDirection(), scan.GetDirection(), rtol=0, atol=1e-12)


def test_the_same_scan_again_replaces_its_mask(tmp_path):
    scan = _scan()
    first = add_case(tmp_path, scan, _mask(scan, depth=4))
    second = add_case(tmp_path, scan, _mask(scan, depth=6))
    assert second.replaced
    assert second.name == first.name
    assert len(find_cases(tmp_path)) == 1
    # 6 slices of 20 x 16 voxels.
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(second.mask))).sum() == 6 * 20 * 16


def test_a_scan_from_the_folder_from_nifti_or_moved_is_the_same_case(tmp_path):
    """Else one patient could be in training and validation both."""
    scan = _scan()
    first = add_case(tmp_path / "cases", scan, _mask(scan))
    sitk.WriteImage(sitk.Cast(scan, sitk.sitkFloat32), str(tmp_path / "scan.nii.gz"))
    moved = _scan()
    moved.SetOrigin((0.0, 0.0, 0.0))
    for again in (sitk.ReadImage(str(first.image)), sitk.ReadImage(str(tmp_path / "scan.nii.gz")), moved):
        added = add_case(tmp_path / "cases", again, _mask(again))
        assert (added.name, added.replaced) == (first.name, True)
    cases = find_cases(tmp_path / "cases")
    assert len(cases) == 1
    refuse_problems(cases)
    assert sitk.ReadImage(str(first.image)).GetOrigin() == (0.0, 0.0, 0.0)


def test_other_voxels_are_another_case(tmp_path):
    names = {add_case(tmp_path, s, _mask(s)).name for s in (_scan(), _scan(seed=1))}
    assert len(names) == 2
    assert len(find_cases(tmp_path)) == 2


def test_nothing_of_the_header_gets_into_the_folder(tmp_path):
    scan = _scan()
    scan.SetMetaData("0010|0010", "DOE^JANE")
    scan.SetMetaData("Patient", "DOE JANE")
    mask = _mask(scan)
    mask.SetMetaData("0010|0010", "DOE^JANE")
    add_case(tmp_path, scan, mask)
    for file in tmp_path.iterdir():
        assert b"JANE" not in file.read_bytes()
        assert "JANE" not in file.name
        assert not [key for key in sitk.ReadImage(str(file)).GetMetaDataKeys() if "atient" in key or "0010" in key]


def test_an_interrupted_addition_is_repaired_by_the_next(tmp_path):
    scan = _scan()
    added = add_case(tmp_path, scan, _mask(scan))
    added.image.unlink()  # it is written last
    (found,) = inspect_cases(find_cases(tmp_path))
    assert "missing" in found.problems[0]
    add_case(tmp_path, scan, _mask(scan))
    refuse_problems(find_cases(tmp_path))


def test_what_cannot_be_learnt_from_is_refused_and_leaves_nothing(tmp_path):
    scan = _scan()
    with pytest.raises(UserError, match="empty"):
        add_case(tmp_path, scan, _mask(scan, depth=0))
    with pytest.raises(UserError, match="whole scan"):
        add_case(tmp_path, scan, _mask(scan) * 0 + 1)
    with pytest.raises(UserError, match="The scan"):
        add_case(tmp_path, scan * 0, _mask(scan))
    other = _mask(scan)
    other.SetOrigin((50.0, 0.0, 0.0))
    with pytest.raises(UserError, match="The mask"):
        add_case(tmp_path, scan, other)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_of_another_layout_is_left_alone(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    scan = _scan()
    with pytest.raises(UserError, match="nnU-Net"):
        add_case(tmp_path, scan, _mask(scan))
    assert [path.name for path in tmp_path.iterdir()] == ["imagesTr"]


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    scan = _scan()
    with pytest.raises(UserError) as caught:
        add_case(tmp_path / "file" / "cases", scan, _mask(scan))
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
