from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

pytestmark = pytest.mark.usefixtures("desktop")


def test_an_image_lies_where_the_volume_lies(add_volume):
    import slicer

    from VNetSegmentationLib.volumeNodes import imageFromVolume

    volume = add_volume()
    image = imageFromVolume(volume)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), slicer.util.arrayFromVolume(volume))
    assert image.GetPixelID() == sitk.sitkInt16
    matrix = slicer.util.arrayFromVTKMatrix(_ijk_to_ras(volume))
    for ijk in ((0, 0, 0), (29, 0, 3), (7, 19, 9)):
        ras = matrix @ (*ijk, 1)
        # LPS: the first two axes point the other way.
        lps = (-ras[0], -ras[1], ras[2])
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(ijk), lps, atol=1e-9)


def test_a_parent_transform_is_left_out(add_volume, add_transform):
    from VNetSegmentationLib.volumeNodes import imageFromVolume

    volume = add_volume()
    before = imageFromVolume(volume)
    volume.SetAndObserveTransformNodeID(add_transform(30).GetID())
    after = imageFromVolume(volume)
    assert after.GetOrigin() == before.GetOrigin()
    assert after.GetDirection() == before.GetDirection()


def test_a_left_handed_volume_keeps_its_direction(add_volume):
    import slicer

    from VNetSegmentationLib.volumeNodes import imageFromVolume

    volume = add_volume(spacing_mm=(0.6, 0.6, -3.0))
    image = imageFromVolume(volume)
    matrix = slicer.util.arrayFromVTKMatrix(_ijk_to_ras(volume))
    ras = matrix @ (4, 5, 6, 1)
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((4, 5, 6)), (-ras[0], -ras[1], ras[2]), atol=1e-9)
    assert np.linalg.det(np.reshape(image.GetDirection(), (3, 3))) == pytest.approx(-1)


def test_a_probability_volume_lies_on_the_scan_and_under_its_transform(add_volume, add_transform):
    import slicer

    from VNetSegmentationLib.volumeNodes import addProbabilityVolume, imageFromVolume

    volume = add_volume()
    volume.SetAndObserveTransformNodeID(add_transform(30).GetID())
    probability = sitk.Cast(imageFromVolume(volume), sitk.sitkFloat32) / 500
    node = addProbabilityVolume(probability, volume)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), sitk.GetArrayFromImage(probability))
    ours, theirs = (slicer.util.arrayFromVTKMatrix(_ijk_to_ras(n)) for n in (node, volume))
    np.testing.assert_array_equal(ours, theirs)
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()


def test_what_cannot_be_segmented_says_why(add_volume):
    import slicer

    from VNetSegmentationLib.volumeNodes import volumeProblem

    assert "Load" in volumeProblem(None)
    assert volumeProblem(add_volume()) is None
    assert "no voxels" in volumeProblem(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
    assert "3 slices" in volumeProblem(add_volume(voxels=np.zeros((1, 20, 30), np.int16)))
    coloured = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    slicer.util.updateVolumeFromArray(coloured, np.zeros((5, 6, 7, 3), np.uint8))
    assert "several values" in volumeProblem(coloured)


def test_the_newest_t2_volume_is_preselected(add_volume):
    import slicer

    from VNetSegmentationLib.volumeNodes import addProbabilityVolume, imageFromVolume, newestVolume

    scene = slicer.mrmlScene
    assert newestVolume(scene) is None
    first = add_volume("3 t2_tse_tra")
    assert newestVolume(scene) is first
    second = add_volume("5 t2_tse_tra")
    add_volume("6 ADC map")
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    addProbabilityVolume(sitk.Cast(imageFromVolume(second), sitk.sitkFloat32), second)
    assert newestVolume(scene) is second


def test_names_that_tell_nothing_count_by_age(add_volume):
    import slicer

    from VNetSegmentationLib.volumeNodes import newestVolume

    add_volume("Case 1")
    second = add_volume("Case 2")
    assert newestVolume(slicer.mrmlScene) is second


def test_the_scans_file_is_known_only_while_it_is_there(add_volume, tmp_path):
    import slicer

    from VNetSegmentationLib.volumeNodes import scanFile

    assert scanFile(None) is None
    volume = add_volume()
    assert scanFile(volume) is None
    path = tmp_path / "scan.nrrd"
    path.write_bytes(b"")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path))
    volume.SetAndObserveStorageNodeID(storage.GetID())
    assert scanFile(volume) == path
    path.unlink()
    assert scanFile(volume) is None


def _ijk_to_ras(volume):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def test_a_volume_of_dicom_slices_has_no_file(add_volume, tmp_path):
    """Some of Slicer's readers name the first slice as its file."""
    from VNetSegmentationLib.volumeNodes import scanFile

    volume = add_volume()
    volume.AddDefaultStorageNode()
    for name, is_scan in (("000000.dcm", False), ("scan.nii.gz", True), ("SCAN.NRRD", True)):
        (tmp_path / name).touch()
        volume.GetStorageNode().SetFileName(str(tmp_path / name))
        assert scanFile(volume) == (tmp_path / name if is_scan else None)
