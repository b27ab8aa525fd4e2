"""Segments a synthetic scan, from volume node to segment, with the bundled model."""

import unittest

import slicer

from vnet_segmentation.images.metrics import dice
from vnet_segmentation.images.phantom import PhantomGrid, make_phantom
from VNetSegmentationLib.dependencies import REQUIREMENTS, installationAdvice, missingPackages
from VNetSegmentationLib.prostateSegment import ProstateSegment
from VNetSegmentationLib.volumeNodes import addVolume

_LEAST_DICE = 0.8
"""The bundled model has 0.92 on this phantom; what lies below is no rounding of another processor."""


def segmentPhantom(logic) -> float:
    """Segments a phantom scan in the scene, compares it with its known truth and returns the Dice coefficient.

    The scene is left as it was.

    Raises:
        AssertionError: it is too low.
        unittest.SkipTest: a package is missing, as on the computers that build Slicer's extensions.
    """
    missing = missingPackages(REQUIREMENTS)
    if missing:
        raise unittest.SkipTest(installationAdvice(missing))
    scan, truth = make_phantom(5, PhantomGrid(size=(128, 128, 24), spacing_mm=(1.0, 1.0, 3.3)))
    made = [addVolume(scan, "VNetSegmentation self test", isScan=False)]
    try:
        segmentationNode, report = logic.segment(made[0])
        made.append(segmentationNode)
        overlap = dice(ProstateSegment.find(segmentationNode, made[0]).read(), truth)
    finally:
        for node in made:
            _remove(node)
    assert overlap >= _LEAST_DICE, f"Dice {overlap:.3f} on the synthetic scan, {report}"
    return overlap


def _remove(node) -> None:
    for number in reversed(range(node.GetNumberOfDisplayNodes())):
        slicer.mrmlScene.RemoveNode(node.GetNthDisplayNode(number))
    slicer.mrmlScene.RemoveNode(node)
