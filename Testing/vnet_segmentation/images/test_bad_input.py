"""Input that cannot be segmented, end to end: one sentence, exit code 4, no traceback and no file."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.cli.main import run
from vnet_segmentation.errors import ExitCode


def volume(size=(64, 64, 20), spacing=(1.0, 1.0, 3.0), pixel=np.float32):
    array = np.random.default_rng(0).uniform(20, 500, size[::-1]).astype(pixel)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    return image


def write(image, path, compress=True):
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


def missing(folder: Path) -> Path:
    return folder / "nowhere.nii.gz"


def truncated(folder: Path) -> Path:
    path = write(volume(), folder / "scan.nii.gz")
    path.write_bytes(path.read_bytes()[:20_000])
    return path


def truncated_nrrd(folder: Path) -> Path:
    path = write(volume(), folder / "scan.nrrd", compress=False)
    path.write_bytes(path.read_bytes()[:-5000])
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "scan.nrrd"
    path.write_bytes(b"")
    return path


def text(folder: Path) -> Path:
    path = folder / "scan.nii.gz"
    path.write_text("this is no image")
    return path


def two_dimensional(folder: Path) -> Path:
    return write(sitk.GetImageFromArray(np.random.default_rng(0).uniform(size=(64, 64))), folder / "scan.mha")


def four_dimensional(folder: Path) -> Path:
    array = np.random.default_rng(0).uniform(20, 500, (3, 10, 32, 32)).astype(np.float32)
    return write(sitk.GetImageFromArray(array, isVector=False), folder / "scan.nii.gz")


def colour(folder: Path) -> Path:
    array = np.random.default_rng(0).integers(0, 255, (10, 32, 32, 3)).astype(np.uint8)
    return write(sitk.GetImageFromArray(array, isVector=True), folder / "scan.nrrd")


def not_a_number(folder: Path) -> Path:
    image = volume()
    image[5, 5, 5] = float("nan")
    return write(image, folder / "scan.nrrd")


def constant(folder: Path) -> Path:
    return write(volume() * 0 + 7, folder / "scan.nrrd")


def one_slice(folder: Path) -> Path:
    return write(volume((64, 64, 1)), folder / "scan.nrrd")


def cube_of_5_mm(folder: Path) -> Path:
    return write(volume((10, 10, 10), (0.5, 0.5, 0.5)), folder / "scan.nrrd")


def four_gigabytes(folder: Path) -> Path:
    # A header that announces 1,024^3 float voxels, and nothing behind it.
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 1024, 1024, 1024, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 16, 32)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = b"n+1\0"
    path = folder / "scan.nii.gz"
    path.write_bytes(gzip.compress(bytes(header)))
    return path


def eight_gigabytes_of_nothing(folder: Path) -> Path:
    # As the header announces, and all of it there, in a file that takes no space.
    path = folder / "scan.nrrd"
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2048 2048 1024\nencoding: raw\nendian: little\n\n"
    path.write_text(header)
    os.truncate(path, len(header) + 2 * 2048 * 2048 * 1024)
    return path


def zero_spacing(folder: Path) -> Path:
    path = write(volume(), folder / "scan.nii", compress=False)
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 76 + 4 * 3, 0.0)
    path.write_bytes(content)
    return path


def singular_direction(folder: Path) -> Path:
    path = write(volume(), folder / "scan.nrrd", compress=False)
    content = path.read_bytes().replace(
        b"space directions: (1,0,0) (0,1,0) (0,0,3)", b"space directions: (1,0,0) (1,0,0) (0,0,3)"
    )
    assert b"(1,0,0) (1,0,0)" in content
    path.write_bytes(content)
    return path


def mask(folder: Path) -> Path:
    array = np.zeros((20, 64, 64), np.uint8)
    array[5:15, 20:40, 20:40] = 1
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1, 1, 3))
    return write(image, folder / "scan.nrrd")


def computed_tomography(folder: Path) -> Path:
    array = np.random.default_rng(0).normal(-1000, 15, (20, 64, 64))
    array[:, 12:52, 12:52] = np.random.default_rng(1).normal(40, 30, (20, 40, 40))
    image = sitk.GetImageFromArray(array.astype(np.int16))
    image.SetSpacing((4, 4, 3))
    return write(image, folder / "scan.nrrd")


def empty_folder(folder: Path) -> Path:
    (folder / "dicom").mkdir()
    return folder / "dicom"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "nowhere.nii.gz"),
        (truncated, "scan.nii.gz"),
        (truncated_nrrd, "scan.nrrd"),
        (empty_file, "empty"),
        (text, "scan.nii.gz"),
        (two_dimensional, "2"),
        (four_dimensional, "frame"),
        (colour, "colour"),
        (not_a_number, "number"),
        (constant, "same"),
        (one_slice, "slice"),
        (cube_of_5_mm, "5 mm"),
        (four_gigabytes, "1024"),
        (eight_gigabytes_of_nothing, "2048"),
        (zero_spacing, "spacing"),
        (singular_direction, "direction"),
        (mask, "mask"),
        (computed_tomography, "CT"),
        (empty_folder, "DICOM"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(make, words, tmp_path, tiny_model, capfd):
    scan = make(tmp_path)
    before = set(tmp_path.rglob("*"))
    outputs = [tmp_path / "out" / name for name in ("mask.nii.gz", "mask.png", "report.json")]
    code = run(
        [
            *("segment", str(scan), "-o", str(outputs[0]), "--picture", str(outputs[1]), "--report", str(outputs[2])),
            *("--model", str(tiny_model)),
        ]
    )
    told = capfd.readouterr()
    assert code == ExitCode.BAD_INPUT
    assert len(told.err.splitlines()) == 1, told.err
    assert told.err.startswith("vnet-segmentation: ")
    assert words in told.err
    assert told.out == ""
    assert set(tmp_path.rglob("*")) == before
