"""Which segment of a segmentation is meant."""

from collections.abc import Callable

from VNetSegmentationLib.settings import choose, chosen


class SegmentChoice:
    """A combo box with the segments of a segmentation node.

    Args:
        comboBox: QComboBox.
    """

    def __init__(self, comboBox):
        self._comboBox = comboBox
        self._offered = []

    @property
    def isEmpty(self) -> bool:
        return not self._offered

    @property
    def segmentId(self) -> str | None:
        """Of the chosen segment; None if there is none."""
        return chosen(self._comboBox)

    def offer(self, segmentationNode, isOffered: Callable[[str], bool] = lambda segmentId: True) -> None:
        """Offers the segments of a node, which may be None, and keeps the choice if it is among them.

        Args:
            isOffered: gets a segment's ID.
        """
        segmentation = segmentationNode.GetSegmentation() if segmentationNode else None
        offered = [
            (segmentation.GetSegment(segmentId).GetName(), segmentId)
            for segmentId in (segmentation.GetSegmentIDs() if segmentation else ())
            if isOffered(segmentId)
        ]
        if offered != self._offered:
            before = self.segmentId
            self._offered = offered
            self._comboBox.clear()
            for name, segmentId in offered:
                self._comboBox.addItem(name, segmentId)
            choose(self._comboBox, before)
