"""On real nodes: what is written is read back exactly, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

PRESET = Path(__file__).resolve().parents[2] / "VNetSegmentation/vnet_segmentation/images/prostate_segment.json"


@pytest.fixture
def as_image(desktop):
    """Function that puts voxels on a volume's grid."""

    def make(voxels, volume):
        from VNetSegmentationLib.volumeNodes import imageFromVolume

        image = sitk.GetImageFromArray(voxels)
        image.CopyInformation(imageFromVolume(volume))
        return image

    return make


@pytest.fixture
def written(add_volume, ball, as_image):
    """A volume, its segmentation, and the module's segment with a ball in it."""
    from VNetSegmentationLib.prostateSegment import ProstateSegment, addSegmentation

    volume = add_volume()
    segmentation = addSegmentation(volume)
    segment = ProstateSegment.prepare(segmentation, volume)
    segment.write(as_image(ball(), volume), "prostate-t2 0123")
    return volume, segmentation, segment


def _voxels(segmentation, segment_id, volume):
    import slicer

    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume)


def test_a_mask_on_an_oblique_anisotropic_volume_comes_back_exactly(written, ball):
    from VNetSegmentationLib.volumeNodes import imageFromVolume

    volume, segmentation, segment = written
    mask = segment.read()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), ball())
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert mask.GetDirection() == imageFromVolume(volume).GetDirection()
    assert mask.GetOrigin() == imageFromVolume(volume).GetOrigin()
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1


def test_the_segment_has_terminology_colour_and_provenance(written):
    import vtk

    _, segmentation, segment = written
    preset = json.loads(PRESET.read_text("utf-8"))
    node = segmentation.GetSegmentation().GetSegment(segment.segmentId)
    assert segment.segmentId == node.GetName() == "Prostate"
    np.testing.assert_allclose(node.GetColor(), [230 / 255, 158 / 255, 140 / 255])
    tag = vtk.reference("")
    assert node.GetTag("TerminologyEntry", tag)
    assert str(tag) == preset["terminology"]
    assert "SCT^41216001^Prostate" in str(tag)
    assert node.GetTag("VNetSegmentation.Model", tag)
    assert str(tag) == "prostate-t2 0123"


def test_a_result_goes_under_the_volumes_transform_and_stays_exact(add_volume, add_transform, ball, as_image):
    from VNetSegmentationLib.prostateSegment import ProstateSegment, addSegmentation

    volume = add_volume()
    volume.SetAndObserveTransformNodeID(add_transform(25).GetID())
    segmentation = addSegmentation(volume)
    assert segmentation.GetTransformNodeID() == volume.GetTransformNodeID()
    segment = ProstateSegment.prepare(segmentation, volume)
    segment.write(as_image(ball(), volume))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(segment.read()), ball())


def test_different_transforms_are_refused_before_voxels_are_lost(add_volume, add_transform):
    from VNetSegmentationLib.prostateSegment import ProstateSegment, addSegmentation, segmentationProblem

    volume = add_volume()
    segmentation = addSegmentation(volume)
    ProstateSegment.prepare(segmentation, volume)
    assert segmentationProblem(segmentation, volume) is None
    assert segmentationProblem(None, volume) is None
    volume.SetAndObserveTransformNodeID(add_transform(25).GetID())
    assert "different transforms" in segmentationProblem(segmentation, volume)
    segmentation.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    assert segmentationProblem(segmentation, volume) is None


def test_the_users_other_segments_stay_even_where_they_overlap(add_volume, ball, as_image):
    import slicer

    from VNetSegmentationLib.prostateSegment import ProstateSegment, addSegmentation

    volume = add_volume()
    segmentation = addSegmentation(volume)
    lesion = segmentation.GetSegmentation().AddEmptySegment("Lesion", "Lesion", [1.0, 0.0, 0.0])
    inside = ball(radius=2)
    slicer.util.updateSegmentBinaryLabelmapFromArray(inside, segmentation, lesion, volume)
    segment = ProstateSegment.prepare(segmentation, volume)
    segment.write(as_image(ball(), volume))
    segment.write(as_image(ball(radius=3), volume))
    np.testing.assert_array_equal(_voxels(segmentation, lesion, volume), inside)
    np.testing.assert_array_equal(_voxels(segmentation, segment.segmentId, volume), ball(radius=3))


def test_an_unedited_mask_is_replaced_and_an_edited_one_is_kept(written, ball):
    import slicer

    from VNetSegmentationLib.prostateSegment import ProstateSegment

    volume, segmentation, segment = written
    assert not segment.isEdited()
    assert ProstateSegment.prepare(segmentation, volume) == segment
    slicer.util.updateSegmentBinaryLabelmapFromArray(ball(radius=5), segmentation, segment.segmentId, volume)
    assert segment.isEdited()
    second = ProstateSegment.prepare(segmentation, volume)
    assert second != segment
    assert second.name == "Prostate 2"
    np.testing.assert_array_equal(_voxels(segmentation, segment.segmentId, volume), ball(radius=5))
    # The mask that was written last is the one that is meant.
    assert ProstateSegment.find(segmentation, volume) == second


