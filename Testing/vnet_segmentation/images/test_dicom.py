"""Choosing and reading a DICOM series, on small series written here."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import MR_STORAGE, SAGITTAL, write_series

from vnet_segmentation.errors import UserError
from vnet_segmentation.images import dicom, dicom_files
from vnet_segmentation.images.dicom import find_series, names_t2, read_series
from vnet_segmentation.images.scans import find_scans, read_scan, read_volume


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


POSITIONS = {
    # The seventh slice is not where it should be: 3 mm between slices, then 6 mm.
    "missing slice": (lambda k: (0, 0, 3.0 * (k + (k > 5))), "misses slices: a gap of 6.0 mm where slices are 3.0 mm"),
    # From one and a half of the usual distance on something is missing, below it is in the wrong place.
    "wide gap": (lambda k: (0, 0, 3.0 * k + 1.6 * (k > 5)), "misses slices: a gap of 4.6 mm"),
    "two at each place": (lambda k: (0, 0, 3.0 * (k // 2)), "several images at the same place"),
    "uneven": (lambda k: (0, 0, 3.0 * k + 1.4 * (k > 5)), "unevenly spaced, 3.00 to 4.40 mm"),
    "a little uneven": (lambda k: (0, 0, 3.0 * k + 0.4 * (k > 5)), "unevenly spaced, 3.00 to 3.40 mm"),
    # 0.5 mm sideways for each of 11 steps.
    "sheared": (lambda k: (0.5 * k, 0, 3.0 * k), "sideways by 5.5 mm"),
}


@pytest.mark.parametrize("case", POSITIONS)
def test_refuses_stack_that_is_no_grid(tmp_path: Path, case: str) -> None:
    position_mm, sentence = POSITIONS[case]
    write_series(tmp_path, position_mm=position_mm)
    with pytest.raises(UserError, match=sentence):
        read_series(tmp_path)


@pytest.mark.parametrize("different", ["pixel spacing", "modality"])
def test_refuses_slices_of_two_kinds(tmp_path: Path, different: str) -> None:
    write_series(tmp_path)
    file = str(tmp_path / "1.2.826.3-006.dcm")
    image = sitk.ReadImage(file)
    if different == "pixel spacing":
        image.SetSpacing((2.8, 2.8, 1.0))
    else:
        image.SetMetaData(dicom_files.MODALITY, "CT")
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(file)
    writer.Execute(image)
    with pytest.raises(UserError, match=f"differ in .*{different}"):
        read_series(tmp_path)


def test_rounded_positions_are_even_enough(tmp_path: Path) -> None:
    write_series(tmp_path, position_mm=lambda k: (0, 0, round(3.04 * k, 1)))
    # 11 steps of 3.04 mm are 33.44 mm, rounded to 33.4: 3.036 mm a step.
    assert read_series(tmp_path)[0].GetSpacing()[2] == pytest.approx(33.4 / 11)


@pytest.mark.parametrize("slice_number", [1, 6])
def test_refuses_truncated_slice(tmp_path: Path, slice_number: int) -> None:
    # GDCM leaves such a file out, at the end of the stack without a trace.
    write_series(tmp_path)
    path = tmp_path / f"1.2.826.3-{slice_number:03d}.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"damaged or incomplete .*{path.name}"):
        read_series(tmp_path)


def element(tag: str, representation: str, value: str | bytes | int | list[bytes]) -> bytes:
    """A DICOM element, explicit and little endian; a list holds the items of a sequence."""
    if isinstance(value, list):
        value = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in value)
    elif isinstance(value, int):
        value = struct.pack("<H", value)
    elif isinstance(value, str):
        value = value.encode()
    value += (b"\0" if representation in ("UI", "OB") else b" ") * (len(value) % 2)
    long = representation in ("SQ", "OW", "OB")
    tags = struct.pack("<HH", *(int(part, 16) for part in tag.split("|")))
    return tags + representation.encode() + struct.pack("<xxI" if long else "<H", len(value)) + value


def write_enhanced(folder: Path, depths_mm: Sequence[float], orientation: str = r"1\0\0\0\1\0") -> np.ndarray:
    """An enhanced MR file of one frame of 16 x 14 pixels of 2 mm at each depth; returns their voxels (k, j, i)."""
    n_frames = len(depths_mm)
    voxels = np.random.default_rng(0).integers(100, 500, (n_frames, 14, 16), dtype=np.uint16)
    meta = (
        element("0002|0001", "OB", b"\0\1")
        + element("0002|0002", "UI", f"{MR_STORAGE}.1")
        + element("0002|0003", "UI", "1.2.826.1")
        + element("0002|0010", "UI", "1.2.840.10008.1.2.1")
        + element("0002|0012", "UI", "1.2.826")
    )
    shared = element("0020|9116", "SQ", [element("0020|0037", "DS", orientation)])
    measures = element("0018|0050", "DS", "3") + element("0028|0030", "DS", r"2\2")
    frames = [
        element("0020|9113", "SQ", [element("0020|0032", "DS", rf"4\5\{depth:g}")])
        + element("0028|9110", "SQ", [measures])
        for depth in depths_mm
    ]
    content = [
        element(dicom_files.SOP_CLASS, "UI", f"{MR_STORAGE}.1"),
        element("0008|0018", "UI", "1.2.826.1"),
        element(dicom_files.MODALITY, "CS", "MR"),
        element("0020|000d", "UI", "1.2.826"),
        element("0020|000e", "UI", "1.2.826.3"),
        element(dicom_files.SERIES_NUMBER, "IS", "3"),
        element("0028|0002", "US", 1),
        element("0028|0004", "CS", "MONOCHROME2"),
        element("0028|0008", "IS", str(n_frames)),
        *(element(f"0028|{tag}", "US", value) for tag, value in (("0010", 14), ("0011", 16), ("0100", 16))),
        *(element(f"0028|{tag}", "US", value) for tag, value in (("0101", 16), ("0102", 15), ("0103", 0))),
        element("5200|9229", "SQ", [shared]),
        element("5200|9230", "SQ", frames),
        element("7fe0|0010", "OW", voxels.tobytes()),
    ]
    folder.mkdir(exist_ok=True)
    length = element("0002|0000", "UL", struct.pack("<I", len(meta)))
    (folder / "enhanced.dcm").write_bytes(bytes(128) + b"DICM" + length + meta + b"".join(content))
    return voxels


@pytest.mark.parametrize("step_mm", [3.0, -3.0])
def test_reads_the_frames_of_an_enhanced_file(tmp_path: Path, step_mm: float) -> None:
    voxels = write_enhanced(tmp_path, [7 + step_mm * k for k in range(12)])
    image = read_series(tmp_path)[0]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels)
    assert image.GetSpacing() == pytest.approx((2, 2, 3))
    for k in (0, 11):
        assert image.TransformIndexToPhysicalPoint((0, 0, k)) == pytest.approx((4, 5, 7 + step_mm * k))


FRAME_DEPTHS_MM = {
    "interleaved": [3 * k for k in (0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11)],
    "two at each place": [3 * (k // 2) for k in range(12)],
    "two stacks": [3 * (k % 6) for k in range(12)],
    "missing": [3 * (k + (k > 5)) for k in range(12)],
}


@pytest.mark.parametrize("case", FRAME_DEPTHS_MM)
def test_refuses_frames_that_are_no_even_stack(tmp_path: Path, case: str) -> None:
    write_enhanced(tmp_path, FRAME_DEPTHS_MM[case])
    for read in (lambda: read_series(tmp_path), lambda: read_volume(tmp_path / "enhanced.dcm")):
        with pytest.raises(UserError, match=r"The 12 frames of .* are no even stack"):
            read()


def test_refuses_frames_without_a_place(tmp_path: Path) -> None:
    write_enhanced(tmp_path, [3 * k for k in range(12)])
    file = tmp_path / "enhanced.dcm"
    position = b"\x20\x00\x13\x91SQ"
    file.write_bytes(file.read_bytes().replace(position, b"\x20\x00\x14\x91SQ", 1))
    with pytest.raises(UserError, match="does not say where each of its 12 frames lies"):
        read_series(tmp_path)


def test_voxel_limit_holds_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path)
    # The series has 16 * 14 * 12 = 2688 voxels.
    monkeypatch.setattr(dicom, "MAX_VOXELS", 2687)
    with pytest.raises(UserError, match="too large: 16 x 14 x 12"):
        read_series(tmp_path)
    monkeypatch.setattr(dicom, "MAX_VOXELS", 2688)
    assert read_series(tmp_path)[0].GetSize() == (16, 14, 12)


@pytest.mark.parametrize("damage", ["length", "type", "group"])
def test_an_element_larger_than_its_file_is_refused_before_memory_is_taken(tmp_path, damage):
    write_series(tmp_path)
    file = sorted(tmp_path.iterdir())[3]
    content = bytearray(file.read_bytes())
    if damage == "length":
        # (0002,0001), OB: its length, four bytes, is 8 bytes on.
        at = content.index(b"\x02\x00\x01\x00OB") + 8
        content[at : at + 4] = (3_000_000_000).to_bytes(4, "little")
    elif damage == "group":
        content[132] = 0x7F
    else:
        at = content.index(b"\x02\x00\x02\x00UI") + 4
        content[at : at + 2] = b"U}"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file.name} is damaged"):
        read_series(tmp_path)


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
