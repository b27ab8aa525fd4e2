"""Scans in, masks and tables out."""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk

from vnet_segmentation import batch, scan_job
from vnet_segmentation import segmenter as segmenter_module
from vnet_segmentation.batch import check_batch, exit_code, run_batch
from vnet_segmentation.batch_cases import BatchOptions, find_cases
from vnet_segmentation.batch_tables import REPORTS_NAME, TABLE_NAME
from vnet_segmentation.device import choose_device
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
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
        # What is told is in the table already, and so may be the next scan, which is finished meanwhile.
        seen.append((number, total, row.status))
        assert number <= len(table(output)) <= total

    rows = run_batch(segmenter, [scans], output, BatchOptions(pictures=True, probabilities=True), report)
    assert seen == [(1, 3, "done"), (2, 3, "failed"), (3, 3, "done")]
    assert exit_code(rows) == ExitCode.SOME_FAILED
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
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


def test_a_second_run_leaves_finished_scans_alone(segmenter, scans, tmp_path):
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
    output = tmp_path / "masks"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scan_job, "write_picture", stop)
        with pytest.raises(KeyboardInterrupt):
            run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions(pictures=True))
    assert [path.name for path in output.glob("a_*")] == ["a_prostate.json"]
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions(pictures=True))
    assert row.status == "done"


@pytest.mark.parametrize("name", ["a_prostate.json", "a_prostate.png", "a_prostate_probability.nii.gz"])
def test_files_that_are_not_of_the_scan_are_not_replaced(segmenter, scans, tmp_path, name):
    output = tmp_path / "masks"
    output.mkdir()
    (output / name).write_text("{}")
    options = BatchOptions(pictures=True, probabilities=True)
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], output, options)
    assert (row.status, row.mask) == ("failed", None)
    assert row.message.startswith(f"{output / name} exists already and is not of this scan.")
    assert (output / name).read_text() == "{}"
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], output, replace(options, overwrite=True))
    assert row.status == "done"


@pytest.mark.parametrize(
    "report", ["{", "[]", '{"seconds": 3.2}', '{"confidence": 0.9}', '{"scan": 5}', '{"scan": "/", "volume_ml": "5"}']
)
def test_a_foreign_report_beside_a_mask_is_passed_over(segmenter, scans, tmp_path, report):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    (output / "a_prostate.json").write_text(report)
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    assert (row.status, row.report, row.message) == ("skipped", None, "Had a mask already.")
    assert table(output)[0]["volume_ml"] == ""


def test_a_mask_that_is_not_what_was_asked_for_is_said_to_be(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    report = output / "a_prostate.json"
    report.write_text(report.read_text("utf-8").replace('"warnings": []', '"warnings": ["It is cut off."]'), "utf-8")
    options = BatchOptions(threshold=0.4, pictures=True, probabilities=True)
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], output, options)
    assert row.message == table(output)[0]["message"]
    assert row.message == (
        "Had a mask already. It was made with the threshold 0.5. There is no probability volume and no picture. "
        "Choose to overwrite (--overwrite) to have it as asked for now. "
        # What its report warns of is not lost on the way.
        "It is cut off."
    )