def test_an_edit_that_is_taken_back_counts_as_none(written, ball):
    import slicer

    volume, segmentation, segment = written
    for radius in (5, 4):
        slicer.util.updateSegmentBinaryLabelmapFromArray(ball(radius=radius), segmentation, segment.segmentId, volume)
    assert not segment.isEdited()


def test_an_empty_mask_empties_the_segment(written, as_image, ball):
    volume, _, segment = written
    segment.write(as_image(0 * ball(), volume))
    assert not sitk.GetArrayFromImage(segment.read()).any()
    assert segment.exists
    assert not segment.isEdited()


def test_a_surface_that_was_there_is_there_afterwards(written, as_image, ball):
    volume, segmentation, segment = written
    segmentation.CreateClosedSurfaceRepresentation()
    segment.write(as_image(ball(radius=3), volume))
    assert segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    surface = segmentation.GetSegmentation().GetSegment(segment.segmentId).GetRepresentation("Closed surface")
    assert surface.GetNumberOfPoints() > 0


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["Gland"], "Gland"),
        (["Lesion", "prostate corrected"], "prostate corrected"),
        (["Lesion", "Bladder"], None),
        (["Prostate 1", "Prostate 2"], None),
        ([], None),
    ],
)
def test_which_segment_is_meant_by_the_prostate(add_volume, names, meant):
    from VNetSegmentationLib.prostateSegment import ProstateSegment, addSegmentation

    volume = add_volume()
    segmentation = addSegmentation(volume)
    for name in names:
        segmentation.GetSegmentation().AddEmptySegment("", name)
    found = ProstateSegment.current(segmentation, volume)
    assert (found and found.name) == meant
    assert ProstateSegment.find(segmentation, volume) is None


def test_the_modules_own_segment_goes_before_others(written):
    from VNetSegmentationLib.prostateSegment import ProstateSegment

    volume, segmentation, segment = written
    segmentation.GetSegmentation().AddEmptySegment("", "Prostate of a colleague")
    assert ProstateSegment.current(segmentation, volume) == segment


def test_a_removed_segment_volume_or_segmentation_is_noticed(written):
    import slicer

    volume, _, segment = written
    assert segment.exists
    slicer.mrmlScene.RemoveNode(volume)
    assert not segment.exists
    slicer.mrmlScene.Clear(0)
    assert segment.segmentationNode is None
    assert not segment.exists


def test_edits_are_noticed_after_the_scene_was_saved_and_loaded(written, tmp_path, ball):
    """The checksum is a tag of the segment, which Slicer's file of it keeps."""
    import slicer

    from VNetSegmentationLib.prostateSegment import ProstateSegment

    volume, segmentation, _ = written
    path = str(tmp_path / "mask.seg.nrrd")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    slicer.mrmlScene.AddNode(storage)
    storage.SetFileName(path)
    assert storage.WriteData(segmentation)
    loaded = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "loaded")
    assert storage.ReadData(loaded)
    again = ProstateSegment.find(loaded, volume)
    assert again is not None
    assert not again.isEdited()
    slicer.util.updateSegmentBinaryLabelmapFromArray(ball(radius=5), loaded, again.segmentId, volume)
    assert again.isEdited()


def test_showing_brings_the_slices_to_the_middle(written):
    import slicer

    _, segmentation, segment = written
    segment.show(in3D=True)
    display = segmentation.GetDisplayNode()
    assert display.GetSegmentVisibility3D(segment.segmentId)
    assert segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    centre = segmentation.GetSegmentCenterRAS(segment.segmentId)
    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    # The slice goes through the middle: the middle's distance from it, along its normal, is 0.
    matrix = slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS())
    assert abs((np.array(centre) - matrix[:3, 3]) @ matrix[:3, 2]) < 1e-3
    segment.showIn3D(False)
    assert not display.GetSegmentVisibility3D(segment.segmentId)


