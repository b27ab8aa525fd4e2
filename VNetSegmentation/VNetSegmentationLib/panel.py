"""The module's panel: its tabs, what the scene remembers of them, and what happens when the scene goes."""

import slicer
import vtk
from slicer.util import VTKObservationMixin

from VNetSegmentationLib.batchTab import BatchTab
from VNetSegmentationLib.panelWorker import PanelWorker
from VNetSegmentationLib.parameters import PanelParameters
from VNetSegmentationLib.segmentTab import SegmentTab
from VNetSegmentationLib.timers import singleShotTimer
from VNetSegmentationLib.trainTab import TrainTab


class Panel(VTKObservationMixin):
    """Connects the tabs with the scene.

    Args:
        ui: the panel's widgets.
        logic: gives the parameter node and the worker's client.
        installer: see `dependencyInstaller.DependencyInstaller`.
        requirements: path of the file that lists what the worker needs.
    """

    def __init__(self, ui, logic, installer, requirements: str):
        VTKObservationMixin.__init__(self)
        self._ui = ui
        self._logic = logic
        self._parameters = None
        self._guiTag = None
        self._tabsHaveParameters = False  # not while a scene is closed or read
        self._segmentTab = self._batchTab = self._trainTab = None
        # Texts that were wrapped before their tab had its width.
        self._tabShown = singleShotTimer(0, self._update)
        ui.tabs.connect("currentChanged(int)", lambda index: self._tabShown.start())
        self.worker = PanelWorker(ui, logic.client, installer, requirements, self._update)
        self._segmentTab = SegmentTab(ui, self.worker)
        self._batchTab = BatchTab(
            ui,
            self.worker,
            lambda: self._parameters.threshold if self._parameters else 0.5,
            self._segmentTab.choose,
        )
        self._trainTab = TrainTab(ui, self.worker, logic.trainingClient)
        self.worker.onDescription = self._trainTab.show
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._onSceneStart)
        self.addObserver(scene, scene.StartImportEvent, self._onSceneStart)
        self.addObserver(scene, scene.EndCloseEvent, self._onSceneEndClose)
        # After both, once the widgets have all nodes: a scene that is loaded is closed and read in one go.
        self.addObserver(scene, scene.EndBatchProcessEvent, self._onSceneEnd)
        self.addObserver(scene, scene.NodeAddedEvent, self._onNodeAdded)
        self.addObserver(scene, scene.NodeRemovedEvent, self._onNodeRemoved)
        self._takeParameters()

    def enter(self) -> None:
        """The user opened the panel."""
        self._segmentTab.enter()
        self.worker.warmUp()

    def exit(self) -> None:
        """The user opened another module; what runs goes on."""
        self._segmentTab.exit()

    def cleanup(self) -> None:
        """The module is unloaded, or Slicer ends."""
        self.removeObservers()
        self._tabShown.stop()
        self._giveParameters(None)
        # The wrapper itself is kept: Slicer has the node call it as long as both live.
        self._parameters.disconnectGui(self._guiTag)
        self._segmentTab.cleanup()
        self._batchTab.cleanup()
        self._trainTab.cleanup()
        self.worker.stop()

    def _takeParameters(self) -> None:
        node = self._logic.getParameterNode()
        # One as long as the node lives, which outlives a closed scene: Slicer never lets go of a wrapper before.
        if self._parameters is None or self._parameters.parameterNode is not node:
            if self._parameters is not None:
                self.removeObserver(self._parameters, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
                self._parameters.disconnectGui(self._guiTag)
            self._parameters = PanelParameters(node)
            # Not connectGui, which gives no tag in many versions of Slicer.
            self._guiTag = self._parameters.connectParametersToGui(_parameterWidgets(self._ui))
            self.addObserver(self._parameters, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
        else:
            # The widgets take what they did not have while the scene was read.
            self._parameters.Modified()
        self._giveParameters(self._parameters)

    def _giveParameters(self, parameters) -> None:
        self._tabsHaveParameters = parameters is not None
        for tab in (self._segmentTab, self._trainTab):
            tab.setParameters(parameters)

    def _onParametersModified(self, caller=None, event=None) -> None:
        if self._tabsHaveParameters:
            self._segmentTab.update()
            self._trainTab.update()

    def _onSceneStart(self, caller, event) -> None:
        self._muteLists(True)
        self._giveParameters(None)

    def _onSceneEndClose(self, caller, event) -> None:
        self._segmentTab.sceneClosed()

    def _onSceneEnd(self, caller, event) -> None:
        if not self._tabsHaveParameters:
            self._muteLists(False)
            self._takeParameters()

    def _muteLists(self, muted: bool) -> None:
        """A list that loses its node would put None in the place of what the scene that is being read has chosen."""
        ui = self._ui
        for widget in (
            ui.inputVolumeSelector,
            ui.outputSegmentationSelector,
            ui.referenceSegmentationSelector,
            ui.pairVolumeSelector,
            ui.pairSegmentationSelector,
        ):
            widget.blockSignals(muted)

    def _onNodeAdded(self, caller, event) -> None:
        self._segmentTab.nodeAdded()

    def _onNodeRemoved(self, caller, event) -> None:
        self._onParametersModified()

    def _update(self) -> None:
        # The tabs say something of their own while they are being made.
        if self._trainTab is not None:
            for tab in (self._segmentTab, self._batchTab, self._trainTab):
                tab.update()


def _parameterWidgets(ui) -> dict:
    """The widgets that the form binds to a parameter, by its name."""
    bound = {widget.property("SlicerParameterName"): widget for widget in vars(ui).values()}
    return {name: widget for name, widget in bound.items() if name}
