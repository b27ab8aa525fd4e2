"""The mask against another one of the same scan."""

import slicer
from slicer.i18n import tr as _

from vnet_segmentation.metrics import compare
from VNetSegmentationLib import reportText
from VNetSegmentationLib.prostateSegment import ProstateSegment, segmentationProblem
from VNetSegmentationLib.settings import choose, chosen
from VNetSegmentationLib.wrappedText import showWrapped


class CompareSection:
    """Dice and surface distances between the current segment and one of a reference segmentation."""

    def __init__(self, ui):
        self._ui = ui
        self._segment = None
        self._reference = None
        self._offered = []
        ui.compareButton.connect("clicked()", self._compare)
        self.show(None)

    def show(self, segment: ProstateSegment | None) -> None:
        """Takes the segment to judge; None if there is none."""
        self._segment = segment
        self._ui.compareCollapsibleButton.enabled = segment is not None
        showWrapped(self._ui.comparisonLabel, "")

    def update(self, referenceNode) -> None:
        """Offers the segments of the reference, but not the current segment itself."""
        self._reference = referenceNode
        segmentation = referenceNode.GetSegmentation() if referenceNode else None
        offered = [
            (segmentation.GetSegment(segmentId).GetName(), segmentId)
            for segmentId in (segmentation.GetSegmentIDs() if segmentation else ())
            if self._segment is None or not self._segment.isIn(referenceNode, segmentId)
        ]
        comboBox = self._ui.referenceSegmentComboBox
        if offered != self._offered:
            before = chosen(comboBox)
            self._offered = offered
            comboBox.clear()
            for name, segmentId in offered:
                comboBox.addItem(name, segmentId)
            choose(comboBox, before)
        self._ui.compareButton.enabled = bool(offered)

    def _compare(self) -> None:
        if not self._segment.exists:
            return
        volume = self._segment.volumeNode
        problem = segmentationProblem(self._reference, volume)
        if problem:
            showWrapped(self._ui.comparisonLabel, problem)
            return
        reference = ProstateSegment(self._reference, chosen(self._ui.referenceSegmentComboBox), volume)
        with slicer.util.tryWithErrorDisplay(_("The masks could not be compared."), waitCursor=True):
            text = reportText.comparisonText(compare(self._segment.read(), reference.read()))
            showWrapped(self._ui.comparisonLabel, text)
