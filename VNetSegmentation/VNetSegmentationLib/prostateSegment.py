"""The segment that this module writes into a segmentation. No Qt here."""

import json
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

import vnet_segmentation
from vnet_segmentation.images.measurements import ends_mm
from VNetSegmentationLib.volumeNodes import placeOnGrid, putBeside

AUTOMATIC_TAG = "VNetSegmentation.Automatic"
"""Segment tag: a checksum of the mask as the module wrote it, by which later edits are noticed, after a scene was saved
and loaded, too."""

MODEL_TAG = "VNetSegmentation.Model"
"""Segment tag: name and hash of the model that the mask is of."""

_PRESET = Path(vnet_segmentation.__file__).parent / "images" / "prostate_segment.json"


def readingProblem(segmentationNode, volumeNode) -> str | None:
    """Why the masks of this segmentation cannot be read on this volume's grid, in a sentence; None if they can."""
    if segmentationNode.GetTransformNodeID() != volumeNode.GetTransformNodeID():
        # Between two transforms voxels would be resampled, and lost.
        return _("Volume and segmentation are under different transforms. Put both under the same one.")
    return None


def segmentationProblem(segmentationNode, volumeNode) -> str | None:
    """Why a mask of this volume cannot go into this segmentation, in a sentence; None if it can."""
    if segmentationNode is None or volumeNode is None:
        return None
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetNumberOfSegments() == 0:
        # It is taken to the volume, see `ProstateSegment.prepare`.
        return None
    problem = readingProblem(segmentationNode, volumeNode)
    if problem is None and segmentation.GetSourceRepresentationName() != _LABELMAP:
        # Slicer would turn the user's surfaces into voxels to take a mask in.
        problem = _("The segments of this segmentation are surfaces. Choose a new segmentation.")
    return problem


