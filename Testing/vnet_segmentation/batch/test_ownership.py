"""Whose the files are that lie where a case's would be written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vnet_segmentation.batch.cases import BatchOptions
from vnet_segmentation.batch.run import run_batch


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
def test_a_foreign_report_beside_a_mask_is_passed_over(segmenter, scans, tmp_path, report, table):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    (output / "a_prostate.json").write_text(report)
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    assert (row.status, row.report, row.message) == ("skipped", None, "Had a mask already.")
    assert table(output)[0]["volume_ml"] == ""


def test_a_mask_that_is_not_what_was_asked_for_is_said_to_be(segmenter, scans, tmp_path, table):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    report = output / "a_prostate.json"
    report.write_text(report.read_text("utf-8").replace('"warnings": []', '"warnings": ["It is cut off."]'), "utf-8")
    options = BatchOptions(threshold=0.4, pictures=True, probabilities=True)
    (row,) = run_batch(segmenter, [scans / "a.nii.gz"], output, options)
    assert row.message == table(output)[0]["message"]
    assert row.message == (
        "Had a mask already. It was made with the threshold 0.5. There is no probability volume and no picture. "
        "Choose to overwrite to have it as asked for now. "
        # What its report warns of is not lost on the way.
        "It is cut off."
    )


def test_a_mask_of_another_model_is_said_to_be(segmenter, scans, tmp_path):
    output, scan = tmp_path / "masks", scans / "a.nii.gz"
    run_batch(segmenter, [scan], output, BatchOptions())
    segmenter.description["weights"]["sha256"] = "0" * 64
    (row,) = run_batch(segmenter, [scan], output, BatchOptions())
    assert (row.status, row.message.partition(" Choose")[0]) == (
        "skipped",
        "Had a mask already. It was made by another model, tiny.",
    )
    run_batch(segmenter, [scan], output, BatchOptions(overwrite=True))
    (row,) = run_batch(segmenter, [scan], output, BatchOptions())
    assert row.message == "Had a mask already."


def test_a_mask_of_another_scan_is_neither_taken_nor_replaced(segmenter, scans, tmp_path, table):
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
        assert [row["status"] for row in table(output)] == ["done", "failed"]
    # Where it was before there is nothing: the scan has moved, and is still the same one.
    (scans / "a.nii.gz").unlink()
    assert [row.status for row in run_batch(segmenter, [other], output, BatchOptions())] == ["skipped"]


def test_a_report_of_another_scan_without_its_mask_is_not_replaced(segmenter, scans, tmp_path):
    output = tmp_path / "masks"
    run_batch(segmenter, [scans / "a.nii.gz"], output, BatchOptions())
    (output / "a_prostate.nii.gz").unlink()
    before = (output / "a_prostate.json").read_bytes()
    other = tmp_path / "other site" / "a.nii.gz"
    other.parent.mkdir()
    other.write_bytes((scans / "a.nii.gz").read_bytes())
    (row,) = run_batch(segmenter, [other], output, BatchOptions())
    assert row.status == "failed"
    assert "is not of this scan" in row.message
    assert (output / "a_prostate.json").read_bytes() == before
