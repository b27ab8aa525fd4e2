"""Slices and frames that are no even stack are refused."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import MR_STORAGE, write_series

from vnet_segmentation.errors import UserError
from vnet_segmentation.images import dicom_files
from vnet_segmentation.images.dicom import read_series
from vnet_segmentation.images.scans import read_volume

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
