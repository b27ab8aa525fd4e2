"""The files of one scan: whole, in the right order, and never over something unasked."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
import SimpleITK as sitk

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.mask_files import read_mask, write_mask
from vnet_segmentation.images.measurements import measure
from vnet_segmentation.segmentation.scan_job import Outputs, segment_file


@pytest.fixture
def scans(tmp_path, bright_ball):
    folder = tmp_path / "scans"
    folder.mkdir()
    sitk.WriteImage(bright_ball()[0], str(folder / "a.nii.gz"))
    return folder


def test_all_outputs_of_one_scan(segmenter, scans, tmp_path):
    outputs = Outputs(*(tmp_path / "out" / name for name in ("m.seg.nrrd", "p.nrrd", "m.png", "r.json")))
    report = segment_file(segmenter, scans / "a.nii.gz", outputs)
    assert all(path.stat().st_size > 100 for path in outputs.all)
    written = json.loads(outputs.report.read_text("utf-8"))
    assert written["scan"] == str(scans / "a.nii.gz")
    assert (written["size"], written["spacing_mm"]) == ([80, 80, 24], [1.0, 1.0, 3.0])
    assert written["volume_ml"] == report["volume_ml"]
    assert {"read", "prepare", "network", "mask"} <= set(written["seconds"])


def test_nothing_is_replaced_unasked_and_the_scan_never(segmenter, scans, tmp_path):
    mask = tmp_path / "mask.nrrd"
    mask.write_text("corrected by hand")
    with pytest.raises(UserError, match="exists already") as caught:
        segment_file(segmenter, scans / "a.nii.gz", Outputs(mask))
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    assert mask.read_text() == "corrected by hand"
    with pytest.raises(UserError, match="is the scan itself"):
        segment_file(segmenter, scans / "a.nii.gz", Outputs(scans / "a.nii.gz"), overwrite=True)
    segment_file(segmenter, scans / "a.nii.gz", Outputs(mask), overwrite=True)
    assert mask.stat().st_size > 100


def test_what_another_process_wrote_in_the_meantime_is_not_replaced(segmenter, scans, tmp_path):
    mask = tmp_path / "mask.nrrd"
    with pytest.raises(UserError, match="exists already"):
        segment_file(segmenter, scans / "a.nii.gz", Outputs(mask), progress=lambda *_: mask.write_text("another's"))
    assert mask.read_text() == "another's"


def test_the_scan_under_another_name_is_not_replaced_either(segmenter, scans, tmp_path):
    os.link(scans / "a.nii.gz", tmp_path / "b.nii.gz")
    with pytest.raises(UserError, match="is the scan itself"):
        segment_file(segmenter, scans / "a.nii.gz", Outputs(tmp_path / "b.nii.gz"), overwrite=True)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("m.jpg",), "m.jpg"),
        (("m.nrrd", "p.seg.nrrd"), "p.seg.nrrd"),
        (("m.nrrd", None, "picture.jpg"), "must end in .png"),
        (("m.nrrd", "m.nrrd"), "same name"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_the_work(scans, tmp_path, names, sentence):
    outputs = Outputs(*(name and tmp_path / name for name in names))
    with pytest.raises(UserError, match=sentence) as caught:
        outputs.check(scans / "a.nii.gz", overwrite=True)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("extra", ["probability", "picture", "report"])
@pytest.mark.parametrize("problem", ["it is a folder", "not a folder that can be written"])
def test_places_that_cannot_be_written_are_refused_before_the_work(scans, tmp_path, extra, problem):
    path = tmp_path / "place" / {"probability": "p.nrrd", "picture": "p.png", "report": "r.json"}[extra]
    if problem == "it is a folder":
        path.mkdir(parents=True)
    else:
        path.parent.touch()
    with pytest.raises(UserError, match=problem) as caught:
        Outputs(tmp_path / "m.nrrd", **{extra: path}).check(scans / "a.nii.gz", overwrite=True)
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


@pytest.mark.parametrize("outputs", [("m\udcf6.nrrd",), ("m.nrrd", "p\udcf6.nrrd"), ("m.nrrd", None, "p\udcf6.png")])
def test_names_that_are_not_unicode_are_refused_before_the_work(scans, tmp_path, outputs):
    with pytest.raises(UserError, match="not Unicode") as caught:
        Outputs(*(name and tmp_path / name for name in outputs)).check(scans / "a.nii.gz", overwrite=False)
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


@pytest.mark.parametrize("step", ["write_probability", "write_picture", "write_mask"])
def test_an_output_that_fails_leaves_no_new_file(segmenter, scans, tmp_path, monkeypatch, step):
    def fail(*arguments):
        raise UserError("The disk is full.", ExitCode.CANNOT_WRITE)

    output = tmp_path / "out"
    outputs = Outputs(*(output / name for name in ("m.nrrd", "p.nrrd", "m.png", "r.json")))
    with monkeypatch.context() as patch:
        patch.setattr(f"vnet_segmentation.segmentation.scan_job.{step}", fail)
        with pytest.raises(UserError, match="disk is full"):
            segment_file(segmenter, scans / "a.nii.gz", outputs)
    assert list(output.iterdir()) == []
    # So that the same call can be tried again; what was there before stays.
    segment_file(segmenter, scans / "a.nii.gz", outputs)
    monkeypatch.setattr(f"vnet_segmentation.segmentation.scan_job.{step}", fail)
    with pytest.raises(UserError, match="disk is full"):
        segment_file(segmenter, scans / "a.nii.gz", outputs, overwrite=True)
    assert all(path.exists() for path in outputs.all)


@pytest.mark.parametrize("overwrite", [True, False])
def test_mask_and_report_are_of_the_same_run_where_two_write_at_once(
    segmenter, scans, tmp_path, monkeypatch, overwrite
):
    outputs = Outputs(tmp_path / "m.nrrd", report=tmp_path / "r.json")
    second: list[Future] = []

    def run(threshold):
        return segment_file(segmenter, scans / "a.nii.gz", outputs, threshold, overwrite=overwrite)

    def write(mask, path):
        if not second:
            # Another one comes in between.
            second.append(pool.submit(run, 0.9))
            wait(second, timeout=1)
        write_mask(mask, path)

    monkeypatch.setattr("vnet_segmentation.segmentation.scan_job.write_mask", write)
    with ThreadPoolExecutor() as pool:
        first = run(0.5)
    if overwrite:
        last = second[0].result()
        assert last["volume_ml"] < first["volume_ml"]
    else:
        last = first
        with pytest.raises(UserError, match="exists already"):
            second[0].result()
    assert json.loads(outputs.report.read_text("utf-8"))["threshold"] == last["threshold"]
    assert measure(read_mask(outputs.mask)).volume_ml == pytest.approx(last["volume_ml"], abs=0.01)
    assert {path.name for path in tmp_path.iterdir()} == {"scans", "models", "m.nrrd", "r.json"}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("itkImport: Failed to allocate memory for image.")])
def test_memory_too_small_for_the_scan_is_a_sentence(segmenter, scans, tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("vnet_segmentation.segmentation.segmenter.prepare", fail)
    with pytest.raises(UserError, match="ran out of memory") as caught:
        segment_file(segmenter, scans / "a.nii.gz", Outputs(tmp_path / "m.nrrd"))
    assert caught.value.exit_code == ExitCode.OUT_OF_MEMORY
    assert not (tmp_path / "m.nrrd").exists()


def test_a_bug_keeps_its_traceback(segmenter, scans, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("Inputs do not occupy the same physical space")

    monkeypatch.setattr("vnet_segmentation.segmentation.segmenter.prepare", fail)
    with pytest.raises(RuntimeError, match="physical space"):
        segment_file(segmenter, scans / "a.nii.gz", Outputs(tmp_path / "m.nrrd"))
