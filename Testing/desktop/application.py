"""The application: `slicer.app`, `slicer.modules`, the scene, and the modules that only a desktop has."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from desktop import ctk_widgets, mrml_widgets, parameter_nodes, scripted_module
from desktop.dialogs import QFileDialog
from desktop.pythonqt import QtClass, Wrapper, qt_class, wrap

_SLICE_VIEWS = (("Red", "Axial", "R"), ("Yellow", "Sagittal", "Y"), ("Green", "Coronal", "G"))

_LOGICS = {
    "volumes": "vtkSlicerVolumesLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "plots": "vtkSlicerPlotsLogic",
    "terminologies": "vtkSlicerTerminologiesModuleLogic",
}


class _Module:
    """`slicer.modules.NAME`."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def logic(self) -> Any:
        return self._logic


class Application:
    """`slicer.app`."""

    def __init__(self) -> None:
        self.qt_application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        self.qt_application.setOrganizationName("NA-MIC")
        self.qt_application.setApplicationName("Slicer")
        # Kept alive here: the modules' logics point to it without owning it.
        self.application_logic: Any = None
        self.majorVersion, self.minorVersion, self.revision = 5, 13, "0"
        self.aboutToQuit = wrap(self.qt_application).aboutToQuit

    def processEvents(self) -> None:
        self.qt_application.processEvents()

    def startupEnvironment(self) -> Any:
        return QtCore.QProcessEnvironment.systemEnvironment()

    def testingEnabled(self) -> bool:
        return True

    def layoutManager(self) -> Any:
        """Knows the views by name; there are none behind the names. None without a main window."""
        if slicer.util.mainWindow() is None:
            return None
        return types.SimpleNamespace(
            sliceViewNames=lambda: tuple(name for name, *_ in _SLICE_VIEWS),
            mrmlSliceLogics=vtk.vtkCollection,
            resetThreeDViews=lambda: None,
        )

    def userSettings(self) -> Wrapper:
        return wrap(QtCore.QSettings())

    settings = userSettings


def install() -> None:
    """Puts the stand-in in place, once in a process."""
    if hasattr(slicer, "app"):
        return
    slicer.app = Application()
    _install_scene()
    from desktop import util

    util.install()
    _install_module("qt", __getattr__=qt_class, QFileDialog=QFileDialog)
    _install_module("ctk", **{name: QtClass(cls) for name, cls in vars(ctk_widgets).items() if name.startswith("ctk")})
    for name in ("qMRMLWidget", "qMRMLNodeComboBox", "qMRMLSegmentEditorWidget"):
        setattr(slicer, name, QtClass(getattr(mrml_widgets, name)))
    translation = _install_module("slicer.i18n", tr=lambda text: text, translate=lambda context, text: text)
    slicer.i18n = translation
    _install_module("slicer.ScriptedLoadableModule", **_public(scripted_module))
    _install_module("slicer.parameterNodeWrapper", **_public(parameter_nodes))


def _install_scene() -> None:
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    slicer.app.application_logic = logic
    slicer.mrmlScene = scene
    slicer.modules = types.SimpleNamespace()
    colours = slicer.vtkMRMLColorLogic()
    colours.SetMRMLScene(scene)
    logic.SetColorLogic(colours) if hasattr(logic, "SetColorLogic") else None
    for name, class_name in _LOGICS.items():
        module_logic = getattr(slicer, class_name)()
        module_logic.SetMRMLScene(scene)
        module_logic.SetMRMLApplicationLogic(logic)
        setattr(slicer.modules, name, _Module(module_logic))
    add_slice_nodes()
    scene.AddObserver(scene.EndCloseEvent, lambda *_: add_slice_nodes())


def add_slice_nodes() -> None:
    """The views' nodes, as the layout makes them; a closed scene gets them anew."""
    scene = slicer.mrmlScene
    for name, orientation, label in _SLICE_VIEWS:
        if scene.GetNodeByID(f"vtkMRMLSliceNode{name}") is not None:
            continue
        node = slicer.vtkMRMLSliceNode()
        node.SetMappedInLayout(1)
        node.SetName(name)
        node.SetLayoutName(name)
        node.SetLayoutLabel(label)
        node.SetSingletonTag(name)
        scene.AddNode(node)
        getattr(node, f"SetOrientationTo{orientation}", lambda: None)()
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(name)
        composite.SetSingletonTag(name)
        scene.AddNode(composite)


def _install_module(name: str, **members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module
    return module


def _public(module: types.ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}
