"""Results meet their references by name, missed glands included."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.datasets.dataset import Case, find_cases
from vnet_segmentation.errors import UserError
from vnet_segmentation.evaluation.evaluate import compare_results, evaluate_cases
from vnet_segmentation.images.metrics import Agreement, compare
from vnet_segmentation.segmentation.segmenter import Segmenter

SIZE = (40, 36, 12)
SPACING_MM = (1.0, 1.0, 3.0)


def mask(shift: int = 0) -> sitk.Image:
    """A box of 10 x 10 x 6 voxels, shifted along x."""
    array = np.zeros(SIZE[::-1], np.uint8)
    array[3:9, 10:20, 10 + shift : 20 + shift] = 1
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM)
    return image


def scan() -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 1000, SIZE[::-1]).astype(np.int16))
    image.SetSpacing(SPACING_MM)
    return image


def write(image: sitk.Image, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Case00 of site A, Case01 of site B and Case02 of neither; their gland is `mask()`."""
    data = tmp_path / "data"
    for name in ("Case00", "Case01", "Case02"):
        write(scan(), data / f"{name}.nii.gz")
        write(mask(), data / f"{name}_segmentation.nii.gz")
    (data / "cases.csv").write_text("case,site\nCase00,A\nCase01,B\n")
    return find_cases(data)


def test_a_row_has_every_metric(cases: list[Case], tmp_path: Path) -> None:
    write(mask(1), tmp_path / "results" / "Case00_prostate.nii.gz")
    (found,) = compare_results(tmp_path / "results", cases[:1])
    assert (found.case, found.site, found.comparison) == ("Case00", "A", compare(mask(1), mask()))
    metrics = found.metrics()
    names = ["dice", "hausdorff95_mm", "average_boundary_distance_mm", "relative_volume_difference_percent"]
    assert list(metrics) == [part + name for part in ("", "base_", "apex_") for name in names]
    # The boxes have 9 of 10 columns in common, in every slice.
    assert metrics["dice"] == metrics["base_dice"] == metrics["apex_dice"] == pytest.approx(0.9)


def test_cases_are_segmented_and_compared(cases: list[Case]) -> None:
    thresholds = []

    def segment(image: sitk.Image, threshold: float) -> SimpleNamespace:
        thresholds.append(threshold)
        report = {"confidence": {"value": 0.7, "level": "low"}, "model": {"name": "m", "sha256": "abc"}}
        return SimpleNamespace(mask=mask(2), report=report)

    rows = list(evaluate_cases(cast(Segmenter, SimpleNamespace(segment=segment)), cases, threshold=0.4))
    # 8 of 10 columns in common.
    assert [(r.case, r.site, r.metrics()["dice"]) for r in rows] == [
        ("Case00", "A", pytest.approx(0.8)),
        ("Case01", "B", pytest.approx(0.8)),
        ("Case02", "", pytest.approx(0.8)),
    ]
    assert [(r.confidence, r.model_sha256) for r in rows] == [(0.7, "abc")] * 3
    assert thresholds == [0.4] * 3


def test_a_scan_and_a_reference_on_other_grids_are_named_before_any_work(cases: list[Case]) -> None:
    moved = mask()
    moved.SetOrigin((5, 0, 0))
    write(moved, cases[0].mask)
    with pytest.raises(UserError, match=r"Case00\.nii\.gz is not on the grid of .*Case00_segmentation\.nii\.gz"):
        next(evaluate_cases(cast(Segmenter, None), cases))


def test_results_are_paired_by_name(cases: list[Case], tmp_path: Path) -> None:
    results = tmp_path / "results"
    write(mask(1), results / "Case00_prostate.nii.gz")
    write(mask(2), results / "Case01_segmentation.mha")
    write(mask(3), results / "Case02.nrrd")
    # Other files that a batch leaves there.
    write(sitk.Cast(mask(), sitk.sitkFloat32), results / "Case00_probability.nii.gz")
    (results / "results.csv").write_text("scan\n")
    rows = list(compare_results(results, cases))
    assert [(r.case, r.site) for r in rows] == [("Case00", "A"), ("Case01", "B"), ("Case02", "")]
    assert [r.metrics()["dice"] for r in rows] == pytest.approx([0.9, 0.8, 0.7])