class ProstateSegment:
    """A segment "Prostate" on the grid of one volume.

    It holds the nodes' IDs, so that it survives a closed scene: then `exists` is False.

    Args:
        segmentationNode: `vtkMRMLSegmentationNode`.
        segmentId: of a segment of it.
        volumeNode: the scan; its grid is the mask's.
    """

    def __init__(self, segmentationNode, segmentId: str, volumeNode):
        self._segmentationId = segmentationNode.GetID()
        self.segmentId = segmentId
        self._volumeId = volumeNode.GetID()

    @classmethod
    def find(cls, segmentationNode, volumeNode) -> "ProstateSegment | None":
        """The segment of this module that was written last; None if there is none."""
        if segmentationNode is None or volumeNode is None:
            return None
        segmentation = segmentationNode.GetSegmentation()
        own = [
            segmentId
            for segmentId in segmentation.GetSegmentIDs()
            if _tag(segmentation.GetSegment(segmentId), AUTOMATIC_TAG) is not None
        ]
        return cls(segmentationNode, own[-1], volumeNode) if own else None

    @classmethod
    def current(cls, segmentationNode, volumeNode) -> "ProstateSegment | None":
        """The segment that a person means by the prostate: this module's own, or one of that name, or the only one."""
        own = cls.find(segmentationNode, volumeNode)
        if own is not None or segmentationNode is None or volumeNode is None:
            return own
        segmentation = segmentationNode.GetSegmentation()
        ids = list(segmentation.GetSegmentIDs())
        named = [i for i in ids if "prostate" in segmentation.GetSegment(i).GetName().lower()]
        found = named or ids
        return cls(segmentationNode, found[0], volumeNode) if len(found) == 1 else None

    @classmethod
    def prepare(cls, segmentationNode, volumeNode) -> "ProstateSegment":
        """The segment for a new automatic mask: the module's own if nobody has edited it, or else a new one, empty."""
        found = cls.find(segmentationNode, volumeNode)
        if found is not None and not found.isEdited():
            return found
        return cls._add(segmentationNode, volumeNode)

    @classmethod
    def _add(cls, segmentationNode, volumeNode) -> "ProstateSegment":
        preset = json.loads(_PRESET.read_text(encoding="utf-8"))
        segmentation = segmentationNode.GetSegmentation()
        if segmentation.GetNumberOfSegments() == 0:
            segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
            putBeside(segmentationNode, volumeNode)
        segmentId = segmentation.GenerateUniqueSegmentID(preset["id"])
        names = {segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())}
        name, number = preset["name"], 2
        colour = [channel / 255 for channel in preset["color_rgb"]]
        while name in names:
            name, number = f"{preset['name']} {number}", number + 1
            # Both are shown, over each other.
            colour = [colour[2], colour[0], colour[1]]
        segmentId = segmentation.AddEmptySegment(segmentId, name, colour)
        segment = segmentation.GetSegment(segmentId)
        segment.SetTerminology(preset["terminology"])
        segment.SetNameAutoGenerated(False)
        segment.SetColorAutoGenerated(False)
        segment.SetTag(AUTOMATIC_TAG, "")
        return cls(segmentationNode, segmentId, volumeNode)

    @property
    def segmentationNode(self):
        """None once it was removed from the scene."""
        return slicer.mrmlScene.GetNodeByID(self._segmentationId)

    @property
    def volumeNode(self):
        """None once it was removed from the scene."""
        return slicer.mrmlScene.GetNodeByID(self._volumeId)

    @property
    def exists(self) -> bool:
        """Whether segmentation, segment and volume are all there."""
        node = self.segmentationNode
        return (
            node is not None
            and self.volumeNode is not None
            and node.GetSegmentation().GetSegment(self.segmentId) is not None
        )

    def isIn(self, segmentationNode, segmentId: str) -> bool:
        """Whether it is this segment of this segmentation."""
        return (segmentationNode.GetID(), segmentId) == (self._segmentationId, self.segmentId)

    @property
    def name(self) -> str:
        return self._segment().GetName()

    def problem(self) -> str | None:
        """Why the mask cannot be read, in a sentence; None if it can."""
        if not self.exists:
            return _("The mask or its scan is not in the scene any more.")
        return readingProblem(self.segmentationNode, self.volumeNode)

    def read(self) -> sitk.Image:
        """The mask, uint8 of 0 and 1, on the volume's grid as `volumeNodes.imageFromVolume` has it."""
        mask = sitk.GetImageFromArray(self._voxels())
        placeOnGrid(mask, self.volumeNode)
        return mask

    def write(self, mask: sitk.Image, model: str | None = None) -> None:
        """Replaces the mask; other segments stay as they are. From now on it counts as not edited.

        Args:
            mask: 0 and 1, on the volume's grid.
            model: what the mask was made by; None leaves what is known.
        """
        voxels = sitk.GetArrayFromImage(mask).astype(np.uint8)
        node = self.segmentationNode
        hadSurface = node.GetSegmentation().ContainsRepresentation(_SURFACE)
        with _noLeftovers():
            slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, node, self.segmentId, self.volumeNode)
        if hadSurface:
            node.CreateClosedSurfaceRepresentation()
        self._segment().SetTag(AUTOMATIC_TAG, _checksum(voxels))
        if model is not None:
            self._segment().SetTag(MODEL_TAG, model)

    def isEdited(self, mask: sitk.Image | None = None) -> bool:
        """Whether the mask differs from the one that the module wrote; False where it wrote none.

        Args:
            mask: as `read` has just returned it, which takes Slicer a third of a second for a large scan.
        """
        voxels = self._voxels() if mask is None else sitk.GetArrayViewFromImage(mask)
        return _tag(self._segment(), AUTOMATIC_TAG) not in (None, "", _checksum(voxels))

    def show(self, in3D: bool) -> None:
        """Makes the segment visible in slices, and in 3D or not, and brings the slice views to its middle."""
        node = self.segmentationNode
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetVisibility(True)
        display.SetSegmentVisibility(self.segmentId, True)
        self.showIn3D(in3D)
        self.goToMiddle()

    def goToMiddle(self) -> None:
        """Brings the slice views to the segment's middle."""
        centre = self.segmentationNode.GetSegmentCenterRAS(self.segmentId)
        if centre is not None:
            _jumpTo(centre)

    def goToBase(self) -> None:
        """Brings the slice views to the middle of the gland's highest slice."""
        self._goToEnd(0)

    def goToApex(self) -> None:
        """Brings the slice views to the middle of the gland's lowest slice."""
        self._goToEnd(1)

    def _goToEnd(self, number: int) -> None:
        ends = ends_mm(self.read())
        if ends is not None:
            x, y, z = ends[number]
            world = [0.0, 0.0, 0.0]
            self.volumeNode.TransformPointToWorld([-x, -y, z], world)
            _jumpTo(world)

    def showIn3D(self, wanted: bool) -> None:
        """Shows or hides the segment's surface in 3D."""
        node = self.segmentationNode
        node.GetDisplayNode().SetSegmentVisibility3D(self.segmentId, wanted)
        if wanted:
            node.CreateClosedSurfaceRepresentation()

    def __eq__(self, other) -> bool:
        return isinstance(other, ProstateSegment) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str, str]:
        return self._segmentationId, self.segmentId, self._volumeId

    def _segment(self):
        return self.segmentationNode.GetSegmentation().GetSegment(self.segmentId)

    def _voxels(self) -> np.ndarray:
        """(k, j, i), uint8."""
        with _noLeftovers(), _asLabelmap(self.segmentationNode, self.segmentId, self.volumeNode) as node:
            array = slicer.util.arrayFromSegmentBinaryLabelmap(node, self.segmentId, self.volumeNode)
        return (array != 0).astype(np.uint8)


