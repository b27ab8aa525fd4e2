"""Reading the result: size, PSA density, confidence; and the threshold that the mask follows."""

import logging

import qt
import slicer
from slicer.i18n import tr as _

from vnet_segmentation.images.measurements import measure
from VNetSegmentationLib import reportText
from VNetSegmentationLib.prostateSegment import ProstateSegment
from VNetSegmentationLib.segmentationResult import SegmentationResult
from VNetSegmentationLib.timers import singleShotTimer, startOnce
from VNetSegmentationLib.wrappedText import showWrapped

_FOLLOW_MS = 30
"""Threshold changes that come faster are taken together: a slider that is dragged stays smooth."""
_MEASURE_MS = 300
"""The same for strokes of a brush, which are only measured."""


class ResultSection:
    """Shows the current segment and adjusts it, as long as nobody has corrected it.

    Args:
        ui: the panel's widgets.
        remember: gets a segment before it is changed, for undo.
    """

    def __init__(self, ui, remember):
        self._ui = ui
        self._remember = remember
        self._parameters = None
        self._result = None
        self._segment = None
        self._measurements = None
        self._edited = False
        self._problem = None  # why the mask cannot be read now; what was read before still holds
        self._isShown = self._isOutdated = False
        self._observed = []
        self._follow = singleShotTimer(_FOLLOW_MS, self._rewrite)
        self._measure = singleShotTimer(_MEASURE_MS, self._readSegment)
        ui.discardCorrectionsButton.connect("clicked()", self._discardCorrections)
        ui.copyReportButton.connect("clicked()", self._copy)
        self._goToButtons = (ui.goToBaseButton, ui.goToMiddleButton, ui.goToApexButton)
        ways = (ProstateSegment.goToBase, ProstateSegment.goToMiddle, ProstateSegment.goToApex)
        for button, goTo in zip(self._goToButtons, ways, strict=True):
            button.connect("clicked()", lambda goTo=goTo: self._goTo(goTo))
        self.show(None, None)

    def setParameters(self, parameters) -> None:
        """Takes the panel's parameters, or None while the scene has none."""
        self._parameters = parameters

    def show(self, segment: ProstateSegment | None, result: SegmentationResult | None) -> None:
        """Shows a segment, with the automatic result that it was made of where that is known."""
        self._follow.stop()
        self._measure.stop()
        self._unobserve()
        self._segment, self._result = segment, result
        self._readSegment()
        if segment is not None and segment.exists:
            segmentation = segment.segmentationNode.GetSegmentation()
            # Strokes come as the first of these, undo as the second.
            events = slicer.vtkSegmentation
            for event in (events.SourceRepresentationModified, events.SegmentModified, events.SegmentRemoved):
                self._observe(segmentation, event)
            for node in (segment.segmentationNode, segment.volumeNode):
                self._observe(node, slicer.vtkMRMLTransformableNode.TransformModifiedEvent)

    def close(self) -> None:
        """Stops observing and waiting."""
        self.show(None, None)

    def enter(self) -> None:
        """The panel is shown: what was changed meanwhile is measured."""
        self._isShown = True
        if self._isOutdated:
            self._readSegment()

    def exit(self) -> None:
        """The panel is left: strokes of a brush in another module are not slowed down by measuring."""
        self._isShown = False

    def followParameters(self) -> None:
        """Threshold, smoothing or PSA may have changed."""
        self._showPsaDensity()
        if self._result is not None and not self._edited and self._wish() not in (None, self._result.written):
            startOnce(self._follow)

    def _goTo(self, goTo) -> None:
        # Under another transform since, or removed.
        if self._segment.problem() is None:
            goTo(self._segment)

    def _wish(self) -> tuple[float, bool] | None:
        return (self._parameters.threshold, self._parameters.smooth) if self._parameters else None

    def _rewrite(self) -> None:
        # A stroke that was not looked at yet makes it the user's.
        if self._isOutdated:
            self._readSegment()
        if not self._edited:
            self._writeAutomatic()

    def _discardCorrections(self) -> None:
        if self._segment.problem() is None:
            self._remember(self._segment)
            self._writeAutomatic()

    def _writeAutomatic(self) -> None:
        if self._result is not None and self._segment.problem() is None:
            self._result.writeMask(*self._wish())
            self._readSegment()

    def _onChanged(self) -> None:
        self._isOutdated = True
        if self._isShown:
            startOnce(self._measure)

    def _readSegment(self) -> None:
        self._measure.stop()
        self._isOutdated = False
        isThere = self._segment is not None and self._segment.exists
        self._problem = self._segment.problem() if isThere else None
        if not isThere:
            self._measurements, self._edited = None, False
        elif self._problem is None:
            try:
                mask = self._segment.read()
                self._measurements, self._edited = measure(mask), self._segment.isEdited(mask)
            except RuntimeError as error:
                # Such as contours for which Slicer has no conversion.
                logging.exception("The mask could not be read")
                self._problem = _("The mask cannot be read: {error}").format(error=error)
                self._measurements, self._edited = None, False
        self._showTexts()

    def _showTexts(self) -> None:
        ui, known = self._ui, self._measurements is not None
        ui.resultCollapsibleButton.enabled = known
        report = self._result.report if self._result else None
        ui.volumeLabel.text = reportText.volumeText(self._measurements) if known else ""
        showWrapped(ui.diametersLabel, reportText.diametersText(self._measurements) if known else "")
        showWrapped(ui.confidenceLabel, reportText.confidenceText(report) if known else "")
        showWrapped(ui.runLabel, reportText.runText(report) if known else "")
        notes = list(report["warnings"]) if known and report else []
        if self._problem is not None:
            notes.append(self._problem)
        if known and self._edited:
            notes.append(_("The mask was changed by hand, so threshold and smoothing are locked."))
        ui.warningsLabel.visible = bool(notes)
        showWrapped(ui.warningsLabel, "\n".join(notes))
        adjustable = known and self._result is not None and not self._edited and self._problem is None
        hasEnds = known and self._problem is None and self._measurements.volume_ml > 0
        for button in self._goToButtons:
            button.enabled = hasEnds
        ui.thresholdSlider.enabled = ui.smoothCheckBox.enabled = adjustable
        ui.discardCorrectionsButton.visible = (
            known and self._result is not None and self._edited and self._problem is None
        )
        self._showPsaDensity()

    def _showPsaDensity(self) -> None:
        known = self._parameters is not None and self._measurements is not None
        self._ui.psaDensityLabel.text = (
            reportText.psaDensityText(self._parameters.psa, self._measurements) if known else ""
        )

    def _copy(self) -> None:
        text = reportText.wholeText(
            self._segment.volumeNode.GetName(),
            self._measurements,
            self._parameters.psa,
            self._result.report if self._result else None,
            self._edited,
        )
        qt.QApplication.clipboard().setText(text)
        slicer.util.showStatusMessage(_("The figures are in the clipboard."), 3000)

    def _observe(self, caller, event) -> None:
        self._observed.append((caller, caller.AddObserver(event, lambda *_arguments: self._onChanged())))

    def _unobserve(self) -> None:
        for caller, tag in self._observed:
            caller.RemoveObserver(tag)
        self._observed = []
