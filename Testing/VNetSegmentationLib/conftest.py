"""Volumes of a scene, small, oblique and anisotropic, as real scans are; and packages to install."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from desktop.panel_user import PanelUser

from vnet_segmentation.images.phantom import PhantomGrid, make_phantom

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


@pytest.fixture
def site_packages(tmp_path, monkeypatch) -> Path:
    """Folder that is on this Python's path and that pip installs into."""
    folder = tmp_path / "site packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PIP_TARGET", str(folder))
    # What is found elsewhere, such as a torch, is no help to this test's packages; nor is a cache.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return folder


@pytest.fixture
def add_wheel(tmp_path):
    """Function that puts a wheel of a package with one module where pip finds it."""

    def add(name: str, version: str, module: str = "") -> None:
        folder = tmp_path / "wheels"
        folder.mkdir(exist_ok=True)
        import_name = name.replace("-", "_")
        info = f"{import_name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{import_name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{import_name}.py", module)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")

    return add


@pytest.fixture
def pretend_installed(site_packages):
    """Function that leaves a package's metadata in the site packages."""

    def pretend(name: str, version: str | None) -> None:
        info = site_packages / f"{name}-{version or 0}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {name}\n" + (f"Version: {version}\n" if version else ""))

    return pretend


@pytest.fixture
def install_pytorch_extension(site_packages):
    """Function that makes PyTorch's extension one that is installed."""
    return lambda: (site_packages / "PyTorchUtils.py").write_text("raise AssertionError('it is not to be imported')")


@pytest.fixture(scope="session")
def phantom():
    """A synthetic scan of a prostate and its truth."""
    return make_phantom(5, PhantomGrid(size=(128, 128, 24), spacing_mm=(1.0, 1.0, 3.3)))


@pytest.fixture
def add_scan(desktop, phantom):
    """Function that loads the phantom into the scene, from a file if a folder is given."""
    import slicer

    from VNetSegmentationLib.volumeNodes import addVolume

    def add(name: str = "t2_tse_tra", folder: Path | None = None):
        if folder is None:
            return addVolume(phantom[0], name, isScan=True)
        path = folder / f"{name}.nrrd"
        sitk.WriteImage(sitk.Cast(phantom[0], sitk.sitkInt16), str(path))
        return slicer.util.loadVolume(str(path))

    return add


@pytest.fixture
def panel(desktop):
    return PanelUser(desktop)


@pytest.fixture
def segmented(panel, add_scan):
    """A panel with a result."""
    panel.segment(add_scan())
    return panel
