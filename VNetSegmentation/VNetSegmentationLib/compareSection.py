"""The mask against another one of the same scan."""

import slicer
from slicer.i18n import tr as _

from vnet_segmentation.images.metrics import compare
from VNetSegmentationLib import reportText
from VNetSegmentationLib.prostateSegment import ProstateSegment
from VNetSegmentationLib.segmentChoice import SegmentChoice
from VNetSegmentationLib.wrappedText import showWrapped


class CompareSection:
    """Dice and surface distances between the current segment and one of a reference segmentation."""

    def __init__(self, ui):
        self._ui = ui
        self._segment = None
        self._reference = None
        self._choice = SegmentChoice(ui.referenceSegmentComboBox)
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
        self._choice.offer(
            referenceNode, lambda segmentId: self._segment is None or not self._segment.isIn(referenceNode, segmentId)
        )
        self._ui.compareButton.enabled = not self._choice.isEmpty

    def _compare(self) -> None:
        if not self._segment.exists:
            return
        reference = ProstateSegment(self._reference, self._choice.segmentId, self._segment.volumeNode)
        problem = self._segment.problem() or reference.problem()
        if problem:
            showWrapped(self._ui.comparisonLabel, problem)
            return
        with slicer.util.tryWithErrorDisplay(_("The masks could not be compared."), waitCursor=True):
            text = reportText.comparisonText(compare(self._segment.read(), reference.read()))
            showWrapped(self._ui.comparisonLabel, text)
