"""Cases are prepared once for the same files and settings, and lie where the scan says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.segmentation.demo import DEMO_SEED
from vnet_segmentation.training import cache as training_cache
from vnet_segmentation.training.appearance import N_QUANTILES
from vnet_segmentation.training.cache import SyntheticCases, TrainingCase, case_grid, load_cases, prepare_pair

SIZE = (40, 36, 16)
SPACING_MM = (1.0, 1.25, 3.0)
BALL_VOXELS = (24, 12, 6)
"""Centre (i, j, k), off the middle of every axis."""
BALL_RADIUS_MM = 9.0


def make_pair(seed: int = 0) -> tuple[sitk.Image, sitk.Image]:
    """A bright ball in noise, and its mask."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in SIZE[::-1]), indexing="ij")
    from_middle_mm = [(index - c) * s for index, c, s in zip((i, j, k), BALL_VOXELS, SPACING_MM, strict=True)]
    ball = np.square(from_middle_mm).sum(0) <= BALL_RADIUS_MM**2
    noise = np.random.default_rng(seed).normal(0, 20, ball.shape)
    scan = sitk.GetImageFromArray((300 + 300 * ball + noise).astype(np.float32))
    scan.SetSpacing(SPACING_MM)
    scan.SetOrigin((-10.0, 20.0, 5.0))
    mask = sitk.GetImageFromArray(ball.astype(np.uint8))
    mask.CopyInformation(scan)
    return scan, mask


def write_case(folder: Path, name: str = "Case00", ending: str = ".nii.gz", seed: int = 0) -> Case:
    folder.mkdir(parents=True, exist_ok=True)
    case = Case(name, folder / f"{name}{ending}", folder / f"{name}_segmentation{ending}")
    for image, path in zip(make_pair(seed), (case.image, case.mask), strict=True):
        sitk.WriteImage(image, str(path))
    return case


