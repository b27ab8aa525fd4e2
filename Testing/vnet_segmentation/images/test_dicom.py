"""Choosing and reading a DICOM series, on small series written here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import SAGITTAL, write_series

from vnet_segmentation.errors import UserError
from vnet_segmentation.images import dicom
from vnet_segmentation.images.dicom import find_series, names_t2, read_series
from vnet_segmentation.images.scans import find_scans, read_scan


def test_reads_the_only_series_sorted_by_position(tmp_path: Path) -> None:
    # A description that says nothing is enough where there is no choice.
    voxels = write_series(tmp_path, description="")
    image = read_series(tmp_path)[0]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels)
    assert image.GetSpacing() == pytest.approx((2.0, 2.0, 3.0))
    assert image.GetDirection() == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))


def test_slices_are_sorted_by_position_in_whatever_order_gdcm_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = write_series(tmp_path, n_slices=11)
    # Slice 10 and then slice 9, as by the letters of unpadded names.
    by_name = [str(file) for file in sorted(tmp_path.iterdir())]
    listed = (by_name[1], by_name[0], *by_name[2:])
    monkeypatch.setattr(sitk.ImageSeriesReader, "GetGDCMSeriesFileNames", lambda *_: listed)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_series(tmp_path)[0]), voxels)


def test_slices_of_another_pixel_type_than_the_first_keep_their_values(tmp_path: Path) -> None:
    write_series(tmp_path)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    expected = []
    for file in sorted(tmp_path.iterdir(), reverse=True):
        image = sitk.ReadImage(str(file))
        # The first slice in space is unsigned, the others have values that it could not hold.
        image = image - 300 if expected else sitk.Cast(image, sitk.sitkUInt16)
        expected.append(sitk.GetArrayFromImage(image)[0].astype(float))
        for key in (original := sitk.ReadImage(str(file))).GetMetaDataKeys():
            image.SetMetaData(key, original.GetMetaData(key))
        # What would make it signed again.
        for key in ("0028|0100", "0028|0101", "0028|0102", "0028|0103"):
            image.EraseMetaData(key)
        writer.SetFileName(str(file))
        writer.Execute(image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_series(tmp_path)[0]), expected)


def test_sagittal_series_keeps_its_axes(tmp_path: Path) -> None:
    write_series(tmp_path, orientation=SAGITTAL)
    # Columns run along y, rows along -z, slices along their cross product: (1, 0, 0) x ... = y x -z = -x.
    assert read_series(tmp_path)[0].GetDirection() == pytest.approx((0, 0, -1, 1, 0, 0, 0, -1, 0))


def write_study(folder: Path) -> np.ndarray:
    """A prostate study in subfolders; returns the voxels of its one axial T2 series, number 5."""
    write_series(folder / "a", 1, "t2_localizer", n_slices=3)
    write_series(folder / "a", 4, "t2_tse_sag", orientation=SAGITTAL)
    write_series(folder / "b", 6, "ep2d_diff_ADC")
    write_series(folder / "b", 7, "AX T2* GRE")
    write_series(folder / "b", 8, "T2 map")
    write_series(folder / "b", 9, "CT T2 level", modality="CT")
    return write_series(folder / "c" / "deep", 5, "AX T2W_TSE")


def test_picks_the_only_axial_t2_series(tmp_path: Path) -> None:
    voxels = write_study(tmp_path)
    image, which = read_series(tmp_path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels)
    # A person can see whose it is.
    assert which == f"5: AX T2W_TSE, MR, 12 slices, axial, in {tmp_path / 'c' / 'deep'}"


def test_a_t2_series_that_lost_its_modality_is_picked_too(tmp_path: Path) -> None:
    write_series(tmp_path, 1, "ep2d_diff_ADC")
    voxels = write_series(tmp_path, 2, "t2_tse_tra", modality="")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_series(tmp_path)[0]), voxels)


def test_leaves_subfolders_out_where_they_are_scans_of_their_own(tmp_path: Path) -> None:
    voxels = write_series(tmp_path, 2)
    write_series(tmp_path / "t2", 5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_series(tmp_path, subfolders=False)[0]), voxels)


def test_series_by_number_or_uid(tmp_path: Path) -> None:
    write_study(tmp_path)
    for series in ("6", "1.2.826.6"):
        expected = np.random.default_rng(6).integers(100, 500, (12, 14, 16), dtype=np.int16)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_series(tmp_path, series)[0]), expected)


def test_lists_the_series_where_several_fit(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_series(tmp_path / "d", 10, "T2_cor_axial", orientation=(0.8, 0, 0.6, 0, 1, 0))
    with pytest.raises(UserError, match="Put the one to segment in a folder of its own") as refused:
        read_series(tmp_path)
    message = str(refused.value)
    # For a cell of a batch's table, too.
    assert "\n" not in message
    assert "holds 8 DICOM series, 2 of them known to be axial T2 (1: t2_localizer, MR" in message
    assert f"; 4: t2_tse_sag, MR, 12 slices, sagittal, in {tmp_path / 'a'};" in message
    assert f"; 5: AX T2W_TSE, MR, 12 slices, axial, in {tmp_path / 'c' / 'deep'};" in message


def test_lists_the_series_where_none_fits(tmp_path: Path) -> None:
    write_study(tmp_path)
    with pytest.raises(UserError, match=r"None of the DICOM series in .* has the number or UID 99"):
        read_series(tmp_path, "99")


def test_uid_tells_series_of_one_number_apart(tmp_path: Path) -> None:
    write_series(tmp_path, 5, uid="1.2.826.51")
    voxels = write_series(tmp_path, 5, uid="1.2.826.52", n_slices=11)
    with pytest.raises(UserError, match=r"2 of the DICOM series .*(?s:.*)UID 1\.2\.826\.52"):
        read_series(tmp_path, "5")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_series(tmp_path, "1.2.826.52")[0]), voxels)


def test_describes_each_series(tmp_path: Path) -> None:
    write_series(tmp_path, 4, "t2_tse_sag", orientation=SAGITTAL, n_slices=10)
    (series,) = find_series(tmp_path)
    assert (series.number, series.description, series.modality, series.plane) == ("4", "t2_tse_sag", "MR", "sagittal")
    assert series.size == (16, 14, 10)
    assert not series.is_axial_t2


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes")
@pytest.mark.parametrize("renamed", ["folder", "file"])
def test_refuses_a_name_that_is_not_unicode(tmp_path: Path, renamed: str) -> None:
    folder = tmp_path / "series"
    write_series(folder)
    if renamed == "folder":
        folder = folder.rename(tmp_path / "s\udcf6ries")
    else:
        min(folder.iterdir()).rename(folder / "sl\udcf6ce.dcm")
    with pytest.raises(UserError, match="not Unicode"):
        read_series(folder)


def test_refuses_ct(tmp_path: Path) -> None:
    write_series(tmp_path, modality="CT")
    with pytest.raises(UserError, match="is a CT, not an MR"):
        read_series(tmp_path)


def test_refuses_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UserError, match="no DICOM images"):
        read_series(tmp_path)


def test_a_folder_of_scan_files_is_not_its_dicom_subfolder(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    (tmp_path / "scan.nii.gz").touch()
    with pytest.raises(UserError, match=r"holds scan files \(scan\.nii\.gz\).*to a batch\."):
        read_scan(tmp_path)
    # An exported scan or a mask beside the slices is no other scan.
    (tmp_path / "scan.nii.gz").rename(tmp_path / "series" / "scan.nii.gz")
    assert read_scan(tmp_path).GetSize() == (16, 14, 12)


def test_voxel_limit_holds_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path)
    # The series has 16 * 14 * 12 = 2688 voxels.
    monkeypatch.setattr(dicom, "MAX_VOXELS", 2687)
    with pytest.raises(UserError, match="too large: 16 x 14 x 12"):
        read_series(tmp_path)
    monkeypatch.setattr(dicom, "MAX_VOXELS", 2688)
    assert read_series(tmp_path)[0].GetSize() == (16, 14, 12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t2_tse_tra", True),
        ("AX T2 FRFSE", True),
        ("patient1_t2", True),
        ("subject12_T2w", True),
        ("T2_section", True),
        ("ADC", False),
        ("t2 adc", False),
        ("ep2d_diff_b1000", False),
        ("t1_vibe", False),
        ("CT", False),
        ("ct_pelvis", False),
        ("t2_starting_position", True),
        ("T2 mapleleaf", True),
        ("T2 map", False),
        ("T2_map", False),
        ("T2Map", False),
        ("MAP T2", False),
        ("t2_mapping", False),
        ("T2-Maps axial", False),
        ("T2* axial", False),
        ("T2_*", False),
        ("T2 star", False),
        ("T2star_tra", False),
        ("ep2d_T2star", False),
        ("T2 FLAIR", False),
        ("t2flair_tra", False),
        ("Case00", None),
    ],
)
def test_words_of_a_name_tell_a_t2_scan(name, expected):
    assert names_t2(name) is expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_folder_is_a_sentence_and_no_wait(tmp_path):
    write_series(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is not a file"):
        read_series(tmp_path)
    assert find_scans(tmp_path) == [tmp_path]


def test_a_link_to_nothing_in_the_folder_is_a_sentence(tmp_path):
    write_series(tmp_path)
    (tmp_path / "old").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="old is not a file"):
        read_series(tmp_path)


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path, monkeypatch):
    write_series(tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(dicom, "would_fill_memory", refuse)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        read_series(tmp_path)
