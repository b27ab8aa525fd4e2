"""A scan and a mask in the slice views, which make room for the next ones. No Qt here."""

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from VNetSegmentationLib.prostateSegment import ProstateSegment
from VNetSegmentationLib.volumeNodes import addVolume


class ShownCase:
    """Shows one case at a time. One whose mask was edited meanwhile stays when the next one is shown.

    Args:
        title: of the nodes, before the case's name.
    """

    def __init__(self, title: str):
        self._title = title
        self._nodeIds = []
        self._segment = None

    def show(self, scan: sitk.Image, mask: sitk.Image | None, name: str) -> None:
        """Shows a scan, and a mask (uint8, 0 and 1, on the scan's grid) if there is one, instead of those before."""
        self._remove()
        title = _("{title}: {name}").format(title=self._title, name=name)
        volume = addVolume(scan, title, isScan=False)
        self._nodeIds.append(volume.GetID())
        if mask is not None:
            segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", title)
            self._nodeIds.append(segmentation.GetID())
            segmentation.CreateDefaultDisplayNodes()
            self._segment = ProstateSegment.prepare(segmentation, volume)
            self._segment.write(mask)
        slicer.util.setSliceViewerLayers(background=volume, fit=True)

    def _remove(self) -> None:
        nodes = [slicer.mrmlScene.GetNodeByID(nodeId) for nodeId in self._nodeIds]
        # Another node may have got the ID after the scene was closed.
        nodes = [node for node in nodes if node is not None and node.GetName().startswith(self._title)]
        isEdited = len(nodes) == 2 and self._segment is not None and self._segment.exists and self._segment.isEdited()
        if not isEdited:
            for node in nodes:
                slicer.mrmlScene.RemoveNode(node)
        self._nodeIds, self._segment = [], None
