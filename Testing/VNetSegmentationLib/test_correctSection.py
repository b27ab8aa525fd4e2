"""Correcting in Slicer's own editor."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk


def _editors(panel, name: str):
    """A widget of the editor's own."""
    import slicer

    (widget,) = slicer.util.findChildren(panel.ui.segmentEditorWidget, name)
    return widget


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
    desktop.click(_editors(panel, "AddSegmentButton"))
    (first,) = panel.segment_ids
    voxels = np.zeros((24, 128, 128), np.uint8)
    voxels[10:14, 55:75, 55:75] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, panel.segmentation, first, volume)
    desktop.wait_until(lambda: panel.ui.saveCollapsibleButton.enabled)
    desktop.wait_until(lambda: panel.ui.volumeLabel.text == f"{voxels.sum() * 3.3 / 1000:.1f} ml")
    # Another one beside it changes neither what is saved nor what is being drawn.
    desktop.click(_editors(panel, "AddSegmentButton"))
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


def test_keys_and_mouse_are_the_editors_only_while_it_can_be_seen(segmented):
    from desktop.pythonqt import unwrap

    ui, editor = segmented.ui, unwrap(segmented.ui.segmentEditorWidget)

    def active():
        assert editor.shortcuts_installed == editor.views_observed
        return editor.shortcuts_installed

    assert ui.correctCollapsibleButton.collapsed
    assert not active()
    ui.correctCollapsibleButton.collapsed = False
    assert active()
    editor.setActiveEffectByName("Paint")
    ui.tabs.currentIndex = 1
    assert not active()
    assert editor.activeEffect() is None
    ui.tabs.currentIndex = 0
    assert active()
    segmented.widget.exit()
    assert not active()
    segmented.widget.enter()
    assert active()
    ui.correctCollapsibleButton.collapsed = True
    assert not active()


def test_an_effect_of_another_extension_names_its_options_as_it_likes(desktop, monkeypatch):
    import slicer
    from desktop import mrml_widgets
    from PySide6 import QtWidgets

    own = mrml_widgets.qMRMLSegmentEditorWidget.__init__

    def with_an_effect(self, parent=None):
        own(self, parent)
        options = QtWidgets.QFrame(self)
        QtWidgets.QLabel(options, objectName="statusLabel").setProperty("SlicerParameterName", "threshold")
        QtWidgets.QPushButton(options, objectName="trainButton")
        mrml_widgets.qMRMLNodeComboBox(options).setObjectName("SegmentationNodeComboBox")

    monkeypatch.setattr(mrml_widgets.qMRMLSegmentEditorWidget, "__init__", with_an_effect)
    ui = desktop.open_module().ui
    assert ui.trainButton.text == "Train"
    boxes = slicer.util.findChildren(ui.segmentEditorWidget, "SegmentationNodeComboBox")
    assert sorted(box.noneEnabled for box in boxes) == [False, True]