def test_base_and_apex_are_where_the_mask_ends_under_a_transform_too(add_volume, add_transform, ball, as_image):
    import slicer

    from VNetSegmentationLib.prostateSegment import ProstateSegment, addSegmentation

    volume = add_volume()
    transform = add_transform(25)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    segment = ProstateSegment.prepare(addSegmentation(volume), volume)
    segment.write(as_image(ball(), volume))
    index_to_local = slicer.util.arrayFromVTKMatrix(_ijk_to_ras(volume))
    local_to_world = slicer.util.arrayFromVTKMatrix(transform.GetMatrixTransformToParent())
    indices = np.argwhere(ball())[:, ::-1]
    across = int(np.abs(index_to_local[2, :3]).argmax())
    ends = {}
    for number in (indices[:, across].min(), indices[:, across].max()):
        middle = np.append(indices[indices[:, across] == number].mean(axis=0), 1)
        local = index_to_local @ middle
        ends[local[2]] = (local_to_world @ local)[:3]
    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    for go, height in ((segment.goToBase, max(ends)), (segment.goToApex, min(ends))):
        go()
        matrix = slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS())
        assert abs((ends[height] - matrix[:3, 3]) @ matrix[:3, 2]) < 1e-3
    segment.write(as_image(0 * ball(), volume))
    before = slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS())
    segment.goToBase()
    np.testing.assert_array_equal(slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS()), before)


def _ijk_to_ras(volume):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def test_a_segmentation_of_another_scan_keeps_its_segments_and_takes_the_mask_exactly(add_volume, ball, as_image):
    """Two scans of one patient in one segmentation: their grids have nothing in common."""
    import slicer

    from VNetSegmentationLib.prostateSegment import ProstateSegment, addSegmentation

    first, second = add_volume("sagittal", spacing_mm=(1.1, 0.9, 2.0), tilt_degrees=70.0), add_volume("axial")
    segmentation = addSegmentation(first)
    lesion = segmentation.GetSegmentation().AddEmptySegment("Lesion", "Lesion")
    slicer.util.updateSegmentBinaryLabelmapFromArray(ball(radius=3), segmentation, lesion, first)
    segment = ProstateSegment.prepare(segmentation, second)
    segment.write(as_image(ball(), second))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(segment.read()), ball())
    np.testing.assert_array_equal(_voxels(segmentation, lesion, first), ball(radius=3))


def test_surfaces_of_the_user_are_not_turned_into_voxels(written, add_volume):
    from VNetSegmentationLib.prostateSegment import segmentationProblem

    volume, segmentation, _ = written
    segmentation.CreateClosedSurfaceRepresentation()
    assert segmentationProblem(segmentation, volume) is None
    segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
    assert "surfaces" in segmentationProblem(segmentation, volume)


def test_reading_and_writing_leave_no_nodes_behind(written, as_image, ball):
    import slicer

    volume, _, segment = written
    segment.read()  # the first time the scene gets a table of colours
    before = slicer.mrmlScene.GetNumberOfNodes()
    for radius in (3, 4, 5):
        segment.write(as_image(ball(radius=radius), volume))
        segment.read()
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_contours_of_a_treatment_plan_are_read_and_stay_as_they_are(add_volume, ball, as_image):
    import slicer

    from VNetSegmentationLib.prostateSegment import ProstateSegment, addSegmentation, segmentationProblem

    volume = add_volume(spacing_mm=(1.0, 1.0, 1.0))
    drawn = addSegmentation(volume)
    segment = ProstateSegment.prepare(drawn, volume)
    segment.write(as_image(ball(), volume))
    drawn.CreateClosedSurfaceRepresentation()
    drawn.GetSegmentation().SetSourceRepresentationName("Closed surface")
    drawn.RemoveBinaryLabelmapRepresentation()
    assert "surfaces" in segmentationProblem(drawn, volume)
    assert segment.problem() is None
    read = sitk.GetArrayFromImage(segment.read())
    assert 2 * (read & ball()).sum() / (read.sum() + ball().sum()) > 0.9
    assert not drawn.GetSegmentation().ContainsRepresentation("Binary labelmap")
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [drawn]


def test_a_result_is_in_the_study_of_its_scan(add_volume, request):
    import slicer
    import vtk

    from VNetSegmentationLib.prostateSegment import ProstateSegment, addSegmentation

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "a study")

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def list_node(scene, event, node):
        # Slicer's plugins for the hierarchy do so.
        if node.IsA("vtkMRMLVolumeNode") or node.IsA("vtkMRMLSegmentationNode"):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    tag = slicer.mrmlScene.AddObserver(slicer.mrmlScene.NodeAddedEvent, list_node)
    request.addfinalizer(lambda: slicer.mrmlScene.RemoveObserver(tag))
    volume = add_volume()
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    created = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    ProstateSegment.prepare(created, volume)
    for node in (addSegmentation(volume), created):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_a_second_prostate_can_be_told_from_the_first(written, ball):
    import slicer

    from VNetSegmentationLib.prostateSegment import ProstateSegment

    volume, segmentation, segment = written
    slicer.util.updateSegmentBinaryLabelmapFromArray(ball(radius=2), segmentation, segment.segmentId, volume)
    second = ProstateSegment.prepare(segmentation, volume)
    first, other = (segmentation.GetSegmentation().GetSegment(s.segmentId) for s in (segment, second))
    assert other.GetName() == "Prostate 2"
    assert first.GetColor() != other.GetColor()
