"""The Batch tab on the desktop stand-in, with the real worker and the bundled model."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import SAGITTAL, write_series

from vnet_segmentation.images.phantom import PhantomGrid, make_phantom


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder with two scans and a damaged one."""
    folder = tmp_path_factory.mktemp("scans")
    scan, _ = make_phantom(5, PhantomGrid(size=(128, 128, 24), spacing_mm=(1.0, 1.0, 3.3)))
    for name in ("a_t2.nrrd", "b_t2.nrrd"):
        sitk.WriteImage(sitk.Cast(scan, sitk.sitkInt16), str(folder / name))
    (folder / "damaged_t2.nrrd").write_bytes((folder / "a_t2.nrrd").read_bytes()[:1000])
    (folder / "notes.txt").write_text("no scan")
    return folder


@pytest.fixture
def ui(desktop):
    ui = desktop.open_module().ui
    ui.tabs.currentIndex = 1
    return ui


def _run(desktop, ui, scans, output) -> None:
    ui.batchInputPath.currentPath = str(scans)
    ui.batchOutputPath.currentPath = str(output)
    desktop.wait_until(lambda: ui.batchRunButton.enabled)
    desktop.click(ui.batchRunButton)
    desktop.wait_until(lambda: ui.batchCancelButton.isHidden(), timeout_s=120)


def _cells(ui, column: int) -> list[str]:
    return [ui.batchTable.item(row, column).text() for row in range(ui.batchTable.rowCount)]


def test_what_is_missing_is_said(desktop, ui, tmp_path):
    assert not ui.batchRunButton.enabled
    assert "folder with the scans" in ui.batchStatusLabel.text
    ui.batchInputPath.currentPath = str(tmp_path)
    desktop.wait_until(lambda: "results" in ui.batchStatusLabel.text)
    ui.batchOutputPath.currentPath = str(tmp_path / "out")
    desktop.wait_until(lambda: ui.batchRunButton.enabled)


def test_a_folder_is_looked_at_once_its_path_is_typed(desktop, ui, monkeypatch):
    looked = []
    monkeypatch.setattr(Path, "is_dir", lambda path: looked.append(path) or True)
    for path in ("/s", "/sh", "/sha", "/shar", "/share"):
        ui.batchInputPath.currentPath = path
    assert looked == []
    desktop.wait_until(lambda: looked)
    assert looked == [Path("/share")]


@pytest.mark.parametrize("name", ["batchInputPath", "batchOutputPath"])
def test_an_emptied_path_disables_the_button_and_is_not_remembered(desktop, ui, tmp_path, name):
    ui.batchInputPath.currentPath = ui.batchOutputPath.currentPath = str(tmp_path)
    desktop.wait_until(lambda: ui.batchRunButton.enabled)
    getattr(ui, name).currentPath = ""
    desktop.wait_until(lambda: not ui.batchRunButton.enabled)
    assert "Choose the folder" in ui.batchStatusLabel.text
    assert getattr(desktop.open_module().ui, name).currentPath == ""


