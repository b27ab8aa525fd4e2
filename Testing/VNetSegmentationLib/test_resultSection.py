"""Reading a result, and adjusting it."""

from __future__ import annotations

import numpy as np


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


def test_a_threshold_that_is_moved_during_a_run_holds_for_its_mask(segmented, desktop):
    before = np.count_nonzero(segmented.voxels())
    segmented.start()
    segmented.ui.thresholdSlider.value = 0.2
    desktop.wait_until(lambda: np.count_nonzero(segmented.voxels()) > before)
    during = segmented.voxels()
    desktop.wait_until(lambda: segmented.idle)
    desktop.run_for(0.2)
    assert np.array_equal(segmented.voxels(), during)


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


def test_what_another_module_changes_is_measured_when_the_panel_is_opened_again(segmented, desktop, monkeypatch):
    import slicer

    from VNetSegmentationLib.prostateSegment import ProstateSegment

    volume, voxels = segmented.ui.inputVolumeSelector.currentNode(), segmented.voxels().copy()
    reads, original = [], ProstateSegment.read
    monkeypatch.setattr(ProstateSegment, "read", lambda self: (reads.append(self), original(self))[1])
    segmented.widget.exit()
    voxels[2, 55:75, 55:75] = 1 - voxels[2, 55:75, 55:75]
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, segmented.segmentation, "Prostate", volume)
    desktop.run_for(0.5)
    assert reads == []
    segmented.widget.enter()
    assert segmented.ui.volumeLabel.text == f"{np.count_nonzero(voxels) * 3.3 / 1000:.1f} ml"
    assert len(reads) == 1


def test_the_views_go_to_the_ends_of_the_mask_and_back_to_its_middle(segmented, add_transform, desktop):
    import slicer

    ui = segmented.ui
    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    middle = red.GetSliceOffset()
    offsets = {}
    for name in ("Base", "Apex", "Middle"):
        desktop.click(getattr(ui, f"goTo{name}Button"))
        offsets[name] = red.GetSliceOffset()
    assert offsets["Apex"] < middle - 5 < middle + 5 < offsets["Base"]
    assert offsets["Middle"] == middle
    volume = ui.inputVolumeSelector.currentNode()
    volume.SetAndObserveTransformNodeID(add_transform(30).GetID())
    # Before the panel has looked again.
    desktop.click(ui.goToBaseButton)
    assert red.GetSliceOffset() == middle
    desktop.wait_until(lambda: not ui.goToBaseButton.enabled)
    assert not ui.goToApexButton.enabled
    volume.SetAndObserveTransformNodeID(None)
    desktop.wait_until(lambda: ui.goToBaseButton.enabled)
    slicer.util.updateSegmentBinaryLabelmapFromArray(0 * segmented.voxels(), segmented.segmentation, "Prostate", volume)
    desktop.wait_until(lambda: not ui.goToMiddleButton.enabled)


def test_a_threshold_does_not_move_a_mask_under_another_transform(segmented, add_transform, desktop):
    volume, voxels = segmented.ui.inputVolumeSelector.currentNode(), segmented.voxels().copy()
    volume.SetAndObserveTransformNodeID(add_transform(30).GetID())
    segmented.ui.thresholdSlider.value = 0.2
    desktop.run_for(0.2)
    volume.SetAndObserveTransformNodeID(None)
    np.testing.assert_array_equal(segmented.voxels(), voxels)


def test_another_transform_is_told_and_what_comes_back_is_as_it_was(segmented, add_transform, desktop):
    volume, text = segmented.ui.inputVolumeSelector.currentNode(), segmented.ui.volumeLabel.text
    segmented.paint()
    painted, edited = segmented.voxels().copy(), segmented.ui.volumeLabel.text
    assert edited != text
    volume.SetAndObserveTransformNodeID(add_transform(30).GetID())
    desktop.wait_until(lambda: "different transforms" in segmented.ui.warningsLabel.text)
    assert segmented.ui.volumeLabel.text == edited
    assert segmented.ui.discardCorrectionsButton.isHidden()
    volume.SetAndObserveTransformNodeID(None)
    desktop.wait_until(lambda: "different transforms" not in segmented.ui.warningsLabel.text)
    assert "by hand" in segmented.ui.warningsLabel.text
    assert not segmented.ui.discardCorrectionsButton.isHidden()
    segmented.ui.psaSpinBox.value = 3.0
    desktop.run_for(0.2)
    np.testing.assert_array_equal(segmented.voxels(), painted)


def test_a_threshold_that_waits_does_not_take_back_a_stroke(segmented, desktop):
    import slicer

    volume, voxels = segmented.ui.inputVolumeSelector.currentNode(), segmented.voxels().copy()
    segmented.ui.thresholdSlider.value = 0.2
    voxels[2, 55:75, 55:75] = 1 - voxels[2, 55:75, 55:75]
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, segmented.segmentation, "Prostate", volume)
    desktop.run_for(0.3)
    np.testing.assert_array_equal(segmented.voxels(), voxels)
    assert "by hand" in segmented.ui.warningsLabel.text
