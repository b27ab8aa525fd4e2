"""File headers that ITK mends, ignores or crashes on, each read the way a scan is, and the sentence for it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.scans import read_volume


def make_scan() -> sitk.Image:
    """24 x 20 x 10 voxels of noise, int16."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(100, 500, (10, 20, 24), dtype=np.int16))
    image.SetSpacing((1.5, 1.5, 3.0))
    return image


def write_bytes(path: Path, content: bytes | bytearray) -> Path:
    path.write_bytes(content)
    return path


def patched_nifti(folder: Path, offset: int, layout: str, *values: float) -> Path:
    """A NIfTI-1 file with some header fields overwritten."""
    path = folder / "scan.nii"
    sitk.WriteImage(make_scan(), str(path))
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{len(values)}{layout}", content, offset, *values)
    return write_bytes(path, content)


def patched_text(folder: Path, suffix: str, old: str, new: str) -> Path:
    """An uncompressed file with a line of its text header replaced."""
    path = folder / f"scan{suffix}"
    sitk.WriteImage(make_scan(), str(path), useCompression=False)
    content = path.read_bytes()
    assert content.count(old.encode()) == 1
    return write_bytes(path, content.replace(old.encode(), new.encode()))


def test_scaled_nifti_is_complete(tmp_path: Path) -> None:
    # scl_slope, at byte 112: ITK then announces floats, twice as long as the 16-bit integers in the file.
    read = read_volume(patched_nifti(tmp_path, 112, "f", 2.0))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), 2 * sitk.GetArrayFromImage(make_scan()))


SHEARED = struct.pack("<6f", 1.5, 0.9, 0, 0, 0, 1.2)
NIFTI_HEADERS = {
    "zero spacing": (80, "f", (0.0,), "impossible voxel spacing"),
    "negative spacing": (80, "f", (-1.0,), "impossible voxel spacing"),
    "NaN spacing": (88, "f", (float("nan"),), "impossible voxel spacing"),
    "infinite spacing": (84, "f", (float("inf"),), "impossible voxel spacing"),
    "s-form with two equal axes": (280, "f", (1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0), "right angles"),
    "s-form of zeros": (280, "f", (0,) * 12, "right angles"),
    "s-form with a NaN": (280, "f", (float("nan"),), "right angles"),
    # Codes of the q-form and the s-form, quaternion, offset: only the s-form is left, and it is sheared. Its second
    # axis is (0.9, 1.2, 0), of 1.5 mm.
    "sheared s-form": (252, "h", (0, 1, *[0] * 12, *struct.unpack("<12h", SHEARED)), "right angles"),
    "q-form with a NaN": (256, "f", (float("nan"),), "right angles"),
    "s-form of other voxels": (280, "f", (1.6, 0, 0, 0, 0, 1.5, 0, 0, 0, 0, 3, 0), "1.5 x 1.5 x 3 .* 1.6 x 1.5 x 3 mm"),
    "no dimensions": (40, "h", (0,), "damaged"),
    "negative size": (42, "h", (-5,), "damaged"),
    "more data than there are": (42, "h", (240,), "damaged"),
    "data behind the end": (108, "f", (1e9,), "damaged"),
}