def addSegmentation(volumeNode):
    """A new segmentation node for a volume, under the volume's transform."""
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode",
        slicer.mrmlScene.GenerateUniqueName(_("{scan} segmentation").format(scan=volumeNode.GetName())),
    )
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    putBeside(node, volumeNode)
    return node


_LABELMAP, _SURFACE = "Binary labelmap", "Closed surface"


@contextmanager
def _asLabelmap(segmentationNode, segmentId: str, volumeNode):
    """The segmentation, or where it is drawn otherwise, as contours of a treatment plan are, a copy of the segment for
    the time being: reading would leave label maps in the user's own, and on whatever grid that has."""
    segmentation = segmentationNode.GetSegmentation()
    if segmentation.GetSourceRepresentationName() == _LABELMAP:
        yield segmentationNode
        return
    copy = slicer.vtkMRMLSegmentationNode()
    # Before it is in the scene: lists look at that only then.
    copy.SetHideFromEditors(True)
    slicer.mrmlScene.AddNode(copy)
    try:
        copy.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        copy.SetAndObserveTransformNodeID(segmentationNode.GetTransformNodeID())
        copy.GetSegmentation().SetSourceRepresentationName(segmentation.GetSourceRepresentationName())
        if not copy.GetSegmentation().CopySegmentFromSegmentation(segmentation, segmentId):
            raise RuntimeError("Copying of segment failed.")
        yield copy
    finally:
        slicer.mrmlScene.RemoveNode(copy)


@contextmanager
def _noLeftovers():
    """Removes the display nodes that slicer.util leaves behind with each temporary label map."""
    kind = "vtkMRMLLabelMapVolumeDisplayNode"
    before = {node.GetID() for node in slicer.util.getNodesByClass(kind)}
    try:
        yield
    finally:
        for node in slicer.util.getNodesByClass(kind):
            if node.GetID() not in before:
                slicer.mrmlScene.RemoveNode(node)


def _jumpTo(positionRas) -> None:
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *positionRas, slicer.vtkMRMLSliceNode.OffsetJumpSlice)


def _tag(segment, name: str) -> str | None:
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else None


def _checksum(voxels: np.ndarray) -> str:
    return f"{zlib.crc32(np.packbits(voxels)):08x}"
