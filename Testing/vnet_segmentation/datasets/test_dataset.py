"""Data sets are found in three layouts, every fault of theirs is listed, and splits have every site."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.datasets.dataset import Case, check_cases, find_cases
from vnet_segmentation.errors import ExitCode, UserError

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


def touch(folder: Path, *names: str) -> None:
    """Files that are to be found, not read."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(
        "Case00",
        write(scan_image(), tmp_path / "Case00.nii.gz"),
        write(mask_image(), tmp_path / "Case00_segmentation.nii.gz"),
    )


def sentences(case: Case) -> list[str]:
    problems = check_cases([case])
    assert {problem.case for problem in problems} <= {case.name}
    return [problem.sentence for problem in problems]


# Finding


def test_promise12_folder_in_all_formats(tmp_path: Path) -> None:
    pairs = [
        ("Case00.mhd", "Case00_segmentation.mhd"),
        ("Case01.nii.gz", "Case01_segmentation.nrrd"),
        ("Case02.mha", "Case02_segmentation.seg.nrrd"),
        ("Case10.NRRD", "Case10_segmentation.nii"),
    ]
    touch(tmp_path, *(name for pair in pairs for name in pair))
    touch(tmp_path, "Case00.raw", "Case00_segmentation.raw", "README.md", "._Case00.mhd")
    assert find_cases(tmp_path) == [
        Case(image.split(".")[0], tmp_path / image, tmp_path / mask) for image, mask in pairs
    ]


def test_promise12_sites_come_from_the_table(tmp_path: Path) -> None:
    touch(tmp_path, *(f"Case0{i}{end}.mhd" for i in range(3) for end in ("", "_segmentation")))
    # With a byte order mark, other columns and an empty row, as spreadsheets write it.
    table = "case,spacing,site\nCase01,1.0,UCL\nCase00,1.0, HK\n,,\n"
    (tmp_path / "cases.csv").write_text(table, encoding="utf-8-sig")
    assert [case.site for case in find_cases(tmp_path)] == ["HK", "UCL", ""]


@pytest.mark.parametrize("files", [["a.mhd", "a_segmentation.mhd"], ["imagesTr/a.mhd", "labelsTr/a.mhd"]])
def test_a_site_of_no_case_is_named(tmp_path: Path, files: list[str]) -> None:
    touch(tmp_path, *files)
    (tmp_path / "cases.csv").write_text("case,site\nA,HK\nb,HK\n")
    with pytest.raises(UserError, match=r"no case A, b in .*cases\.csv"):
        find_cases(tmp_path)
    # The whole table beside some of its cases.
    (tmp_path / "cases.csv").write_text("case,site\na,UCL\nb,HK\n")
    assert [case.site for case in find_cases(tmp_path)] == ["UCL"]


def test_half_pairs_are_cases_with_a_missing_file(tmp_path: Path) -> None:
    touch(tmp_path, "Case00.mhd", "Case00_segmentation.mhd", "Case01.nrrd", "Case02_segmentation.nii.gz")
    cases = {case.name: case for case in find_cases(tmp_path)}
    assert cases["Case01"].mask == tmp_path / "Case01_segmentation.nrrd"
    assert cases["Case02"].image == tmp_path / "Case02.nii.gz"
    assert sentences(cases["Case02"])[0] == f"Case02.nii.gz is missing in {tmp_path}."


def test_two_files_for_one_case_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "Case00.mhd", "Case00.nii.gz", "Case00_segmentation.mhd")
    with pytest.raises(UserError, match=r"both Case00\.mhd and Case00\.nii\.gz"):
        find_cases(tmp_path)


def test_nnunet_layout_takes_the_first_channel(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", "p_001_0000.nii.gz", "p_001_0001.nii.gz", "p_002_0000.nii.gz")
    touch(tmp_path / "labelsTr", "p_001.nii.gz", "p_002.nii.gz", "p_003.nii.gz")
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "MRI"}}', encoding="utf-8")
    (tmp_path / "cases.csv").write_text("case,site\np_002,UCL\n", encoding="utf-8")
    assert find_cases(tmp_path) == [
        Case("p_001", tmp_path / "imagesTr/p_001_0000.nii.gz", tmp_path / "labelsTr/p_001.nii.gz"),
        Case("p_002", tmp_path / "imagesTr/p_002_0000.nii.gz", tmp_path / "labelsTr/p_002.nii.gz", "UCL"),
        Case("p_003", tmp_path / "imagesTr/p_003_0000.nii.gz", tmp_path / "labelsTr/p_003.nii.gz"),
    ]


