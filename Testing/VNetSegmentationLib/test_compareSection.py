"""A mask beside another one."""

from __future__ import annotations

import numpy as np


def test_the_mask_is_compared_with_what_it_was_before_correction(segmented, desktop):
    from vnet_segmentation.images.metrics import compare
    from VNetSegmentationLib.prostateSegment import ProstateSegment

    assert not segmented.ui.compareButton.enabled
    corrected = segmented.paint()
    segmented.segment()
    segmented.ui.compareCollapsibleButton.collapsed = False
    segmented.ui.referenceSegmentationSelector.setCurrentNode(segmented.segmentation)
    combo = segmented.ui.referenceSegmentComboBox
    # The current segment, Prostate 2, is not offered.
    assert [combo.itemText(i) for i in range(combo.count)] == ["Prostate"]
    desktop.click(segmented.ui.compareButton)
    volume = segmented.ui.inputVolumeSelector.currentNode()
    masks = [ProstateSegment(segmented.segmentation, i, volume).read() for i in reversed(segmented.segment_ids)]
    expected = compare(*masks).whole
    assert 0.5 < expected.dice < 1
    assert f"Dice {expected.dice:.3f}" in segmented.ui.comparisonLabel.text
    assert f"HD95 {expected.hausdorff95_mm:.1f} mm" in segmented.ui.comparisonLabel.text
    np.testing.assert_array_equal(segmented.voxels("Prostate"), corrected)
