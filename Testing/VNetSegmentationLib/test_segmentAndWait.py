"""Segmenting from a script."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from desktop.panel_user import overlap


def test_a_script_waits_for_the_node_and_the_report(desktop, add_scan, phantom):
    import slicer

    import VNetSegmentation

    volume = add_scan()
    segmentation, report = VNetSegmentation.VNetSegmentationLogic().segment(volume)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "Prostate", volume)
    assert overlap(mask, sitk.GetArrayFromImage(phantom[1])) > 0.75
    assert report["volume_ml"] == pytest.approx(np.count_nonzero(mask) * 3.3 / 1000, abs=0.01)
    again, lower = VNetSegmentation.VNetSegmentationLogic().segment(volume, segmentation, device="cpu", threshold=0.2)
    assert again is segmentation
    assert lower["volume_ml"] > report["volume_ml"]
    VNetSegmentation.VNetSegmentationLogic().client.stop()


def test_a_script_gets_an_exception_with_the_sentence(desktop, add_scan):
    import VNetSegmentation
    from vnet_segmentation.errors import ExitCode, UserError

    logic = VNetSegmentation.VNetSegmentationLogic()
    with pytest.raises(UserError, match="Load an MR volume"):
        logic.segment(None)
    with pytest.raises(UserError, match="no model missing") as caught:
        logic.segment(add_scan(), model="missing")
    assert caught.value.exit_code == ExitCode.BAD_MODEL
    logic.client.stop()
