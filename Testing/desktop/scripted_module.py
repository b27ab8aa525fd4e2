"""`slicer.ScriptedLoadableModule`: the base classes of a module's four classes."""

from __future__ import annotations

import importlib
import os
import unittest

import slicer
from PySide6 import QtCore, QtWidgets

from desktop.mrml_widgets import qMRMLWidget
from desktop.pythonqt import unwrap


class ScriptedLoadableModule:
    """Describes a module to the application."""

    def __init__(self, parent):
        self.parent = parent
        self.moduleName = self.__class__.__name__
        parent.title, parent.categories, parent.dependencies, parent.contributors = "", [], [], []
        parent.helpText = parent.acknowledgementText = ""
        if not hasattr(slicer, "selfTests"):
            slicer.selfTests = {}
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, name):
        return os.path.join(os.path.dirname(self.parent.path), "Resources", name)

    def runTest(self, msec=100, **keywords):
        module = importlib.import_module(self.__module__)
        test = getattr(module, f"{self.moduleName}Test")()
        test.messageDelay = msec
        test.runTest(**keywords)


class ScriptedLoadableModuleWidget:
    """A module's panel. With a parent, as the application has it, it is set up by `setup`; without one by itself."""

    def __init__(self, parent=None):
        self.moduleName = self.__class__.__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        if parent is None:
            self.parent = slicer.qMRMLWidget()
            QtWidgets.QVBoxLayout(unwrap(self.parent))
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()

    def resourcePath(self, name):
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", name)

    def onReload(self):
        """Reads the module's file anew and makes a new panel where the old one stays, hidden."""
        module = importlib.reload(importlib.import_module(self.moduleName))
        for child in unwrap(self.parent).children():
            if hasattr(child, "hide"):
                child.hide()
        self.cleanup()
        self.successor = getattr(module, f"{self.moduleName}Widget")(self.parent)
        self.successor.setup()

    def setup(self):
        pass

    def cleanup(self):
        pass

    def enter(self):
        pass

    def exit(self):
        pass


class ScriptedLoadableModuleLogic:
    """A module's logic, with a parameter node of its own in the scene."""

    def __init__(self, parent=None):
        self.moduleName = self.__class__.__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is not None:
            if node.GetAttribute("ModuleName") != self.moduleName:
                node.SetAttribute("ModuleName", self.moduleName)
            return node
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def createParameterNode(self):
        node = slicer.vtkMRMLScriptedModuleNode()
        node.SetSingletonTag(self.moduleName)
        node.SetModuleName(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetNodeReferenceID("dummy", None)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A module's self test."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.messageDelay = 0

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        slicer.util.showStatusMessage(message)

    def runTest(self):
        pass


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """What the application gives to a module's panel: a widget with a vertical layout that knows whether it is open."""

    def __init__(self):
        super().__init__()
        QtWidgets.QVBoxLayout(self)
        self.entered = False

    isEntered = QtCore.Property(bool, lambda self: self.entered)