@pytest.fixture(autouse=True)
def _quiet_itk() -> None:
    """As the command line and the worker set it: a refusal is one sentence, ours."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)


@pytest.mark.parametrize("case", NIFTI_HEADERS)
@pytest.mark.parametrize("packed", [False, True])
def test_refuses_nifti_header(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str, packed: bool) -> None:
    offset, layout, values, sentence = NIFTI_HEADERS[case]
    path = patched_nifti(tmp_path, offset, layout, *values)
    if packed:
        path = write_bytes(tmp_path / "scan.nii.gz", gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match=sentence) as refused:
        read_volume(path)
    assert refused.value.exit_code is ExitCode.BAD_INPUT
    assert path.name in str(refused.value)
    assert capfd.readouterr().err == ""


def test_an_s_form_that_itk_passes_over_may_have_other_voxels(tmp_path: Path) -> None:
    # The q-form is the scanner's, the s-form (code 4) leads to a template.
    path = patched_nifti(tmp_path, 280, "f", 1.6, 0, 0, 0, 0, 1.5, 0, 0, 0, 0, 3, 0)
    content = bytearray(path.read_bytes())
    struct.pack_into("<2h", content, 252, 1, 4)
    assert read_volume(write_bytes(path, content)).GetSpacing() == pytest.approx((1.5, 1.5, 3))


def nifti_bytes(voxels: np.ndarray, vox_offset: int = 352, bitpix: int | None = None) -> bytes:
    """A NIfTI-1 file made by hand from voxels (k, j, i), in their own type and byte order."""
    order = ">" if voxels.dtype.byteorder == ">" else "<"
    header = bytearray(vox_offset)
    datatype = {"i2": 4, "f4": 16, "f8": 64}[voxels.dtype.str[1:]]
    for offset, layout, values in (
        (0, "i", (348,)),
        (40, "8h", (3, *voxels.shape[::-1], 1, 1, 1, 1)),
        (70, "2h", (datatype, voxels.dtype.itemsize * 8 if bitpix is None else bitpix)),
        (76, "8f", (1, 1.5, 1.5, 3, 0, 0, 0, 0)),
        (108, "f", (vox_offset,)),
        (344, "4s", (b"n+1",)),
    ):
        struct.pack_into(order + layout, header, offset, *values)
    return bytes(header) + voxels.tobytes()


@pytest.mark.parametrize("voxel_type", ["<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("packed", [False, True])
def test_refuses_nifti_with_a_voxel_that_is_not_finite(
    tmp_path: Path, voxel_type: str, value: float, packed: bool
) -> None:
    # ITK's own reader makes it 0. At least 1.3 MB are read in pieces, from an odd byte on; the voxel is the last.
    voxels = np.full((50, 80, 80), 100, voxel_type)
    content = nifti_bytes(voxels, vox_offset=369)
    path = tmp_path / ("scan.nii.gz" if packed else "scan.nii")
    write_bytes(path, gzip.compress(content, 1) if packed else content)
    assert (sitk.GetArrayFromImage(read_volume(path)) == 100).all()
    voxels[-1, -1, -1] = value
    content = nifti_bytes(voxels, vox_offset=369)
    write_bytes(path, gzip.compress(content, 1) if packed else content)
    with pytest.raises(UserError, match=r"^scan.* not a number or infinite \(1 of 320,000\)"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".hdr", ".img", ".hdr.gz", ".img.gz"])
def test_reads_pair_of_files_through_either_and_refuses_a_nan(tmp_path: Path, suffix: str) -> None:
    scan = sitk.Cast(make_scan(), sitk.sitkFloat32)
    sitk.WriteImage(scan, str(tmp_path / f"scan.v2{suffix}"))
    path = tmp_path / f"scan.v2{suffix}"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), sitk.GetArrayFromImage(scan))
    scan[5, 4, 3] = float("nan")
    sitk.WriteImage(scan, str(path))
    with pytest.raises(UserError, match="not a number"):
        read_volume(path)


@pytest.mark.parametrize(("packed", "plain"), [(".nii.gz", ".nii"), (".hdr.gz", ".hdr"), (".img.gz", ".img")])
@pytest.mark.parametrize("links", [True, False])
def test_a_packed_file_is_read_beside_a_plain_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str, plain: str, links: bool
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("A required privilege is not held by the client")

    if not links:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    for suffix, value in ((packed, 1), (plain, 2)):
        sitk.WriteImage(sitk.Image(24, 20, 10, sitk.sitkInt16) + value, str(tmp_path / f"scan.v2{suffix}"))
    for suffix, value in ((packed, 1), (plain, 2)):
        assert (sitk.GetArrayFromImage(read_volume(tmp_path / f"scan.v2{suffix}")) == value).all()


def test_what_follows_the_voxels_may_be_anything(tmp_path: Path) -> None:
    voxels = np.full((10, 20, 24), 100, "<f4")
    path = write_bytes(tmp_path / "scan.nii", nifti_bytes(voxels) + np.full(9, np.nan, "<f4").tobytes())
    assert (sitk.GetArrayFromImage(read_volume(path)) == 100).all()


@pytest.mark.parametrize("bitpix", [0, 8, 64])
def test_nifti_is_complete_by_its_datatype(tmp_path: Path, bitpix: int) -> None:
    # ITK does not look at bitpix, and some programs leave it at 0.
    content = nifti_bytes(np.full((10, 20, 24), 100, "<i2"), bitpix=bitpix)
    assert (sitk.GetArrayFromImage(read_volume(write_bytes(tmp_path / "scan.nii", content))) == 100).all()
    with pytest.raises(UserError, match="damaged"):
        read_volume(write_bytes(tmp_path / "scan.nii", content[:-1]))


SPACE_DIRECTIONS = "space directions: (1.5,0,0) (0,1.5,0) (0,0,3)"
TEXT_HEADERS = {
    "zero spacing": (".mha", "Spacing = 1.5 1.5 3", "Spacing = 0 1.5 3", "impossible voxel spacing"),
    "negative spacing": (".mha", "Spacing = 1.5 1.5 3", "Spacing = -1 1.5 3", "impossible voxel spacing"),
    "singular": (".mha", "Matrix = 1 0 0 0 1 0", "Matrix = 1 0 0 1 0 0", "right angles"),
    "sheared": (".mha", "Matrix = 1 0 0 0 1 0", "Matrix = 1 0 0 0.5 1 0", "right angles"),
    "too long cosines": (".mha", "Matrix = 1 0 0", "Matrix = 2 0 0", "right angles"),
    "too little data": (".mha", "DimSize = 24 20 10", "DimSize = 240 20 10", "damaged"),
    "no size": (".mha", "DimSize = 24 20 10\n", "", "damaged"),
    "4 GB": (".mha", "DimSize = 24 20 10", "DimSize = 1024 1024 2048", "too large"),
    "NRRD zero spacing": (".nrrd", "(1.5,0,0)", "(0,0,0)", "impossible voxel spacing"),
    "NRRD no spacing": (".nrrd", "(1.5,0,0)", "none", "impossible voxel spacing"),
    "NRRD spacing 0": (".nrrd", SPACE_DIRECTIONS, "spacings: 0 1.5 3", "impossible voxel spacing"),
    "NRRD spacing NaN": (".nrrd", SPACE_DIRECTIONS, "spacings: nan 1.5 3", "impossible voxel spacing"),
    "NRRD singular": (".nrrd", "(0,1.5,0)", "(1.5,0,0)", "right angles"),
    "NRRD sheared": (".nrrd", "(0,1.5,0)", "(0.5,1.5,0)", "right angles"),
    "NRRD too little data": (".nrrd", "sizes: 24 20 10", "sizes: 240 20 10", "damaged"),
    "NRRD 4 GB": (".nrrd", "sizes: 24 20 10", "sizes: 1024 1024 2048", "too large"),
}


@pytest.mark.parametrize("case", TEXT_HEADERS)
def test_refuses_text_header(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    suffix, old, new, sentence = TEXT_HEADERS[case]
    path = patched_text(tmp_path, suffix, old, new)
    if new.startswith("spacings"):
        # NRRD has spacings only without a space.
        header, _, voxels = path.read_bytes().partition(b"\n\n")
        lines = [line for line in header.split(b"\n") if not line.startswith((b"space: ", b"space origin"))]
        write_bytes(path, b"\n".join(lines) + b"\n\n" + voxels)
    with pytest.raises(UserError, match=sentence):
        read_volume(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_refuses_truncated_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str, compressed: bool, kept: float
) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(make_scan(), str(path), useCompression=compressed)
    content = path.read_bytes()
    write_bytes(path, content[: int(kept * len(content))])
    with pytest.raises(UserError, match="damaged"):
        read_volume(path)
    assert capfd.readouterr().err == ""


def test_a_file_is_called_as_the_user_called_it(tmp_path: Path) -> None:
    """Also where ITK reads it under another name, as it takes the "Scan.nii" beside a "Scan.nii.gz"."""
    sitk.WriteImage(make_scan(), str(tmp_path / "other.nii.gz"))
    (tmp_path / "other.nii.gz").rename(tmp_path / "Scan.nii.gz")
    (tmp_path / "Scan.nii").write_bytes(b"")
    content = (tmp_path / "Scan.nii.gz").read_bytes()
    write_bytes(tmp_path / "Scan.nii.gz", content[: len(content) // 2])
    with pytest.raises(UserError, match=r"^Scan\.nii\.gz is damaged"):
        read_volume(tmp_path / "Scan.nii.gz")


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", [".MHA", ".MHD", ".NRRD", ".NHDR", ".NII", ".NII.GZ", ".nii.GZ"])
def test_suffixes_in_capitals(tmp_path: Path, suffix: str, compressed: bool) -> None:
    scan, path = make_scan(), tmp_path / f"Scan{suffix}"
    sitk.WriteImage(scan, str(tmp_path / f"Scan{suffix.lower()}"), useCompression=compressed)
    (tmp_path / f"Scan{suffix.lower()}").rename(path)
    read = read_volume(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(scan))
    assert read.GetSpacing() == pytest.approx(scan.GetSpacing())
    voxels = next((file for file in tmp_path.iterdir() if file != path), path)
    content = voxels.read_bytes()
    write_bytes(voxels, content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"^Scan{suffix} is damaged"):
        read_volume(path)


@pytest.mark.parametrize("packing", ["", ".gz", ".GZ"])
@pytest.mark.parametrize("endings", [(".HDR", ".IMG"), (".HDR", ".img"), (".hdr", ".IMG")])
def test_pairs_in_capitals(tmp_path: Path, endings: tuple[str, str], packing: str) -> None:
    scan, files = make_scan(), [tmp_path / f"Scan{ending}{packing}" for ending in endings]
    sitk.WriteImage(scan, str(tmp_path / "whole.img"))
    for file, ending in zip(files, endings, strict=True):
        content = (tmp_path / f"whole{ending.lower()}").read_bytes()
        write_bytes(file, gzip.compress(content) if packing else content)
    for given in files:
        read = read_volume(given)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(scan))
        assert read.GetSpacing() == pytest.approx(scan.GetSpacing())
    content = files[1].read_bytes()
    write_bytes(files[1], content[: len(content) // 2])
    # ITK alone would read zeros for what is missing.
    for given in files:
        with pytest.raises(UserError, match=rf"^{given.name} is damaged"):
            read_volume(given)


def test_a_pair_is_not_taken_apart_by_another_one_of_its_name(tmp_path: Path) -> None:
    scan = make_scan()
    sitk.WriteImage(scan, str(tmp_path / "scan.img"))
    for ending in ("hdr", "img"):
        (tmp_path / f"scan.{ending}").rename(tmp_path / f"scan.{ending.upper()}")
    if (tmp_path / "scan.img").exists():
        pytest.skip("the file system does not tell capitals from small letters")
    sitk.WriteImage(scan + 1, str(tmp_path / "scan.img"))
    for ending in ("hdr", "img"):
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(read_volume(tmp_path / f"scan.{ending.upper()}")), sitk.GetArrayFromImage(scan)
        )


# The last 8 bytes of a gzip stream are its checksum and its length.
@pytest.mark.parametrize("byte", [-8, -1])
def test_refuses_gzip_with_a_wrong_checksum_or_length(tmp_path: Path, byte: int) -> None:
    # Of a smaller scan ITK itself comes to the end of the stream.
    noise = np.random.default_rng(0).integers(100, 500, (40, 64, 64), dtype=np.int16)
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path))
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    with pytest.raises(UserError, match="damaged"):
        read_volume(write_bytes(path, content))


def test_refuses_damaged_compressed_metaimage(tmp_path: Path) -> None:
    # ITK's own reader goes on with such data, and may crash.
    path = tmp_path / "scan.mha"
    sitk.WriteImage(make_scan(), str(path), useCompression=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    with pytest.raises(UserError, match="damaged"):
        read_volume(write_bytes(path, content))


def test_reads_metaimage_with_a_file_for_each_slice(tmp_path: Path) -> None:
    scan = make_scan()
    sitk.WriteImage(scan, str(tmp_path / "scan.mhd"), useCompression=False)
    voxels = sitk.GetArrayFromImage(scan)
    for k in range(10):
        write_bytes(tmp_path / f"slice{k:02d}.raw", voxels[k].tobytes())
    header = (tmp_path / "scan.mhd").read_bytes()
    write_bytes(tmp_path / "scan.mhd", header.replace(b"scan.raw", b"slice%02d.raw 0 9 1"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "scan.mhd")), voxels)


def test_refuses_header_without_its_data_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for suffix, data_suffix in ((".mhd", ".raw"), (".hdr", ".img")):
        sitk.WriteImage(make_scan(), str(tmp_path / f"scan{suffix}"))
        (tmp_path / f"scan{data_suffix}").unlink()
        with pytest.raises(UserError, match="damaged"):
            read_volume(tmp_path / f"scan{suffix}")
    assert capfd.readouterr().err == ""


def test_refuses_metaimage_of_vectors_of_one(tmp_path: Path) -> None:
    path = patched_text(tmp_path, ".mha", "ElementType = MET_SHORT", "ElementType = MET_SHORT_ARRAY")
    with pytest.raises(UserError, match="several values"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nii", ".hdr"])
def test_a_nifti_header_of_a_wrong_size_is_refused(tmp_path: Path, suffix: str) -> None:
    """ITK would read it, and compute for ever where its axes are not finite."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).uniform(0, 9, (12, 12, 12)).astype(np.float32))
    sitk.WriteImage(image, str(tmp_path / f"scan{'.nii' if suffix == '.nii' else '.img'}"))
    header = tmp_path / f"scan{suffix}"
    content = bytearray(header.read_bytes())
    content[1] = 128
    content[312:316] = np.float32("-inf").tobytes()
    header.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_volume(tmp_path / ("scan.nii" if suffix == ".nii" else "scan.img"))