class Loader:
    """Loads cases from one cache and tells which of them had to be prepared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prepared: list[str] = []

    def __call__(self, *cases: Case, preprocessing: Preprocessing | None = None) -> list[TrainingCase]:
        self.prepared = []
        return load_cases(cases, preprocessing or Preprocessing(), self.folder, self.prepared.append)


@pytest.fixture
def load(tmp_path: Path) -> Loader:
    return Loader(tmp_path / "cache")


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> sitk.Image:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(training_cache, "read_scan", read)
    monkeypatch.setattr(training_cache, "read_mask", read)


# Preparing


def test_a_pair_is_brought_to_the_networks_spacing() -> None:
    image, coverage = prepare_pair(*make_pair(), Preprocessing())
    # 40 x 1.0, 36 x 1.25 and 16 x 3.0 mm at 1.0, 1.0 and 1.5 mm.
    assert image.shape == coverage.shape == (32, 45, 40)
    assert image.dtype == torch.float32
    assert coverage.dtype == torch.uint8
    # A ball of 9 mm has 4/3 pi 9^3 = 3054 mm3, a voxel 1.5 mm3.
    assert coverage.sum().item() / 255 * 1.5 == pytest.approx(3054, rel=0.05)
    # Some voxels are partly covered: the mask is not rounded before it is deformed.
    assert ((coverage > 0) & (coverage < 255)).any()
    assert image[coverage == 255].mean() == pytest.approx(600, abs=15)
    assert image[coverage == 0].mean() == pytest.approx(300, abs=15)


def test_the_gland_is_where_the_scan_has_it() -> None:
    case = TrainingCase.from_arrays("a", *prepare_pair(*make_pair(), Preprocessing()))
    # Both grids have the same middle. x: (24 - 19.5) * 1.0 + 19.5; y: (12 - 17.5) * 1.25 + 22;
    # z: (6 - 7.5) * 3 / 1.5 + 15.5.
    assert case.gland_centre.tolist() == pytest.approx([24.0, 15.125, 12.5], abs=0.1)


def test_of_a_finer_mask_all_that_lies_in_a_voxel_counts() -> None:
    # Columns of 0.25 mm, six in a voxel of 1.5 mm; the mask ends after a third of voxel 8, before its middle.
    columns = np.zeros((16, 16, 96), np.uint8)
    columns[:, :, : 6 * 8 + 2] = 1
    mask = sitk.GetImageFromArray(columns)
    mask.SetSpacing((0.25, 1.5, 2.0))
    preprocessing = Preprocessing(spacing_mm=(1.5, 1.5, 2.0))
    _, coverage = prepare_pair(sitk.Cast(mask, sitk.sitkFloat32), mask, preprocessing)
    assert coverage.shape == (16, 16, 16)
    assert coverage[8, 8, 8].item() == pytest.approx(255 / 3, abs=10)
    assert coverage[8, 8, [0, 5, 11, 15]].tolist() == [255, 255, 0, 0]


def test_a_voxel_that_the_mask_fills_is_filled_whatever_smoothing_rounds() -> None:
    # Smoothing swings a bit around 0 and 1.
    voxels = np.zeros((16, 90, 90), np.uint8)
    voxels[:, 20:70, 30:] = 1
    mask = sitk.GetImageFromArray(voxels)
    mask.SetSpacing((0.3, 0.3, 2.0))
    _, coverage = prepare_pair(sitk.Cast(mask, sitk.sitkFloat32), mask, Preprocessing(spacing_mm=(1.5, 1.5, 2.0)))
    # Voxels of 5 x 5: rows 4 to 13 and columns from 6 on; the outermost ones have a part of their edge's blur.
    assert coverage.shape == (16, 18, 18)
    assert coverage[:, 6:12, 8:].unique().tolist() == [255]
    assert coverage[:, :2].unique().tolist() == coverage[:, :, :4].unique().tolist() == [0]


@pytest.mark.parametrize("orientation", ["RAS", "SLA", "PIR"])
def test_axes_of_the_file_make_no_difference(orientation: str) -> None:
    scan, mask = make_pair()
    straight = prepare_pair(scan, mask, Preprocessing())
    turned = prepare_pair(sitk.DICOMOrient(scan, orientation), sitk.DICOMOrient(mask, orientation), Preprocessing())
    for one, other in zip(straight, turned, strict=True):
        assert one.shape == other.shape
        # Rounding: of grey levels around 300, and of 255 parts.
        assert torch.allclose(one.float(), other.float(), atol=1.0)


def test_the_border_of_the_scan_is_not_padded_with_zeros() -> None:
    image, _ = prepare_pair(*make_pair(), Preprocessing())
    # The ball and its surroundings are 200 at least; half a voxel of zeros would pull the border towards 150.
    assert image.min() > 200


def test_what_is_far_from_the_middle_is_left_out() -> None:
    scan = sitk.GetImageFromArray(np.random.default_rng(0).normal(300, 20, (8, 60, 150)).astype(np.float32))
    scan.SetSpacing((2.0, 2.0, 3.0))
    image, _ = prepare_pair(scan, sitk.Cast(scan > 330, sitk.sitkUInt8), Preprocessing())
    # 300 mm are cut to 256; 120 and 24 mm stay.
    assert image.shape == (16, 120, 256)


def test_volumes_are_image_and_share_of_the_mask() -> None:
    image = torch.arange(24.0).reshape(2, 3, 4)
    coverage = torch.zeros(2, 3, 4, dtype=torch.uint8)
    coverage[1, 2, 3], coverage[1, 2, 1], coverage[0, 0, 0] = 255, 255, 51
    case = TrainingCase.from_arrays("a", image, coverage)
    volumes = case.volumes(torch.device("cpu"))
    assert torch.equal(volumes[0], image)
    # 51 / 255 = 0.2
    assert volumes[1].unique().tolist() == pytest.approx([0.0, 0.2, 1.0])
    # The voxels (x, y, z) = (3, 2, 1) and (1, 2, 1) are inside; 0.2 of a voxel is not.
    assert case.gland_centre.tolist() == [2, 2, 1]
    assert case.quantiles.shape == (N_QUANTILES,)
    assert case.quantiles[[0, -1]].tolist() == [0, 23]


def test_without_a_gland_the_centre_is_the_middle() -> None:
    case = TrainingCase.from_arrays("a", torch.zeros(3, 5, 9), torch.zeros(3, 5, 9, dtype=torch.uint8))
    assert case.gland_centre.tolist() == [4, 2, 1]


# The cache


def test_the_second_load_reads_no_image(tmp_path: Path, load: Loader, request: pytest.FixtureRequest) -> None:
    cases = [write_case(tmp_path / "data", "Case00"), write_case(tmp_path / "data", "Case01", seed=1)]
    first = load(*cases)
    assert load.prepared == ["Case00", "Case01"]
    request.getfixturevalue("no_reading")
    second = load(*cases)
    assert load.prepared == []
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        for field in ("image", "coverage", "quantiles", "gland_centre"):
            assert torch.equal(getattr(one, field), getattr(other, field)), field


@pytest.mark.usefixtures("no_reading")
def test_the_fixture_that_forbids_reading_does_so(tmp_path: Path, load: Loader) -> None:
    with pytest.raises(AssertionError, match="was read"):
        load(write_case(tmp_path / "data"))


def test_only_a_changed_case_is_prepared_anew(tmp_path: Path, load: Loader) -> None:
    cases = [write_case(tmp_path / "data", "Case00"), write_case(tmp_path / "data", "Case01", seed=1)]
    before = load(*cases)
    write_case(tmp_path / "data", "Case01", seed=2)
    after = load(*cases)
    assert load.prepared == ["Case01"]
    assert not torch.equal(before[1].image, after[1].image)
    mask = sitk.ReadImage(str(cases[0].mask))
    sitk.WriteImage(sitk.BinaryDilate(mask, (1, 1, 1)), str(cases[0].mask))
    after = load(*cases)
    assert load.prepared == ["Case00"]
    assert after[0].coverage.sum() > before[0].coverage.sum()


def test_a_case_is_prepared_for_the_label_that_is_the_prostate(tmp_path: Path, load: Loader) -> None:
    case = write_case(tmp_path / "data")
    mask = sitk.ReadImage(str(case.mask))
    # A second structure, in a corner.
    mask[0:4, 0:4, 0:4] = 2
    sitk.WriteImage(mask, str(case.mask))
    gland, corner, both = (load(replace(case, label=label))[0].coverage.sum().item() / 255 for label in (1, 2, 0))
    # 64 voxels of 3.75 mm3, on a grid of 1.5 mm3.
    assert corner == pytest.approx(64 * 3.75 / 1.5, rel=0.1)
    assert gland > 10 * corner
    assert both == pytest.approx(gland + corner, rel=0.01)


def test_the_same_contents_elsewhere_are_not_prepared_anew(tmp_path: Path, load: Loader) -> None:
    load(write_case(tmp_path / "data"))
    load(write_case(tmp_path / "copy"))
    assert load.prepared == []


@pytest.mark.parametrize(
    "change", [{"spacing_mm": (1.0, 1.0, 3.0)}, {"bias_correction": True}, {"clip_percentiles": (1.0, 99.0)}]
)
def test_other_settings_are_prepared_anew_beside_the_former(
    tmp_path: Path, load: Loader, change: dict[str, Any]
) -> None:
    case = write_case(tmp_path / "data")
    load(case)
    load(case, preprocessing=replace(Preprocessing(), **change))
    assert load.prepared == ["Case00"]
    load(case)
    assert load.prepared == []


@pytest.mark.parametrize(("ending", "data"), [(".mhd", ".raw"), (".nhdr", ".raw")])
def test_voxels_beside_a_header_are_part_of_the_file(tmp_path: Path, load: Loader, ending: str, data: str) -> None:
    case = write_case(tmp_path / "data", ending=ending)
    header = case.image.read_text()
    # Under another name, as after a renaming by hand; and a line that is too long to be a file's name.
    voxels = case.image.with_name(f"voxels of the scan{data}")
    case.image.with_suffix(data).rename(voxels)
    comment = "" if ending == ".mhd" else f"# {'x' * 5000}\n"
    case.image.write_text(header.replace(f"Case00{data}", voxels.name) + comment)
    before = load(case)[0]
    load(case)
    assert load.prepared == []
    changed = np.fromfile(voxels, np.float32)
    changed[len(changed) // 2 :] += 100
    changed.tofile(voxels)
    after = load(case)[0]
    assert load.prepared == ["Case00"]
    assert not torch.equal(before.image, after.image)


@pytest.mark.parametrize(
    ("ending", "old", "new"),
    [
        (".mhd", "ElementDataFile = Case00.raw", "ElementDataFile = s[1]%02d.raw 0 15 1"),
        (".nhdr", "data file: Case00.raw", "data file: s[1]%02d.raw 0 15 1"),
    ],
)
def test_slices_that_a_pattern_names_are_part_of_the_file(
    tmp_path: Path, load: Loader, ending: str, old: str, new: str
) -> None:
    case = write_case(tmp_path / "data", ending=ending)
    voxels = np.fromfile(case.image.with_suffix(".raw"), np.float32).reshape(SIZE[::-1])
    for number, one in enumerate(voxels):
        one.tofile(case.image.with_name(f"s[1]{number:02}.raw"))
    header = case.image.read_text()
    assert old in header
    case.image.write_text(header.replace(old, new))
    case.image.with_suffix(".raw").unlink()
    before = load(case)[0]
    (voxels[7] + 100).tofile(case.image.with_name("s[1]07.raw"))
    after = load(case)[0]
    assert load.prepared == ["Case00"]
    assert not torch.equal(before.image, after.image)


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_voxels_beside_a_nifti_header_are_part_of_the_file(
    tmp_path: Path, load: Loader, change: Callable[[str], str]
) -> None:
    case = write_case(tmp_path / "data", ending=".hdr")
    header, voxels_file = (case.image.with_suffix(change(ending)) for ending in (".hdr", ".img"))
    for file in (header, voxels_file):
        file.with_suffix(file.suffix.lower()).rename(file)
    for named in (replace(case, image=header), replace(case, image=voxels_file)):
        load(named)
        with open(voxels_file, "r+b") as voxels:
            value = np.frombuffer(voxels.read(4), np.float32)[0]
            voxels.seek(0)
            voxels.write(np.float32(value + 50).tobytes())
        load(named)
        assert load.prepared == ["Case00"]


def test_slices_of_a_dicom_folder_are_part_of_the_scan(tmp_path: Path, load: Loader) -> None:
    case = replace(write_case(tmp_path / "data"), image=tmp_path / "dicom")
    write_slices(case.image, sitk.Cast(make_pair()[0], sitk.sitkInt16))
    before = load(case)[0]
    assert before.gland_centre.tolist() == pytest.approx([24.0, 15.125, 12.5], abs=0.1)
    load(case)
    assert load.prepared == []
    write_slices(case.image, sitk.Cast(make_pair(seed=1)[0], sitk.sitkInt16))
    after = load(case)[0]
    assert load.prepared == ["Case00"]
    assert not torch.equal(before.image, after.image)


def write_slices(folder: Path, scan: sitk.Image) -> None:
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(scan.GetSize()[2]):
        slice_k = scan[:, :, k]
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"1.2.826.1.{k + 1}",
            "0008|0060": "MR",
            "0020|000d": "1.2.826",
            "0020|000e": "1.2.826.1",
            "0020|0032": "\\".join(f"{x:g}" for x in scan.TransformIndexToPhysicalPoint((0, 0, k))),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            slice_k.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k:03}.dcm"))
        writer.Execute(slice_k)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_to_the_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    path.write_text("no arrays")


def turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def lose_the_mask(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, image=np.zeros((2, 2, 2), np.float32))


def hold_a_pickle(path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (path.with_name("ran"),)

    with open(path, "wb") as file:
        np.savez(file, image=np.array([Payload()], dtype=object), coverage=np.zeros((2, 2, 2), np.uint8))


DAMAGES = [cut, cut_to_the_half, empty, scribble, turn_a_bit, lose_the_mask, hold_a_pickle]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_made_again(tmp_path: Path, load: Loader, damage: Callable[[Path], None]) -> None:
    case = write_case(tmp_path / "data")
    before = load(case)[0]
    (entry,) = load.folder.iterdir()
    damage(entry)
    again = load(case)[0]
    assert load.prepared == ["Case00"]
    assert torch.equal(before.image, again.image)
    assert torch.equal(before.coverage, again.coverage)
    load(case)
    assert load.prepared == []
    assert list(load.folder.iterdir()) == [entry]


def test_half_an_entry_of_a_killed_process_is_removed_when_it_is_old(tmp_path: Path, load: Loader) -> None:
    load.folder.mkdir()
    old, new = (load.folder / f".0123456789a{digit}-Case00.npz" for digit in "bc")
    for half in (old, new):
        half.write_text("half")
    os.utime(old, (0, 0))
    load(write_case(tmp_path / "data"))
    assert (old.exists(), new.exists()) == (False, True)


def test_a_fault_of_a_scan_names_the_case(tmp_path: Path, load: Loader) -> None:
    case = write_case(tmp_path / "data", "Case07")
    case.image.write_text("no image")
    with pytest.raises(UserError, match=r"^Case Case07: .*Case07\.nii\.gz") as raised:
        load(case)
    assert raised.value.exit_code == ExitCode.BAD_INPUT
    with pytest.raises(UserError, match=r"^Case none: .*none\.nii"):
        load(Case("none", tmp_path / "none.nii", case.mask))
    assert not load.folder.exists()


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    case = write_case(tmp_path / "data")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write") as raised:
        load_cases([case], Preprocessing(), tmp_path / "file" / "cache")
    assert raised.value.exit_code == ExitCode.CANNOT_WRITE


# Long scans


def test_of_a_long_scan_the_part_with_the_gland_is_kept() -> None:
    # 600 mm from head to foot, the gland 220 mm below the middle.
    voxels = np.zeros((200, 40, 40), np.uint8)
    voxels[20:34, 14:26, 14:26] = 1
    mask = sitk.GetImageFromArray(voxels)
    mask.SetSpacing((2.0, 2.0, 3.0))
    mask.SetOrigin((-5.0, 7.0, -300.0))
    scan = sitk.Cast(mask, sitk.sitkFloat32) * 500
    preprocessing = Preprocessing(spacing_mm=(2.0, 2.0, 3.0))
    _, coverage = prepare_pair(scan, mask, preprocessing)
    # 256 mm are 86 slices.
    assert coverage.shape == (86, 40, 40)
    assert coverage.sum().item() / 255 == pytest.approx(int(voxels.sum()), rel=0.02)
    # The field ends where the scan ends, and not beyond: the gland's middle is 82.5 mm above that end.
    grid = case_grid(mask, preprocessing)
    case = TrainingCase.from_arrays("a", scan_to_tensor(scan, grid), coverage)
    point_mm = grid.TransformContinuousIndexToPhysicalPoint(case.gland_centre.tolist())
    assert point_mm == pytest.approx(mask.TransformContinuousIndexToPhysicalPoint((19.5, 19.5, 26.5)), abs=1.5)


def scan_to_tensor(scan: sitk.Image, grid: sitk.Image) -> torch.Tensor:
    return torch.from_numpy(sitk.GetArrayFromImage(sitk.Resample(scan, grid)))


def test_a_long_scan_whose_gland_is_in_the_middle_is_kept_around_its_middle() -> None:
    mask = sitk.Image(20, 20, 200, sitk.sitkUInt8)
    mask.SetSpacing((2.0, 2.0, 3.0))
    empty = case_grid(mask, Preprocessing(spacing_mm=(2.0, 2.0, 3.0)))
    mask[8:12, 8:12, 98:102] = 1
    grid = case_grid(mask, Preprocessing(spacing_mm=(2.0, 2.0, 3.0)))
    assert grid.GetOrigin() == pytest.approx(empty.GetOrigin())
    assert grid.GetSize() == (20, 20, 86)
    middle = grid.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in grid.GetSize()])
    assert middle == pytest.approx((19.0, 19.0, 298.5))


def test_the_last_half_voxel_at_the_border_has_its_nearest_value() -> None:
    # Voxels of 3 mm on a grid of 1 mm: the outermost ones begin 1 mm before the first centre.
    scan = sitk.Image(8, 8, 8, sitk.sitkFloat32) + 700.0
    scan.SetSpacing((3.0, 3.0, 3.0))
    image, _ = prepare_pair(scan, sitk.Cast(scan * 0, sitk.sitkUInt8), Preprocessing(spacing_mm=(1.0, 1.0, 1.0)))
    assert image.shape == (24, 24, 24)
    assert image.min().item() == image.max().item() == pytest.approx(700)


# Phantoms


def test_synthetic_cases_are_made_from_their_seeds() -> None:
    cases = SyntheticCases(1, Preprocessing())
    (one,) = cases
    # The demo's phantom is for testing, not for training.
    assert one.name == "phantom-1000" != f"phantom-{DEMO_SEED}"
    # Glands of about 20 to 110 ml; a voxel has 1.5 mm3.
    assert 15 < one.coverage.sum().item() / 255 * 1.5e-3 < 130
    middle = (torch.tensor(one.image.shape[::-1]) - 1) / 2
    assert (one.gland_centre - middle).abs().max() < 25
    assert cases[0] is one
    with pytest.raises(IndexError):
        cases[1]
    assert not SyntheticCases(0, Preprocessing())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the phantoms that are made, in their order; small ones, as they are many."""
    seeds = []

    def make(seed: int) -> tuple[sitk.Image, sitk.Image]:
        seeds.append(seed)
        return make_pair(seed)

    monkeypatch.setattr(training_cache, "make_phantom", make)
    return seeds


def test_a_synthetic_case_is_made_when_it_is_first_drawn(tmp_path: Path, made: list[int]) -> None:
    first = SyntheticCases(48, Preprocessing(), tmp_path)
    assert len(first) == 48
    assert made == []
    drawn = [first[7], first[7], first[3]]
    assert made == [1007, 1003]
    # Another training, of another number of them, finds what is there; at another spacing there is nothing.
    again = SyntheticCases(12, Preprocessing(), tmp_path)
    for one, other in zip(drawn[1:], (again[7], again[3]), strict=True):
        assert one.name == other.name
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.coverage, other.coverage)
    assert made == [1007, 1003]
    coarse = SyntheticCases(12, Preprocessing(spacing_mm=(3.0, 3.0, 3.0)), tmp_path)
    assert coarse[7].image.shape != again[7].image.shape
    assert made == [1007, 1003, 1007]


def test_a_damaged_synthetic_case_is_made_again(tmp_path: Path, made: list[int]) -> None:
    first = SyntheticCases(1, Preprocessing(), tmp_path)[0]
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:1000])
    again = SyntheticCases(1, Preprocessing(), tmp_path)[0]
    assert made == [1000, 1000]
    assert torch.equal(first.image, again.image)
