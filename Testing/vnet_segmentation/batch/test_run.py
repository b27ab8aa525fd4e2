"""Scans in, masks out: the run of a batch, and how it ends."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import SimpleITK as sitk

from vnet_segmentation.batch import run as batch
from vnet_segmentation.batch.cases import BatchOptions
from vnet_segmentation.batch.run import check_batch, exit_code, run_batch
from vnet_segmentation.batch.tables import REPORTS_NAME, TABLE_NAME
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.segmentation import scan_job
from vnet_segmentation.segmentation import segmenter as segmenter_module


def test_every_scan_gets_a_mask_and_a_failure_does_not_stop_the_rest(segmenter, scans, tmp_path, table):
    output = tmp_path / "masks"
    seen = []

    def report(number, total, row):
        # What is told is in the table already, and so may be the next scan, which is finished meanwhile.
        seen.append((number, total, row.status))
        assert number <= len(table(output)) <= total

    rows = run_batch(segmenter, [scans], output, BatchOptions(pictures=True, probabilities=True), report)
    assert seen == [(1, 3, "done"), (2, 3, "failed"), (3, 3, "done")]
    assert exit_code(rows) == ExitCode.SOME_FAILED
    files = {path.relative_to(output).as_posix() for path in output.rglob("[!.]*") if path.is_file()}
    assert files == {
        TABLE_NAME,
        REPORTS_NAME,
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


def test_a_second_run_leaves_finished_scans_alone(segmenter, scans, tmp_path, table):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans], output, BatchOptions())
    mask = output / "a_prostate.nii.gz"
    corrected = mask.read_bytes() + b"corrected"
    mask.write_bytes(corrected)
    rows = run_batch(segmenter, [scans], output, BatchOptions())
    assert [row.status for row in rows] == ["skipped", "failed", "skipped"]
    assert mask.read_bytes() == corrected
    # The table keeps the figures of the earlier run.
    assert float(table(output)[0]["volume_ml"]) == pytest.approx(17.2, rel=0.06)


def test_a_run_that_was_killed_goes_on_with_what_is_missing(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans], output, BatchOptions())
    # The mask is written last: killed just before it, the report is there and the mask is not.
    (output / "a_prostate.nii.gz").unlink()
    assert [row.status for row in run_batch(segmenter, [scans], output, BatchOptions())] == [
        "done",
        "failed",
        "skipped",
    ]


def test_a_run_that_was_killed_after_the_report_replaces_it(segmenter, scans, tmp_path, monkeypatch):
    output, written = tmp_path / "masks", {}

    def kill(*_):
        written.update({path: path.read_bytes() for path in output.glob("a_*")})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scan_job, "write_picture", kill)
        with pytest.raises(KeyboardInterrupt):
            run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions(pictures=True))
    assert [path.name for path in written] == ["a_prostate.json"]
    # What is interrupted removes it, what is killed does not.
    assert list(output.glob("a_*")) == []
    for path, content in written.items():
        path.write_bytes(content)
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions(pictures=True))
    assert row.status == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes")
def test_a_name_that_is_not_unicode_is_a_row_of_both_tables(segmenter, scans, tmp_path, table):
    output, scan = tmp_path / "masks", scans / "sch\udcf6n.nii.gz"
    (scans / "a.nii.gz").rename(scan)
    for _ in range(2):
        rows = run_batch(segmenter, [scans], output, BatchOptions(pattern="*.nii.gz"))
        assert [(row.status, row.scan) for row in rows] == [("failed", scan)]
        assert "not Unicode" in rows[0].message
    assert table(output)[0]["scan"].endswith(r"sch\udcf6n.nii.gz")
    (stored,) = json.loads((output / REPORTS_NAME).read_text("utf-8"))["rows"]
    assert stored["scan"] == str(scan)


def test_what_a_killed_run_left_half_written_is_removed(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    half = output / "größer" / ".0123456789ab-b_prostate.nii.gz"
    half.parent.mkdir(parents=True)
    half.write_text("half")
    os.utime(half, (0, 0))
    run_batch(segmenter, [scans], output, BatchOptions())
    assert not half.exists()


def write_slice(image, k, path, uid):
    """Slice k of an axial scan as a DICOM file."""
    image_slice = sitk.Cast(image[:, :, k], sitk.sitkInt16)
    position = "\\".join(map(str, image.TransformIndexToPhysicalPoint((0, 0, k))))
    tags = {"0020|000e": uid, "0020|0032": position, "0020|0037": r"1\0\0\0\1\0", "0008|0060": "MR"}
    for tag, value in tags.items():
        image_slice.SetMetaData(tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image_slice)


def test_a_dicom_series_below_another_one_is_segmented_once(segmenter, tmp_path, bright_ball):
    patient, (scan, _) = tmp_path / "patient", bright_ball()
    write_slice(scan, 12, patient / "localizer.dcm", "1.2.826.1")
    for k in range(scan.GetDepth()):
        write_slice(scan, k, patient / "t2" / f"{k}.dcm", "1.2.826.2")
    rows = run_batch(segmenter, [patient], tmp_path / "masks", BatchOptions())
    assert [(row.scan, row.status) for row in rows] == [(patient, "failed"), (patient / "t2", "done")]
    assert "too few slices" in rows[0].message


def test_a_mask_whose_name_would_be_too_long_is_a_row(segmenter, scans, tmp_path):
    (tmp_path / "masks").mkdir()
    (scans / "a.nii.gz").rename(scans / f"{'a' * 245}.nii.gz")
    rows = run_batch(segmenter, [scans], tmp_path / "masks", BatchOptions(pattern="*.nii.gz"))
    assert [row.status for row in rows] == ["failed"]
    assert "too long" in rows[0].message


def test_overwrite_segments_again(segmenter, scans, tmp_path):
    for _ in range(2):
        rows = run_batch(segmenter, [scans], tmp_path / "masks", BatchOptions(overwrite=True))
    assert [row.status for row in rows] == ["done", "failed", "done"]


def test_masks_beside_the_scans_are_not_taken_for_scans(segmenter, scans):
    run_batch(segmenter, [scans], scans, BatchOptions(suffix=".seg.nrrd", probabilities=True))
    rows = run_batch(segmenter, [scans], scans, BatchOptions(suffix=".seg.nrrd"))
    assert [row.scan.name for row in rows] == ["a.nii.gz", "damaged.nrrd", "b.nrrd"]


def test_one_stem_in_two_formats_gets_two_masks(segmenter, tmp_path, bright_ball):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a.nii.gz", "a.nrrd"):
        sitk.WriteImage(bright_ball()[0], str(folder / name))
    rows = run_batch(segmenter, [folder], tmp_path / "masks", BatchOptions())
    assert [row.mask.name for row in rows] == ["a.nii.gz_prostate.nii.gz", "a.nrrd_prostate.nii.gz"]
    assert exit_code(rows) == ExitCode.OK


def test_an_empty_result_is_named_and_counts_as_a_failure(segmenter, tmp_path, bright_ball):
    folder = tmp_path / "scans"
    folder.mkdir()
    # Noise without a ball.
    sitk.WriteImage(bright_ball(brightness=100)[0], str(folder / "noise.nrrd"))
    rows = run_batch(segmenter, [folder], tmp_path / "masks", BatchOptions())
    assert [row.status for row in rows] == ["empty"]
    assert "No prostate was found" in rows[0].message
    assert exit_code(rows) == ExitCode.SOME_FAILED
    # It still is one when a second run passes it over.
    rows = run_batch(segmenter, [folder], tmp_path / "masks", BatchOptions())
    assert [row.status for row in rows] == ["skipped"]
    assert exit_code(rows) == ExitCode.SOME_FAILED


def test_no_scans_no_input_and_no_such_format_are_sentences(segmenter, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no scans") as caught:
        run_batch(segmenter, [empty], tmp_path / "masks", BatchOptions())
    assert caught.value.exit_code == ExitCode.USAGE
    with pytest.raises(UserError, match="no file or folder") as caught:
        check_batch([empty, tmp_path / "nowhere"], tmp_path / "masks", BatchOptions())
    assert caught.value.exit_code == ExitCode.USAGE
    for suffix in (".jpg", "./x.nii.gz", ".x.nii.gz", ".mhd"):
        with pytest.raises(UserError, match=rf"as {re.escape(suffix)}\. Choose one of .*\.nii\.gz, ") as caught:
            check_batch([empty], tmp_path / "masks", BatchOptions(suffix=suffix))
        assert caught.value.exit_code == ExitCode.USAGE
    check_batch([empty], tmp_path / "masks", BatchOptions(suffix=".NII.GZ"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_batches_at_a_time_do_not_replace_each_others_masks(
    segmenter, scans, tmp_path, monkeypatch, overwrite, table
):
    output, other = tmp_path / "masks", tmp_path / "other site" / "a.nii.gz"
    other.parent.mkdir()
    other.write_bytes((scans / "a.nii.gz").read_bytes())
    options, segment_scan, both_computed = BatchOptions(overwrite=overwrite), batch.segment_scan, threading.Barrier(2)

    def in_step(*arguments):
        result = segment_scan(*arguments)
        both_computed.wait(30)
        return result

    monkeypatch.setattr(batch, "segment_scan", in_step)
    with ThreadPoolExecutor() as pool:
        batches = [pool.submit(run_batch, segmenter, [scan], output, options) for scan in (scans / "a.nii.gz", other)]
        first, second = sorted((done.result()[0] for done in batches), key=lambda row: row.status)
    assert (first.status, second.status) == ("done", "failed")
    assert f"is the mask of another scan, {first.scan}." in second.message
    assert json.loads((output / "a_prostate.json").read_text("utf-8"))["scan"] == str(first.scan)
    # The table has both: what was done, and what was not.
    assert sorted((row["scan"], row["status"]) for row in table(output)) == sorted(
        (str(row.scan), row.status) for row in (first, second)
    )
    assert leftovers(output) == []


def test_a_report_tells_of_the_mask_that_is_there(segmenter, scans, tmp_path, monkeypatch):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions(threshold=0.3))
    before = (output / "a_prostate.json").read_bytes()

    def fail(*_):
        raise UserError("Cannot write: the disk is full.", ExitCode.CANNOT_WRITE)

    monkeypatch.setattr(scan_job, "write_picture", fail)
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions(pictures=True, overwrite=True))
    assert row.status == "failed"
    # The mask before is still there, and so is what was said of it.
    assert (output / "a_prostate.json").read_bytes() == before


def test_a_bug_at_one_scan_is_its_row_and_its_traceback_is_logged(segmenter, scans, tmp_path, monkeypatch, caplog):
    prepare = segmenter_module.prepare

    def fail(scan, preprocessing):
        if not fail.called:
            fail.called = True
            raise ValueError("shapes differ")
        return prepare(scan, preprocessing)

    fail.called = False
    monkeypatch.setattr(segmenter_module, "prepare", fail)
    rows = run_batch(segmenter, [scans], tmp_path / "masks", BatchOptions())
    assert [row.status for row in rows] == ["failed", "failed", "done"]
    assert rows[0].message.startswith("An unexpected error: ValueError: shapes differ.")
    assert [record.exc_info[0] for record in caplog.records] == [ValueError]


@pytest.fixture
def four_scans(tmp_path, bright_ball):
    folder = tmp_path / "four"
    folder.mkdir()
    for name in "abcd":
        sitk.WriteImage(bright_ball()[0], str(folder / f"{name}.nrrd"))
    return folder


def watch(monkeypatch, before):
    """Has `before` called with the step and the scan's letter, before each step of each case."""
    for step, scan_of in (
        ("load_scan", lambda path: path),
        ("segment_scan", lambda segmenter, scan, *_: scan.path),
        ("write_results", lambda scan, *_: scan.path),
    ):
        original = getattr(batch, step)

        def wrapped(*arguments, step=step, scan_of=scan_of, original=original, **options):
            before(step, scan_of(*arguments).stem)
            return original(*arguments, **options)

        monkeypatch.setattr(batch, step, wrapped)


