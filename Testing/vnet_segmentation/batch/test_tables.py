"""What became of the scans, in two tables."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from vnet_segmentation.batch import tables as batch_tables
from vnet_segmentation.batch.cases import BatchOptions, find_cases
from vnet_segmentation.batch.run import check_batch, run_batch
from vnet_segmentation.batch.tables import REPORTS_NAME, TABLE_NAME, BatchRow, BatchTables, failed_row
from vnet_segmentation.errors import ExitCode, UserError


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


def test_batches_in_one_folder_keep_each_others_rows(segmenter, scans, tmp_path, table):
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


def test_what_cannot_be_read_of_earlier_rows_costs_no_other_row(segmenter, scans, tmp_path, table):
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


@pytest.mark.parametrize("rows", ["", "[]", "5", '[{"scan": "a"}]', '[{"status": "odd"}]'])
def test_rows_that_an_other_version_wrote_are_passed_over(segmenter, scans, tmp_path, rows, table):
    output = tmp_path / "masks"
    output.mkdir()
    (output / REPORTS_NAME).write_text(f'{{"program": "vnet-segmentation", "rows": {rows}}}')
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    assert len(table(output)) == 1


def test_the_table_says_how_sure_a_mask_is_in_a_word(segmenter, scans, tmp_path, table):
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], tmp_path / "masks", BatchOptions())
    assert table(tmp_path / "masks")[0]["confidence_level"] == row.report["confidence"]["level"] != ""


def test_a_skipped_scan_keeps_its_figures_in_the_table(segmenter, scans, tmp_path, table):
    rows = []
    for _ in range(2):
        run_batch(segmenter, [scans / "a.nii.gz"], tmp_path / "masks", BatchOptions())
        rows += table(tmp_path / "masks")
    first, again = rows
    assert (first["status"], again["status"]) == ("done", "skipped")
    for column in ("volume_ml", "confidence", "confidence_level", "seconds", "mask"):
        assert first[column] == again[column] != ""


def test_the_table_has_the_seconds_of_all_steps_but_writing():
    row = BatchRow(
        "a", Path("a.nii"), "done", Path("m.nii"), {"seconds": {"read": 0.1, "network": 0.25, "write": 0.3}}, ""
    )
    assert row.as_table_row()["seconds"] == 0.35


def cases_of(folder, output, n):
    """Cases of a folder with so many files; nothing reads them."""
    folder.mkdir()
    for number in range(n):
        (folder / f"{folder.name}{number:02}.nrrd").touch()
    return find_cases([folder], output, BatchOptions())


def record(tables, case):
    tables.record([failed_row(case, UserError("Not readable."))])


def test_two_batches_at_a_time_lose_no_row_of_each_other(tmp_path, table):
    output = tmp_path / "masks"
    batches = [cases_of(tmp_path / name, output, 20) for name in "ab"]

    def run(cases):
        tables = BatchTables(output, cases)
        for case in cases:
            record(tables, case)

    threads = [threading.Thread(target=run, args=(cases,)) for cases in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = sorted(str(case.scan) for cases in batches for case in cases)
    assert sorted(row["scan"] for row in table(output)) == expected
    content = json.loads((output / REPORTS_NAME).read_text("utf-8"))
    assert sorted(row["scan"] for row in content["rows"]) == expected
    assert content["counts"]["failed"] == content["total"] == 40


def test_tables_are_read_again_only_where_another_batch_wrote(tmp_path, monkeypatch):
    output, read = tmp_path / "masks", []
    stored_rows = batch_tables._stored_rows
    monkeypatch.setattr(batch_tables, "_stored_rows", lambda folder: read.append(folder) or stored_rows(folder))
    own, other = (cases_of(tmp_path / name, output, 9) for name in "ab")
    tables = BatchTables(output, own)
    for case in own[:8]:
        record(tables, case)
    assert read == []
    record(BatchTables(output, other), other[0])
    read.clear()
    record(tables, own[8])
    assert len(read) == 1


def test_a_row_of_another_batch_that_changed_is_kept_though_its_file_is_as_long_as_before(tmp_path, table):
    output = tmp_path / "masks"
    own, other = (cases_of(tmp_path / name, output, 9) for name in "ab")
    tables, other_tables = BatchTables(output, own), BatchTables(output, other)
    record(other_tables, other[0])
    record(tables, own[0])
    size = (output / REPORTS_NAME).stat().st_size
    other_tables.record([failed_row(other[0], UserError("Unreadable!!!"))])
    assert (output / REPORTS_NAME).stat().st_size == size
    record(tables, own[1])
    assert [row["message"] for row in table(output)] == ["Unreadable!!!", "Not readable.", "Not readable."]


def test_a_file_system_without_locks_has_tables_too(tmp_path, monkeypatch, table):
    def refuse(*_, **__):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    output = tmp_path / "masks"
    cases = cases_of(tmp_path / "a", output, 2)
    tables = BatchTables(output, cases)
    for case in cases:
        record(tables, case)
    assert len(table(output)) == 2


def test_a_table_that_is_open_in_another_program_has_its_rows_later(tmp_path, monkeypatch, table, caplog):
    output, replace, is_open = tmp_path / "masks", os.replace, True
    cases = cases_of(tmp_path / "a", output, 4)

    def refuse(source, target):
        if is_open and Path(target).name == TABLE_NAME:
            raise PermissionError(13, "The process cannot access the file")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr("vnet_segmentation.atomic.time.sleep", lambda seconds: None)
    tables = BatchTables(output, cases)
    # At the beginning there is somebody who can close it.
    with pytest.raises(UserError, match="Cannot write"):
        record(tables, cases[0])
    is_open = False
    record(tables, cases[0])
    is_open = True
    record(tables, cases[1])
    record(tables, cases[2])
    assert len(table(output)) == 1
    assert len(json.loads((output / REPORTS_NAME).read_text("utf-8"))["rows"]) == 3
    assert len(caplog.records) == 1
    with pytest.raises(UserError, match="Cannot write"):
        record(tables, cases[3])
    is_open = False
    record(tables, cases[3])
    assert [row["scan"] for row in table(output)] == [str(case.scan) for case in cases]
