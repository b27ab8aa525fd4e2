"""What `slicer.util` has with a desktop. Dialogs are recorded and answered, never shown."""

from __future__ import annotations

import contextlib
import os
import traceback
from typing import Any

import slicer
from PySide6 import QtWidgets

from desktop.dialogs import dialogs, show
from desktop.pythonqt import wrap
from desktop.ui_loader import load_ui

module_paths: dict[str, str] = {}


@contextlib.contextmanager
def _try_with_error_display(message: Any = None, show: bool = True, waitCursor: bool = False):
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        dialogs.append(("errorDisplay", f"{message or 'Error'}\n\n{error}"))
        raise


def _load_volume(path: str, properties: Any = None) -> Any:
    """Slicer reads a single file by this storage node, and a DICOM series by any of its slices."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", os.path.basename(path).split(".")[0])
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    slicer.mrmlScene.AddNode(storage)
    storage.SetFileName(path)
    storage.SetSingleFile(int((properties or {}).get("singleFile", False)))
    if not storage.ReadData(node):
        slicer.mrmlScene.RemoveNode(node)
        raise RuntimeError(f"Failed to load node from file: {path}")
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    return node


def _load_segmentation(path: str, properties: Any = None) -> Any:
    """A .seg.nrrd with its segments, or any other mask as one."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", os.path.basename(path).split(".")[0])
    storage = slicer.vtkMRMLSegmentationStorageNode()
    slicer.mrmlScene.AddNode(storage)
    storage.SetFileName(path)
    if not storage.ReadData(node):
        slicer.mrmlScene.RemoveNode(node)
        raise RuntimeError(f"Failed to load node from file: {path}")
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    return node


def install() -> None:
    """Adds them to `slicer.util`."""
    util = slicer.util
    util.loadUI = load_ui
    for kind in ("errorDisplay", "warningDisplay", "infoDisplay", "confirmYesNoDisplay", "confirmOkCancelDisplay"):
        setattr(util, kind, show(kind))
    util.showStatusMessage = lambda text, duration=0: None
    util.tryWithErrorDisplay = _try_with_error_display
    window = wrap(QtWidgets.QMainWindow())
    util.mainWindow = lambda verbose=True: window
    util.loadVolume, util.loadSegmentation = _load_volume, _load_segmentation
    util.resetSliceViews = lambda *_: None
    util.modulePath = lambda name: module_paths[name]
    # The environment that the application was started in; here that is the tests' own.
    util.startupEnvironment = lambda: dict(os.environ)
