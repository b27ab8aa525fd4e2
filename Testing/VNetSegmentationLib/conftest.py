"""Volumes of a scene: small, oblique and anisotropic, as real scans are."""

from __future__ import annotations

import numpy as np
import pytest

SHAPE_KJI = (10, 20, 30)


@pytest.fixture
def add_volume(desktop):
    """Function that adds a scalar volume node, oblique and anisotropic, with noise or the given (k, j, i) voxels."""
    import slicer
    import vtk

    def add(name: str = "T2 axial", voxels: np.ndarray | None = None, spacing_mm=(0.6, 0.6, 3.0), tilt_degrees=20.0):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        if voxels is None:
            voxels = np.random.default_rng(0).integers(0, 500, SHAPE_KJI).astype(np.int16)
        transform = vtk.vtkTransform()
        transform.Translate(-31.7, 12.25, 103.1)
        transform.RotateX(tilt_degrees)
        transform.RotateZ(tilt_degrees / 2)
        transform.Scale(*spacing_mm)
        node.SetIJKToRASMatrix(transform.GetMatrix())
        slicer.util.updateVolumeFromArray(node, voxels)
        node.CreateDefaultDisplayNodes()
        return node

    return add


@pytest.fixture
def add_transform(desktop):
    """Function that adds a linear transform node."""
    import slicer
    import vtk

    def add(degrees: float):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform = vtk.vtkTransform()
        transform.RotateY(degrees)
        transform.Translate(5.0, -3.0, 8.0)
        node.SetMatrixTransformToParent(transform.GetMatrix())
        return node

    return add


@pytest.fixture
def ball():
    """Function that makes a ball: uint8 (k, j, i), 1 within so many voxels of a centre."""

    def make(centre=(5, 10, 15), radius: float = 4.0, shape=SHAPE_KJI) -> np.ndarray:
        k, j, i = np.ogrid[tuple(slice(0, n) for n in shape)]
        return ((k - centre[0]) ** 2 + (j - centre[1]) ** 2 + (i - centre[2]) ** 2 <= radius**2).astype(np.uint8)

    return make
