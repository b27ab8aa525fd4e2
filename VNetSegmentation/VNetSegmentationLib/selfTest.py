"""Segments a synthetic scan, from volume node to segment, with the bundled model."""

import unittest
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from vnet_segmentation.phantom import PhantomGrid, make_phantom
from VNetSegmentationLib.dependencies import installationAdvice, missingPackages
from VNetSegmentationLib.prostateSegment import ProstateSegment

_REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"

_LEAST_DICE = 0.8
"""The bundled model has 0.92 on this phantom; what lies below is no rounding of another processor."""


def segmentPhantom(logic) -> float:
    """Adds a phantom scan to the scene, segments it and compares it with its known truth; returns the Dice coefficient.

    Raises:
        AssertionError: it is too low.
        unittest.SkipTest: a package is missing, as on the computers that build Slicer's extensions.
    """
    missing = missingPackages(_REQUIREMENTS)
    if missing:
        raise unittest.SkipTest(installationAdvice(missing))
    scan, truth = make_phantom(5, PhantomGrid(size=(128, 128, 24), spacing_mm=(1.0, 1.0, 3.3)))
    volumeNode = addVolume(scan, "VNetSegmentation self test")
    segmentationNode, report = logic.segment(volumeNode)
    mask = sitk.GetArrayFromImage(ProstateSegment.find(segmentationNode, volumeNode).read())
    reference = sitk.GetArrayFromImage(truth)
    dice = 2 * np.count_nonzero(mask & reference) / (mask.sum() + reference.sum())
    assert dice >= _LEAST_DICE, f"Dice {dice:.3f} on the synthetic scan, {report}"
    return dice


def addVolume(image: sitk.Image, name: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    lpsToRas = np.diag((-1.0, -1.0, 1.0, 1.0))
    ijkToLps = np.eye(4)
    ijkToLps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    ijkToLps[:3, 3] = image.GetOrigin()
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy((lpsToRas @ ijkToLps).ravel().tolist())
    node.SetIJKToRASMatrix(matrix)
    slicer.util.updateVolumeFromArray(node, sitk.GetArrayFromImage(image))
    node.CreateDefaultDisplayNodes()
    return node
