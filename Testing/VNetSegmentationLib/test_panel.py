"""The panel's own code on the desktop stand-in, with the real worker and the bundled model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.phantom import PhantomGrid, make_phantom


@pytest.fixture(scope="session")
def phantom():
    """A synthetic scan of a prostate and its truth."""
    return make_phantom(5, PhantomGrid(size=(128, 128, 24), spacing_mm=(1.0, 1.0, 3.3)))


@pytest.fixture
def add_scan(desktop, phantom):
    """Function that loads the phantom into the scene, from a file if a folder is given."""
    import slicer

    from VNetSegmentationLib.volumeNodes import addVolume

    def add(name: str = "t2_tse_tra", folder: Path | None = None):
        if folder is None:
            return addVolume(phantom[0], name, isScan=True)
        path = folder / f"{name}.nrrd"
        sitk.WriteImage(sitk.Cast(phantom[0], sitk.sitkInt16), str(path))
        return slicer.util.loadVolume(str(path))

    return add


class Panel:
    """What a user does in the panel."""

    def __init__(self, desktop):
        self.desktop = desktop
        self.widget = desktop.open_module()
        self.ui = self.widget.ui

    @property
    def idle(self) -> bool:
        return self.ui.cancelButton.isHidden()

    def choose(self, volume) -> None:
        self.ui.inputVolumeSelector.setCurrentNode(volume)

    def start(self) -> None:
        self.desktop.click(self.ui.segmentButton)
        assert not self.idle

    def segment(self, volume=None) -> None:
        if volume is not None:
            self.choose(volume)
        self.desktop.click(self.ui.segmentButton)
        self.desktop.wait_until(lambda: self.idle)

    @property
    def segmentation(self):
        return self.ui.outputSegmentationSelector.currentNode()

    @property
    def segment_ids(self) -> list[str]:
        return list(self.segmentation.GetSegmentation().GetSegmentIDs())

    def voxels(self, segment_id: str = "Prostate") -> np.ndarray:
        import slicer

        volume = self.ui.inputVolumeSelector.currentNode()
        return slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, segment_id, volume)

    def paint(self, segment_id: str = "Prostate") -> np.ndarray:
        """Changes the mask as an effect of the editor does, with a state for undo; returns the new voxels."""
        import slicer

        voxels = self.voxels(segment_id).copy()
        voxels[2, 55:75, 55:75] = 1 - voxels[2, 55:75, 55:75]
        self.ui.segmentEditorWidget.saveStateForUndo()
        volume = self.ui.inputVolumeSelector.currentNode()
        slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, self.segmentation, segment_id, volume)
        self.desktop.wait_until(lambda: not self.ui.thresholdSlider.enabled)
        return voxels


@pytest.fixture
def panel(desktop):
    return Panel(desktop)


@pytest.fixture
def segmented(panel, add_scan):
    """A panel with a result."""
    panel.segment(add_scan())
    return panel


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero((a != 0) & (b != 0)) / (np.count_nonzero(a) + np.count_nonzero(b))


# From the volume to the mask


def test_an_empty_scene_says_what_to_do(panel):
    assert not panel.ui.segmentButton.enabled
    assert "Load" in panel.ui.statusLabel.text
    assert panel.ui.segmentButton.toolTip == panel.ui.statusLabel.text
    assert not panel.ui.resultCollapsibleButton.enabled
    assert not panel.ui.saveCollapsibleButton.enabled


def test_two_clicks_from_a_loaded_volume_to_a_result(desktop, add_scan, phantom):
    """The first click is on the module: the newest MR volume is chosen then."""
    add_scan("3 t2_tse_tra")
    newest = add_scan("5 t2_tse_tra")
    panel = Panel(desktop)
    assert panel.ui.inputVolumeSelector.currentNode() is newest
    panel.segment()
    assert panel.segment_ids == ["Prostate"]
    assert _dice(panel.voxels(), sitk.GetArrayFromImage(phantom[1])) > 0.75
    assert panel.ui.volumeLabel.text == f"{np.count_nonzero(panel.voxels()) * 3.3 / 1000:.1f} ml"
    assert panel.ui.confidenceLabel.text.split()[0] in ("high", "medium", "low")
    assert " s on cpu" in panel.ui.runLabel.text
    assert panel.segmentation.GetDisplayNode().GetSegmentVisibility("Prostate")
    assert panel.segmentation.GetSegmentation().ContainsRepresentation("Closed surface")


def test_the_first_volume_that_is_loaded_into_an_open_panel_is_chosen_and_later_ones_are_not(panel, add_scan, desktop):
    first = add_scan("first")
    desktop.wait_until(lambda: panel.ui.inputVolumeSelector.currentNode() is first)
    assert panel.ui.segmentButton.enabled
    add_scan("second")
    desktop.run_for(0.3)
    assert panel.ui.inputVolumeSelector.currentNode() is first


@pytest.fixture
def no_main_window(desktop, monkeypatch):
    """As Slicer is with --no-main-window: no views, and a dialog would wait for ever."""
    import slicer

    def fail(*_, **__):
        raise AttributeError("'NoneType' object has no attribute 'sliceViewNames'")

    monkeypatch.setattr(slicer.util, "mainWindow", lambda verbose=True: None)
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: None)
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", fail)


@pytest.mark.usefixtures("no_main_window")
def test_a_panel_that_a_script_uses_without_a_main_window_works_and_asks_nothing(
    desktop, add_scan, monkeypatch, tmp_path
):
    """No module is ever entered there."""
    from VNetSegmentationLib import panelWorker

    widget = desktop.open_module(enter=False)
    widget.ui.inputVolumeSelector.setCurrentNode(add_scan())
    assert widget.ui.segmentButton.enabled
    widget.ui.segmentButton.click()
    desktop.wait_until(lambda: widget.ui.outputSegmentationSelector.currentNode() is not None)
    assert widget.ui.volumeLabel.text.endswith("ml")
    widget.ui.saveMaskButton.click()
    assert "folder" in widget.ui.saveStatusLabel.text
    widget.ui.saveFolderPath.currentPath = str(tmp_path)
    (tmp_path / "t2_tse_tra_prostate.seg.nrrd").write_text("a colleague's work")
    widget.ui.saveMaskButton.click()
    assert widget.ui.saveStatusLabel.text == "Nothing was saved."
    monkeypatch.setattr(panelWorker, "missingPackages", lambda path: ["torch"])
    widget.ui.segmentButton.click()
    assert "pip install" in widget.ui.statusLabel.text
    assert desktop.dialogs == []


def test_a_second_click_finds_worker_and_model_warm(panel, add_scan):
    panel.segment(add_scan())
    pid, said = panel.widget.logic.client.pid, []
    original = panel.widget.panel._segmentTab._showProgress
    panel.widget.panel._segmentTab._showProgress = lambda f, s: (said.append(s), original(f, s))
    panel.segment()
    assert panel.widget.logic.client.pid == pid
    assert said
    assert "Loading the model" not in said
    assert panel.segment_ids == ["Prostate"]


def test_torch_stays_out_of_slicers_process():
    """In a process of its own, for here the tests have loaded it."""
    import subprocess
    import sys

    code = (
        "import sys; from desktop import install; install(); import VNetSegmentation; "
        "from VNetSegmentationLib import panel, selfTest, segmentAndWait; assert 'torch' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "VNetSegmentation"), str(root / "Testing")])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


def test_another_scan_gets_a_segmentation_of_its_own(segmented, add_scan):
    first = segmented.segmentation
    segmented.choose(add_scan("another"))
    assert segmented.segmentation is None
    assert not segmented.ui.resultCollapsibleButton.enabled
    segmented.segment()
    assert segmented.segmentation is not first
    assert first.GetSegmentation().GetNumberOfSegments() == 1
    # Back to the first one: its mask is shown again.
    segmented.choose(first.GetNodeReference("referenceImageGeometryRef"))
    assert segmented.segmentation is first
    assert segmented.ui.resultCollapsibleButton.enabled


def test_volumes_of_one_name_are_kept_apart(panel, add_scan):
    first, second = add_scan("scan"), add_scan("scan")
    panel.segment(first)
    one = panel.segmentation
    panel.segment(second)
    role = "referenceImageGeometryRef"
    assert one.GetNodeReference(role) is first
    assert panel.segmentation.GetNodeReference(role) is second


def test_a_volume_under_a_transform_gets_its_mask_there(panel, add_scan, add_transform, phantom):
    volume = add_scan()
    volume.SetAndObserveTransformNodeID(add_transform(30).GetID())
    panel.segment(volume)
    assert panel.segmentation.GetTransformNodeID() == volume.GetTransformNodeID()
    assert _dice(panel.voxels(), sitk.GetArrayFromImage(phantom[1])) > 0.75


def test_the_probability_volume_is_kept_on_request_and_not_taken_for_a_scan(panel, add_scan):
    import slicer

    panel.ui.keepProbabilityCheckBox.checked = True
    volume = add_scan()
    panel.segment(volume)
    (probability,) = [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n is not volume]
    array = slicer.util.arrayFromVolume(probability)
    # The mask is the largest part of what reaches the threshold.
    assert (array[panel.voxels() != 0] >= 0.5).all()
    assert 0 <= array.min() <= array.max() <= 1
    panel.widget.exit()
    panel.widget.enter()
    assert panel.ui.inputVolumeSelector.currentNode() is volume


def test_the_users_segments_stay_and_the_mask_goes_where_they_are(panel, add_scan):
    import slicer

    from VNetSegmentationLib.prostateSegment import addSegmentation

    volume = add_scan()
    segmentation = addSegmentation(volume)
    lesion = segmentation.GetSegmentation().AddEmptySegment("Lesion", "Lesion")
    voxels = np.zeros((24, 128, 128), np.uint8)
    voxels[10:14, 55:75, 55:75] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, segmentation, lesion, volume)
    panel.choose(volume)
    panel.ui.outputSegmentationSelector.setCurrentNode(segmentation)
    panel.segment()
    assert panel.segmentation is segmentation
    assert panel.segment_ids == ["Lesion", "Prostate"]
    np.testing.assert_array_equal(panel.voxels("Lesion"), voxels)


def test_what_the_worker_refuses_is_a_sentence(panel, desktop):
    import slicer

    flat = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "flat")
    slicer.util.updateVolumeFromArray(flat, np.zeros((10, 40, 40), np.int16))
    panel.segment(flat)
    assert "flat" in panel.ui.statusLabel.text
    assert panel.segmentation is None
    assert panel.ui.segmentButton.enabled
    assert desktop.dialogs == []


def test_a_sheared_volume_is_a_sentence(panel, add_scan):
    import vtk

    volume = add_scan()
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    matrix.SetElement(0, 2, matrix.GetElement(0, 2) + 2.0)  # slices that are shifted against each other
    volume.SetIJKToRASMatrix(matrix)
    panel.segment(volume)
    assert "direction" in panel.ui.statusLabel.text.lower()
    assert panel.segmentation is None
    assert panel.ui.segmentButton.enabled


def test_different_transforms_disable_the_button_and_say_why(segmented, add_transform):
    segmented.ui.inputVolumeSelector.currentNode().SetAndObserveTransformNodeID(add_transform(10).GetID())
    segmented.widget.panel._update()
    assert not segmented.ui.segmentButton.enabled
    assert "different transforms" in segmented.ui.statusLabel.text


def test_the_sample_scan_is_the_mr_of_slicers_sample(panel, add_scan, desktop, monkeypatch):
    import sys
    import types

    loaded = []

    def download(name):
        assert name == "MRUSProstate"
        loaded.extend([add_scan("USProstate"), add_scan("MRProstate")])
        return loaded

    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(downloadSamples=download))
    desktop.click(panel.ui.sampleDataButton)
    assert panel.ui.inputVolumeSelector.currentNode() is loaded[1]


def test_a_sample_that_cannot_be_had_is_a_sentence(panel, desktop, monkeypatch):
    import sys
    import types

    def download(name):
        raise RuntimeError("no connection")

    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(downloadSamples=download))
    desktop.click(panel.ui.sampleDataButton)
    ((kind, text),) = desktop.dialogs
    assert kind == "errorDisplay"
    assert "no connection" in text


# Reading and adjusting


def test_the_mask_follows_threshold_and_smoothing_without_a_new_run(segmented, desktop):
    before = segmented.voxels().copy()
    segmented.ui.thresholdSlider.value = 0.2
    desktop.wait_until(lambda: np.count_nonzero(segmented.voxels()) > np.count_nonzero(before))
    assert (segmented.voxels()[before != 0] != 0).all()
    lower = segmented.ui.volumeLabel.text
    segmented.ui.thresholdSlider.value = 0.5
    desktop.wait_until(lambda: np.array_equal(segmented.voxels(), before))
    assert segmented.ui.volumeLabel.text != lower
    segmented.ui.smoothCheckBox.checked = True
    desktop.wait_until(lambda: not np.array_equal(segmented.voxels(), before))
    assert segmented.ui.thresholdSlider.enabled
    assert segmented.segment_ids == ["Prostate"]


def test_psa_density(segmented):
    assert segmented.ui.psaDensityLabel.text == ""
    segmented.ui.psaSpinBox.value = 6.5
    volume_ml = np.count_nonzero(segmented.voxels()) * 3.3 / 1000
    assert f"{6.5 / volume_ml:.2f}" in segmented.ui.psaDensityLabel.text


def test_the_figures_can_be_copied(segmented, desktop):
    import qt

    segmented.ui.psaSpinBox.value = 6.5
    desktop.click(segmented.ui.copyReportButton)
    text = qt.QApplication.clipboard().text()
    assert segmented.ui.volumeLabel.text in text
    assert "PSA 6.5 ng/ml" in text
    assert "Confidence" in text
    assert "not for clinical use" in text


# Correcting


def test_the_editor_is_on_the_right_segment_and_volume_at_once(segmented):
    editor = segmented.ui.segmentEditorWidget
    assert editor.currentSegmentID() == "Prostate"
    assert editor.segmentationNode() is segmented.segmentation
    assert editor.sourceVolumeNode() is segmented.ui.inputVolumeSelector.currentNode()


def test_the_automatic_step_can_be_undone_and_done_again(segmented):
    mask = segmented.voxels().copy()
    assert mask.any()
    segmented.ui.segmentEditorWidget.undo()
    assert not segmented.voxels().any()
    segmented.ui.segmentEditorWidget.redo()
    np.testing.assert_array_equal(segmented.voxels(), mask)


def test_painting_spares_other_segments_in_the_next_scene_too(panel):
    import slicer

    def mode():
        return panel.ui.segmentEditorWidget.mrmlSegmentEditorNode().GetOverwriteMode()

    assert mode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone
    slicer.mrmlScene.Clear(0)
    assert mode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone


def test_a_panel_that_is_opened_again_brings_the_editors_settings_back_into_the_scene(panel):
    import slicer

    panel.widget.exit()
    slicer.mrmlScene.RemoveNode(panel.ui.segmentEditorWidget.mrmlSegmentEditorNode())
    panel.widget.enter()
    node = slicer.mrmlScene.GetSingletonNode("VNetSegmentation", "vtkMRMLSegmentEditorNode")
    assert panel.ui.segmentEditorWidget.mrmlSegmentEditorNode() is node
    assert node.GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone


def test_a_mask_that_is_drawn_by_hand_can_be_saved_and_measured(panel, add_scan, desktop, tmp_path):
    import slicer

    volume = add_scan()
    panel.choose(volume)
    panel.ui.outputSegmentationSelector.setCurrentNode(
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    )
    assert not panel.ui.saveCollapsibleButton.enabled
    panel.ui.correctCollapsibleButton.collapsed = False
    desktop.click(panel.ui.AddSegmentButton)
    (first,) = panel.segment_ids
    voxels = np.zeros((24, 128, 128), np.uint8)
    voxels[10:14, 55:75, 55:75] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, panel.segmentation, first, volume)
    desktop.wait_until(lambda: panel.ui.saveCollapsibleButton.enabled)
    desktop.wait_until(lambda: panel.ui.volumeLabel.text == f"{voxels.sum() * 3.3 / 1000:.1f} ml")
    # Another one beside it changes neither what is saved nor what is being drawn.
    desktop.click(panel.ui.AddSegmentButton)
    desktop.run_for(0.2)
    assert panel.ui.saveCollapsibleButton.enabled
    assert panel.ui.segmentEditorWidget.currentSegmentID() == panel.segment_ids[1]
    panel.ui.saveFolderPath.currentPath = str(tmp_path)
    panel.ui.saveFormatComboBox.currentText = ".nrrd"
    desktop.click(panel.ui.saveMaskButton)
    saved = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "t2_tse_tra_prostate.nrrd")))
    np.testing.assert_array_equal(saved, voxels)
    for segment_id in panel.segment_ids:
        panel.segmentation.GetSegmentation().RemoveSegment(segment_id)
    desktop.wait_until(lambda: not panel.ui.saveCollapsibleButton.enabled)


def test_a_segmentation_that_comes_into_the_scene_is_not_edited_unless_it_is_chosen(panel, add_scan):
    import slicer

    panel.choose(add_scan())
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "a colleague's")
    assert panel.segmentation is None
    editor = panel.ui.segmentEditorWidget
    assert editor.segmentationNode() is None
    panel.ui.outputSegmentationSelector.setCurrentNode(node)
    assert editor.segmentationNode() is node
    assert editor.sourceVolumeNode() is panel.ui.inputVolumeSelector.currentNode()


def test_views_of_several_slices_are_reset_for_the_editor(panel, add_scan, desktop):
    import slicer
    from desktop.pythonqt import unwrap

    panel.choose(add_scan())
    editor = unwrap(panel.ui.segmentEditorWidget)
    panel.widget.exit()
    editor.lightboxes = True
    panel.widget.enter()
    # There is nothing to correct in them.
    assert editor.lightboxes
    assert desktop.dialogs == []
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "a colleague's")
    panel.ui.outputSegmentationSelector.setCurrentNode(node)
    assert not editor.lightboxes
    ((kind, text),) = desktop.dialogs
    assert kind == "warningDisplay"
    assert "several slices" in text
    panel.widget.exit()
    editor.lightboxes = True
    panel.widget.enter()
    assert not editor.lightboxes
    assert len(desktop.dialogs) == 2


def test_a_correction_locks_the_threshold_until_it_is_discarded(segmented, desktop):
    automatic = segmented.voxels().copy()
    corrected = segmented.paint()
    assert not segmented.ui.smoothCheckBox.enabled
    assert "by hand" in segmented.ui.warningsLabel.text
    segmented.ui.thresholdSlider.value = 0.2
    desktop.run_for(0.2)
    np.testing.assert_array_equal(segmented.voxels(), corrected)
    segmented.ui.thresholdSlider.value = 0.5
    desktop.click(segmented.ui.discardCorrectionsButton)
    np.testing.assert_array_equal(segmented.voxels(), automatic)
    assert segmented.ui.thresholdSlider.enabled
    segmented.ui.segmentEditorWidget.undo()
    np.testing.assert_array_equal(segmented.voxels(), corrected)


def test_undoing_the_correction_unlocks_the_threshold(segmented, desktop):
    segmented.paint()
    segmented.ui.segmentEditorWidget.undo()
    desktop.wait_until(lambda: segmented.ui.thresholdSlider.enabled)


def test_a_new_run_never_overwrites_a_correction(segmented):
    corrected = segmented.paint()
    segmented.segment()
    assert len(segmented.segment_ids) == 2
    np.testing.assert_array_equal(segmented.voxels("Prostate"), corrected)
    new = segmented.segmentation.GetSegmentation().GetSegment(segmented.segment_ids[1])
    assert new.GetName() == "Prostate 2"
    assert segmented.ui.segmentEditorWidget.currentSegmentID() == segmented.segment_ids[1]


# Comparing


def test_the_mask_is_compared_with_what_it_was_before_correction(segmented, desktop):
    from vnet_segmentation.metrics import compare
    from VNetSegmentationLib.prostateSegment import ProstateSegment

    assert not segmented.ui.compareButton.enabled
    corrected = segmented.paint()
    segmented.segment()
    segmented.ui.compareCollapsibleButton.collapsed = False
    segmented.ui.referenceSegmentationSelector.setCurrentNode(segmented.segmentation)
    combo = segmented.ui.referenceSegmentComboBox
    # The current segment, Prostate 2, is not offered.
    assert [combo.itemText(i) for i in range(combo.count)] == ["Prostate"]
    desktop.click(segmented.ui.compareButton)
    volume = segmented.ui.inputVolumeSelector.currentNode()
    masks = [ProstateSegment(segmented.segmentation, i, volume).read() for i in reversed(segmented.segment_ids)]
    expected = compare(*masks).whole
    assert 0.5 < expected.dice < 1
    assert f"Dice {expected.dice:.3f}" in segmented.ui.comparisonLabel.text
    assert f"HD95 {expected.hausdorff95_mm:.1f} mm" in segmented.ui.comparisonLabel.text
    np.testing.assert_array_equal(segmented.voxels("Prostate"), corrected)


# Saving


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nii.gz", ".nrrd"])
def test_a_corrected_mask_opens_again_exactly_as_saved(panel, add_scan, desktop, tmp_path, suffix):
    import slicer

    panel.segment(add_scan("Case1", folder=tmp_path))
    corrected = panel.paint()
    assert panel.ui.saveFolderPath.currentPath == str(tmp_path)
    panel.ui.saveFormatComboBox.currentText = suffix
    desktop.click(panel.ui.saveMaskButton)
    path = tmp_path / f"Case1_prostate{suffix}"
    assert path.is_file(), panel.ui.saveStatusLabel.text
    assert str(path) in panel.ui.saveStatusLabel.text
    volume = panel.ui.inputVolumeSelector.currentNode()
    again = slicer.util.loadSegmentation(str(path))
    (segment_id,) = again.GetSegmentation().GetSegmentIDs()
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(again, segment_id, volume), corrected)
    # It can be chosen, corrected further and saved again.
    panel.ui.outputSegmentationSelector.setCurrentNode(again)
    assert panel.ui.saveCollapsibleButton.enabled
    assert panel.ui.segmentEditorWidget.currentSegmentID() == segment_id


def test_a_file_is_never_replaced_without_asking(panel, add_scan, desktop, tmp_path):
    panel.segment(add_scan("Case1", folder=tmp_path))
    panel.ui.saveFormatComboBox.currentText = ".nrrd"
    path = tmp_path / "Case1_prostate.nrrd"
    path.write_text("a colleague's work")
    desktop.answers["confirmYesNoDisplay"] = False
    desktop.click(panel.ui.saveMaskButton)
    assert path.read_text() == "a colleague's work"
    assert desktop.dialogs[0][0] == "confirmYesNoDisplay"
    desktop.answers["confirmYesNoDisplay"] = True
    desktop.click(panel.ui.saveMaskButton)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).any()


def test_the_scan_itself_is_never_replaced(panel, add_scan, desktop, tmp_path):
    panel.segment(add_scan("Case1", folder=tmp_path))
    before = (tmp_path / "Case1.nrrd").read_bytes()
    panel.ui.saveNameEdit.text = "{scan}"
    panel.ui.saveFormatComboBox.currentText = ".nrrd"
    desktop.click(panel.ui.saveMaskButton)
    assert "the scan itself" in panel.ui.saveStatusLabel.text
    assert (tmp_path / "Case1.nrrd").read_bytes() == before


def test_a_volume_without_a_file_asks_for_a_folder(segmented, desktop):
    assert segmented.ui.saveFolderPath.currentPath == ""
    desktop.click(segmented.ui.saveMaskButton)
    assert "folder" in segmented.ui.saveStatusLabel.text
    assert desktop.dialogs == [("errorDisplay", segmented.ui.saveStatusLabel.text)]


def test_a_corrected_case_becomes_a_training_case(segmented, desktop, tmp_path, phantom):
    from vnet_segmentation.dataset import check_cases, find_cases

    segmented.ui.trainingFolderPath.currentPath = ""
    desktop.click(segmented.ui.addToTrainingButton)
    assert "folder" in segmented.ui.saveStatusLabel.text
    corrected = segmented.paint()
    segmented.ui.trainingFolderPath.currentPath = str(tmp_path / "cases")
    desktop.click(segmented.ui.addToTrainingButton)
    (case,) = find_cases(tmp_path / "cases")
    assert check_cases([case]) == []
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(case.mask))), corrected)
    scan = sitk.ReadImage(str(case.image))
    np.testing.assert_allclose(scan.GetOrigin(), phantom[0].GetOrigin(), atol=1e-6)
    assert "t2_tse_tra" not in case.name
    desktop.click(segmented.ui.addToTrainingButton)
    assert "replaced" in segmented.ui.saveStatusLabel.text
    assert len(find_cases(tmp_path / "cases")) == 1


# What goes wrong


def test_cancel_changes_nothing_and_leaves_the_worker_warm(panel, add_scan, desktop):
    volume = add_scan()
    panel.segment(volume)
    mask, pid = panel.voxels().copy(), panel.widget.logic.client.pid
    panel.start()
    desktop.click(panel.ui.cancelButton)
    desktop.wait_until(lambda: panel.idle)
    assert "Stopped" in panel.ui.statusLabel.text
    np.testing.assert_array_equal(panel.voxels(), mask)
    panel.segment()
    assert panel.widget.logic.client.pid == pid


def test_a_worker_that_does_not_obey_is_ended_and_the_next_click_gets_a_new_one(panel, add_scan, desktop):
    panel.segment(add_scan())
    pid = panel.widget.logic.client.pid
    os.kill(pid, signal.SIGSTOP)
    panel.start()
    desktop.click(panel.ui.cancelButton)
    desktop.wait_until(lambda: panel.idle, timeout_s=10)
    assert "Stopped" in panel.ui.statusLabel.text
    with pytest.raises(ProcessLookupError):
        # Behind the launcher, too, there is nothing left.
        _wait_for_end(pid)
    panel.segment()
    assert panel.widget.logic.client.pid not in (None, pid)


def test_a_worker_that_is_killed_is_a_sentence_and_the_next_click_works(panel, add_scan, desktop):
    panel.segment(add_scan())
    panel.start()
    os.kill(panel.widget.logic.client.pid, signal.SIGKILL)
    desktop.wait_until(lambda: panel.idle)
    assert "ended unexpectedly" in panel.ui.statusLabel.text
    panel.segment()
    assert panel.ui.statusLabel.text.startswith("Done")


def test_a_scene_that_is_closed_midway_takes_the_result_with_it(panel, add_scan, desktop):
    import slicer

    panel.choose(add_scan())
    panel.start()
    slicer.mrmlScene.Clear(0)
    desktop.wait_until(lambda: panel.idle)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    assert panel.ui.inputVolumeSelector.currentNode() is None
    # The panel lives on in the new scene.
    panel.segment(add_scan("next"))
    assert panel.segment_ids == ["Prostate"]


def test_a_result_that_cannot_be_shown_is_a_sentence_and_the_next_click_works(panel, add_scan, monkeypatch):
    from VNetSegmentationLib.prostateSegment import ProstateSegment

    def fail(*_):
        raise RuntimeError("Importing of segment failed.")

    with monkeypatch.context() as broken:
        broken.setattr(ProstateSegment, "write", fail)
        panel.segment(add_scan())
    assert "Importing of segment failed" in panel.ui.statusLabel.text
    panel.segment()
    assert panel.ui.statusLabel.text.startswith("Done")


def test_a_volume_that_is_deleted_midway_is_a_sentence(panel, add_scan, desktop):
    import slicer

    volume = add_scan()
    panel.choose(volume)
    panel.start()
    slicer.mrmlScene.RemoveNode(volume)
    desktop.wait_until(lambda: panel.idle)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


def test_leaving_the_module_midway_does_no_harm(panel, add_scan, desktop):
    panel.choose(add_scan())
    panel.start()
    panel.widget.exit()
    desktop.wait_until(lambda: panel.idle)
    panel.widget.enter()
    assert panel.segment_ids == ["Prostate"]
    assert panel.ui.resultCollapsibleButton.enabled


def test_an_idle_worker_that_has_ended_is_started_again(panel, add_scan, desktop):
    client = panel.widget.logic.client
    panel.segment(add_scan())
    client.stop()
    assert client.pid is None
    panel.segment()
    assert panel.ui.statusLabel.text.startswith("Done")


def test_no_process_and_no_file_is_left_behind(desktop, add_scan, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    panel = Panel(desktop)
    panel.segment(add_scan())
    pid = panel.widget.logic.client.pid
    desktop.close()
    with pytest.raises(ProcessLookupError):
        _wait_for_end(pid)
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "settings"}


def _wait_for_end(pid: int) -> None:
    """Raises ProcessLookupError once the process is gone."""
    import time

    for _ in range(500):
        os.kill(pid, 0)
        time.sleep(0.01)


# First use


class _Installer:
    """Installs nothing, or fails."""

    def __init__(self, problem: str | None = None):
        self.problem, self.asked = problem, []
        self.on_finished = None

    def install(self, missing, on_log, on_finished):
        self.asked.append(list(missing))
        on_log("Collecting torch")
        self.on_finished = on_finished

    def cancel(self):
        self.on_finished("Stopped.")


@pytest.fixture
def without_torch(panel, monkeypatch):
    """A panel of a Slicer that has no torch yet; returns its installer."""
    from VNetSegmentationLib import panelWorker

    installer = _Installer()
    worker = panel.widget.panel.worker
    monkeypatch.setattr(worker, "_installer", installer)
    monkeypatch.setattr(
        panelWorker, "missingPackages", lambda path: [] if installer.problem == "installed" else ["torch"]
    )
    return installer


def test_the_first_click_installs_after_asking_once_and_goes_on_by_itself(panel, add_scan, desktop, without_torch):
    panel.choose(add_scan())
    desktop.click(panel.ui.segmentButton)
    (kind, question), *_ = desktop.dialogs
    assert kind == "confirmYesNoDisplay"
    assert "torch" in question
    assert without_torch.asked == [["torch"]]
    assert "Installing" in panel.ui.statusLabel.text
    assert "Collecting torch" in panel.ui.logText.plainText
    assert not panel.ui.batchRunButton.enabled
    without_torch.problem = "installed"
    without_torch.on_finished(None)
    desktop.wait_until(lambda: panel.idle)
    assert panel.segment_ids == ["Prostate"]
    assert len(desktop.dialogs) == 1


def test_a_user_who_declines_is_told_and_nothing_is_installed(panel, add_scan, desktop, without_torch):
    desktop.answers["confirmYesNoDisplay"] = False
    panel.choose(add_scan())
    desktop.click(panel.ui.segmentButton)
    assert without_torch.asked == []
    assert "PyTorch" in panel.ui.statusLabel.text
    assert panel.idle


def test_an_installation_that_fails_says_why(panel, add_scan, desktop, without_torch):
    panel.choose(add_scan())
    desktop.click(panel.ui.segmentButton)
    without_torch.on_finished("There is no connection to the internet. Bring these files: ...")
    assert "Bring these files" in panel.ui.statusLabel.text
    assert panel.ui.segmentButton.enabled


# What is remembered


def test_settings_outlive_the_panel(desktop, tmp_path):
    first = Panel(desktop)
    first.ui.trainingFolderPath.currentPath = str(tmp_path)
    first.ui.saveNameEdit.text = "{scan}_gland"
    first.ui.saveFormatComboBox.currentText = ".nii.gz"
    first.ui.deviceComboBox.currentText = "CPU"
    first.ui.batchInputPath.currentPath = str(tmp_path)
    second = Panel(desktop)
    assert second.ui.trainingFolderPath.currentPath == str(tmp_path)
    assert second.ui.saveNameEdit.text == "{scan}_gland"
    assert second.ui.saveFormatComboBox.currentText == ".nii.gz"
    assert second.ui.deviceComboBox.currentText == "CPU"
    assert second.ui.batchInputPath.currentPath == str(tmp_path)


@pytest.mark.parametrize("name", ["saveFolderPath", "batchInputPath", "batchOutputPath", "trainingFolderPath"])
def test_the_button_beside_a_folder_asks_for_a_folder(panel, desktop, tmp_path, name):
    desktop.answers["getExistingDirectory"] = str(tmp_path)
    path_edit = getattr(panel.ui, name)
    path_edit.browse()
    assert path_edit.currentPath == str(tmp_path)


def test_a_panel_that_was_cleaned_up_writes_no_parameters(panel):
    """Reload leaves the old panel where it is, hidden."""
    node = panel.widget.logic.getParameterNode()
    panel.widget.cleanup()
    before = node.GetParameter("threshold")
    panel.ui.thresholdSlider.value = 0.2
    assert node.GetParameter("threshold") == before


def test_a_panel_that_was_cleaned_up_leaves_keys_views_and_the_editors_node_to_others(panel, add_scan, desktop):
    import slicer
    from desktop.pythonqt import unwrap

    panel.choose(add_scan())
    panel.ui.outputSegmentationSelector.setCurrentNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode"))
    panel.ui.segmentEditorWidget.setActiveEffectByName("Paint")
    old, node = unwrap(panel.ui.segmentEditorWidget), panel.ui.segmentEditorWidget.mrmlSegmentEditorNode()
    panel.widget.cleanup()
    assert not old.shortcuts_installed
    assert not old.views_observed
    assert node.GetActiveEffectName() == ""
    successor = Panel(desktop)
    assert successor.ui.segmentEditorWidget.segmentationNode() is successor.segmentation
    successor.ui.outputSegmentationSelector.setCurrentNode(None)
    assert node.GetSegmentationNode() is None


def test_a_closed_scene_adds_no_connection(panel, monkeypatch):
    import slicer

    from VNetSegmentationLib import panel as panelModule

    made = []
    original = panelModule.PanelParameters
    monkeypatch.setattr(panelModule, "PanelParameters", lambda node: (made.append(node), original(node))[1])
    for _ in range(3):
        slicer.mrmlScene.Clear(0)
    assert made == []
    panel.ui.thresholdSlider.value = 0.2
    assert panel.widget.logic.getParameterNode().GetParameter("threshold") == str(panel.ui.thresholdSlider.value)


def test_a_scene_that_lost_the_parameters_gets_them_anew(panel, add_scan):
    import slicer

    slicer.mrmlScene.RemoveNode(panel.widget.logic.getParameterNode())
    slicer.mrmlScene.Clear(0)
    volume = add_scan()
    panel.choose(volume)
    assert panel.widget.logic.getParameterNode().GetNodeReference("inputVolume") is volume


def _save_scene(path: Path) -> None:
    import slicer

    for kind in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"):
        for node in slicer.util.getNodesByClass(kind):
            if node.GetStorageNode() is None:
                node.AddDefaultStorageNode()
            suffix = "seg.nrrd" if kind == "vtkMRMLSegmentationNode" else "nrrd"
            file = path.parent / f"{node.GetID()}.{suffix}"
            node.GetStorageNode().SetFileName(str(file))
            assert node.GetStorageNode().WriteData(node)
    slicer.mrmlScene.SetURL(str(path))
    slicer.mrmlScene.Commit(str(path))


def test_a_scene_that_is_added_leaves_the_result_as_it_is(segmented, tmp_path):
    import slicer

    (tmp_path / "empty.mrml").write_text('<MRML version="Slicer 5"></MRML>')
    threshold, said = segmented.ui.thresholdSlider.enabled, segmented.ui.runLabel.text
    assert threshold
    assert said
    slicer.mrmlScene.SetURL(str(tmp_path / "empty.mrml"))
    slicer.mrmlScene.Import()
    assert segmented.ui.thresholdSlider.enabled
    assert segmented.ui.runLabel.text == said


@pytest.mark.parametrize("way", ["loaded", "added"])
def test_a_scene_that_is_read_into_an_open_panel_is_shown(segmented, add_scan, tmp_path, way):
    """Its own choice of a scan, which is not the newest one, and of a segmentation, for looking, saving, correcting."""
    import slicer

    segmented.ui.thresholdSlider.value = 0.4
    segmented.desktop.run_for(0.2)
    voxels, text = segmented.voxels().copy(), segmented.ui.volumeLabel.text
    name = segmented.ui.inputVolumeSelector.currentNode().GetName()
    add_scan("a later one")
    _save_scene(tmp_path / "scene.mrml")
    segmented.desktop.close()
    panel = Panel(segmented.desktop)
    if way == "loaded":
        slicer.mrmlScene.Connect()
    else:
        add_scan("there before")
        panel.desktop.wait_until(lambda: panel.ui.inputVolumeSelector.currentNode() is not None)
        slicer.mrmlScene.Import()
    assert panel.ui.inputVolumeSelector.currentNode().GetName() == name
    assert panel.ui.thresholdSlider.value == pytest.approx(0.4)
    np.testing.assert_array_equal(panel.voxels(), voxels)
    assert panel.ui.volumeLabel.text == text
    assert panel.ui.saveCollapsibleButton.enabled
    editor = panel.ui.segmentEditorWidget
    assert editor.segmentationNode() is panel.segmentation
    assert editor.mrmlSegmentEditorNode().GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone
    panel.widget.exit()
    panel.widget.enter()
    assert panel.ui.inputVolumeSelector.currentNode().GetName() == name


def test_node_choices_live_in_the_scene(segmented):
    import slicer

    node = slicer.mrmlScene.GetSingletonNode("VNetSegmentation", "vtkMRMLScriptedModuleNode")
    assert node.GetNodeReference("inputVolume") is segmented.ui.inputVolumeSelector.currentNode()
    assert node.GetNodeReference("outputSegmentation") is segmented.segmentation


# Scripts


def test_a_script_waits_for_the_node_and_the_report(desktop, add_scan, phantom):
    import slicer

    import VNetSegmentation

    volume = add_scan()
    segmentation, report = VNetSegmentation.VNetSegmentationLogic().segment(volume)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "Prostate", volume)
    assert _dice(mask, sitk.GetArrayFromImage(phantom[1])) > 0.75
    assert report["volume_ml"] == pytest.approx(np.count_nonzero(mask) * 3.3 / 1000, abs=0.01)
    again, lower = VNetSegmentation.VNetSegmentationLogic().segment(volume, segmentation, device="cpu", threshold=0.2)
    assert again is segmentation
    assert lower["volume_ml"] > report["volume_ml"]
    VNetSegmentation.VNetSegmentationLogic().client.stop()


def test_a_script_gets_an_exception_with_the_sentence(desktop, add_scan):
    import VNetSegmentation
    from vnet_segmentation.errors import ExitCode, UserError

    logic = VNetSegmentation.VNetSegmentationLogic()
    with pytest.raises(UserError, match="Load an MR volume"):
        logic.segment(None)
    with pytest.raises(UserError, match="no model missing") as caught:
        logic.segment(add_scan(), model="missing")
    assert caught.value.exit_code == ExitCode.BAD_MODEL
    logic.client.stop()


def test_the_self_test_says_what_is_missing(desktop, monkeypatch):
    import unittest

    import slicer

    import VNetSegmentation
    from VNetSegmentationLib import selfTest

    monkeypatch.setattr(selfTest, "missingPackages", lambda path: ["torch"])
    with pytest.raises(unittest.SkipTest, match="torch"):
        VNetSegmentation.VNetSegmentationTest().runTest()
    # Reload & Test, where a person looks.
    told = []
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: False)
    monkeypatch.setattr(slicer.util, "showStatusMessage", lambda message, duration=0: told.append(message))
    VNetSegmentation.VNetSegmentationTest().runTest()
    assert "torch" in told[-1]


def test_reload_reads_the_packages_anew(panel):
    import sys

    packages = ("VNetSegmentationLib", "vnet_segmentation")
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in packages}
    try:
        panel.widget.onReload()
        successor = panel.widget.successor
        assert sys.modules["VNetSegmentationLib.panel"] is not before["VNetSegmentationLib.panel"]
        assert isinstance(successor.panel, sys.modules["VNetSegmentationLib.panel"].Panel)
        successor.cleanup()
    finally:
        # Other tests have what they imported.
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]
        sys.modules.update(before)


def test_a_panel_that_could_not_be_set_up_says_so_once(desktop, monkeypatch):
    import slicer

    def fail(path):
        raise RuntimeError("Could not find UI file")

    monkeypatch.setattr(slicer.util, "loadUI", fail)
    with pytest.raises(RuntimeError, match="UI file"):
        desktop.open_module()
    # Slicer goes on calling it.
    ((widget, _root),) = desktop._panels
    widget.enter()
    widget.exit()
    widget.cleanup()


def test_the_self_test_segments(desktop):
    import slicer

    import VNetSegmentation

    scene = slicer.mrmlScene
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)  # made when it is first needed
    before = [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())]
    VNetSegmentation.VNetSegmentationTest().runTest()
    assert [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())] == before
    VNetSegmentation.VNetSegmentationLogic().client.stop()


def test_without_pythonslicer_there_is_a_sentence_and_the_button_stays(panel, add_scan, desktop, monkeypatch, tmp_path):
    panel.choose(add_scan())
    panel.widget.logic.client.stop()
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):
        panel.segment()
        assert "PythonSlicer was not found" in panel.ui.statusLabel.text
        assert panel.ui.segmentButton.enabled
    panel.ui.batchInputPath.currentPath = str(tmp_path)
    panel.ui.batchOutputPath.currentPath = str(tmp_path / "out")
    desktop.click(panel.ui.batchRunButton)
    desktop.wait_until(lambda: panel.ui.batchRunButton.enabled)
    assert "PythonSlicer was not found" in panel.ui.batchStatusLabel.text
