"""The Train tab on the desktop stand-in, with the real worker and a tiny model."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import SimpleITK as sitk
from untrained_model import save_untrained_model

from vnet_segmentation.errors import UserError
from vnet_segmentation.images.phantom import PhantomGrid, make_phantom

GRID = PhantomGrid(size=(80, 80, 20), spacing_mm=(1.2, 1.2, 3.6))


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The user's models: one, tiny and untrained."""
    folder = tmp_path / "models"
    monkeypatch.setenv("VNET_SEGMENTATION_MODELS", str(folder))
    save_untrained_model(folder / "tiny")
    return folder


@pytest.fixture
def cases(tmp_path):
    """A folder with two cases and one whose mask is empty."""
    folder = tmp_path / "cases"
    folder.mkdir()
    for seed in (1, 2, 3):
        scan, mask = make_phantom(seed, GRID)
        sitk.WriteImage(scan, str(folder / f"patient{seed}.nrrd"))
        sitk.WriteImage(mask * (seed < 3), str(folder / f"patient{seed}_segmentation.nrrd"))
    return folder


@pytest.fixture
def ui(desktop, models):
    ui = desktop.open_module().ui
    desktop.wait_until(lambda: ui.ownModelComboBox.count == 1)
    ui.deviceComboBox.currentIndex = ui.deviceComboBox.count - 1  # CPU
    return ui


def _open(desktop, ui, folder) -> None:
    choose(ui.baseModelComboBox, "tiny")
    ui.trainingFolderPath.currentPath = str(folder)
    ui.tabs.currentIndex = 2
    desktop.wait_until(lambda: ui.readCasesButton.enabled)


def choose(comboBox, text: str) -> None:
    for index in range(comboBox.count):
        if comboBox.itemText(index) == text:
            comboBox.currentIndex = index
            return
    raise AssertionError(f"{text} is not offered")


def _cells(table, column: int) -> list[str]:
    return [table.item(row, column).text() for row in range(table.rowCount)]


def _train(desktop, ui, name="mine", iterations=4) -> None:
    ui.newModelNameEdit.text = name
    ui.trainingIterationsSpinBox.value = iterations
    desktop.click(ui.trainButton)


def _is_over(ui) -> bool:
    return ui.cancelTrainingButton.isHidden()


def test_the_table_says_what_is_there_and_why_a_case_cannot_be_used(desktop, ui, cases):
    _open(desktop, ui, cases)
    table = ui.trainingCasesTable
    assert _cells(table, 0) == ["patient1", "patient2", "patient3"]
    assert _cells(table, 1) == ["train", "train", "cannot be used"]
    assert all(float(volume) > 5 for volume in _cells(table, 2)[:2])
    assert "empty" in _cells(table, 4)[2]
    assert "2 to learn from, 0 for validation only, 1 cannot be used" in ui.trainingCasesStatusLabel.text
    # The table is wide enough for a reason to be read.
    assert table.item(2, 4).toolTip() == _cells(table, 4)[2]


def test_the_estimate_counts_the_runs_that_the_engine_makes(desktop, ui, tmp_path):
    scan, mask = make_phantom(1, GRID)
    sites = ["case,site"]
    for number in range(12):
        sitk.WriteImage(scan + number, str(tmp_path / f"patient{number}.nrrd"))
        sitk.WriteImage(mask, str(tmp_path / f"patient{number}_segmentation.nrrd"))
        sites.append(f"patient{number},site{number}")
    (tmp_path / "cases.csv").write_text("\n".join(sites))
    _open(desktop, ui, tmp_path)
    desktop.wait_until(lambda: "x 400 iterations" in ui.trainingEstimateLabel.text)
    assert "4 x 400" in ui.trainingEstimateLabel.text  # three folds and the final run
    assert "Each case is judged" in ui.trainingEstimateLabel.text
    fromScratch = desktop._panels[0][0].panel._trainTab._cases.plan(hasBase=False)
    assert (fromScratch.n_runs, len(fromScratch.judged)) == (1, 2)
    for row in range(12):
        ui.trainingCasesTable.selectRow(row)
        desktop.click(ui.leaveOutButton)
    assert ui.trainingEstimateLabel.text == ""