def test_a_report_beside_a_result_has_its_confidence_and_model(cases: list[Case], tmp_path: Path) -> None:
    results = tmp_path / "results"
    write(mask(1), *(results / f"{case.name}_prostate.nii.gz" for case in cases))
    (results / "Case00_prostate.json").write_text(
        '{"confidence": {"value": 0.9, "level": "medium"}, "model": {"name": "m", "sha256": "abc"}}'
    )
    # Of other programs.
    (results / "Case01_prostate.json").write_text('["confidence"]')
    (results / "Case02_prostate.json").write_text('{"confidence": {"value": 95}, "model": {"sha256": "abc"}}')
    rows = list(compare_results(results, cases))
    assert [(r.confidence, r.model_sha256) for r in rows] == [(0.9, "abc"), (None, None), (None, "abc")]


def test_results_may_lie_beside_the_scans_and_references(cases: list[Case]) -> None:
    folder = cases[0].mask.parent
    for case in cases:
        write(mask(1), folder / f"{case.name}_prostate.nii.gz")
    assert [r.metrics()["dice"] for r in compare_results(folder, cases)] == pytest.approx([0.9] * 3)


def test_upper_and_lower_case_are_the_same_where_that_leaves_no_doubt(cases: list[Case], tmp_path: Path) -> None:
    write(mask(1), tmp_path / "a" / "case00_prostate.nii.gz", tmp_path / "a" / "CASE01_Segmentation.nii.gz")
    write(mask(), tmp_path / "a" / "case02_Probability.nii.gz")
    write(mask(1), tmp_path / "a" / "case02.nii.gz", *(tmp_path / "b" / f"case0{i}" / "gland.nii" for i in range(3)))
    for folder in ("a", "b"):
        assert [r.metrics()["dice"] for r in compare_results(tmp_path / folder, cases)] == pytest.approx([0.9] * 3)
    # These scans differ in capitals alone: a mask that is spelt as one of them is that one's.
    alike = [
        replace(case, image=tmp_path / name / "t2.nii.gz") for case, name in zip(cases, ("A", "a", "B"), strict=True)
    ]
    write(mask(1), *(tmp_path / "c" / name / "t2_prostate.nii.gz" for name in ("A", "b")))
    rows = list(compare_results(tmp_path / "c", alike))
    assert [r.metrics()["dice"] for r in rows] == pytest.approx([0.9, 0, 0.9])


