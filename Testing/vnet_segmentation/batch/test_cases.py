"""Which scans a batch takes, and the names of their masks."""

from __future__ import annotations

from pathlib import Path

import pytest

from vnet_segmentation.batch.cases import BatchOptions, find_cases
from vnet_segmentation.batch.run import run_batch
from vnet_segmentation.errors import ExitCode, UserError


def masks(inputs, output, pattern="*"):
    """The masks of a batch by their scans' names, and their paths below the output folder."""
    cases = find_cases(inputs, output, BatchOptions(pattern=pattern))
    return {case.name: case.outputs.mask.relative_to(output).as_posix() for case in cases}


@pytest.fixture
def two_sites(tmp_path):
    """Two folders with a scan of one name each, one with a DICOM folder besides. Nothing in them is read."""
    folder = tmp_path / "sites"
    for name in ("north/a.nrrd", "south/a.nrrd", "south/P1/slice1"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(128) + b"DICM")
    return folder


def test_files_folders_and_dicom_folders_have_the_masks_of_their_common_folder(two_sites, tmp_path):
    output = tmp_path / "masks"
    expected = {
        "north/a.nrrd": "north/a_prostate.nii.gz",
        "south/P1": "south/P1_prostate.nii.gz",
        "south/a.nrrd": "south/a_prostate.nii.gz",
    }
    assert masks([two_sites], output) == expected
    assert masks([two_sites / "south", two_sites / "north"], output) == expected
    inputs = [two_sites / "south" / "P1", two_sites / "north", two_sites / "south" / "a.nrrd"]
    assert masks(inputs, output) == expected
    assert masks([two_sites / "south" / "P1"], output) == {"P1": "P1_prostate.nii.gz"}
    assert masks([two_sites / "south" / "a.nrrd"], output) == {"a.nrrd": "a_prostate.nii.gz"}


def test_a_scan_in_the_output_folder_has_its_mask_beside_it(two_sites, tmp_path):
    """As the scans of a Slicer scene, which are written there first; the others' names do not change by it."""
    output = tmp_path / "masks"
    (output / "scene").mkdir(parents=True)
    (output / "scene" / "t2.nrrd").write_bytes(bytes(10))
    assert masks([two_sites, output / "scene" / "t2.nrrd"], output) == {
        "north/a.nrrd": "north/a_prostate.nii.gz",
        "south/P1": "south/P1_prostate.nii.gz",
        "south/a.nrrd": "south/a_prostate.nii.gz",
        "scene/t2.nrrd": "scene/t2_prostate.nii.gz",
    }


def test_a_scan_that_is_given_twice_is_one_case(two_sites, tmp_path, monkeypatch):
    monkeypatch.chdir(two_sites)
    inputs = [two_sites / "north", Path("north/a.nrrd"), Path("south/../north")]
    assert masks(inputs, tmp_path / "masks") == {"a.nrrd": "a_prostate.nii.gz"}


@pytest.mark.parametrize(("header", "voxels"), [("a.hdr", "a.img"), ("a.HDR", "a.IMG"), ("a.hdr.gz", "a.img.gz")])
def test_a_pair_of_header_and_voxels_is_one_scan(tmp_path, header, voxels):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name in (header, voxels):
        (folder / name).touch()
    for inputs in ([folder], [folder / header], [folder / voxels], [folder / header, folder / voxels, folder]):
        assert masks(inputs, tmp_path / "masks") == {header: "a_prostate.nii.gz"}


def test_a_pattern_takes_scans_by_name_and_leaves_the_names_of_the_masks(two_sites, tmp_path):
    output = tmp_path / "masks"
    (two_sites / "north" / "a.nii.gz").touch()
    assert masks([two_sites], output, "p*") == {"south/P1": "south/P1_prostate.nii.gz"}
    assert masks([two_sites], output, "A.N?RD") == {
        # There is a second scan with this stem, though it is not asked for.
        "north/a.nrrd": "north/a.nrrd_prostate.nii.gz",
        "south/a.nrrd": "south/a_prostate.nii.gz",
    }
    with pytest.raises(UserError, match=r"no scans with a name like t2\*") as caught:
        masks([two_sites], output, "t2*")
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    "names",
    [("a.nrrd", "a.nii.gz", "a.nrrd.nii"), ("a.nrrd", "a/slice1"), ("slice1", "p/slice1"), ("A.nrrd", "a.nii")],
)
def test_no_two_scans_share_a_mask(tmp_path, names):
    folder = tmp_path / "p"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(128) + b"DICM")
    # Not on a file system either where "A" and "a" are one.
    assert len({mask.lower() for mask in masks([folder], tmp_path / "masks").values()}) == len(names)


def test_a_folder_of_dicom_slices_may_be_the_scan_itself(segmenter, tmp_path, monkeypatch):
    folder = tmp_path / "patient 1"
    folder.mkdir()
    # What tells a DICOM file, and nothing more: it is found, and fails.
    (folder / "slice1").write_bytes(bytes(128) + b"DICM")
    rows = run_batch(segmenter, [folder], tmp_path / "masks", BatchOptions())
    assert [(row.scan, row.status) for row in rows] == [(folder, "failed")]
    assert rows[0].mask is None
    monkeypatch.chdir(folder)
    for path in (folder, Path()):
        assert masks([path], tmp_path / "masks") == {"patient 1": "patient 1_prostate.nii.gz"}
    # Its mask lies in it, by the same name wherever the command is given.
    for place in (folder, tmp_path):
        monkeypatch.chdir(place)
        assert masks([folder], folder) == {"patient 1": "patient 1_prostate.nii.gz"}