def test_masks_with_several_labels_ask_which_one(desktop, ui, cases):
    file = cases / "patient1_segmentation.nrrd"
    mask = sitk.ReadImage(str(file))
    voxels = sitk.GetArrayFromImage(mask)
    voxels[: len(voxels) // 2] *= 2
    zones = sitk.GetImageFromArray(voxels)
    zones.CopyInformation(mask)
    sitk.WriteImage(zones, str(file))
    _open(desktop, ui, cases)
    assert "Choose the label of the prostate" in _cells(ui.trainingCasesTable, 4)[0]
    choose(ui.prostateLabelComboBox, "All labels")
    desktop.wait_until(lambda: ui.readCasesButton.enabled)
    assert _cells(ui.trainingCasesTable, 1)[0] == "train"


def test_a_click_shows_scan_and_mask_and_the_next_click_the_next_ones(desktop, ui, cases):
    import slicer

    _open(desktop, ui, cases)
    for number, name in enumerate(("patient1", "patient2")):
        ui.trainingCasesTable.cellClicked.emit(number, 0)
        (volume,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        (segmentation,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        assert name in volume.GetName()
        assert slicer.util.getNode("vtkMRMLSliceCompositeNode*").GetBackgroundVolumeID() == volume.GetID()
        # In the same place: the mask, read back on the volume's grid, is the file's.
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "Prostate", volume)
        expected = sitk.ReadImage(str(cases / f"{name}_segmentation.nrrd"))
        assert np.array_equal(mask, sitk.GetArrayFromImage(expected))
        matrix = slicer.util.arrayFromVTKMatrix(_ijk_to_ras(volume))
        corner = expected.TransformIndexToPhysicalPoint((3, 5, 7))
        assert (matrix @ (3, 5, 7, 1))[:3] == pytest.approx([-corner[0], -corner[1], corner[2]])


def _ijk_to_ras(volume):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def test_a_case_that_is_shown_is_not_taken_for_the_scan_to_segment(desktop, ui, cases):
    _open(desktop, ui, cases)
    ui.trainingCasesTable.cellClicked.emit(0, 0)
    desktop.run_for(0.3)
    assert ui.inputVolumeSelector.currentNode() is None


def test_cases_can_be_kept_for_validation_or_left_out(desktop, ui, cases):
    _open(desktop, ui, cases)
    ui.trainingCasesTable.selectRow(0)
    desktop.click(ui.useForValidationButton)
    assert _cells(ui.trainingCasesTable, 1) == ["validate only", "train", "cannot be used"]
    ui.trainingCasesTable.selectRow(1)
    desktop.click(ui.leaveOutButton)
    assert "no case to learn from" in ui.trainingStatusLabel.text
    assert not ui.trainButton.enabled
    desktop.click(ui.useForTrainingButton)
    assert ui.trainButton.enabled


def test_two_scans_of_a_patient_are_for_the_same(desktop, ui, cases):
    (cases / "cases.csv").write_text("case,patient\npatient1,7\npatient2,7\n")
    _open(desktop, ui, cases)
    assert ui.trainButton.enabled
    ui.trainingCasesTable.selectRow(0)
    desktop.click(ui.useForValidationButton)
    assert "patient1 and patient2 are scans of the same patient" in ui.trainingStatusLabel.text
    assert not ui.trainButton.enabled
    desktop.click(ui.leaveOutButton)
    assert ui.trainButton.enabled


def test_a_pair_of_the_scene_is_added(desktop, ui, cases, add_volume, ball):
    import slicer

    volume = add_volume("T2", spacing_mm=(3.0, 3.0, 5.0))
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation.GetSegmentation().AddEmptySegment("gland", "gland")
    slicer.util.updateSegmentBinaryLabelmapFromArray(ball(), segmentation, "gland", volume)
    _open(desktop, ui, cases)
    assert not ui.addPairButton.enabled
    ui.pairVolumeSelector.setCurrentNode(volume)
    ui.pairSegmentationSelector.setCurrentNode(segmentation)
    choose(ui.pairSegmentComboBox, "gland")
    ui.scenePairCollapsibleButton.collapsed = False
    desktop.click(ui.addPairButton)
    desktop.wait_until(lambda: ui.readCasesButton.enabled)
    assert desktop.dialogs == []
    assert len(_cells(ui.trainingCasesTable, 0)) == 4
    assert _cells(ui.trainingCasesTable, 0)[0].startswith("case-")


def test_a_pair_that_slicer_cannot_export_is_a_sentence(desktop, ui, cases, add_volume, monkeypatch):
    import slicer

    volume = add_volume()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    segmentation.GetSegmentation().AddEmptySegment("gland", "gland")
    _open(desktop, ui, cases)
    ui.pairVolumeSelector.setCurrentNode(volume)
    ui.pairSegmentationSelector.setCurrentNode(segmentation)
    ui.scenePairCollapsibleButton.collapsed = False

    def fail(*_):
        raise RuntimeError("Export of segment failed.")

    monkeypatch.setattr(slicer.util, "arrayFromSegmentBinaryLabelmap", fail)
    desktop.click(ui.addPairButton)
    assert desktop.dialogs == [("errorDisplay", "The pair could not be added: Export of segment failed.")]
    assert "Export of segment failed" in ui.trainingCasesStatusLabel.text


def test_a_preview_that_cannot_be_read_is_a_sentence_and_can_be_asked_for_again(desktop, ui, cases, monkeypatch):
    def fail(answer):
        raise UserError("Cannot read image.npy.")

    monkeypatch.setattr("VNetSegmentationLib.augmentationPreview.read_exchange", fail)
    _open(desktop, ui, cases)
    desktop.click(ui.previewAugmentationButton)
    assert not ui.previewAugmentationButton.enabled
    desktop.wait_until(lambda: ui.previewAugmentationButton.enabled)
    assert "Cannot read image.npy" in ui.trainingStatusLabel.text


def test_the_whole_story(desktop, ui, cases, models):
    """Preview, train, watch, compare, segment with the new model, export, delete, import."""
    import slicer

    _open(desktop, ui, cases)
    desktop.wait_until(lambda: "take about" in ui.trainingEstimateLabel.text)
    assert "3 x" in ui.trainingEstimateLabel.text  # two folds and the final run

    desktop.click(ui.previewAugmentationButton)
    desktop.wait_until(lambda: ui.previewAugmentationButton.enabled)
    (volume,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert "sample 1" in volume.GetName()
    first = slicer.util.arrayFromVolume(volume).copy()
    desktop.click(ui.previewAugmentationButton)
    desktop.wait_until(lambda: ui.previewAugmentationButton.enabled)
    (volume,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert not np.array_equal(first, slicer.util.arrayFromVolume(volume))

    _train(desktop, ui)
    assert ui.segmentButton.toolTip != "A training is running."  # the other tabs stay usable
    desktop.wait_until(lambda: _is_over(ui), timeout_s=180)
    assert "The model mine is ready" in ui.trainingStatusLabel.text
    assert ui.newModelNameEdit.text == "mine-2"
    tables = {}
    for table in slicer.util.getNodesByClass("vtkMRMLTableNode"):
        x, y = (table.GetTable().GetColumn(i) for i in range(2))
        assert x.GetName() == "Iteration"
        tables[y.GetName()] = [(x.GetValue(i), y.GetValue(i)) for i in range(table.GetNumberOfRows())]
    # Two folds, which are validated, and the final run on all cases.
    assert [x for x, _ in tables["Loss"]] == [1, 4, 5, 8, 9, 12]
    assert [x for x, _ in tables["Validation Dice"]] == [4, 8]
    assert all(loss > 0 for _, loss in tables["Loss"])
    (chart,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    assert chart.GetNumberOfPlotSeriesNodes() == 2
    assert _cells(ui.trainingResultTable, 0)[-2:] == ["Mean", "Worst"]
    assert sorted(_cells(ui.trainingResultTable, 0)[:2]) == ["patient1", "patient2"]
    assert all(_cells(ui.trainingResultTable, column)[0] for column in range(1, 7))
    assert "Too few cases to tell" in ui.trainingVerdictLabel.text
    assert not list(models.glob("*.training"))

    description = json.loads((models / "mine" / "model.json").read_text())
    assert description["parent"]["name"] == "tiny"
    assert "patient" not in json.dumps(description)

    desktop.wait_until(lambda: ui.ownModelComboBox.count == 2)
    choose(ui.modelComboBox, "mine")
    scan, _ = make_phantom(1, GRID)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "T2")
    slicer.util.updateVolumeFromArray(node, sitk.GetArrayFromImage(scan))
    node.SetSpacing(GRID.spacing_mm)
    ui.tabs.currentIndex = 0
    ui.inputVolumeSelector.setCurrentNode(node)
    desktop.click(ui.segmentButton)
    desktop.wait_until(lambda: ui.cancelButton.isHidden(), timeout_s=120)
    assert "ml" in ui.volumeLabel.text

    ui.tabs.currentIndex = 2
    file = models.parent / "mine.zip"
    desktop.answers.update(getSaveFileName=str(file.with_suffix("")), getOpenFileName=str(file))
    choose(ui.ownModelComboBox, "mine")
    ui.ownModelsCollapsibleButton.collapsed = False
    desktop.click(ui.exportModelButton)
    desktop.wait_until(lambda: "Saved" in ui.ownModelsStatusLabel.text)
    assert file.is_file()
    desktop.click(ui.deleteModelButton)
    desktop.wait_until(lambda: "Deleted mine" in ui.ownModelsStatusLabel.text)
    assert not (models / "mine").exists()
    desktop.click(ui.importModelButton)
    desktop.wait_until(lambda: "Added the model mine" in ui.ownModelsStatusLabel.text)
    assert (models / "mine" / "weights.safetensors").is_file()


def test_who_closes_the_dialog_for_a_models_file_changes_nothing(desktop, ui):
    ui.tabs.currentIndex = 2
    ui.ownModelsCollapsibleButton.collapsed = False
    desktop.click(ui.exportModelButton)
    desktop.click(ui.importModelButton)
    assert [kind for kind, _ in desktop.dialogs] == ["getSaveFileName", "getOpenFileName"]
    assert ui.ownModelsStatusLabel.text == ""


def test_a_file_that_gets_its_suffix_late_is_not_replaced_without_asking(desktop, ui, tmp_path):
    file = tmp_path / "tiny.zip"
    file.write_text("a colleague's work")
    ui.tabs.currentIndex = 2
    ui.ownModelsCollapsibleButton.collapsed = False
    desktop.answers.update(getSaveFileName=str(tmp_path / "tiny"), confirmYesNoDisplay=False)
    desktop.click(ui.exportModelButton)
    assert desktop.dialogs[-1][0] == "confirmYesNoDisplay"
    desktop.run_for(0.3)
    assert file.read_text() == "a colleague's work"


def test_a_paused_training_goes_on_in_another_slicer(desktop, ui, cases, models):
    _open(desktop, ui, cases)
    _train(desktop, ui, iterations=5000)
    desktop.wait_until(lambda: "left" in ui.trainingStatusLabel.text, timeout_s=120)
    desktop.click(ui.pauseTrainingButton)
    desktop.wait_until(lambda: _is_over(ui))
    assert "paused" in ui.trainingStatusLabel.text
    assert (models / "mine.training" / "request.json").is_file()

    desktop.close()
    ui = desktop.open_module().ui
    ui.tabs.currentIndex = 2
    desktop.wait_until(lambda: not ui.resumeTrainingButton.isHidden())
    assert "mine is unfinished" in ui.unfinishedTrainingLabel.text
    desktop.click(ui.resumeTrainingButton)
    desktop.wait_until(lambda: "left" in ui.trainingStatusLabel.text, timeout_s=120)
    assert int(ui.trainingStatusLabel.text.split()[1].strip(",")) > 1
    desktop.click(ui.pauseTrainingButton)
    desktop.wait_until(lambda: _is_over(ui) and not ui.discardTrainingButton.isHidden())
    desktop.click(ui.discardTrainingButton)
    desktop.wait_until(lambda: ui.discardTrainingButton.isHidden())
    assert not (models / "mine.training").exists()


def test_cancel_ends_it_and_leaves_nothing(desktop, ui, cases, models):
    _open(desktop, ui, cases)
    _train(desktop, ui, iterations=5000)
    # Not what was said of the training before, for as long as it takes.
    assert ui.trainingStatusLabel.text == "Starting"
    desktop.wait_until(lambda: "left" in ui.trainingStatusLabel.text, timeout_s=120)
    desktop.click(ui.cancelTrainingButton)
    desktop.wait_until(lambda: _is_over(ui))
    assert "cancelled" in ui.trainingStatusLabel.text
    desktop.wait_until(lambda: not (models / "mine.training").exists())
    assert sorted(path.name for path in models.iterdir()) == ["tiny"]


def test_who_does_not_want_to_drop_it_goes_on(desktop, ui, cases):
    _open(desktop, ui, cases)
    _train(desktop, ui, iterations=5000)
    desktop.wait_until(lambda: "left" in ui.trainingStatusLabel.text, timeout_s=120)
    desktop.answers["confirmYesNoDisplay"] = False
    desktop.click(ui.cancelTrainingButton)
    desktop.run_for(0.5)
    assert not _is_over(ui)
    # Nor is a model taken away from under it.
    assert not any(button.enabled for button in (ui.deleteModelButton, ui.exportModelButton, ui.importModelButton))


def test_a_killed_worker_is_a_sentence_and_the_training_can_be_resumed(desktop, ui, cases, models):
    _open(desktop, ui, cases)
    _train(desktop, ui, iterations=5000)
    desktop.wait_until(lambda: "left" in ui.trainingStatusLabel.text, timeout_s=120)
    widget = desktop._panels[0][0]
    os.kill(widget.logic.trainingClient.pid, signal.SIGKILL)
    desktop.wait_until(lambda: _is_over(ui))
    assert "ended unexpectedly" in ui.trainingStatusLabel.text
    desktop.wait_until(lambda: not ui.resumeTrainingButton.isHidden())


def test_the_training_that_the_user_agreed_to_drop_is_dropped(desktop, ui, models, monkeypatch):
    tab = desktop._panels[0][0].panel._trainTab
    for name in ("first", "second"):
        (models / f"{name}.training").mkdir()

    def show(*names):
        tab.show({"models": [], "unfinished_trainings": [{"name": name} for name in names]})

    def agree(question):
        assert "second" in question
        # While the dialog is open, the worker tells of another one.
        show("first", "second")
        return True

    monkeypatch.setattr("VNetSegmentationLib.trainTab.ask", agree)
    show("second")
    desktop.click(ui.discardTrainingButton)
    desktop.wait_until(lambda: not (models / "second.training").exists())
    assert (models / "first.training").exists()


@pytest.mark.parametrize(("name", "problem"), [("../x", "Give the new model a name"), ("tiny", "a model tiny already")])
def test_names_that_cannot_be_are_refused(desktop, ui, cases, name, problem):
    _open(desktop, ui, cases)
    ui.newModelNameEdit.text = name
    assert problem in ui.trainingStatusLabel.text
    assert not ui.trainButton.enabled
    ui.newModelNameEdit.text = "another-one"
    assert ui.trainButton.enabled


def test_an_emptied_folder_leaves_no_case_to_train_on(desktop, ui, cases):
    _open(desktop, ui, cases)
    assert ui.trainButton.enabled
    ui.trainingFolderPath.currentPath = ""
    assert ui.trainingCasesTable.rowCount == 0
    assert not ui.trainButton.enabled
    desktop.click(ui.readCasesButton)
    assert "Choose the folder" in ui.trainingCasesStatusLabel.text
    # A script that starts it all the same.
    desktop._panels[0][0].panel._trainTab.train()
    assert _is_over(ui)


def test_a_folder_that_holds_no_cases_is_a_sentence(desktop, ui, tmp_path):
    (tmp_path / "empty").mkdir()
    _open(desktop, ui, tmp_path / "empty")
    assert "There are no cases" in ui.trainingCasesStatusLabel.text
    assert not ui.trainButton.enabled
