"""Segments a synthetic scan, from volume node to segment, with the bundled model."""

import unittest

from vnet_segmentation.metrics import dice
from vnet_segmentation.phantom import PhantomGrid, make_phantom
from VNetSegmentationLib.dependencies import REQUIREMENTS, installationAdvice, missingPackages
from VNetSegmentationLib.prostateSegment import ProstateSegment
from VNetSegmentationLib.volumeNodes import addVolume

_LEAST_DICE = 0.8
"""The bundled model has 0.92 on this phantom; what lies below is no rounding of another processor."""


def segmentPhantom(logic) -> float:
    """Adds a phantom scan to the scene, segments it and compares it with its known truth; returns the Dice coefficient.

    Raises:
        AssertionError: it is too low.
        unittest.SkipTest: a package is missing, as on the computers that build Slicer's extensions.
    """
    missing = missingPackages(REQUIREMENTS)
    if missing:
        raise unittest.SkipTest(installationAdvice(missing))
    scan, truth = make_phantom(5, PhantomGrid(size=(128, 128, 24), spacing_mm=(1.0, 1.0, 3.3)))
    volumeNode = addVolume(scan, "VNetSegmentation self test", isScan=True)
    segmentationNode, report = logic.segment(volumeNode)
    overlap = dice(ProstateSegment.find(segmentationNode, volumeNode).read(), truth)
    assert overlap >= _LEAST_DICE, f"Dice {overlap:.3f} on the synthetic scan, {report}"
    return overlap
