"""Saving a mask, and keeping it as a training case."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk


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
    from vnet_segmentation.datasets.dataset import find_cases
    from vnet_segmentation.datasets.inspection import refuse_problems

    segmented.ui.trainingFolderPath.currentPath = ""
    desktop.click(segmented.ui.addToTrainingButton)
    assert "folder" in segmented.ui.saveStatusLabel.text
    corrected = segmented.paint()
    segmented.ui.trainingFolderPath.currentPath = str(tmp_path / "cases")
    desktop.click(segmented.ui.addToTrainingButton)
    (case,) = find_cases(tmp_path / "cases")
    refuse_problems([case])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(case.mask))), corrected)
    scan = sitk.ReadImage(str(case.image))
    np.testing.assert_allclose(scan.GetOrigin(), phantom[0].GetOrigin(), atol=1e-6)
    assert "t2_tse_tra" not in case.name
    desktop.click(segmented.ui.addToTrainingButton)
    assert "replaced" in segmented.ui.saveStatusLabel.text
    assert len(find_cases(tmp_path / "cases")) == 1


def test_a_mask_under_another_transform_than_its_scan_is_not_saved(segmented, add_transform, desktop, tmp_path):
    volume = segmented.ui.inputVolumeSelector.currentNode()
    segmented.ui.saveFolderPath.currentPath = str(tmp_path / "masks")
    segmented.ui.trainingFolderPath.currentPath = str(tmp_path / "cases")
    (tmp_path / "masks").mkdir()
    shown = segmented.ui.volumeLabel.text
    volume.SetAndObserveTransformNodeID(add_transform(30).GetID())
    for button in (segmented.ui.saveMaskButton, segmented.ui.addToTrainingButton):
        desktop.click(button)
        assert "different transforms" in segmented.ui.saveStatusLabel.text
    assert list((tmp_path / "masks").iterdir()) == []
    assert not (tmp_path / "cases").exists()
    assert segmented.ui.volumeLabel.text == shown


def test_the_next_scan_without_a_file_does_not_get_the_folder_of_the_one_before(segmented, add_scan, desktop, tmp_path):
    segmented.ui.saveFolderPath.currentPath = str(tmp_path)
    desktop.click(segmented.ui.saveMaskButton)
    assert len(list(tmp_path.glob("*_prostate.seg.nrrd"))) == 1
    segmented.segment(add_scan())
    assert segmented.ui.saveFolderPath.currentPath == ""


def test_the_message_about_one_scan_leaves_no_gap_at_the_next(segmented, add_scan, desktop):
    desktop.click(segmented.ui.saveMaskButton)
    assert segmented.ui.saveStatusLabel.minimumHeight > 0
    segmented.choose(add_scan("another"))
    assert segmented.ui.saveStatusLabel.minimumHeight == 0


def test_what_slicer_cannot_export_is_a_sentence(segmented, desktop, tmp_path, monkeypatch):
    import slicer

    def fail(*_):
        raise RuntimeError("Export of segment failed.")

    folder = tmp_path / "masks"
    folder.mkdir()
    segmented.ui.saveFolderPath.currentPath = str(folder)
    monkeypatch.setattr(slicer.util, "arrayFromSegmentBinaryLabelmap", fail)
    desktop.click(segmented.ui.saveMaskButton)
    assert "Export of segment failed" in segmented.ui.saveStatusLabel.text
    assert list(folder.iterdir()) == []


def test_the_next_scene_does_not_get_the_folder_of_the_one_before(segmented, add_scan, tmp_path):
    import slicer

    segmented.ui.saveFolderPath.currentPath = str(tmp_path)
    slicer.mrmlScene.Clear(0)
    segmented.segment(add_scan())
    assert segmented.ui.saveFolderPath.currentPath == ""


def test_a_mask_of_the_same_scan_that_lies_elsewhere_goes_back_there(panel, add_scan, desktop, tmp_path):
    import slicer

    volume = add_scan("Case1", folder=tmp_path)
    panel.segment(volume)
    automatic = panel.ui.outputSegmentationSelector.currentNode()
    colleagues = tmp_path / "a colleague's"
    colleagues.mkdir()
    panel.ui.saveFolderPath.currentPath = str(colleagues)
    desktop.click(panel.ui.saveMaskButton)
    (file,) = colleagues.iterdir()
    panel.ui.saveFolderPath.currentPath = str(tmp_path / "own")
    loaded = slicer.util.loadSegmentation(str(file))
    panel.ui.outputSegmentationSelector.setCurrentNode(loaded)
    assert panel.ui.saveFolderPath.currentPath == str(colleagues)
    # And what is made anew does not come among the colleague's masks.
    panel.ui.outputSegmentationSelector.setCurrentNode(automatic)
    assert panel.ui.saveFolderPath.currentPath == str(tmp_path)


def test_a_folder_that_was_chosen_for_a_scan_holds_for_its_next_mask(segmented, desktop, tmp_path):
    segmented.ui.saveFolderPath.currentPath = str(tmp_path)
    segmented.ui.outputSegmentationSelector.setCurrentNode(None)
    segmented.segment(segmented.ui.inputVolumeSelector.currentNode())
    assert segmented.ui.saveFolderPath.currentPath == str(tmp_path)
