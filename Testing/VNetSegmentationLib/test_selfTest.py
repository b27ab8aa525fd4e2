"""The test that Slicer itself runs."""

from __future__ import annotations

import pytest


def test_the_self_test_says_what_is_missing(desktop, monkeypatch):
    import unittest

    import slicer

    import VNetSegmentation
    from VNetSegmentationLib import selfTest

    monkeypatch.setattr(selfTest, "missingPackages", lambda path: ["torch"])
    with pytest.raises(unittest.SkipTest, match="torch"):
        VNetSegmentation.VNetSegmentationTest().runTest()
    # Reload & Test, where a person looks.
    told = []
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: False)
    monkeypatch.setattr(slicer.util, "showStatusMessage", lambda message, duration=0: told.append(message))
    VNetSegmentation.VNetSegmentationTest().runTest()
    assert "torch" in told[-1]


def test_the_self_test_segments(desktop):
    import slicer

    import VNetSegmentation

    scene = slicer.mrmlScene
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)  # made when it is first needed
    before = [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())]
    VNetSegmentation.VNetSegmentationTest().runTest()
    assert [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())] == before
    VNetSegmentation.VNetSegmentationLogic().client.stop()
