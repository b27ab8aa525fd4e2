"""A folder of scans in, a folder of masks and a table out."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import SimpleITK as sitk

from vnet_segmentation.batch import TABLE_NAME, BatchOptions, check_batch, exit_code, run_batch
from vnet_segmentation.device import choose_device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.segmenter import Segmenter


@pytest.fixture
def segmenter(tiny_model, sees_bright):
    return Segmenter(tiny_model, choose_device("cpu", "float32"))


@pytest.fixture
def scans(tmp_path, bright_ball):
    """Two scans, one of them in a sub-folder, and a damaged one."""
    folder = tmp_path / "scans"
    (folder / "größer").mkdir(parents=True)
    scan, _ = bright_ball()
    sitk.WriteImage(scan, str(folder / "a.nii.gz"))
    sitk.WriteImage(scan, str(folder / "größer" / "b.nrrd"))
    (folder / "damaged.nrrd").write_bytes((folder / "größer" / "b.nrrd").read_bytes()[:4000])
    return folder


def table(folder):
    with open(folder / TABLE_NAME, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_scan_gets_a_mask_and_a_failure_does_not_stop_the_rest(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    seen = []

    def report(number, total, row):
        # The table is complete after each scan.
        seen.append((number, total, row.status))
        assert len(table(output)) == number

    rows = run_batch(segmenter, scans, output, BatchOptions(pictures=True, probabilities=True), report)
    assert seen == [(1, 3, "done"), (2, 3, "failed"), (3, 3, "done")]
    assert exit_code(rows) == ExitCode.SOME_FAILED
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert files == {
        TABLE_NAME,
        *(
            f"{stem}_prostate{ending}"
            for stem in ("a", "größer/b")
            for ending in (".nii.gz", ".json", ".png", "_probability.nii.gz")
        ),
    }
    failed = table(output)[1]
    assert failed["mask"] == ""
    assert "damaged.nrrd" in failed["message"]
    assert float(table(output)[0]["volume_ml"]) == pytest.approx(17.2, rel=0.06)


def test_a_second_run_leaves_finished_scans_alone(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    run_batch(segmenter, scans, output, BatchOptions())
    mask = output / "a_prostate.nii.gz"
    corrected = mask.read_bytes() + b"corrected"
    mask.write_bytes(corrected)
    rows = run_batch(segmenter, scans, output, BatchOptions())
    assert [row.status for row in rows] == ["skipped", "failed", "skipped"]
    assert mask.read_bytes() == corrected
    # The table keeps the figures of the earlier run.
    assert float(table(output)[0]["volume_ml"]) == pytest.approx(17.2, rel=0.06)


def test_a_run_that_was_killed_goes_on_with_what_is_missing(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    run_batch(segmenter, scans, output, BatchOptions())
    # The mask is written last: killed just before it, the report is there and the mask is not.
    (output / "a_prostate.nii.gz").unlink()
    assert [row.status for row in run_batch(segmenter, scans, output, BatchOptions())] == ["done", "failed", "skipped"]


def test_overwrite_segments_again(segmenter, scans, tmp_path):
    for _ in range(2):
        rows = run_batch(segmenter, scans, tmp_path / "masks", BatchOptions(overwrite=True))
    assert [row.status for row in rows] == ["done", "failed", "done"]


def test_masks_beside_the_scans_are_not_taken_for_scans(segmenter, scans):
    run_batch(segmenter, scans, scans, BatchOptions(suffix=".seg.nrrd", probabilities=True))
    rows = run_batch(segmenter, scans, scans, BatchOptions(suffix=".seg.nrrd"))
    assert [row.scan.name for row in rows] == ["a.nii.gz", "damaged.nrrd", "b.nrrd"]


def test_one_stem_in_two_formats_gets_two_masks(segmenter, tmp_path, bright_ball):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a.nii.gz", "a.nrrd"):
        sitk.WriteImage(bright_ball()[0], str(folder / name))
    rows = run_batch(segmenter, folder, tmp_path / "masks", BatchOptions())
    assert [row.mask.name for row in rows] == ["a.nii.gz_prostate.nii.gz", "a.nrrd_prostate.nii.gz"]
    assert exit_code(rows) == ExitCode.OK


def test_an_empty_result_is_named_and_counts_as_a_failure(segmenter, tmp_path, bright_ball):
    folder = tmp_path / "scans"
    folder.mkdir()
    # Noise without a ball.
    sitk.WriteImage(bright_ball(brightness=100)[0], str(folder / "noise.nrrd"))
    rows = run_batch(segmenter, folder, tmp_path / "masks", BatchOptions())
    assert [row.status for row in rows] == ["empty"]
    assert "No prostate was found" in rows[0].message
    assert exit_code(rows) == ExitCode.SOME_FAILED
    # It still is one when a second run passes it over.
    rows = run_batch(segmenter, folder, tmp_path / "masks", BatchOptions())
    assert [row.status for row in rows] == ["skipped"]
    assert exit_code(rows) == ExitCode.SOME_FAILED


def test_a_folder_of_dicom_slices_may_be_the_scan_itself(segmenter, tmp_path, monkeypatch):
    folder = tmp_path / "patient 1"
    folder.mkdir()
    # What tells a DICOM file, and nothing more: it is found, and fails.
    (folder / "slice1").write_bytes(bytes(128) + b"DICM")
    rows = run_batch(segmenter, folder, tmp_path / "masks", BatchOptions())
    assert [(row.scan, row.status) for row in rows] == [(folder, "failed")]
    assert rows[0].mask == tmp_path / "masks" / "patient 1_prostate.nii.gz"
    monkeypatch.chdir(folder)
    rows = run_batch(segmenter, Path(), tmp_path / "masks", BatchOptions())
    assert rows[0].mask == tmp_path / "masks" / "patient 1_prostate.nii.gz"


def test_a_table_that_is_not_of_a_batch_is_not_replaced(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    output.mkdir()
    (output / TABLE_NAME).write_text("patient,PSA\n", "utf-8")
    with pytest.raises(UserError, match="is not of a batch") as caught:
        check_batch(scans, output, BatchOptions())
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    (output / TABLE_NAME).unlink()
    run_batch(segmenter, scans, output, BatchOptions(), should_stop=iter([False, True]).__next__)
    check_batch(scans, output, BatchOptions())


def test_a_stop_is_obeyed_before_the_next_scan(segmenter, scans, tmp_path):
    stops = iter([False, True])
    assert len(run_batch(segmenter, scans, tmp_path / "m", BatchOptions(), should_stop=lambda: next(stops))) == 1


def test_no_scans_no_folder_and_no_such_format_are_sentences(segmenter, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no scans"):
        run_batch(segmenter, tmp_path / "empty", tmp_path / "masks", BatchOptions())
    with pytest.raises(UserError, match="no folder"):
        check_batch(tmp_path / "nowhere", tmp_path / "masks", BatchOptions())
    with pytest.raises(UserError, match=r"\.jpg"):
        check_batch(tmp_path / "empty", tmp_path / "masks", BatchOptions(suffix=".jpg"))