def test_pairs_of_header_and_voxels_are_scans_references_and_results(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(scan(), folder / "Case00.img")
    write(mask(), folder / "Case00_segmentation.img")
    write(mask(1), folder / "Case00_prostate.img")
    (folder / "list.csv").write_text("image,mask\nCase00.img,Case00_segmentation.img\n")
    for data in (folder, folder / "list.csv"):
        (row,) = compare_results(folder, find_cases(data))
        assert (row.case, row.metrics()["dice"]) == ("Case00", pytest.approx(0.9))


def test_results_named_after_the_image_of_a_case(tmp_path: Path) -> None:
    # nnU-Net's images carry the channel, its labels and cases do not.
    write(scan(), tmp_path / "imagesTr" / "p_001_0000.nii.gz")
    write(mask(), tmp_path / "labelsTr" / "p_001.nii.gz")
    write(mask(1), tmp_path / "results" / "p_001_0000_prostate.nii.gz")
    (found,) = compare_results(tmp_path / "results", find_cases(tmp_path))
    assert (found.case, found.metrics()["dice"]) == ("p_001", pytest.approx(0.9))


def test_the_name_of_a_case_goes_before_that_of_another_ones_image(cases: list[Case], tmp_path: Path) -> None:
    write(mask(1), tmp_path / "results" / "Case01.nii.gz")
    crossed = [replace(cases[0], image=cases[1].image), replace(cases[1], image=cases[2].image)]
    rows = list(compare_results(tmp_path / "results", crossed))
    assert [(r.case, r.metrics()["dice"]) for r in rows] == [("Case00", 0), ("Case01", pytest.approx(0.9))]


def test_a_result_whose_name_fits_several_cases_is_refused(cases: list[Case], tmp_path: Path) -> None:
    write(mask(1), tmp_path / "results" / "t2_prostate.nii.gz")
    alike = [replace(case, image=tmp_path / case.name / "t2.nii.gz") for case in cases]
    with pytest.raises(UserError, match=r"t2_prostate\.nii\.gz in .* may be of several cases, Case00, Case01, Case02"):
        compare_results(tmp_path / "results", alike)


def test_results_in_the_sub_folders_of_their_scans(cases: list[Case], tmp_path: Path) -> None:
    output = tmp_path / "output"
    for number, case in enumerate(cases, start=1):
        write(mask(number), output / "today" / case.name / "mr" / "t2_prostate.nii.gz")
    # What is hidden is no result.
    write(mask(), output / ".trash" / "Case00.nii.gz")
    alike = [replace(case, image=tmp_path / case.name / "mr" / "t2.nii.gz") for case in cases]
    for results in (output, output / "today"):
        rows = list(compare_results(results, alike))
        assert [r.metrics()["dice"] for r in rows] == pytest.approx([0.9, 0.8, 0.7])


def test_a_data_set_that_is_the_current_folder_has_its_folders_name(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, site in enumerate(("data", "another"), start=1):
        write(mask(number), *(tmp_path / "results" / site / f"{case.name}_prostate.nii.gz" for case in cases))
    monkeypatch.chdir(tmp_path / "data")
    rows = compare_results(tmp_path / "results", find_cases(Path()))
    assert [r.metrics()["dice"] for r in rows] == pytest.approx([0.9] * 3)


def test_masks_of_the_same_name_that_lie_deeper_are_not_meant(
    cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(mask(1), *(tmp_path / "flat" / f"{case.name}.nii.gz" for case in cases))
    write(mask(5), tmp_path / "flat" / "earlier" / "Case00.nii.gz")
    assert [r.metrics()["dice"] for r in compare_results(tmp_path / "flat", cases)] == pytest.approx([0.9] * 3)
    assert "earlier" in caplog.text
    # Another site's, whose scans are called alike, is not taken for the one that is missing.
    site = [replace(case, image=tmp_path / "B" / case.name / "t2.nii.gz") for case in cases]
    write(mask(1), *(tmp_path / "both" / "B" / case.name / "t2_prostate.nii.gz" for case in cases[:2]))
    write(mask(1), *(tmp_path / "both" / "A" / case.name / "t2_prostate.nii.gz" for case in cases))
    assert [r.metrics()["dice"] for r in compare_results(tmp_path / "both", site)] == pytest.approx([0.9, 0.9, 0])


def test_the_masks_of_cases_that_are_not_asked_for_are_nobody_elses(
    cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alike = [replace(case, image=tmp_path / case.name / "mr" / "t2.nii.gz") for case in cases]
    for case in alike[:2]:
        write(mask(1), tmp_path / "results" / case.name / "mr" / "t2_prostate.nii.gz")
    (row,) = compare_results(tmp_path / "results", alike[:1], alike[1:])
    assert row.metrics()["dice"] == pytest.approx(0.9)
    assert caplog.text == ""
    with pytest.raises(UserError, match=r"no mask for Case02\."):
        compare_results(tmp_path / "results", alike[2:], alike[:2])


def test_results_by_name_in_a_sub_folder(cases: list[Case], tmp_path: Path) -> None:
    write(mask(1), *(tmp_path / "results" / "site" / f"{case.name}_prostate.nii.gz" for case in cases))
    assert [r.metrics()["dice"] for r in compare_results(tmp_path / "results", cases)] == pytest.approx([0.9] * 3)


@pytest.mark.parametrize("name", ["prostate.nii.gz", "Segmentation.seg.nrrd"])
def test_results_called_alike_in_folders_with_the_names_of_their_cases(
    cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    for number, case in enumerate(cases, start=1):
        write(mask(number), tmp_path / "today" / case.name / name)
    for results in (tmp_path / "today", tmp_path):
        rows = list(compare_results(results, cases))
        assert [r.metrics()["dice"] for r in rows] == pytest.approx([0.9, 0.8, 0.7])
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["prostate", "Prostate"])
def test_the_prostate_is_taken_of_several_masks_in_the_folder_of_a_case(
    cases: list[Case], tmp_path: Path, name: str
) -> None:
    for case in cases:
        write(mask(1), tmp_path / "organs" / case.name / f"{name}.nii.gz")
        write(mask(5), tmp_path / "organs" / case.name / "bladder.nii.gz", tmp_path / "zones" / case.name / "a.nii.gz")
        write(mask(5), tmp_path / "zones" / case.name / "b.nii.gz")
    assert [r.metrics()["dice"] for r in compare_results(tmp_path / "organs", cases)] == pytest.approx([0.9] * 3)
    with pytest.raises(UserError, match="no mask for Case00"):
        compare_results(tmp_path / "zones", cases)
    # The name of a file says more than that of its folder.
    write(mask(2), tmp_path / "organs" / "Case00_prostate.nii.gz")
    rows = list(compare_results(tmp_path / "organs", cases))
    assert [r.metrics()["dice"] for r in rows] == pytest.approx([0.8, 0, 0])


def test_masks_that_are_called_otherwise_in_the_folder_of_a_case_are_named_with_the_reason(
    cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = tmp_path / "results"
    write(mask(1), results / "Case00" / "prostate.nii.gz", results / "Case01" / "prostate.nii.gz")
    write(mask(1), results / "Case02" / "gland.nii.gz", results / "Case77" / "prostate.nii.gz")
    rows = list(compare_results(results, cases))
    assert [r.metrics()["dice"] for r in rows] == pytest.approx([0.9, 0.9, 0])
    unlike, foreign, missed = (record.getMessage() for record in caplog.records)
    assert re.search(r"one name in all of them, or be called prostate: Case02.gland\.nii\.gz$", unlike)
    assert re.search(r"no case: Case77.prostate\.nii\.gz$", foreign)
    assert missed.endswith("Case02")


@pytest.mark.parametrize("name", [None, "t2"])
def test_the_scan_beside_the_prostate_in_the_folder_of_its_case_is_no_mask(
    cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str | None
) -> None:
    if name:
        cases = [replace(case, image=tmp_path / case.name / f"{name}.nii.gz") for case in cases]
    for number, case in enumerate(cases, start=1):
        write(scan(), tmp_path / "results" / case.name / f"{name or case.name}.nii.gz")
        write(mask(number), tmp_path / "results" / case.name / "prostate.nii.gz")
    rows = list(compare_results(tmp_path / "results", cases))
    assert [r.metrics()["dice"] for r in rows] == pytest.approx([0.9, 0.8, 0.7])
    assert caplog.text == ""


def test_a_scan_that_is_taken_for_a_mask_by_its_name_is_suspected(cases: list[Case], tmp_path: Path) -> None:
    write(scan(), tmp_path / "results" / "Case00" / "Case00.nii.gz")
    write(mask(), tmp_path / "results" / "Case00" / "gland.nii.gz")
    with pytest.raises(UserError, match=r"Case00\.nii\.gz .* If it is the scan, take it out of the folder"):
        list(compare_results(tmp_path / "results", cases))


def test_two_folders_of_one_case_are_two_results(cases: list[Case], tmp_path: Path) -> None:
    write(mask(), tmp_path / "results" / "a" / "Case00" / "prostate.nii.gz")
    write(mask(), tmp_path / "results" / "b" / "Case00" / "prostate.nii.gz")
    with pytest.raises(UserError, match=r"Case00 has two results"):
        compare_results(tmp_path / "results", cases)


def test_the_label_is_that_of_results_with_several_too(cases: list[Case], tmp_path: Path) -> None:
    zones = sitk.Cast(mask(), sitk.sitkUInt8)
    zones[10:14, :, :] = zones[10:14, :, :] * 2
    write(zones, cases[0].mask, tmp_path / "results" / "Case00.nii.gz")
    for label in (0, 1, 2):
        (row,) = compare_results(tmp_path / "results", [replace(cases[0], label=label)])
        assert row.metrics()["dice"] == 1
    with pytest.raises(UserError, match="2 labels"):
        list(compare_results(tmp_path / "results", cases[:1]))
    # A single one may be another.
    write(mask(), tmp_path / "results" / "Case00.nii.gz")
    (row,) = compare_results(tmp_path / "results", [replace(cases[0], label=2)])
    # 4 of 10 columns.
    assert row.metrics()["dice"] == pytest.approx(2 * 4 / 14)


def test_a_missing_result_is_a_missed_gland(
    cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(mask(), tmp_path / "results" / "Case00_prostate.nii.gz", tmp_path / "results" / "Case02_prostate.nii.gz")
    with caplog.at_level(logging.WARNING):
        rows = list(compare_results(tmp_path / "results", cases))
    # 40 x 36 x 12 voxels of 1 x 1 x 3 mm: 40 x 36 x 36 mm.
    far_mm = math.sqrt(40**2 + 36**2 + 36**2)
    assert [r.case for r in rows] == ["Case00", "Case01", "Case02"]
    assert asdict(rows[1].comparison.whole) == pytest.approx(asdict(Agreement(0.0, far_mm, far_mm, -100.0)))
    assert "missed" in caplog.text
    assert "Case01" in caplog.text
    assert "Case00" not in caplog.text


def test_a_result_without_a_case_is_named(cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("Case00", "Case01", "Case02", "Case77"):
        write(mask(), tmp_path / "results" / f"{name}_prostate.nii.gz")
    with caplog.at_level(logging.WARNING):
        assert len(list(compare_results(tmp_path / "results", cases))) == 3
    (record,) = caplog.records
    assert "Case77_prostate.nii.gz" in record.getMessage()


def test_two_results_for_one_case(cases: list[Case], tmp_path: Path) -> None:
    write(mask(), tmp_path / "results" / "Case00.nii.gz", tmp_path / "results" / "Case00_prostate.nii.gz")
    with pytest.raises(UserError, match=r"Case00 has two results .*Case00\.nii\.gz and Case00_prostate\.nii\.gz"):
        compare_results(tmp_path / "results", cases)
    write(mask(), tmp_path / "others" / "b" / "Case00.nii.gz", tmp_path / "others" / "a" / "Case00.nii.gz")
    with pytest.raises(UserError, match=r"two results .*, a.Case00\.nii\.gz and b.Case00\.nii\.gz"):
        compare_results(tmp_path / "others", cases)


def test_a_folder_without_any_result_is_a_mistake(cases: list[Case], tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(UserError, match=r"no mask for Case00, Case01, Case02\..*Case00_prostate\.nii\.gz"):
        compare_results(tmp_path / "results", cases)
    with pytest.raises(UserError, match="no folder"):
        compare_results(tmp_path / "nowhere", cases)


def test_a_result_on_another_grid_is_named(cases: list[Case], tmp_path: Path) -> None:
    write(mask()[:, :, 1:], tmp_path / "results" / "Case00_prostate.nii.gz")
    with pytest.raises(
        UserError, match=r"Case00_prostate\.nii\.gz is not on the grid of .*Case00_segmentation\.nii\.gz: 40 x 36 x 11"
    ):
        list(compare_results(tmp_path / "results", cases))


def test_real_references_against_themselves(promise12: Path, tmp_path: Path) -> None:
    chosen = [case for case in find_cases(promise12) if case.name in ("Case00", "Case10")]
    for case in chosen:
        write(sitk.ReadImage(str(case.mask)), tmp_path / f"{case.name}_prostate.nii.gz")
    rows = list(compare_results(tmp_path, chosen))
    assert [r.site for r in rows] == [case.site for case in chosen]
    assert all(r.comparison.whole == Agreement(1.0, 0.0, 0.0, 0.0) for r in rows)
