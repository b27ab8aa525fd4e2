"""What a user does in the panel, for tests."""

from __future__ import annotations

import os
import time

import numpy as np


class PanelUser:
    """What a user does in the panel."""

    def __init__(self, desktop):
        self.desktop = desktop
        self.widget = desktop.open_module()
        self.ui = self.widget.ui

    @property
    def idle(self) -> bool:
        return self.ui.cancelButton.isHidden()

    def choose(self, volume) -> None:
        self.ui.inputVolumeSelector.setCurrentNode(volume)

    def start(self) -> None:
        self.desktop.click(self.ui.segmentButton)
        assert not self.idle

    def segment(self, volume=None) -> None:
        if volume is not None:
            self.choose(volume)
        self.desktop.click(self.ui.segmentButton)
        self.desktop.wait_until(lambda: self.idle)

    @property
    def segmentation(self):
        return self.ui.outputSegmentationSelector.currentNode()

    @property
    def segment_ids(self) -> list[str]:
        return list(self.segmentation.GetSegmentation().GetSegmentIDs())

    def voxels(self, segment_id: str = "Prostate") -> np.ndarray:
        import slicer

        volume = self.ui.inputVolumeSelector.currentNode()
        return slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, segment_id, volume)

    def paint(self, segment_id: str = "Prostate") -> np.ndarray:
        """Changes the mask as an effect of the editor does, with a state for undo; returns the new voxels."""
        import slicer

        voxels = self.voxels(segment_id).copy()
        voxels[2, 55:75, 55:75] = 1 - voxels[2, 55:75, 55:75]
        self.ui.segmentEditorWidget.saveStateForUndo()
        volume = self.ui.inputVolumeSelector.currentNode()
        slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, self.segmentation, segment_id, volume)
        self.desktop.wait_until(lambda: not self.ui.thresholdSlider.enabled)
        return voxels


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient of two masks, 0 outside."""
    return 2 * np.count_nonzero((a != 0) & (b != 0)) / (np.count_nonzero(a) + np.count_nonzero(b))


def wait_for_end(pid: int) -> None:
    """Raises ProcessLookupError once the process is gone."""
    for _ in range(500):
        os.kill(pid, 0)
        time.sleep(0.01)