def test_decathlon_layout_has_images_named_like_labels(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        touch(tmp_path / folder, "prostate_00.nii.gz", "prostate_2019.nii.gz", "._prostate_00.nii.gz")
    assert [(case.name, case.image.name) for case in find_cases(tmp_path)] == [
        ("prostate_00", "prostate_00.nii.gz"),
        ("prostate_2019", "prostate_2019.nii.gz"),
    ]


def test_without_a_first_channel_four_digits_are_part_of_the_name(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", "prostate_0001.nii.gz", "prostate_0002.nii.gz")
    touch(tmp_path / "labelsTr", "prostate_0001.nii.gz")
    cases = find_cases(tmp_path)
    assert [case.image.name for case in cases] == ["prostate_0001.nii.gz", "prostate_0002.nii.gz"]
    assert cases[1].mask == tmp_path / "labelsTr" / "prostate_0002.nii.gz"


@pytest.mark.parametrize(
    "table",
    [
        '{"channel_names": {"0": "ADC", "1": "T2W", "2": "noNorm"}}',
        '{"modality": {"0": "HBV", "1": "axial T2", "2": "DWI b800"}}',
    ],
)
def test_of_several_channels_the_t2_weighted_one_is_taken(tmp_path: Path, table: str) -> None:
    touch(tmp_path / "imagesTr", *(f"a_000{channel}.nii.gz" for channel in range(3)), "b_0000.nii.gz")
    touch(tmp_path / "labelsTr", "a.nii.gz")
    (tmp_path / "dataset.json").write_text(table, encoding="utf-8")
    # What has no T2 is listed as a case without it.
    assert [case.image.name for case in find_cases(tmp_path)] == ["a_0001.nii.gz", "b_0001.nii.gz"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('{"channel_names": {"0": "ADC", "1": "HBV"}}', "ADC, HBV, none is called T2"),
        ('{"channel_names": {"0": "T2", "1": "T2 fat-sat"}}', "T2, T2 fat-sat, more than one is called T2"),
        ('{"channel_names": ["T2"]}', "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_channel_is_not_guessed(tmp_path: Path, table: str, message: str) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text(table, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        find_cases(tmp_path)


def test_images_without_a_folder_of_labels(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", "p_001_0000.nii.gz")
    with pytest.raises(UserError, match="no labelsTr"):
        find_cases(tmp_path)


def test_manifest(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "c.mha"
    table = (
        "Image, Mask,name,site,split\n"
        "scans/a.nii.gz,masks/a.nii.gz,first,UCL,train\n"
        "\n"
        "scans/b.nrrd,masks/b.seg.nrrd,,HK,Validation\n"
        f"{elsewhere},masks/c.mha\n"
    )
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "all.csv").write_text(table, encoding="utf-8")
    base = tmp_path / "sets"
    assert find_cases(base / "all.csv") == [
        Case("first", base / "scans/a.nii.gz", base / "masks/a.nii.gz", "UCL", "training"),
        Case("b", base / "scans/b.nrrd", base / "masks/b.seg.nrrd", "HK", "validation"),
        Case("c", elsewhere, base / "masks/c.mha"),
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "no column image and no column mask"),
        ("image,label\na.nii,b.nii\n", "no column mask"),
        ("image,mask\n", "lists no case"),
        ("image,mask\na.nii,m.nii\nb.nii,\n", "line 3: the image or the mask is missing"),
        ("image,mask,name\na.nii,m.nii,x\nb.nii,n.nii,x\n", "line 3: there is already a case x"),
        ("image,mask,name\na.nii,m.nii,../../x\n", r"line 2: '../../x' cannot name a case"),
        ("image,mask,split\na.nii,m.nii,maybe\n", "line 2: unknown split 'maybe'"),
    ],
)
def test_faults_of_a_manifest(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "set.csv").write_text(table, encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        find_cases(tmp_path / "set.csv")
    assert raised.value.exit_code == ExitCode.BAD_INPUT


def test_a_manifest_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(b"image,mask\n\xff\xfe\x00,b\n")
    with pytest.raises(UserError, match="cannot be read"):
        find_cases(tmp_path / "set.csv")


def test_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    touch(tmp_path, "scan.nii.gz", "label.nii.gz")
    with pytest.raises(UserError, match=r"PROMISE12.*nnU-Net.*CSV"):
        find_cases(tmp_path)


def test_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no data set"):
        find_cases(tmp_path / "none")


# Checking


def test_a_sound_case_has_no_problems(case: Case) -> None:
    assert check_cases([case]) == []


def test_label_value_does_not_matter(case: Case) -> None:
    write(mask_image() * 255, case.mask)
    assert sentences(case) == []


def test_rounded_headers_are_tolerated(case: Case) -> None:
    mask = mask_image()
    # A tenth of the shortest voxel side, 1.25 mm, is 0.125 mm.
    mask.SetOrigin((-20.0, 30.12, 5.0))
    write(mask, case.mask)
    assert sentences(case) == []


def test_another_origin(case: Case) -> None:
    mask = mask_image()
    mask.SetOrigin((-20.0, 30.0 + 3.0, 5.0 - 4.0))
    write(mask, case.mask)
    # sqrt(3^2 + 4^2) = 5
    assert len(sentences(case)) == 1
    assert (
        "Case00_segmentation.nii.gz is not on the grid of Case00.nii.gz: it lies up to 5 mm away" in sentences(case)[0]
    )


def test_another_spacing(case: Case) -> None:
    mask = mask_image()
    mask.SetSpacing((1.5, 1.25, 3.5))
    write(mask, case.mask)
    # 12 slices: the last one's middle is 11 * 0.5 mm off.
    assert "lies up to 5.5 mm away" in sentences(case)[0]


def test_another_direction(case: Case) -> None:
    mask = mask_image()
    mask.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    write(mask, case.mask)
    # The far corner is at +(28.5, 28.75) mm against -(28.5, 28.75): 2 * sqrt(28.5^2 + 28.75^2) = 80.96
    assert "lies up to 81 mm away" in sentences(case)[0]


def test_another_size(case: Case) -> None:
    write(mask_image((20, 24, 11)), case.mask)
    assert sentences(case) == [
        "Case00_segmentation.nii.gz is not on the grid of Case00.nii.gz: 20 x 24 x 11 voxels against 20 x 24 x 12. "
        "Use a mask that was made on the scan itself, or resample it to the scan's grid first."
    ]


def test_empty_mask(case: Case) -> None:
    write(mask_image() * 0, case.mask)
    assert "Case00_segmentation.nii.gz is empty" in sentences(case)[0]


def test_mask_of_everything(case: Case) -> None:
    write(mask_image() * 0 + 1, case.mask)
    assert "Case00_segmentation.nii.gz covers the whole image" in sentences(case)[0]


def test_mask_of_less_than_a_gland(case: Case) -> None:
    mask = mask_image() * 0
    # 5.625 mm3 each: 0.09 ml.
    mask[4:12, 6:8, 5] = 1
    write(mask, case.mask)
    assert "Case00_segmentation.nii.gz has 0.09 ml: too little" in sentences(case)[0]
    assert check_cases([case], for_training=False) == []
    mask[4:6, 8, 5] = 1
    write(mask, case.mask)
    assert sentences(case) == []


def test_mask_in_two_parts(case: Case) -> None:
    mask = mask_image()
    # 256 voxels have a tenth of 25.6.
    mask[0:5, 0:5, 0] = 1
    write(mask, case.mask)
    assert sentences(case) == []
    mask[0, 0, 1] = 1
    write(mask, case.mask)
    assert "Case00_segmentation.nii.gz has a second part, of 10% of the largest" in sentences(case)[0]
    assert check_cases([case], for_training=False) == []
    # A zone that is one label of several may lie in parts.
    assert check_cases([replace(case, label=1)]) == []


def test_several_labels_are_named(case: Case) -> None:
    mask = mask_image()
    mask[8, 10, 5] = 3
    write(mask, case.mask)
    assert "2 labels (1, 3)" in sentences(case)[0]


def test_image_with_nan(tmp_path: Path, case: Case) -> None:
    image = sitk.Cast(scan_image(), sitk.sitkFloat32)
    image[3, 3, 3] = float("nan")
    # Not NIfTI: ITK's reader of it replaces NaN by 0.
    write(image, tmp_path / "nan.mha")
    assert "nan.mha has voxels that are not a number" in sentences(Case("nan", tmp_path / "nan.mha", case.mask))[0]


def test_image_of_several_channels(case: Case) -> None:
    write(sitk.JoinSeries([scan_image(), scan_image()]), case.image)
    assert "Case00.nii.gz is 4D" in sentences(case)[0]


def test_image_and_mask_exchanged_are_two_problems(case: Case) -> None:
    problems = check_cases([Case("Case00", case.mask, case.image)])
    assert [problem.file for problem in problems] == [case.mask, case.image]


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
    problems = check_cases(cases)
    assert [(problem.case, problem.file.name) for problem in problems] == [
        ("both-missing", "no.nii"),
        ("both-missing", "no_segmentation.nii"),
        ("empty-and-shifted", "shifted.nii.gz"),
        ("empty-and-shifted", "shifted.nii.gz"),
        # One scan in two cases could be trained on and validated with.
        ("empty-and-shifted", "Case00.nii.gz"),
        ("unreadable", "text.nii.gz"),
    ]
    assert problems[-2].sentence.startswith("Case00.nii.gz is the same scan as that of Case00.")


# Real data


def test_promise12_is_sound_and_has_four_sites(promise12: Path) -> None:
    cases = find_cases(promise12)
    assert len(cases) == 40
    assert {case.site for case in cases} == {"BIDMC", "HK", "RUNMC", "UCL"}
    assert check_cases(cases) == []