def batch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batch-")]


def leftovers(folder):
    """Temporary files, which have a dot in front, as the lock of the tables has until all scans are done."""
    return [path for path in folder.rglob(".*") if path.name != ".results.lock"]


def test_the_next_is_read_and_the_last_written_while_one_is_computed(segmenter, four_scans, tmp_path, monkeypatch):
    began = {(step, name): threading.Event() for step in ("load_scan", "segment_scan") for name in "abcd"}

    def before(step, name):
        if (step, name) in began:
            began[step, name].set()
        # None of these would begin if one step waited for the end of another.
        needed = {("segment_scan", "b"): ("load_scan", "c"), ("write_results", "b"): ("segment_scan", "c")}
        if (step, name) in needed:
            assert began[needed[step, name]].wait(20)

    watch(monkeypatch, before)
    rows = run_batch(segmenter, [four_scans], tmp_path / "masks", BatchOptions())
    assert [row.status for row in rows] == ["done"] * 4


def test_no_more_than_one_scan_is_read_ahead(segmenter, four_scans, tmp_path, monkeypatch):
    order = []

    def before(step, name):
        order.append((step, name))
        if step == "segment_scan":
            # Time enough for a reader that does not wait.
            time.sleep(0.1)

    def progress(fraction, sentence):
        if sentence == "Done":
            order.append(("computed", ""))

    watch(monkeypatch, before)
    run_batch(segmenter, [four_scans], tmp_path / "masks", BatchOptions(), progress=progress)
    ends = [i for i, (step, _) in enumerate(order) if step == "computed"]
    # While a is computed, b is read and nothing else; c comes when a is through, and d when b is.
    assert order.index(("load_scan", "c")) > ends[0]
    assert order.index(("load_scan", "d")) > ends[1]


