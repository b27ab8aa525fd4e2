"""Volume nodes of the scene as images and the other way round. No Qt here.

Images lie in the volume's own coordinates, in LPS: parent transforms are left out. What is made from a volume goes
under the volume's transform and so to the same place.
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from vnet_segmentation.images.dicom import names_t2
from vnet_segmentation.images.scans import SCAN_SUFFIXES

_MADE_HERE = "VNetSegmentation.Made"
"""Node attribute of volumes that are results."""


def volumeProblem(volumeNode) -> str | None:
    """Why a volume cannot be segmented, in a sentence; None if nothing speaks against it.

    What only the voxels tell, such as a CT, the worker finds.
    """
    if volumeNode is None:
        return _("Load an MR volume of the prostate, or take the sample scan.")
    if volumeNode.GetImageData() is None or volumeNode.GetImageData().GetNumberOfPoints() == 0:
        return _("This volume has no voxels. Load it again.")
    if volumeNode.GetImageData().GetNumberOfScalarComponents() != 1:
        return _("This volume has several values per voxel. Choose one that is grey-scale.")
    if min(volumeNode.GetImageData().GetDimensions()) < 3:
        return _("This volume has fewer than 3 slices. Choose a whole scan.")
    return None


def scanVolumes(scene) -> list:
    """The volumes that may be scans, in the scene's order: no label maps, no colour pictures, nothing made here."""
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene)
        if node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and not node.GetHideFromEditors()
        and node.GetAttribute(_MADE_HERE) is None
    ]


def newestVolume(scene):
    """The volume that was added last and can be segmented, MR of T2 before others; None if there is none."""
    volumes = [volume for volume in scanVolumes(scene) if volumeProblem(volume) is None]
    return max(enumerate(volumes), key=lambda entry: (_looksLikeT2(entry[1]), entry[0]), default=(0, None))[1]


def isShown(volumeNode) -> bool:
    """Whether the volume is the background of a slice view of the present layout."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    names = {view.GetLayoutName() for view in views if view.IsMappedInLayout()}
    return any(
        node.GetBackgroundVolumeID() == volumeNode.GetID()
        for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        if node.GetLayoutName() in names
    )


def imageFromVolume(volumeNode) -> sitk.Image:
    """The volume as an image of its own pixel type, 3D, LPS; a copy."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(slicer.util.arrayFromVolume(volumeNode)))
    placeOnGrid(image, volumeNode)
    return image


def placeOnGrid(image: sitk.Image, volumeNode) -> None:
    """Gives an image of the volume's size the volume's place in space, LPS."""
    ijkToRas = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASDirectionMatrix(ijkToRas)
    directionRas = slicer.util.arrayFromVTKMatrix(ijkToRas)[:3, :3]
    rasToLps = np.diag((-1.0, -1.0, 1.0))
    image.SetSpacing(volumeNode.GetSpacing())
    image.SetOrigin((rasToLps @ volumeNode.GetOrigin()).tolist())
    image.SetDirection((rasToLps @ directionRas).ravel().tolist())


def addVolume(image: sitk.Image, name: str, isScan: bool):
    """Adds an image, 3D, LPS, as a scalar volume; returns its node.

    Args:
        isScan: whether it is offered for segmenting.
    """
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    lpsToRas = np.diag((-1.0, -1.0, 1.0, 1.0))
    ijkToLps = np.eye(4)
    ijkToLps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    ijkToLps[:3, 3] = image.GetOrigin()
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(lpsToRas @ ijkToLps))
    slicer.util.updateVolumeFromArray(node, sitk.GetArrayFromImage(image))
    node.CreateDefaultDisplayNodes()
    if not isScan:
        node.SetAttribute(_MADE_HERE, "case")
    return node


def addProbabilityVolume(probability: sitk.Image, volumeNode):
    """Adds a scalar volume with the probability, under the scan's transform; returns its node."""
    name = slicer.mrmlScene.GenerateUniqueName(_("{scan} prostate probability").format(scan=volumeNode.GetName()))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    ijkToRas = vtk.vtkMatrix4x4()
    # The scan's own matrix, not the image's: equal to the last digit.
    volumeNode.GetIJKToRASMatrix(ijkToRas)
    node.SetIJKToRASMatrix(ijkToRas)
    slicer.util.updateVolumeFromArray(node, sitk.GetArrayFromImage(probability))
    putBeside(node, volumeNode)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    if display:
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(0.0, 1.0)
    # So that the next scan that is chosen is not this one.
    node.SetAttribute(_MADE_HERE, "probability")
    return node


def putBeside(node, volumeNode) -> None:
    """Puts what was made from a volume under its transform, and into its study in the subject hierarchy."""
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item, volumeItem = (hierarchy.GetItemByDataNode(each) for each in (node, volumeNode))
    # 0 for a node that is hidden there.
    if item and volumeItem:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(volumeItem))


def loadedFile(node) -> Path | None:
    """The file that a volume or a segmentation came from; None if there is none, or if it is gone."""
    storage = node.GetStorageNode() if node is not None else None
    name = storage.GetFileName() if storage else None
    # What was in a scene file points into a temporary folder that was removed.
    return Path(name) if name and Path(name).is_file() else None


def scanFile(volumeNode) -> Path | None:
    """The file that the volume came from; None if it came from DICOM slices or another source."""
    file = loadedFile(volumeNode)
    # Of slices, of which it is one, some of Slicer's readers name the first here.
    return file if file is not None and file.name.lower().endswith(SCAN_SUFFIXES) else None


def _looksLikeT2(volumeNode) -> int:
    """2 for a name of a T2 scan, 0 for one of something else, 1 if the name does not tell."""
    return {True: 2, None: 1, False: 0}[names_t2(volumeNode.GetName())]