def test_what_a_killed_run_left_half_written_is_removed(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    half = output / "größer" / ".0123456789ab-b_prostate.nii.gz"
    half.parent.mkdir(parents=True)
    half.write_text("half")
    os.utime(half, (0, 0))
    run_batch(segmenter, [scans], output, BatchOptions())
    assert not half.exists()


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


@pytest.mark.parametrize("name", [TABLE_NAME, REPORTS_NAME])
def test_a_table_that_is_not_of_a_batch_is_not_replaced(segmenter, scans, tmp_path, name):
    output = tmp_path / "masks"
    output.mkdir()
    (output / name).write_text("patient,PSA\n", "utf-8")
    with pytest.raises(UserError, match=f"{name} exists already and is not of a batch") as caught:
        check_batch([scans], output, BatchOptions())
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    (output / name).unlink()
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    check_batch([scans], output, BatchOptions())


def test_no_scans_no_input_and_no_such_format_are_sentences(segmenter, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no scans") as caught:
        run_batch(segmenter, [empty], tmp_path / "masks", BatchOptions())
    assert caught.value.exit_code == ExitCode.USAGE
    with pytest.raises(UserError, match="no file or folder") as caught:
        check_batch([empty, tmp_path / "nowhere"], tmp_path / "masks", BatchOptions())
    assert caught.value.exit_code == ExitCode.USAGE
    with pytest.raises(UserError, match=r"\.jpg"):
        check_batch([empty], tmp_path / "masks", BatchOptions(suffix=".jpg"))


# Which scans, and the names of their masks.


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
    assert len(set(masks([folder], tmp_path / "masks").values())) == len(names)


def test_a_mask_of_another_scan_is_neither_taken_nor_replaced(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    other = tmp_path / "other site" / "a.nii.gz"
    other.parent.mkdir()
    other.write_bytes((scans / "a.nii.gz").read_bytes())
    for overwrite in (False, True):
        before = (output / "a_prostate.nii.gz").stat().st_mtime_ns
        rows = run_batch(segmenter, [other], output, BatchOptions(overwrite=overwrite))
        assert [row.status for row in rows] == ["failed"]
        assert "is the mask of another scan" in rows[0].message
        assert (output / "a_prostate.nii.gz").stat().st_mtime_ns == before
    # Where it was before there is nothing: the scan has moved, and is still the same one.
    (scans / "a.nii.gz").unlink()
    assert [row.status for row in run_batch(segmenter, [other], output, BatchOptions())] == ["skipped"]


# Tables.


def test_the_json_has_whole_reports_and_counts_and_keeps_those_of_earlier_runs(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    seen = []

    def report(number, total, row):
        content = json.loads((output / REPORTS_NAME).read_text("utf-8"))
        seen.append((sum(content["counts"].values()), content["total"]))

    run_batch(segmenter, [scans], output, BatchOptions(), report)
    # What is reported is in the file already, and so may be the next scan, which is done meanwhile.
    assert all(n <= count <= total == 3 for n, (count, total) in enumerate(seen, start=1))
    assert len(seen) == 3
    first = json.loads((output / REPORTS_NAME).read_text("utf-8"))
    assert first["counts"] == {"done": 2, "empty": 0, "skipped": 0, "failed": 1}
    assert [(row["name"], row["status"]) for row in first["rows"]] == [
        ("a.nii.gz", "done"),
        ("damaged.nrrd", "failed"),
        ("größer/b.nrrd", "done"),
    ]
    assert first["rows"][0]["report"]["diameters_mm"]["transverse"] > 0
    assert (first["rows"][1]["mask"], first["rows"][1]["report"]) == (None, None)
    run_batch(segmenter, [scans], output, BatchOptions())
    second = json.loads((output / REPORTS_NAME).read_text("utf-8"))
    assert second["counts"] == {"done": 0, "empty": 0, "skipped": 2, "failed": 1}
    # All but the time of writing, which a report on the disk cannot have.
    del first["rows"][0]["report"]["seconds"]["write"]
    assert second["rows"][0]["report"] == first["rows"][0]["report"]


def test_batches_in_one_folder_keep_each_others_rows(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    first = table(output)
    rows = run_batch(segmenter, [scans / "größer"], output, BatchOptions())
    # What a batch returns is its own.
    assert [row.name for row in rows] == ["b.nrrd"]
    assert table(output)[0] == first[0]
    content = json.loads((output / REPORTS_NAME).read_text("utf-8"))
    assert [Path(row["scan"]).name for row in content["rows"]] == ["a.nii.gz", "b.nrrd"]
    assert (content["total"], content["counts"]["done"]) == (2, 2)
    # The folder has moved, with its masks.
    moved = output.rename(tmp_path / "moved")
    run_batch(segmenter, [scans / "größer"], moved, BatchOptions())
    assert [Path(row["mask"]) for row in table(moved)] == [moved / "a_prostate.nii.gz", moved / "b_prostate.nii.gz"]
    # A scan has moved, and is the same one.
    (scans / "größer").rename(scans / "greater")
    run_batch(segmenter, [scans / "greater"], moved, BatchOptions())
    assert [Path(row["scan"]).parent.name for row in table(moved)] == ["scans", "greater"]
    # What a row tells of has gone.
    (moved / "a_prostate.nii.gz").unlink()
    run_batch(segmenter, [scans / "greater"], moved, BatchOptions())
    assert [Path(row["scan"]).name for row in table(moved)] == ["b.nrrd"]


def test_what_cannot_be_read_of_earlier_rows_costs_no_other_row(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans], output, BatchOptions())
    content = json.loads((output / REPORTS_NAME).read_text("utf-8"))
    del content["rows"][0]["report"]["version"]
    # A name that is too long for any file.
    content["rows"][1]["scan"] = f"/{'x' * 300}"
    (output / REPORTS_NAME).write_text(json.dumps(content), "utf-8")
    (scans / "c.nrrd").write_bytes((scans / "größer" / "b.nrrd").read_bytes())
    run_batch(segmenter, [scans / "c.nrrd"], output, BatchOptions())
    assert [Path(row["scan"]).name for row in table(output)] == ["b.nrrd", "c.nrrd"]


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


@pytest.mark.parametrize("rows", ["", "[]", "5", '[{"scan": "a"}]', '[{"status": "odd"}]'])
def test_rows_that_an_other_version_wrote_are_passed_over(segmenter, scans, tmp_path, rows):
    output = tmp_path / "masks"
    output.mkdir()
    (output / REPORTS_NAME).write_text(f'{{"program": "vnet-segmentation", "rows": {rows}}}')
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    assert len(table(output)) == 1


def test_the_table_says_how_sure_a_mask_is_in_a_word(segmenter, scans, tmp_path):
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], tmp_path / "masks", BatchOptions())
    assert table(tmp_path / "masks")[0]["confidence_level"] == row.report["confidence"]["level"] != ""


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


# Reading, computing and writing at the same time, and how that ends.


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

        def wrapped(*arguments, step=step, scan_of=scan_of, original=original):
            before(step, scan_of(*arguments).stem)
            return original(*arguments)

        monkeypatch.setattr(batch, step, wrapped)


def batch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batch-")]


def leftovers(folder):
    """Temporary files, which have a dot in front."""
    return list(folder.rglob(".*"))


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
    segmenter, four_scans, tmp_path, monkeypatch, error
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


def test_what_report_raises_ends_the_batch_and_loses_no_computed_scan(segmenter, four_scans, tmp_path):
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
