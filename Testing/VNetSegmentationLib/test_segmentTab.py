"""From the volume to the mask, and what may go wrong on the way."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from desktop.panel_user import PanelUser, overlap


def test_two_clicks_from_a_loaded_volume_to_a_result(desktop, add_scan, phantom):
    """The first click is on the module: the newest MR volume is chosen then."""
    add_scan("3 t2_tse_tra")
    newest = add_scan("5 t2_tse_tra")
    panel = PanelUser(desktop)
    assert panel.ui.inputVolumeSelector.currentNode() is newest
    panel.segment()
    assert panel.segment_ids == ["Prostate"]
    assert overlap(panel.voxels(), sitk.GetArrayFromImage(phantom[1])) > 0.75
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


def test_another_scan_gets_a_segmentation_of_its_own(segmented, add_scan):
    first = segmented.segmentation
    assert segmented.ui.statusLabel.text.startswith("Done")
    segmented.choose(add_scan("another"))
    # Which is not.
    assert segmented.ui.statusLabel.text == ""
    assert segmented.segmentation is None
    assert not segmented.ui.resultCollapsibleButton.enabled
    segmented.segment()
    assert segmented.segmentation is not first
    assert first.GetSegmentation().GetNumberOfSegments() == 1
    # Back to the first one: its mask is shown again.
    segmented.choose(first.GetNodeReference("referenceImageGeometryRef"))
    assert segmented.segmentation is first
    assert segmented.ui.resultCollapsibleButton.enabled


def test_the_next_scan_does_not_go_into_the_segmentation_of_one_that_was_deleted(segmented, add_scan, desktop):
    import slicer

    slicer.mrmlScene.RemoveNode(segmented.ui.inputVolumeSelector.currentNode())
    following = add_scan("another")
    desktop.wait_until(lambda: segmented.ui.inputVolumeSelector.currentNode() is following)
    assert segmented.segmentation is None
    assert not segmented.ui.resultCollapsibleButton.enabled


def test_the_psa_value_is_not_taken_for_the_next_scan(segmented, add_scan):
    first = segmented.ui.inputVolumeSelector.currentNode()
    segmented.ui.psaSpinBox.value = 8.0
    segmented.segment()
    assert segmented.ui.psaSpinBox.value == 8.0
    segmented.choose(add_scan("another"))
    assert segmented.ui.psaSpinBox.value == 0.0
    segmented.choose(first)
    assert segmented.ui.psaDensityLabel.text == ""


def test_a_long_message_leaves_no_gap_to_the_next_run(panel, add_scan):
    panel.choose(add_scan())
    panel.widget.panel._segmentTab._fail("A sentence of very many words that goes on and on. " * 10, None)
    height = panel.ui.statusLabel.minimumHeight
    panel.start()
    assert not panel.ui.sampleDataButton.enabled
    assert 0 < panel.ui.statusLabel.minimumHeight < height / 3


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
    assert overlap(panel.voxels(), sitk.GetArrayFromImage(phantom[1])) > 0.75


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


def test_cancel_changes_nothing_and_leaves_the_worker_warm(panel, add_scan, desktop, monkeypatch):
    # However busy the machine is: the worker has the time to obey.
    monkeypatch.setattr(type(panel.widget.logic.client), "_killIfPending", lambda client, job: None)
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


def test_a_result_never_gets_onto_the_scan_of_another_patient(panel, add_scan, desktop):
    """After a scene was closed, its successor's nodes have the same IDs."""
    import slicer

    first = add_scan("patient A")
    first_id = first.GetID()
    panel.choose(first)
    panel.start()
    slicer.mrmlScene.Clear(0)
    second = add_scan("patient B")
    assert second.GetID() == first_id
    desktop.wait_until(lambda: panel.idle)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


def test_a_transform_that_comes_midway_is_a_sentence(panel, add_scan, add_transform, desktop):
    volume = add_scan()
    panel.segment(volume)
    mask = panel.voxels().copy()
    panel.start()
    volume.SetAndObserveTransformNodeID(add_transform(30).GetID())
    desktop.wait_until(lambda: panel.idle)
    assert "different transforms" in panel.ui.statusLabel.text
    volume.SetAndObserveTransformNodeID(None)
    np.testing.assert_array_equal(panel.voxels(), mask)


def test_a_segmentation_that_was_just_created_goes_to_the_transformed_scan(panel, add_scan, add_transform):
    import slicer

    volume = add_scan()
    volume.SetAndObserveTransformNodeID(add_transform(30).GetID())
    panel.choose(volume)
    created = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    panel.ui.outputSegmentationSelector.setCurrentNode(created)
    panel.segment()
    assert panel.segmentation is created
    assert created.GetTransformNodeID() == volume.GetTransformNodeID()
    assert panel.voxels().any()


def test_a_sample_without_the_mr_is_a_sentence(panel, add_scan, desktop, monkeypatch):
    """Slicer returns what it could download, which may be nothing."""
    import sys
    import types

    for got in ([], [add_scan("USProstate")]):
        before = panel.ui.inputVolumeSelector.currentNode()
        monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(downloadSamples=lambda name, got=got: got))
        desktop.click(panel.ui.sampleDataButton)
        assert "No internet" in desktop.dialogs[-1][1]
        assert panel.ui.inputVolumeSelector.currentNode() is before


def test_views_of_other_sequences_stay_where_one_shows_the_scan(panel, add_scan):
    import slicer

    def views():
        return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")

    scan, other = add_scan(), add_scan("ADC")
    panel.choose(scan)
    for view, volume in zip(views(), (scan, other, other), strict=True):
        view.SetBackgroundVolumeID(volume.GetID())
    panel.segment()
    assert [view.GetBackgroundVolumeID() for view in views()] == [scan.GetID(), other.GetID(), other.GetID()]
    views()[0].SetBackgroundVolumeID(other.GetID())
    panel.segment()
    assert {view.GetBackgroundVolumeID() for view in views()} == {scan.GetID()}


def test_the_slice_views_follow_the_chosen_scan(segmented, add_scan):
    import slicer

    def shown():
        return slicer.mrmlScene.GetNthNodeByClass(0, "vtkMRMLSliceCompositeNode").GetBackgroundVolumeID()

    first, second = segmented.ui.inputVolumeSelector.currentNode(), add_scan("another")
    for volume in (second, first):
        segmented.choose(volume)
        assert shown() == volume.GetID()
