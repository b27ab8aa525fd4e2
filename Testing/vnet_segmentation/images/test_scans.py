"""Reading scans: what is read, and the sentence for everything that is not."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.scans import check_scan, find_scans, read_scan, read_volume, scan_stem, voxel_hash

OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def make_scan(size: tuple[int, ...] = (24, 20, 10), spacing_mm: tuple[float, ...] = (1.5, 1.5, 3.0)) -> sitk.Image:
    """Noise of MR-like intensities, int16; 36 x 30 x 30 mm by default."""
    voxels = np.random.default_rng(0).integers(100, 500, size[::-1], dtype=np.int16)
    image = sitk.GetImageFromArray(voxels, isVector=False)
    image.SetSpacing(spacing_mm)
    return image


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".tif", ".gipl"])
def test_reads_every_format_as_float(tmp_path: Path, suffix: str) -> None:
    scan = make_scan()
    path = tmp_path / f"Größe 前列腺{suffix}"
    if suffix == ".tif":
        # TIFF keeps no spacing between slices: 24 slices at its 1 mm, so that the extent is that of a scan.
        scan = sitk.Cast(make_scan((24, 24, 24), (1.0, 1.0, 1.0)), sitk.sitkUInt16)
    sitk.WriteImage(scan, str(path))
    read = read_scan(path)
    assert read.GetPixelID() == sitk.sitkFloat32
    assert read.GetSpacing() == pytest.approx(scan.GetSpacing())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(scan))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_keeps_an_oblique_grid(tmp_path: Path, suffix: str) -> None:
    scan = make_scan()
    scan.SetDirection(OBLIQUE)
    scan.SetOrigin((-10.5, 20.25, 30.0))
    sitk.WriteImage(scan, str(tmp_path / f"scan{suffix}"))
    read = read_scan(tmp_path / f"scan{suffix}")
    assert read.GetDirection() == pytest.approx(OBLIQUE, abs=1e-6)
    assert read.GetOrigin() == pytest.approx((-10.5, 20.25, 30.0))


def test_one_frame_of_4d_is_a_scan(tmp_path: Path) -> None:
    scan = make_scan()
    sitk.WriteImage(sitk.JoinSeries([scan]), str(tmp_path / "scan.nrrd"))
    assert read_scan(tmp_path / "scan.nrrd").GetSize() == scan.GetSize()


def test_refuses_4_gb_before_reading_a_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 2048 x 2048 x 512 voxels of 16 bits: 4 GiB, in a file with a hole.
    path = tmp_path / "scan.nii"
    sitk.WriteImage(make_scan(), str(path))
    with open(path, "rb+") as file:
        # The sizes are at byte 42 of the header, which ends at 352.
        file.seek(42)
        file.write(struct.pack("<3h", 2048, 2048, 512))
        file.truncate(352 + (4 << 30))

    def no_pixels(self: sitk.ImageFileReader) -> None:
        raise AssertionError("The pixels were read.")

    monkeypatch.setattr(sitk.ImageFileReader, "Execute", no_pixels)
    with pytest.raises(UserError, match="too large: 2048 x 2048 x 512"):
        read_scan(path)


def test_refuses_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^scan.nii.gz is empty"):
        read_scan(write_bytes(tmp_path / "scan.nii.gz", b""))


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha", ".gipl"])
def test_refuses_a_file_with_a_nan(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(with_voxels(lambda v: v.__setitem__((3, 4, 5), np.nan)), str(path))
    # 24 * 20 * 10 voxels.
    with pytest.raises(UserError, match=r"^scan.* not a number or infinite \(1 of 4,800\)"):
        read_scan(path)


def test_refuses_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not Unicode"):
        read_scan(tmp_path / "sch\udcf6n.nii.gz")


def test_refuses_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist or cannot be reached"):
        read_scan(tmp_path / f"{'x' * 300}.nii.gz")


def test_refuses_what_is_no_scan_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_scan(tmp_path / "missing.nii.gz")
    with pytest.raises(UserError, match="no image that can be read"):
        read_scan(write_bytes(tmp_path / "notes.nii.gz", b"no image at all" * 100))
    with pytest.raises(UserError, match="no DICOM images"):
        read_scan(tmp_path)
    with pytest.raises(UserError, match="no series 3") as refused:
        read_scan(tmp_path / "notes.nii.gz", series="3")
    assert refused.value.exit_code is ExitCode.USAGE


def test_refuses_other_dimensions_and_colour(tmp_path: Path) -> None:
    scan = make_scan()
    grey = sitk.Cast(scan, sitk.sitkUInt8)
    for name, image, sentence in (
        ("flat.nii.gz", scan[:, :, 0], "2D"),
        ("flat.png", grey[:, :, 0], "2D"),
        ("frames.nii.gz", sitk.JoinSeries([scan, scan]), "4D, with 2 frames"),
        ("colour.nrrd", sitk.Compose(grey, grey, grey), "several values"),
        ("complex.nrrd", sitk.RealAndImaginaryToComplex(*[sitk.Cast(scan, sitk.sitkFloat32)] * 2), "several values"),
    ):
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(UserError, match=sentence):
            read_scan(tmp_path / name)


def test_refuses_segmentation(tmp_path: Path) -> None:
    # By its name alone, though its voxels would pass.
    for name in ("case.seg.nrrd", "CASE.Seg.NRRD"):
        sitk.WriteImage(make_scan(), str(tmp_path / name))
        with pytest.raises(UserError, match="is a segmentation"):
            read_scan(tmp_path / name)


def test_read_volume_reads_a_mask(tmp_path: Path) -> None:
    mask = sitk.Cast(make_scan() > 300, sitk.sitkUInt8)
    sitk.WriteImage(mask, str(tmp_path / "mask.nii.gz"))
    assert read_volume(tmp_path / "mask.nii.gz").GetPixelID() == sitk.sitkUInt8


def with_voxels(change: object) -> sitk.Image:
    """The usual scan as float32, its voxels (k, j, i) changed in place by a function."""
    voxels = sitk.GetArrayFromImage(make_scan()).astype(np.float32)
    change(voxels)  # type: ignore[operator]
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.5, 1.5, 3.0))
    return image


def test_check_scan_returns_float_and_leaves_the_image_alone() -> None:
    scan = make_scan()
    checked = check_scan(scan, "T2")
    assert (scan.GetPixelID(), checked.GetPixelID()) == (sitk.sitkInt16, sitk.sitkFloat32)
    assert checked.GetSpacing() == scan.GetSpacing()


@pytest.mark.parametrize(("offset", "factor"), [(1e9, 1), (-1e9, 1), (0, 1e-30), (0, 1e30), (0, 1e37), (1e300, 1e290)])
def test_values_that_float32_cannot_hold_keep_their_contrast(offset: float, factor: float) -> None:
    scan = sitk.Cast(make_scan(), sitk.sitkFloat64) * factor + offset
    voxels = sitk.GetArrayFromImage(check_scan(scan, "T2")).astype(np.float64)
    expected = sitk.GetArrayFromImage(make_scan()).astype(np.float64)
    # Apart from a linear function.
    assert np.corrcoef(voxels.ravel(), expected.ravel())[0, 1] > 0.99999
    assert 0.1 < voxels.std() < 1e4


def test_a_scan_is_known_by_its_voxels_whatever_file_they_come_from() -> None:
    scan = make_scan()
    known = voxel_hash(scan)
    elsewhere = sitk.Cast(scan, sitk.sitkFloat64)
    elsewhere.SetOrigin((1.0, 2.0, 3.0))
    assert voxel_hash(elsewhere) == known
    changed = sitk.Image(scan)
    changed[3, 4, 5] += 1
    assert voxel_hash(changed) != known
    # The same values one after the other, in slices of another shape.
    x, y, z = scan.GetSize()
    reshaped = sitk.GetArrayFromImage(scan).reshape(z, x, y)
    assert voxel_hash(sitk.GetImageFromArray(reshaped)) != known


def test_the_voxels_of_a_usual_scan_are_not_touched() -> None:
    scan = make_scan()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(check_scan(scan, "T2")), sitk.GetArrayFromImage(scan))
    large = sitk.Cast(scan, sitk.sitkInt32) + 100_000
    np.testing.assert_array_equal(sitk.GetArrayFromImage(check_scan(large, "T2")), sitk.GetArrayFromImage(large))


BAD_IMAGES = {
    "one slice": (lambda: make_scan((24, 20, 1)), "too few slices: its size is 24 x 20 x 1"),
    "two slices, sagittal": (lambda: make_scan((2, 20, 20), (20.0, 1.5, 1.5)), "too few slices"),
    # 5 voxels of 1 mm along each axis.
    "5-mm cube": (lambda: make_scan((5, 5, 5), (1.0, 1.0, 1.0)), "covers 5 x 5 x 5 mm, which is too small"),
    # 6 slices of 3 mm: 18 mm, below 20 mm.
    "thin slab": (lambda: make_scan((24, 20, 6)), "too small"),
    # 1.5 and 3 mm taken for micrometres: 24 * 1500 um.
    "micrometres": (lambda: make_scan(spacing_mm=(1500.0, 1500.0, 3000.0)), "too large .*in mm"),
    "one NaN": (lambda: with_voxels(lambda v: v.__setitem__((3, 4, 5), np.nan)), "not a number"),
    "one infinity": (lambda: with_voxels(lambda v: v.__setitem__((3, 4, 5), -np.inf)), "infinite"),
    "all NaN": (lambda: with_voxels(lambda v: v.fill(np.nan)), r"not a number or infinite \(4,800 of 4,800"),
    "constant": (lambda: with_voxels(lambda v: v.fill(7)), r"the same value \(7\)"),
    "mask": (lambda: make_scan() > 300, "only 2 different values"),
    # Integers 0 to 7: 8 labels.
    "label map": (lambda: with_voxels(lambda v: np.copyto(v, v % 8)), "only 8 different values"),
    # The scan's intensities are 100 to 499; 2 of 10 slices are air.
    "CT": (lambda: with_voxels(lambda v: v[:2].__isub__(1300)), "looks like a CT"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_check_scan_refuses(case: str) -> None:
    make, sentence = BAD_IMAGES[case]
    with pytest.raises(UserError, match=f"^T2 .*{sentence}") as refused:
        check_scan(make(), "T2")
    assert refused.value.exit_code is ExitCode.BAD_INPUT


def test_check_scan_accepts_what_is_close_to_refused() -> None:
    # 20 voxels of 1 mm: exactly the smallest extent.
    check_scan(make_scan((20, 20, 20), (1.0, 1.0, 1.0)), "small")
    # Left-handed axes are a mirrored order, not a damaged header.
    mirrored = make_scan()
    mirrored.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    check_scan(mirrored, "mirrored")
    # 9 values, one more than a mask may have.
    check_scan(with_voxels(lambda v: np.copyto(v, v % 9)), "coarse")
    # A normalised MR has negative values.
    check_scan(with_voxels(lambda v: np.copyto(v, (v - 300) / 100)), "normalised")


def test_direction_cosines_may_be_rounded_to_four_decimals() -> None:
    scan = make_scan()
    # 30, 20 and 10 degrees about z, y and x: the products of its rounded axes are wrong by up to 6e-5.
    turned = sitk.Euler3DTransform((0, 0, 0), *np.radians((10, 20, 30)))
    scan.SetDirection(np.round(turned.GetMatrix(), 4))
    check_scan(scan, "rounded")
    scan.SetDirection((1, 5e-4, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(UserError, match="right angles"):
        check_scan(scan, "sheared")


def test_find_scans(tmp_path: Path) -> None:
    wanted = ["a.nii.gz", "b/c.NRRD", "b/d.mha", "prostate.nii", "e.hdr", "b/F.HDR", "g.hdr.gz"]
    masks = ["a_prostate.nii.gz", "a_segmentation.nii", "a_Probability.nrrd", "a.seg.nrrd", "b/c_prostate.hdr"]
    others = [".hidden.nii", ".trash/e.nii", "b/notes.txt", "a.json", "a.png"]
    # A pair counts once, by its header.
    voxels = ["e.img", "b/F.IMG", "g.img.gz", "lone.img"]
    for name in wanted + masks + others + voxels:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dicom" / "deep").mkdir(parents=True)
    for name in ("IM0001", "IM0002", "report.pdf"):
        (tmp_path / "dicom" / "deep" / name).write_bytes(bytes(128) + (b"DICM" if name.startswith("IM") else b"%PDF"))
    # Files of old archives have no preamble, and damaged ones nothing; their names tell.
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "IM1.DCM").touch()
    expected = [*(tmp_path / name for name in wanted), tmp_path / "dicom" / "deep", tmp_path / "old"]
    assert find_scans(tmp_path) == sorted(expected)


def test_find_scans_follows_links_and_finds_each_scan_once(tmp_path: Path) -> None:
    for folder in ("archive", "study"):
        (tmp_path / folder).mkdir()
    (tmp_path / "archive" / "scan.nii").touch()
    for name, target in (("a", "archive"), ("b", "archive"), ("c", "study")):
        (tmp_path / "study" / name).symlink_to(tmp_path / target)
    assert find_scans(tmp_path / "study") == [tmp_path / "study" / "a" / "scan.nii"]


def test_find_scans_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder") as refused:
        find_scans(tmp_path / "missing")
    assert refused.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("case.nii.gz", "case"),
        ("some/case.v2.nii", "case.v2"),
        ("case.seg.nrrd", "case"),
        ("CASE.MHA", "CASE"),
        ("case.hdr", "case"),
        ("CASE.IMG", "CASE"),
        ("case.img.gz", "case"),
        ("Patient 1.2.3/", "Patient 1.2.3"),
        ("slice.dcm", "slice"),
    ],
)
def test_scan_stem(name: str, stem: str) -> None:
    assert scan_stem(name) == stem


def test_reads_the_native_scans(native: Path) -> None:
    scans = find_scans(native)
    # Ten files and the DICOM folder, as the folder's README lists them.
    assert len(scans) == 11
    for path in scans:
        assert read_scan(path).GetSize()[0] in (320, 384)


def test_dicom_folder_is_the_same_scan_as_its_nifti(native: Path) -> None:
    dicom = read_scan(native / "Prostate3T-03-0002_dicom")
    nifti = read_scan(native / "Prostate3T-03-0002_t2_tse_tra.nii.gz")
    assert dicom.GetSize() == nifti.GetSize() == (384, 384, 21)
    corner, far = (0, 0, 0), (383, 383, 20)
    for index in (corner, far):
        physical_mm = nifti.TransformIndexToPhysicalPoint(index)
        assert dicom[dicom.TransformPhysicalPointToIndex(physical_mm)] == nifti[index]


def test_reads_promise12_and_refuses_its_masks(promise12: Path) -> None:
    assert read_scan(promise12 / "Case00.nii.gz").GetSize() == (128, 128, 32)
    with pytest.raises(UserError, match="it is a mask"):
        read_scan(promise12 / "Case00_segmentation.nii.gz")
    # 40 cases, whose masks are passed over.
    assert len(find_scans(promise12)) == 40