@pytest.mark.parametrize("error", [Cancelled(), BrokenPipeError(), UserError("from the caller"), KeyboardInterrupt()])
def test_what_progress_raises_ends_the_batch_after_the_scan_that_is_written(
    segmenter, four_scans, tmp_path, monkeypatch, error, table
):
    output = tmp_path / "masks"
    stopping = threading.Event()

    def before(step, name):
        if (step, name) == ("write_results", "a"):
            # The stop comes while a is being written.
            assert stopping.wait(20)

    def progress(fraction, sentence):
        progress.calls += sentence == "Preparing the scan"
        if progress.calls == 2:
            stopping.set()
            raise error

    progress.calls = 0
    watch(monkeypatch, before)
    with pytest.raises(type(error)) as caught:
        run_batch(segmenter, [four_scans], output, BatchOptions(), progress=progress)
    assert caught.value is error
    assert [Path(row["scan"]).stem for row in table(output)] == ["a"]
    assert (output / "a_prostate.nii.gz").exists()
    assert batch_threads() == []
    assert leftovers(output) == []
    # It goes on where it stopped.
    rows = run_batch(segmenter, [four_scans], output, BatchOptions())
    assert [row.status for row in rows] == ["skipped", "done", "done", "done"]


def test_what_report_raises_ends_the_batch_and_loses_no_computed_scan(segmenter, four_scans, tmp_path, table):
    output = tmp_path / "masks"

    def report(number, total, row):
        raise Cancelled

    with pytest.raises(Cancelled):
        run_batch(segmenter, [four_scans], output, BatchOptions(), report)
    written = {path.name[0] for path in output.glob("*_prostate.nii.gz")}
    assert {Path(row["scan"]).stem for row in table(output)} == written
    assert "a" in written
    assert "d" not in written
    assert batch_threads() == []


def test_a_table_that_cannot_be_written_ends_the_batch(segmenter, four_scans, tmp_path, monkeypatch):
    output = tmp_path / "masks"

    def before(step, name):
        if (step, name) == ("segment_scan", "a"):
            # A folder in the table's place.
            (output / TABLE_NAME).unlink()
            (output / TABLE_NAME).mkdir()

    watch(monkeypatch, before)
    with pytest.raises(UserError, match="Cannot write") as caught:
        run_batch(segmenter, [four_scans], output, BatchOptions())
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    assert batch_threads() == []
