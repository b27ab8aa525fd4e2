"""Data sets are found in three layouts, with sites, patients and splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from vnet_segmentation.datasets.dataset import Case, find_cases, leave_out
from vnet_segmentation.errors import ExitCode, UserError


def touch(folder: Path, *names: str) -> None:
    """Files that are to be found, not read."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_promise12_folder_in_all_formats(tmp_path: Path) -> None:
    pairs = [
        ("Case00.mhd", "Case00_segmentation.mhd"),
        ("Case01.nii.gz", "Case01_segmentation.nrrd"),
        ("Case02.mha", "Case02_segmentation.seg.nrrd"),
        ("Case03.hdr", "Case03_segmentation.HDR"),
        ("Case10.NRRD", "Case10_segmentation.nii"),
    ]
    touch(tmp_path, *(name for pair in pairs for name in pair))
    touch(tmp_path, "Case00.raw", "Case00_segmentation.raw", "Case03.img", "Case03_segmentation.IMG")
    touch(tmp_path, "README.md", "._Case00.mhd")
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


def test_the_table_names_patients(tmp_path: Path) -> None:
    touch(tmp_path, "a.nrrd", "a_segmentation.nrrd", "b.nrrd", "b_segmentation.nrrd")
    (tmp_path / "cases.csv").write_text("case,patient\na,7\n")
    assert [(case.site, case.patient) for case in find_cases(tmp_path)] == [("", "7"), ("", "")]
    (tmp_path / "cases.csv").write_text("case,Patient,site\na,7,HK\nb,7,HK\n")
    assert [(case.site, case.patient) for case in find_cases(tmp_path)] == [("HK", "7")] * 2
    # As a table with a line for each series has it; two patients are a slip.
    (tmp_path / "cases.csv").write_text("case,series,patient\na,1,7\na,2,7\nb,1,8\n")
    assert [case.patient for case in find_cases(tmp_path)] == ["7", "8"]
    (tmp_path / "cases.csv").write_text("case,patient\na,7\na,8\n")
    with pytest.raises(UserError, match="line 3: the case a has another line with another site or patient"):
        find_cases(tmp_path)
    (tmp_path / "cases.csv").write_text("case,hospital\na,HK\n")
    with pytest.raises(UserError, match="no column site and no column patient"):
        find_cases(tmp_path)


def test_half_pairs_are_cases_with_a_missing_file(tmp_path: Path) -> None:
    touch(tmp_path, "Case00.mhd", "Case00_segmentation.mhd", "Case01.nrrd", "Case02_segmentation.nii.gz")
    cases = {case.name: case for case in find_cases(tmp_path)}
    assert cases["Case01"].mask == tmp_path / "Case01_segmentation.nrrd"
    assert cases["Case02"].image == tmp_path / "Case02.nii.gz"


def test_results_beside_the_scans_are_no_cases(tmp_path: Path) -> None:
    results = ["Case00_prostate.nii.gz", "Case00_prostate_probability.nii.gz"]
    # With a mask of its own it is one, whatever it is called.
    named_alike = ["Case01_prostate.nrrd", "Case01_prostate_segmentation.mhd"]
    touch(tmp_path / "flat", "Case00.mhd", "Case00_segmentation.mhd", *results, *named_alike)
    assert [case.image.name for case in find_cases(tmp_path / "flat")] == ["Case00.mhd", "Case01_prostate.nrrd"]
    touch(tmp_path / "nnunet", "labelsTr/a.nii.gz", "labelsTr/b_prostate.nii.gz")
    touch(tmp_path / "nnunet/imagesTr", "a_0000.nii.gz", "a_0000_prostate.nii.gz", "b_prostate_0000.nii.gz")
    assert [case.name for case in find_cases(tmp_path / "nnunet")] == ["a", "b_prostate"]


def test_two_files_for_one_case_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "Case00.mhd", "Case00.nii.gz", "Case00_segmentation.mhd")
    with pytest.raises(UserError, match=r"both Case00\.mhd and Case00\.nii\.gz"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ["Case00.mhd", "Case00_segmentation.mhd", "case00.mhd", "case00_segmentation.mhd"],
        # Of one case, on a file system that tells capitals apart.
        ["Case00.mhd", "case00_segmentation.mhd"],
        ["imagesTr/Case00_0000.nrrd", "labelsTr/Case00.nrrd", "imagesTr/case00_0000.nrrd", "labelsTr/case00.nrrd"],
    ],
)
def test_names_that_differ_in_capitals_alone_are_refused(tmp_path: Path, files: list[str]) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UserError, match="the cases Case00 and case00: capitals alone"):
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
        (
            "image,mask\nA.nii,m.nii\nx/a.nii,n.nii\n",
            "line 3: there is already a case A, and capitals alone",
        ),
        ("image,mask,name\na.nii,m.nii,../../x\n", r"line 2: '../../x' cannot name a case"),
        ("image,mask,split\na.nii,m.nii,maybe\n", "line 2: unknown split 'maybe'"),
    ],
)
def test_faults_of_a_manifest(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "set.csv").write_text(table, encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        find_cases(tmp_path / "set.csv")
    assert raised.value.exit_code == ExitCode.BAD_INPUT


def test_a_patients_scans_have_one_split(tmp_path: Path) -> None:
    table = tmp_path / "set.csv"
    lines = ["image,mask,patient,split", "a.nrrd,am.nrrd,7,", "b.nrrd,bm.nrrd,7,train", "c.nrrd,cm.nrrd,,test"]
    table.write_text("\n".join(lines))
    assert [case.patient for case in find_cases(table)] == ["7", "7", ""]
    table.write_text("\n".join([*lines, "d.nrrd,dm.nrrd,7,val"]))
    with pytest.raises(UserError, match="a and d are of the patient 7 but in different splits"):
        find_cases(table)


def test_a_manifest_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(b"image,mask\n\xff\xfe\x00,b\n")
    with pytest.raises(UserError, match="cannot be read"):
        find_cases(tmp_path / "set.csv")


def test_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    touch(tmp_path, "scan.nii.gz", "label.nii.gz")
    with pytest.raises(UserError, match=r"PROMISE12.*nnU-Net.*CSV"):
        find_cases(tmp_path)


def test_data_sets_in_sub_folders_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "Dataset001_T2/imagesTr/a_0000.nii.gz", "Dataset001_T2/labelsTr/a.nii.gz", "notes/a.txt")
    with pytest.raises(UserError, match=r"itself\. Give the data set in it: \S+Dataset001_T2\.$"):
        find_cases(tmp_path)
    touch(tmp_path, "promise12/Case00.mhd", "promise12/Case00_segmentation.mhd")
    with pytest.raises(UserError, match=r"Dataset001_T2, \S+promise12\.$"):
        find_cases(tmp_path)


def test_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no data set"):
        find_cases(tmp_path / "none")


def test_a_file_that_is_no_table_is_no_data_set(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(UserError, match=r"notes\.txt is no data set"):
        find_cases(tmp_path / "notes.txt")


def test_promise12_has_four_sites(promise12: Path) -> None:
    cases = find_cases(promise12)
    assert len(cases) == 40
    assert {case.site for case in cases} == {"BIDMC", "HK", "RUNMC", "UCL"}


def test_cases_are_left_out_by_name() -> None:
    cases = [Case(name, Path(f"{name}.nii"), Path(f"{name}_m.nii")) for name in "abc"]
    assert leave_out(cases, ("a", "c")) == [cases[1]]
    with pytest.raises(UserError, match="no case x, y"):
        leave_out(cases, ("a", "y", "x"))
