"""The four classes by which 3D Slicer knows the module. What they do is in VNetSegmentationLib."""

import os
import sys
import unittest

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

_TUTORIAL = "https://github.com/VNetSegmentation/SlicerVNetSegmentation/blob/main/Docs/tutorial.md"


class VNetSegmentation(ScriptedLoadableModule):
    """What the module's list and its help show."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("V-Net Prostate Segmentation")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "Volumes"]
        parent.contributors = ["VNetSegmentation contributors"]
        parent.helpText = _(
            "Segments the prostate on T2-weighted MR with a V-Net that comes with the module: choose the volume, press "
            "<b>Segment prostate</b>, check the outline, correct it, save it. Nothing leaves your computer. "
            'Not for clinical use. <a href="{url}">Tutorial</a>'
        ).format(url=_TUTORIAL)
        parent.acknowledgementText = _(
            "Network: Milletari et al., V-Net, 3DV 2016. "
            "Training data: PROMISE12, Litjens et al., Medical Image Analysis 2014."
        )


class VNetSegmentationWidget(ScriptedLoadableModuleWidget):
    """The panel."""

    panel = None
    """None until the panel is set up, and for good if that failed."""

    def setup(self):
        from VNetSegmentationLib.dependencyInstaller import DependencyInstaller
        from VNetSegmentationLib.formWidgets import formWidgets
        from VNetSegmentationLib.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/VNetSegmentation.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = formWidgets(uiWidget)
        self.logic = VNetSegmentationLogic()
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.panel = Panel(self.ui, self.logic, DependencyInstaller(), self.resourcePath("requirements.txt"))
        # After a reload Slicer does not enter again. The parent of a panel that a script makes knows nothing of that.
        if getattr(self.parent, "isEntered", False):
            self.enter()

    def onReload(self):
        """Reload, for developers: the packages behind this file are read anew with it."""
        for name in list(sys.modules):
            if name.partition(".")[0] in ("VNetSegmentationLib", "vnet_segmentation"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def enter(self):
        if self.panel is not None:
            self.panel.enter()

    def exit(self):
        if self.panel is not None:
            self.panel.exit()

    def cleanup(self):
        if self.panel is not None:
            self.panel.cleanup()


class VNetSegmentationLogic(ScriptedLoadableModuleLogic):
    """For scripts in Slicer: `VNetSegmentationLogic().segment(volumeNode)`."""

    @property
    def client(self):
        """The worker's client. All logics of an application share one, and so one loaded model."""
        from VNetSegmentationLib.workerClient import sharedClient

        return sharedClient(os.path.dirname(os.path.abspath(__file__)))

    @property
    def trainingClient(self):
        """The client of a second worker process, for trainings: scans can be segmented meanwhile."""
        from VNetSegmentationLib.workerClient import sharedClient

        return sharedClient(os.path.dirname(os.path.abspath(__file__)), "training")

    def segment(self, volumeNode, segmentationNode=None, model=None, device="auto", threshold=0.5):
        """Segments the prostate and waits for the result.

        Args:
            volumeNode: `vtkMRMLScalarVolumeNode`, a T2-weighted MR scan.
            segmentationNode: gets the segment "Prostate"; its other segments stay. None for a new one.
            model: name or folder of a model; None for the bundled one.
            device: "auto", "cpu", "cuda", "cuda:1" or "mps".
            threshold: probability from which a voxel is prostate, above 0 and below 1.

        Returns:
            The segmentation node and the report, a dictionary; see Docs/reference.md.

        Raises:
            vnet_segmentation.errors.UserError: the volume cannot be segmented, or a package is missing; the message
                says what to do.
            RuntimeError: the worker process failed.
        """
        from VNetSegmentationLib.segmentAndWait import segmentAndWait

        return segmentAndWait(self.client, volumeNode, segmentationNode, model, device, threshold)


class VNetSegmentationTest(ScriptedLoadableModuleTest):
    """Segments a synthetic scan with the bundled model: Reload & Test, or Slicer's self tests, start it."""

    def runTest(self):
        from VNetSegmentationLib.selfTest import segmentPhantom

        self.delayDisplay(_("Segmenting a synthetic scan"))
        try:
            dice = segmentPhantom(VNetSegmentationLogic())
        except unittest.SkipTest as reason:
            # Reload & Test would show it as an error of the module.
            if slicer.app.testingEnabled():
                raise
            self.delayDisplay(str(reason))
            return
        self.delayDisplay(_("Test passed: Dice {dice:.2f}").format(dice=dice))
