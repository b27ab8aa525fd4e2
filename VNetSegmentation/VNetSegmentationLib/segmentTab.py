"""From a volume to a mask: the Segment tab's button, and what becomes of a click."""

import logging

import slicer
from slicer.i18n import tr as _

from vnet_segmentation.errors import UserError
from VNetSegmentationLib.compareSection import CompareSection
from VNetSegmentationLib.correctSection import CorrectSection
from VNetSegmentationLib.prostateSegment import ProstateSegment, segmentationProblem
from VNetSegmentationLib.resultSection import ResultSection
from VNetSegmentationLib.saveSection import SaveSection
from VNetSegmentationLib.segmentationRun import SegmentationRun
from VNetSegmentationLib.timers import singleShotTimer, startOnce
from VNetSegmentationLib.volumeNodes import addProbabilityVolume, isShown, newestVolume, volumeProblem
from VNetSegmentationLib.wrappedText import showWrapped

_FIRST_VOLUME_MS = 100
"""For a volume to get its voxels and its name after it was added to the scene."""

_SEGMENTS_MS = 30
"""Segments that come and go faster are looked at together, and not while a mask is being written."""

_NOTHING = (None, None, None)
"""No volume, no segmentation and no segment is shown."""


class SegmentTab:
    """Coordinates the sections of the tab.

    Args:
        ui: the panel's widgets.
        worker: see `panelWorker.PanelWorker`.
    """

    def __init__(self, ui, worker):
        self._ui = ui
        self._worker = worker
        self._parameters = None
        self._run = None
        self._isEntered = False
        self._result = None  # the last automatic one, while its segment is shown
        self._shown = _NOTHING
        self._scanId = None  # of the volume that was chosen last
        self._chosenIds = {}  # of the segmentation that was chosen last for a volume, by the volume's ID
        self._observed = None  # the segmentation node whose segments are followed, and the observers' tags
        self._segments = singleShotTimer(_SEGMENTS_MS, self.update)
        self._newestVolumeId = None
        self._firstVolume = singleShotTimer(_FIRST_VOLUME_MS, self._preselectFirstVolume)
        self._message = ""
        self._correct = CorrectSection(ui)
        self._resultSection = ResultSection(ui, self._correct.remember)
        self._compare = CompareSection(ui)
        self._save = SaveSection(ui)
        ui.segmentButton.connect("clicked()", self.segment)
        ui.cancelButton.connect("clicked()", self._cancel)
        ui.sampleDataButton.connect("clicked()", self._loadSample)
        ui.show3DCheckBox.connect("toggled(bool)", self._show3D)

    def enter(self) -> None:
        """The panel is shown."""
        self._isEntered = True
        self._correct.enter()
        self._resultSection.enter()
        self._preselectVolume()

    def nodeAdded(self) -> None:
        """A node came into the scene."""
        if self._parameters is not None and self._parameters.inputVolume is None:
            startOnce(self._firstVolume)

    def choose(self, volume, segmentation) -> None:
        """Takes a scan, and its mask or None, that were loaded elsewhere in the panel."""
        if self._parameters is not None and self._run is None:
            self._parameters.inputVolume = volume
            self._parameters.outputSegmentation = segmentation

    def exit(self) -> None:
        """The panel is left; a run goes on."""
        self._isEntered = False
        self._correct.exit()
        self._resultSection.exit()

    def cleanup(self) -> None:
        """The module is unloaded, or Slicer ends."""
        for timer in (self._segments, self._firstVolume):
            timer.stop()
        self._correct.cleanup()

    def sceneClosed(self) -> None:
        """The scene was closed and is empty."""
        self._result = None
        self._chosenIds = {}
        self._correct.sceneClosed()

    def setParameters(self, parameters) -> None:
        """Takes the panel's parameters; None while a scene is closed or read."""
        self._parameters = parameters
        self._resultSection.setParameters(parameters)
        if parameters is None:
            self._shown, self._scanId = _NOTHING, None
            self._observe(None)
            self._resultSection.close()
            self._compare.show(None)
            self._save.show(None)
            self._save.forgetScan()
            self._correct.edit(None, None)
            self._newestVolumeId = None
        elif parameters.inputVolume is not None:
            # The scene's own choice, which no volume that came with it replaces.
            newest = newestVolume(slicer.mrmlScene)
            self._newestVolumeId = newest and newest.GetID()
        self.update()

    def update(self) -> None:
        """The parameters, the scene or the worker's state changed."""
        self._followNodes()
        self._resultSection.followParameters()
        self._compare.update(self._parameters.referenceSegmentation if self._parameters else None)
        problem = self._problem()
        running = self._run is not None or self._worker.isInstalling
        ui = self._ui
        ui.segmentButton.enabled = problem is None and not running
        ui.segmentButton.toolTip = problem or _("Segments the prostate on the input volume.")
        ui.cancelButton.visible = ui.progressBar.visible = running
        for widget in (ui.inputVolumeSelector, ui.sampleDataButton, ui.outputSegmentationSelector):
            widget.enabled = not running
        if self._run is None:
            showWrapped(ui.statusLabel, problem or self._message)

    def segment(self) -> None:
        """Segments the chosen volume; installs what is missing first, if the user agrees."""
        self._message = ""
        self._ui.progressBar.setRange(0, 0)  # moves without saying how far, until the worker says it
        self._worker.whenReady(self._start, self._fail)

    def _problem(self) -> str | None:
        """Why the button cannot be pressed."""
        if self._parameters is None:
            return _("The scene is being closed or read.")
        if self._worker.busyWith:
            return self._worker.busyWith
        volume = self._parameters.inputVolume
        return volumeProblem(volume) or segmentationProblem(self._parameters.outputSegmentation, volume)

    def _start(self) -> None:
        # Between the click and now packages may have been installed, and the scene changed.
        if self._run is not None or self._problem() is not None:
            self.update()
            return
        parameters = self._parameters
        try:
            self._run = SegmentationRun(
                self._worker.client,
                parameters.inputVolume,
                parameters.outputSegmentation,
                self._worker.choice.model,
                self._worker.choice.device,
                parameters.threshold,
                parameters.smooth,
                self._correct.remember,
                self._showProgress,
                self._finish,
                self._fail,
                self._cancelled,
            )
        except UserError as error:
            self._fail(str(error), error.exit_code)
            return
        except Exception as error:
            # Nobody above would tell the user: this is called from Qt's event loop.
            logging.exception("The volume could not be handed over")
            self._fail(_("This volume cannot be used: {error}").format(error=error), None)
            return
        showWrapped(self._ui.statusLabel, _("Starting"))
        self._worker.setBusy(_("A scan is being segmented."))

    def _showProgress(self, fraction: float, sentence: str) -> None:
        self._ui.progressBar.setRange(0, 100)
        self._ui.progressBar.value = round(100 * fraction)
        showWrapped(self._ui.statusLabel, sentence)

    def _cancel(self) -> None:
        if self._run is not None:
            showWrapped(self._ui.statusLabel, _("Stopping"))
            self._run.cancel()
        else:
            self._worker.cancelInstallation()

    def _finish(self, result) -> None:
        self._run = None
        self._result = result
        # Whatever happens while it is shown, the next click is possible.
        self._worker.setBusy(None)
        if self._parameters is not None:
            self._show(result)
        empty = result.report["volume_ml"] == 0
        self._message = _("No prostate was found.") if empty else _("Done. Check the outline, correct it, save it.")
        self.update()

    def _show(self, result) -> None:
        parameters, segment = self._parameters, result.segment
        parameters.inputVolume = segment.volumeNode
        parameters.outputSegmentation = segment.segmentationNode
        if parameters.keepProbability:
            addProbabilityVolume(result.probability, segment.volumeNode)
        self._shown = _NOTHING  # the same nodes, perhaps, with a new mask
        self._correct.edit(segment.segmentationNode, segment.volumeNode, segment.segmentId)
        segment.show(parameters.show3D)
        # Beside it the user may look at other sequences. Without a main window there are no views.
        if slicer.app.layoutManager() is not None and not isShown(segment.volumeNode):
            slicer.util.setSliceViewerLayers(background=segment.volumeNode)

    def _fail(self, sentence: str, code: int | None) -> None:
        self._run = None
        self._message = sentence
        self._worker.setBusy(None)

    def _cancelled(self) -> None:
        self._fail(_("Stopped. Nothing was changed."), None)

    def _followNodes(self) -> None:
        """Points result, editor and save section at the chosen nodes."""
        if self._parameters is None:
            return
        volume, segmentation = self._parameters.inputVolume, self._parameters.outputSegmentation
        isAnother = volume is not None and self._scanId not in (None, volume.GetID())
        isFirst = volume is not None and self._shown[0] is None and segmentation is None
        if volume is not None and volume.GetID() != self._scanId:
            self._scanId = volume.GetID()
            self._message = ""  # about the one before
        if isAnother or isFirst:
            # Another scan: not into the segmentation of the one before.
            segmentation = slicer.mrmlScene.GetNodeByID(self._chosenIds.get(volume.GetID(), "")) or _newestOf(volume)
            # No segment has an empty ID: whatever is there is shown, though this calls us again.
            self._shown = (volume.GetID(), segmentation and segmentation.GetID(), "")
            self._parameters.outputSegmentation = segmentation
            if isAnother:
                # It was another patient's, or of another day.
                self._parameters.psa = 0.0
            if isAnother and self._isEntered and slicer.app.layoutManager() is not None:
                # The mask must not be corrected on the scan before.
                slicer.util.setSliceViewerLayers(background=volume, fit=True)
        if volume is not None and segmentation is not None:
            self._chosenIds[volume.GetID()] = segmentation.GetID()
        self._observe(segmentation)
        segment = self._segment(segmentation, volume)
        ids = (volume and volume.GetID(), segmentation and segmentation.GetID(), segment and segment.segmentId)
        if ids == self._shown:
            return
        self._shown = ids
        result = self._result if self._result and segment and self._result.segment == segment else None
        self._resultSection.show(segment, result)
        self._compare.show(segment)
        self._save.show(segment)
        self._correct.edit(segmentation, volume, segment.segmentId if segment else None)

    def _segment(self, segmentation, volume) -> ProstateSegment | None:
        """The prostate; where several segments might be it, the one that was shown when it was alone."""
        segment = ProstateSegment.current(segmentation, volume)
        if segment is not None or segmentation is None or volume is None:
            return segment
        *nodeIds, segmentId = self._shown
        if nodeIds == [volume.GetID(), segmentation.GetID()] and segmentId:
            shown = ProstateSegment(segmentation, segmentId, volume)
            return shown if shown.exists else None
        return None

    def _observe(self, segmentation) -> None:
        """Follows the segments of a node, which the user may add, remove and rename in the editor; None for none."""
        observed = self._observed[0] if self._observed else None
        if segmentation is observed:
            return
        if observed is not None:
            for tag in self._observed[1]:
                observed.RemoveObserver(tag)
        self._observed = None
        if segmentation is not None:
            events = slicer.vtkSegmentation
            tags = [
                segmentation.AddObserver(event, lambda *_arguments: startOnce(self._segments))
                for event in (events.SegmentAdded, events.SegmentRemoved, events.SegmentModified)
            ]
            self._observed = (segmentation, tags)

    def _show3D(self, wanted: bool) -> None:
        segment = self._parameters and self._segment(self._parameters.outputSegmentation, self._parameters.inputVolume)
        if segment:
            segment.showIn3D(wanted)
            if wanted and slicer.app.layoutManager() is not None:
                slicer.util.resetThreeDViews()

    def _preselectVolume(self) -> None:
        """The newest scan, unless it was there already when the panel was last shown and another one is chosen."""
        if self._parameters is None or self._run is not None:
            return
        newest = newestVolume(slicer.mrmlScene)
        newestId = newest and newest.GetID()
        if newest is not None and (self._parameters.inputVolume is None or newestId != self._newestVolumeId):
            self._parameters.inputVolume = newest
        self._newestVolumeId = newestId

    def _preselectFirstVolume(self) -> None:
        if self._parameters is not None and self._parameters.inputVolume is None:
            self._preselectVolume()

    def _loadSample(self) -> None:
        with slicer.util.tryWithErrorDisplay(_("The sample scan could not be loaded."), waitCursor=True):
            import SampleData

            # With it comes an ultrasound of the same prostate. What cannot be downloaded is left out; of what was and
            # cannot be read, such as the page of a firewall, there is a path.
            samples = SampleData.downloadSamples("MRUSProstate")
            nodes = [sample for sample in samples if isinstance(sample, slicer.vtkMRMLNode)]
            scan = next((node for node in nodes if "MR" in node.GetName()), None)
            if scan is None:
                raise RuntimeError(_("No internet, or a firewall in the way. Load a scan of your own."))
            if self._parameters is not None:
                self._parameters.inputVolume = scan
                slicer.util.setSliceViewerLayers(background=scan, fit=True)


def _newestOf(volumeNode):
    """The newest segmentation that was made on a volume; None for none."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    own = [node for node in nodes if node.GetNodeReferenceID(role) == volumeNode.GetID()]
    return own[-1] if own else None