def test_a_folder_is_segmented_failures_are_named_and_a_second_run_resumes(desktop, ui, scans, tmp_path):
    import slicer

    output = tmp_path / "out"
    _run(desktop, ui, scans, output)
    assert _cells(ui, 0) == ["a_t2.nrrd", "b_t2.nrrd", "damaged_t2.nrrd"]
    assert _cells(ui, 1) == ["done", "done", "failed"]
    assert float(_cells(ui, 2)[0]) > 10
    assert _cells(ui, 2)[2] == ""
    assert "damaged_t2.nrrd" in _cells(ui, 4)[2]
    assert "2 done, 1 failed" in ui.batchStatusLabel.text
    with open(output / "results.csv", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["done", "done", "failed"]
    assert (output / "a_t2_prostate.seg.nrrd").is_file()

    ui.batchTable.cellDoubleClicked.emit(1, 0)
    (volume,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    (segmentation,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert volume.GetName() == "b_t2"
    assert list(segmentation.GetSegmentation().GetSegmentIDs()) == ["Prostate"]
    # Ready to be corrected and saved.
    assert ui.inputVolumeSelector.currentNode() is volume
    assert ui.outputSegmentationSelector.currentNode() is segmentation
    assert ui.saveCollapsibleButton.enabled
    assert ui.saveFolderPath.currentPath == str(output)
    assert "by hand" not in ui.warningsLabel.text

    before = (output / "a_t2_prostate.seg.nrrd").stat().st_mtime_ns
    _run(desktop, ui, scans, output)
    assert _cells(ui, 1)[:2] == ["was there already"] * 2
    assert (output / "a_t2_prostate.seg.nrrd").stat().st_mtime_ns == before


def test_of_several_dicom_series_the_one_that_was_segmented_opens(desktop, ui, phantom, tmp_path):
    import slicer

    patient = tmp_path / "scans" / "patient"
    write_series(patient, 2, "t2_tse_sag", orientation=SAGITTAL)
    voxels = sitk.GetArrayFromImage(sitk.Cast(phantom[0], sitk.sitkInt16))
    write_series(patient, 5, "t2_tse_tra", voxels=voxels, spacing_mm=(1.0, 3.3))
    _run(desktop, ui, tmp_path / "scans", tmp_path / "out")
    assert _cells(ui, 1) == ["done"]
    ui.batchTable.cellDoubleClicked.emit(0, 0)
    volume = ui.inputVolumeSelector.currentNode()
    # The mask of this scan is to be corrected on it, and saved under its name.
    assert np.array_equal(slicer.util.arrayFromVolume(volume), voxels)
    assert volume.GetName() == "patient"
    assert ui.outputSegmentationSelector.currentNode() is not None
    assert ui.saveCollapsibleButton.enabled


def test_a_path_that_is_typed_from_the_current_folder_is_meant_from_there(desktop, ui, scans, tmp_path, monkeypatch):
    # The worker has another current folder.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").symlink_to(scans)
    ui.batchPatternEdit.text = "a_*"
    _run(desktop, ui, "scans", "masks")
    assert _cells(ui, 1) == ["done"]
    assert (tmp_path / "masks" / "results.csv").is_file()


def test_only_the_files_that_were_asked_for(desktop, ui, scans, tmp_path):
    ui.batchPatternEdit.text = "b_*"
    ui.batchFormatComboBox.currentText = ".nii.gz"
    _run(desktop, ui, scans, tmp_path / "out")
    assert _cells(ui, 0) == ["b_t2.nrrd"]
    assert (tmp_path / "out" / "b_t2_prostate.nii.gz").is_file()


def test_cancel_keeps_what_is_done_and_a_scan_can_be_segmented_afterwards(desktop, ui, scans, tmp_path):
    ui.batchInputPath.currentPath = str(scans)
    ui.batchOutputPath.currentPath = str(tmp_path / "out")
    desktop.wait_until(lambda: ui.batchRunButton.enabled)
    desktop.click(ui.batchRunButton)
    assert "batch" in ui.statusLabel.text
    assert not ui.segmentButton.enabled
    desktop.wait_until(lambda: ui.batchTable.rowCount == 1)
    desktop.click(ui.batchCancelButton)
    desktop.wait_until(lambda: ui.batchCancelButton.isHidden())
    assert "Stopped" in ui.batchStatusLabel.text
    assert {path.name for path in (tmp_path / "out").glob(".*")} <= {".results.lock"}
    assert ui.batchRunButton.enabled
    desktop.click(ui.batchRunButton)
    desktop.wait_until(lambda: ui.batchCancelButton.isHidden(), timeout_s=120)
    assert _cells(ui, 1) == ["was there already", "done", "failed"]


def test_a_folder_without_scans_is_a_sentence(desktop, ui, tmp_path):
    (tmp_path / "empty").mkdir()
    _run(desktop, ui, tmp_path / "empty", tmp_path / "out")
    assert "no scans" in ui.batchStatusLabel.text
    assert not (tmp_path / "out").exists()
